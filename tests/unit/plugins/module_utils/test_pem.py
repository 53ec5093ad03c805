# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates and keys in one form."""

from __future__ import annotations

import base64
import textwrap

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.pem import (
    certificates,
    key_of_certificate,
    public_key,
)


def der(tag: int, *content: bytes) -> bytes:
    """A DER element."""
    body = b"".join(content)
    if len(body) < 0x80:
        return bytes([tag, len(body)]) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def sequence(*content: bytes) -> bytes:
    return der(0x30, *content)


def armoured(label: str, data: bytes, columns: int = 64, end: str = "\n") -> str:
    lines = textwrap.wrap(base64.b64encode(data).decode(), columns)
    return end.join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def certificate(key: bytes, *, version: bool = True) -> bytes:
    """The outline of a certificate: the fields in their order, with made-up content."""
    name = sequence(der(0x31, b"x" * 200))
    fields = [der(0xA0, der(0x02, b"\2"))] if version else []
    fields += [der(0x02, b"\1"), sequence(b"alg"), name, sequence(b"dates"), name, key, der(0xA3, b"ext")]
    return sequence(sequence(*fields), sequence(b"alg"), der(0x03, b"signature"))


KEY = sequence(sequence(der(0x06, b"rsa"), der(0x05)), der(0x03, b"\0" + b"k" * 270))
ONE = certificate(KEY)
TWO = certificate(sequence(b"another key"))
PEM_ONE, PEM_TWO = armoured("CERTIFICATE", ONE), armoured("CERTIFICATE", TWO)


@pytest.mark.parametrize(
    "texts, expected",
    [
        ([], []),
        ([PEM_ONE], [PEM_ONE]),
        ([PEM_ONE, PEM_TWO], [PEM_ONE, PEM_TWO]),
        ([PEM_ONE + PEM_TWO], [PEM_ONE, PEM_TWO]),
        ([PEM_TWO + "\n\n", PEM_ONE], [PEM_TWO, PEM_ONE]),
        ([PEM_ONE.strip()], [PEM_ONE]),
        ([textwrap.indent(PEM_ONE, "    ")], [PEM_ONE]),
        (["subject=CN = one\nissuer=CN = two\n" + PEM_ONE + "some text\n"], [PEM_ONE]),
        ([armoured("CERTIFICATE", ONE, 76, "\r\n")], [PEM_ONE]),
        ([base64.b64encode(ONE).decode()], [PEM_ONE]),
        ([base64.encodebytes(ONE).decode()], [PEM_ONE]),
        # What the server has to refuse gets there as it is.
        (["no certificate"], ["no certificate"]),
        (["text"], ["text"]),
        (["MI!"], ["MI!"]),
        ([""], [""]),
        (["-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"],) * 2,
        (["-----BEGIN CERTIFICATE-----\nAAAA\n"],) * 2,
        ([armoured("PUBLIC KEY", KEY)],) * 2,
    ],
)
def test_certificates(texts: list[str], expected: list[str]) -> None:
    assert certificates(texts) == expected
    assert certificates(expected) == expected


@pytest.mark.parametrize(
    "text, expected",
    [
        (armoured("PUBLIC KEY", KEY), armoured("PUBLIC KEY", KEY)),
        (armoured("PUBLIC KEY", KEY, 48, "\r\n") + "\r\n", armoured("PUBLIC KEY", KEY)),
        ("  " + armoured("PUBLIC KEY", KEY).strip(), armoured("PUBLIC KEY", KEY)),
        (" no key ", "no key"),
        (armoured("PUBLIC KEY", KEY) * 2, (armoured("PUBLIC KEY", KEY) * 2).strip()),
        (PEM_ONE, PEM_ONE.strip()),
    ],
)
def test_public_key(text: str, expected: str) -> None:
    assert public_key(text) == expected


@pytest.mark.parametrize("version", [True, False])
def test_the_key_of_a_certificate(version: bool) -> None:
    text = armoured("CERTIFICATE", certificate(KEY, version=version), 76)
    assert key_of_certificate(text) == armoured("PUBLIC KEY", KEY)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no certificate",
        PEM_ONE + PEM_TWO,
        armoured("PUBLIC KEY", KEY),
        armoured("CERTIFICATE", b"\x30"),
        armoured("CERTIFICATE", b"\x30\x82"),
        armoured("CERTIFICATE", ONE[:300]),
        armoured("CERTIFICATE", sequence(sequence(der(0x02, b"\1")))),
        armoured("CERTIFICATE", b"text that is no DER at all"),
    ],
)
def test_no_key_where_there_is_no_certificate(text: str) -> None:
    assert key_of_certificate(text) is None


def test_every_truncation_is_noticed() -> None:
    begin = ONE.index(KEY)
    for length in range(begin + len(KEY)):
        assert key_of_certificate(armoured("CERTIFICATE", ONE[:length])) is None
