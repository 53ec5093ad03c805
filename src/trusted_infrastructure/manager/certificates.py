# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates and keys as the API takes them: PEM, or base64 of DER. Pure; errors name the field."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from trusted_infrastructure.manager.vapi.structure import FieldError

CHAIN_LIMIT = 16
TEXT_LIMIT = 64 * 1024


@dataclass(frozen=True)
class ReadCertificate:
    """A certificate, and its PEM form."""

    x509: x509.Certificate

    @property
    def pem(self) -> str:
        """PEM with a final newline."""
        return self.x509.public_bytes(Encoding.PEM).decode()

    @property
    def label(self) -> str:
        """For messages."""
        return self.x509.subject.rfc4514_string() or f"serial {self.x509.serial_number:x}"


def read_certificate(field: str, text: str) -> ReadCertificate:
    """One certificate. Raises FieldError."""
    if len(text) > TEXT_LIMIT:
        raise FieldError(field, f"is larger than {TEXT_LIMIT} characters")
    try:
        if "-----BEGIN" in text:
            found = x509.load_pem_x509_certificates(text.encode())
        else:
            found = [x509.load_der_x509_certificate(base64.b64decode("".join(text.split()), validate=True))]
    except (ValueError, binascii.Error, UnsupportedAlgorithm):
        raise FieldError(field, "is not a certificate (PEM, or base64 of DER)") from None
    if len(found) != 1:
        raise FieldError(field, f"must be one certificate, has {len(found)}")
    return ReadCertificate(found[0])


@dataclass(frozen=True)
class ClientChain:
    """A client certificate, and what a key server needs to follow it to its CA. x509: the certificate itself.
    pem: all of it, the certificate first."""

    x509: x509.Certificate
    pem: str


def read_client_chain(field: str, text: str, now: float | None = None) -> ClientChain:
    """A client certificate (PEM, or base64 of DER); in PEM, intermediates may follow, each the issuer of the
    one before. now: Unix seconds at which it must not have ended. Raises FieldError."""
    blocks = text.split("-----END CERTIFICATE-----")
    pieces = [f"{block}-----END CERTIFICATE-----" for block in blocks[:-1] if "-----BEGIN" in block] or [text]
    found = read_chain(field, pieces) if len(pieces) > 1 else [read_certificate(field, text)]
    for position, (one, issuer) in enumerate(itertools.pairwise(found), start=1):
        if not issued_by(one.x509, issuer.x509):
            text = f"the certificate at place {position + 1} ({issuer.label}) did not issue the one before it"
            raise FieldError(field, f"{text}; the client's comes first, then each one's issuer")
    leaf = found[0].x509
    if now is not None and leaf.not_valid_after_utc.timestamp() <= now:
        raise FieldError(field, f"ended at {leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}")
    return ClientChain(leaf, "".join(one.pem for one in found))


def fits_name(certificate: x509.Certificate, hostname: str) -> bool:
    """Whether a certificate is for a host name or address, as a client that dials it sees it: by its subject
    alternative names alone (RFC 9525 6.3: one left-most label may be "*")."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    try:
        return ipaddress.ip_address(hostname) in names.get_values_for_type(x509.IPAddress)
    except ValueError:
        wanted = hostname.lower().rstrip(".")
    return any(
        name.lower() in (wanted, f"*.{wanted.partition('.')[2]}")
        for name in names.get_values_for_type(x509.DNSName)
    )


def read_chain(field: str, texts: Sequence[str]) -> list[ReadCertificate]:
    """A list of certificates. Raises FieldError."""
    if not 1 <= len(texts) <= CHAIN_LIMIT:
        raise FieldError(field, f"must have 1 to {CHAIN_LIMIT} certificates, has {len(texts)}")
    return [read_certificate(f"{field}[{position}]", text) for position, text in enumerate(texts)]


def issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether names and signature fit."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except Exception:  # cryptography raises several kinds for what is only "no"
        return False
    return True


def read_public_key(field: str, text: str) -> str:
    """A public key as normal PEM SubjectPublicKeyInfo. RSA from 2048 bits or P-256, P-384. FieldError."""
    try:
        key = load_pem_public_key(text[:TEXT_LIMIT].encode())
    except (ValueError, UnsupportedAlgorithm):
        raise FieldError(field, "is not a public key in PEM") from None
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < 2048:
            raise FieldError(field, f"is an RSA key of {key.key_size} bits; at least 2048 are needed")
    elif not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(
        key.curve, ec.SECP256R1 | ec.SECP384R1
    ):
        raise FieldError(field, "must be an RSA key, or an EC key on P-256 or P-384")
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def read_private_key(field: str, text: str) -> PrivateKeyTypes:
    """An unencrypted private key in PEM. Raises FieldError, which never quotes it."""
    try:
        return load_pem_private_key(text[:TEXT_LIMIT].encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise FieldError(field, "is not an unencrypted private key in PEM") from None
