# SPDX-License-Identifier: GPL-3.0-or-later
"""Quotes: one row for each thing that can be wrong, each refused with its reason code; then what passes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from services.tpm.software_keys import (
    Attest,
    attestation_key,
    endorsement_key,
    genuine_attest,
    private_key,
    sign,
)
from services.tpm.verified_quote import verify_quote

from trusted_infrastructure.refusal import InvalidField, Refusal
from trusted_infrastructure.tpm import algorithms
from trusted_infrastructure.tpm.keys import endorsement_hierarchy_names, qualified_name
from trusted_infrastructure.tpm.public_area import PublicArea, Scheme
from trusted_infrastructure.tpm.quote import (
    Quote,
    parse_quote,
    parse_signature,
    pcr_selection,
)

EK, AK = endorsement_key(), attestation_key()
PCRS = [0, 4, 7]
VALUES = {pcr: bytes([pcr]) * 32 for pcr in range(24)}
EXTRA = bytes(range(32))
GENUINE = genuine_attest(EK, AK, EXTRA, VALUES, PCRS)
BITS = b"\x91\x00\x00"


def verify(
    attest: bytes,
    signature: bytes,
    ak: PublicArea = AK,
    pcrs: Sequence[int] = tuple(PCRS),
    values: Mapping[int, bytes] = VALUES,
    bank: str = "sha256",
) -> Quote:
    return verify_quote(
        ak=ak,
        attest=attest,
        signature=signature,
        qualifying_data=EXTRA,
        qualified_names=endorsement_hierarchy_names(EK, ak),
        bank=bank,
        pcrs=pcrs,
        pcr_values=values,
    )


# Fields of a signed quote that are wrong, though the genuine key signed them.
SIGNED: dict[str, tuple[dict[str, Any], str]] = {
    "magic": ({"magic": 0xFF544348}, "quote_magic"),
    "time attestation": ({"kind": 0x8019}, "quote_type"),
    "certify attestation": ({"kind": 0x8017}, "quote_type"),
    "trailing byte": ({"trailing": b"\0"}, "malformed_request"),
    "safe neither 0 nor 1": ({"safe": 2}, "malformed_request"),
    "signer too long": ({"signer": bytes(67)}, "malformed_request"),
    "digest too long": ({"digest": bytes(65)}, "malformed_request"),
    "seventeen selections": ({"selections": ((0x000B, BITS),) * 17}, "malformed_request"),
    "other extra data": ({"extra": bytes(32)}, "quote_qualifying_data"),
    "no extra data": ({"extra": b""}, "quote_qualifying_data"),
    "extra data with a tail": ({"extra": EXTRA + b"\0"}, "quote_qualifying_data"),
    "name instead of qualified name": ({"signer": AK.name}, "quote_qualified_name"),
    "no signer": ({"signer": b""}, "quote_qualified_name"),
    "owner hierarchy": ({"signer": qualified_name(0x40000001, AK)}, "quote_qualified_name"),
    "no selection": ({"selections": ()}, "quote_pcr_selection"),
    "empty selection": ({"selections": ((0x000B, b"\0\0\0"),)}, "quote_pcr_selection"),
    "one PCR less": ({"selections": ((0x000B, b"\x11\0\0"),)}, "quote_pcr_selection"),
    "one PCR more": ({"selections": ((0x000B, b"\x93\0\0"),)}, "quote_pcr_selection"),
    "PCR 24": ({"selections": ((0x000B, b"\x91\0\0\x01"),)}, "quote_pcr_selection"),
    "SHA-1 bank": ({"selections": ((0x0004, BITS),)}, "quote_pcr_selection"),
    "SHA-384 bank": ({"selections": ((0x000C, BITS),)}, "quote_pcr_selection"),
    "two banks": ({"selections": ((0x000B, BITS), (0x0004, BITS))}, "quote_pcr_selection"),
    "bank twice": ({"selections": ((0x000B, BITS), (0x000B, BITS))}, "quote_pcr_selection"),
    "other digest": ({"digest": bytes(32)}, "quote_pcr_digest"),
    "no digest": ({"digest": b""}, "quote_pcr_digest"),
}


@pytest.mark.parametrize("name", SIGNED)
def test_signed_but_wrong(name: str) -> None:
    fields, code = SIGNED[name]
    attest = replace(GENUINE, **fields).marshal()
    with pytest.raises(Refusal) as refusal:
        verify(attest, sign(private_key("p256"), AK, attest))
    assert refusal.value.code == code


def _flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def _ecdsa(*numbers: int) -> bytes:
    """A TPMT_SIGNATURE of r and s."""
    octets = [number.to_bytes(max(32, (number.bit_length() + 7) // 8), "big") for number in numbers]
    return b"\x00\x18\x00\x0b" + b"".join(struct.pack(">H", len(one)) + one for one in octets)


# Signatures that are not the attestation key's: the quote itself is right.
WRONG_SIGNATURES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda attest: b"",
    "no algorithm": lambda attest: b"\x00\x10",
    "HMAC": lambda attest: b"\x00\x05\x00\x0b" + bytes(32),
    "cut": lambda attest: sign(private_key("p256"), AK, attest)[:-1],
    "trailing byte": lambda attest: sign(private_key("p256"), AK, attest) + b"\0",
    "flipped bit": lambda attest: _flip(sign(private_key("p256"), AK, attest)),
    "zero": lambda attest: struct.pack(">HHHH", 0x18, 0x0B, 0, 0),
    "zeros": lambda attest: struct.pack(">HHH", 0x18, 0x0B, 32) + bytes(32) + b"\x00\x20" + bytes(32),
    "r is the group's order": lambda attest: _ecdsa(P256_ORDER, 1),
    "s is the group's order": lambda attest: _ecdsa(1, P256_ORDER),
    "both are one": lambda attest: _ecdsa(1, 1),
    "all bits set": lambda attest: _ecdsa(2**528 - 1, 2**528 - 1),
    "of another key": lambda attest: sign(private_key("p256:2"), AK, attest),
    "of other bytes": lambda attest: sign(private_key("p256"), AK, attest + b"\0"),
    "with SHA-1": lambda attest: sign(
        private_key("p256"), replace(AK, scheme=Scheme(algorithms.ECDSA, algorithms.SHA1)), attest
    ),
    "said to be SHA-384": lambda attest: b"\x00\x18\x00\x0c" + sign(private_key("p256"), AK, attest)[4:],
    "RSA": lambda attest: sign(private_key("rsa2048"), attestation_key("rsa2048"), attest),
    "oversized number": lambda attest: struct.pack(">HHH", 0x18, 0x0B, 67) + bytes(67) + b"\0\0",
}


@pytest.mark.parametrize("name", WRONG_SIGNATURES)
def test_wrong_signature(name: str) -> None:
    attest = GENUINE.marshal()
    with pytest.raises(Refusal) as refusal:
        verify(attest, WRONG_SIGNATURES[name](attest))
    assert refusal.value.code == "quote_signature"


@pytest.mark.parametrize("size", [0, 1, 255, 257, 512])
def test_rsa_signature_of_another_size(size: int) -> None:
    ak = attestation_key("rsa2048")
    attest = genuine_attest(EK, ak, EXTRA, VALUES, PCRS).marshal()
    with pytest.raises(Refusal) as refusal:
        verify(attest, struct.pack(">HHH", algorithms.RSASSA, 0x0B, size) + bytes(size), ak)
    assert refusal.value.code == "quote_signature"


@pytest.mark.parametrize("scheme", [algorithms.RSASSA, algorithms.RSAPSS])
def test_rsa_scheme_is_the_keys_not_the_signers(scheme: int) -> None:
    ak = attestation_key("rsa2048", scheme=Scheme(scheme, algorithms.SHA256))
    other = algorithms.RSASSA + algorithms.RSAPSS - scheme
    attest = genuine_attest(EK, ak, EXTRA, VALUES, PCRS).marshal()
    signature = sign(private_key("rsa2048"), replace(ak, scheme=Scheme(other, algorithms.SHA256)), attest)
    with pytest.raises(Refusal, match="the attestation key's scheme is"):
        verify(attest, signature, ak)


def test_a_hash_that_we_can_not_compute() -> None:
    ak = replace(AK, scheme=Scheme(algorithms.ECDSA, algorithms.SM3_256))
    attest = GENUINE.marshal()
    genuine = sign(private_key("p256"), AK, attest)
    with pytest.raises(Refusal, match="hash SM3_256 is not supported"):
        verify(attest, genuine[:2] + b"\x00\x12" + genuine[4:], ak)


def test_a_single_missing_byte_anywhere_is_refused() -> None:
    attest = GENUINE.marshal()
    for size in range(len(attest)):
        with pytest.raises(Refusal):
            parse_quote(attest[:size])


def test_too_long() -> None:
    with pytest.raises(InvalidField, match="at most 1024"):
        parse_quote(GENUINE.marshal() + bytes(1024))


@pytest.mark.parametrize(
    ("pcrs", "bank"), [([], "sha256"), (PCRS, "sha1x"), (PCRS, "sha1"), (PCRS, "sha384"), ([0, 4], "sha256")]
)
def test_policy_that_the_quote_does_not_follow(pcrs: list[int], bank: str) -> None:
    attest = GENUINE.marshal()
    with pytest.raises(Refusal) as refusal:
        verify(attest, sign(private_key("p256"), AK, attest), pcrs=pcrs, bank=bank)
    assert refusal.value.code == "quote_pcr_selection"


def test_values_that_are_not_those_of_the_quote() -> None:
    attest = GENUINE.marshal()
    signature = sign(private_key("p256"), AK, attest)
    swapped = VALUES | {0: VALUES[4], 4: VALUES[0]}
    for values in (VALUES | {7: bytes(32)}, swapped, {0: VALUES[0], 4: VALUES[4]}, {}):
        with pytest.raises(Refusal) as refusal:
            verify(attest, signature, values=values)
        assert refusal.value.code == "quote_pcr_digest"


@pytest.mark.parametrize(
    ("kind", "scheme", "hash_"),
    [
        ("rsa2048", algorithms.RSASSA, algorithms.SHA256),
        ("rsa2048", algorithms.RSAPSS, algorithms.SHA256),
        ("rsa3072", algorithms.RSASSA, algorithms.SHA384),
        ("p256", algorithms.ECDSA, algorithms.SHA256),
        ("p384", algorithms.ECDSA, algorithms.SHA384),
    ],
)
def test_genuine(kind: str, scheme: int, hash_: int) -> None:
    ak = attestation_key(kind, scheme=Scheme(scheme, hash_))
    attest = genuine_attest(EK, ak, EXTRA, VALUES, PCRS).marshal()
    quote = verify(attest, sign(private_key(kind), ak, attest), ak)
    assert quote.clock.clock == 1000
    assert (quote.clock.reset_count, quote.clock.restart_count, quote.clock.safe) == (3, 0, True)
    assert quote.clock.firmware_version == 0x2024
    assert quote.selections == ((0x000B, (0, 4, 7)),)


def test_clock_is_reported_not_judged() -> None:
    attest = replace(GENUINE, safe=0).marshal()
    assert verify(attest, sign(private_key("p256"), AK, attest)).clock.safe is False


def test_pcr_selection() -> None:
    assert pcr_selection("sha256", [7, 0, 4]) == bytes.fromhex("00000001000b03910000")
    assert parse_quote(Attest(selections=((0x000B, b"\0\0\x80"),)).marshal()).selections == ((0x000B, (23,)),)
    for bank, pcrs in (("md5", [0]), ("sha256", [24]), ("sha256", [-1])):
        with pytest.raises(InvalidField):
            pcr_selection(bank, pcrs)


def test_parse_signature_names_the_field() -> None:
    with pytest.raises(InvalidField, match=r"signature\.sigAlg: SM2 is not"):
        parse_signature(b"\x00\x1b\x00\x0b")
