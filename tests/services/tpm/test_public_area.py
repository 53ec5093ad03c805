# SPDX-License-Identifier: GPL-3.0-or-later
"""Public areas: what is refused, what is read, and that names and digests are over exactly what was sent."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable

import pytest
from services.tpm.software_keys import attestation_key, endorsement_key, private_key

from trusted_infrastructure.refusal import InvalidField
from trusted_infrastructure.tpm import algorithms
from trusted_infrastructure.tpm.public_area import (
    PublicArea,
    ek_digest,
    marshal_tpmt_public,
    parse_tpm2b_public,
    parse_tpmt_public,
)

RSA = endorsement_key("rsa2048").marshalled
ECC = attestation_key("p256").marshalled


def _put(offset: int, value: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:offset] + value + data[offset + len(value) :]


# (of which key, change, words that the refusal must have)
REFUSED = {
    "empty": (RSA, lambda data: b"", r"public\.type"),
    "keyed hash": (RSA, _put(0, b"\x00\x08"), r"type: KEYEDHASH is not a key"),
    "symmetric": (RSA, _put(0, b"\x00\x25"), r"type: SYMCIPHER is not a key"),
    "unknown type": (RSA, _put(0, b"\xff\xff"), r"algorithm 0xffff"),
    "nameAlg null": (RSA, _put(2, b"\x00\x10"), r"nameAlg: NULL"),
    "nameAlg SM3": (RSA, _put(2, b"\x00\x12"), r"nameAlg: SM3_256"),
    "reserved attribute": (RSA, _put(4, b"\x80"), r"objectAttributes: has reserved bits set: 0x80000000"),
    "reserved attribute bit 0": (RSA, _put(7, b"\xb3"), r"reserved bits set: 0x00000001"),
    "policy longer than the area": (RSA, _put(8, b"\xff\xff"), r"authPolicy: is 65535 bytes"),
    "policy of another hash": (
        RSA,
        lambda data: data[:8] + b"\x00\x14" + bytes(20) + data[10:],
        "authPolicy",
    ),
    "symmetric not a cipher": (RSA, _put(10, b"\x00\x0a"), r"symmetric\.algorithm: XOR"),
    "scheme of the other kind": (RSA, _put(16, b"\x00\x18"), r"scheme: ECDSA is not a scheme"),
    "keyBits more than the modulus": (RSA, _put(18, b"\x0c\x00"), "2048 bits but keyBits says 3072"),
    "keyBits less than the modulus": (RSA, _put(18, b"\x04\x00"), "2048 bits but keyBits says 1024"),
    "modulus with a leading zero": (RSA, _put(26, b"\x00"), "but keyBits says 2048"),
    "modulus longer than any": (RSA, _put(24, b"\x02\x01"), r"unique: is 513 bytes"),
    "no modulus": (RSA, lambda data: data[:18] + bytes(8), "keyBits says 0"),
    "cut": (RSA, lambda data: data[:-1], "unique: needs 256 bytes"),
    "trailing byte": (RSA, lambda data: data + b"\0", "has 1 trailing bytes"),
    "too long": (RSA, lambda data: data + bytes(1024), "expected at most 1024"),
    "ECC unknown curve": (ECC, _put(16, b"\x00\x99"), r"curveID: 0x0099"),
    "ECC RSA scheme": (ECC, _put(12, b"\x00\x14"), r"scheme: RSASSA"),
    "ECC x too long": (ECC, _put(20, b"\x00\x21"), r"unique\.x: is 33 bytes"),
    "ECC empty x": (ECC, lambda data: data[:20] + b"\0\0" + data[54:], "empty coordinate"),
    "ECC cut": (ECC, lambda data: data[:-1], r"unique\.y"),
    "ECC trailing": (ECC, lambda data: data + b"x", "trailing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    genuine, change, words = REFUSED[name]
    with pytest.raises(InvalidField, match=words) as refusal:
        parse_tpmt_public(change(genuine))
    assert (refusal.value.code, refusal.value.status) == ("malformed_request", 400)


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\x00\x05abc", b"\x00\x02abc", struct.pack(">H", len(RSA)) + RSA + b"\0"]
)
def test_sized_form_is_exact(data: bytes) -> None:
    with pytest.raises(InvalidField, match="ek_public"):
        parse_tpm2b_public(data, "ek_public")


@pytest.mark.parametrize("kind", ["rsa2048", "rsa3072", "p256", "p384"])
def test_parse_and_marshal(kind: str) -> None:
    for area in (endorsement_key(kind), attestation_key(kind)):
        assert marshal_tpmt_public(area) == area.marshalled
        assert parse_tpm2b_public(area.tpm2b()) == area
        assert area.public_key() == private_key(kind).public_key()
        assert "BEGIN PUBLIC KEY" in area.subject_public_key_info()
        assert area.name == b"\x00\x0b" + hashlib.sha256(area.marshalled).digest()
        assert ek_digest(area) == hashlib.sha256(area.marshalled).hexdigest()


def test_name_follows_name_alg() -> None:
    area = endorsement_key("p384", name_alg=algorithms.SHA384)
    assert area.name == b"\x00\x0c" + hashlib.sha384(area.marshalled).digest()


def test_a_point_off_the_curve_is_no_key() -> None:
    area = parse_tpmt_public(_put(len(ECC) - 1, bytes([ECC[-1] ^ 1]))(ECC))
    with pytest.raises(InvalidField, match="not a usable ECC P-256 key"):
        area.public_key()


def test_an_unsupported_curve_is_no_key() -> None:
    area: PublicArea = attestation_key("p224")
    with pytest.raises(InvalidField, match="P-224 is not a supported curve"):
        area.public_key()
