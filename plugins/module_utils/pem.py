# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates, CRLs and public keys in one form, so that they can be compared: PEM (RFC 7468), 64 columns, a final newline.

Nothing is verified here. That is the server's work, and it refuses what it cannot read.
"""

from __future__ import annotations

import base64
import binascii
import re
import typing as t

CERTIFICATE = "CERTIFICATE"
CRL = "X509 CRL"
PUBLIC_KEY = "PUBLIC KEY"
SEQUENCE = 0x30
VERSION = 0xA0
# Fields of a TBSCertificate before subjectPublicKeyInfo, without the version (RFC 5280, 4.1).
FIELDS_BEFORE_KEY = 5


def certificates(texts: t.Iterable[str]) -> list[str]:
    """Each certificate of the texts in the one form.

    A text holds PEM blocks, with anything around them, or base64 of DER. What is neither stays as it is.
    """
    found: list[str] = []
    for text in texts:
        blocks = [_normal(CERTIFICATE, body) for body in _bodies(CERTIFICATE, text)]
        # "MI" is how base64 of any certificate begins: a sequence of more than 127 bytes.
        if not blocks and text.strip().startswith("MI"):
            blocks = [_normal(CERTIFICATE, text)]
        found += [block if block is not None else text for block in blocks or [None]]
    return found


def crls(texts: t.Iterable[str]) -> list[str]:
    """Each certificate revocation list of the texts in the one form. A text holds PEM blocks, with anything around
    them. What is none stays as it is."""
    found: list[str] = []
    for text in texts:
        blocks = [_normal(CRL, body) for body in _bodies(CRL, text)]
        found += [block if block is not None else text for block in blocks or [None]]
    return found


def public_key(text: str) -> str:
    """A public key (PEM SubjectPublicKeyInfo) in the one form. What is none stays as it is, less space around it."""
    bodies = _bodies(PUBLIC_KEY, text)
    normal = _normal(PUBLIC_KEY, bodies[0]) if len(bodies) == 1 else None
    return text.strip() if normal is None else normal


def key_of_certificate(text: str) -> str | None:
    """The public key of a certificate (as in `certificates`), in the form of `public_key`; None where there is none."""
    try:
        (pem,) = certificates([text])
        (body,) = _bodies(CERTIFICATE, pem)
        key = _subject_public_key_info(base64.b64decode(body))
    except (ValueError, IndexError):
        return None
    return _armour(PUBLIC_KEY, key)


def _bodies(label: str, text: str) -> list[str]:
    return re.findall(f"-----BEGIN {label}-----(.*?)-----END {label}-----", text, re.DOTALL)


def _normal(label: str, body: str) -> str | None:
    try:
        data = base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
    return _armour(label, data) if data else None


def _armour(label: str, data: bytes) -> str:
    text = base64.b64encode(data).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def _subject_public_key_info(certificate: bytes) -> bytes:
    """The element of a DER certificate that is its key. Raises ValueError or IndexError for other data."""
    _tag, begin, _end = _element(certificate, 0)
    _tag, at, _end = _element(certificate, begin)
    tag, _begin, end = _element(certificate, at)
    if tag == VERSION:
        at = end
    for _index in range(FIELDS_BEFORE_KEY):
        _tag, _begin, at = _element(certificate, at)
    tag, _begin, end = _element(certificate, at)
    if tag != SEQUENCE:
        raise ValueError("no SubjectPublicKeyInfo")
    return certificate[at:end]


def _element(data: bytes, at: int) -> tuple[int, int, int]:
    """Tag of the DER element at this place, and where its content begins and ends (X.690, 8.1 and 10.1)."""
    tag, length, begin = data[at], data[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        length, begin = int.from_bytes(data[begin : begin + count], "big"), begin + count
    if begin + length > len(data):
        raise ValueError("truncated")
    return tag, begin, begin + length
