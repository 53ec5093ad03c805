# SPDX-License-Identifier: GPL-3.0-or-later
"""What an endorsement key and an attestation key must be: a table of refusals, then what passes."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from services.tpm.software_keys import (
    AK_ATTRIBUTES,
    EK_ATTRIBUTES,
    attestation_key,
    endorsement_key,
)

from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tpm import algorithms, roca
from trusted_infrastructure.tpm.keys import (
    check_attestation_key,
    check_endorsement_key,
    endorsement_hierarchy_names,
    qualified_name,
)
from trusted_infrastructure.tpm.public_area import Attributes, Scheme, Symmetric

NULL = Symmetric(algorithms.NULL)
SHA1_NAME = {"name_alg": algorithms.SHA1}

EK_REFUSED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "not restricted": (
        "rsa2048",
        {"attributes": EK_ATTRIBUTES & ~Attributes.RESTRICTED},
        "ek_attributes",
        "restr",
    ),
    "no decryption": (
        "p256",
        {"attributes": EK_ATTRIBUTES & ~Attributes.DECRYPT},
        "ek_attributes",
        "decrypt",
    ),
    "also signs": ("p256", {"attributes": EK_ATTRIBUTES | Attributes.SIGN}, "ek_attributes", "sign"),
    "not fixedTPM": (
        "p256",
        {"attributes": EK_ATTRIBUTES & ~Attributes.FIXED_TPM},
        "ek_attributes",
        "fixedTPM",
    ),
    "not fixedParent": (
        "p256",
        {"attributes": EK_ATTRIBUTES & ~Attributes.FIXED_PARENT},
        "ek_attributes",
        "fixedParent",
    ),
    "imported": (
        "p256",
        {"attributes": EK_ATTRIBUTES & ~Attributes.SENSITIVE_DATA_ORIGIN},
        "ek_attributes",
        "sensitiveDataOrigin",
    ),
    "with a scheme": ("rsa2048", {"scheme": Scheme(algorithms.RSAES)}, "ek_attributes", "RSAES"),
    "RSA-1024": ("rsa1024", {}, "ek_weak", "RSA-1024"),
    "RSA-4096": ("rsa4096", {}, "ek_weak", "found RSA-4096"),
    "P-224": ("p224", {}, "ek_weak", "P-224"),
    "exponent 3": ("rsa2048", {"exponent": 3}, "ek_weak", "exponent must be 65537: found 3"),
    "SHA-1 name": ("rsa2048", SHA1_NAME, "ek_weak", "nameAlg must be SHA256"),
    "no cipher": ("rsa2048", {"symmetric": NULL}, "ek_weak", "found NULL-0"),
    "AES-64": ("rsa2048", {"symmetric": Symmetric(algorithms.AES, 64, algorithms.CFB)}, "ek_weak", "AES-64"),
    "AES not CFB": ("rsa2048", {"symmetric": Symmetric(algorithms.AES, 128, 0x0040)}, "ek_weak", "CFB"),
    "SM4": ("rsa2048", {"symmetric": Symmetric(algorithms.SM4, 128, algorithms.CFB)}, "ek_weak", "SM4"),
}

AK_REFUSED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "not restricted": (
        "p256",
        {"attributes": AK_ATTRIBUTES & ~Attributes.RESTRICTED},
        "ak_attributes",
        "restr",
    ),
    "does not sign": ("p256", {"attributes": AK_ATTRIBUTES & ~Attributes.SIGN}, "ak_attributes", "sign"),
    "also decrypts": ("p256", {"attributes": AK_ATTRIBUTES | Attributes.DECRYPT}, "ak_attributes", "decrypt"),
    "not fixedTPM": (
        "p256",
        {"attributes": AK_ATTRIBUTES & ~Attributes.FIXED_TPM},
        "ak_attributes",
        "fixedTPM",
    ),
    "not fixedParent": (
        "p256",
        {"attributes": AK_ATTRIBUTES & ~Attributes.FIXED_PARENT},
        "ak_attributes",
        "fixedParent",
    ),
    "imported": (
        "p256",
        {"attributes": AK_ATTRIBUTES & ~Attributes.SENSITIVE_DATA_ORIGIN},
        "ak_attributes",
        "sensitiveDataOrigin",
    ),
    "with a cipher": (
        "p256",
        {"symmetric": Symmetric(algorithms.AES, 128, algorithms.CFB)},
        "ak_attributes",
        "no symmetric cipher: found AES",
    ),
    "no scheme": ("p256", {"scheme": Scheme(algorithms.NULL)}, "ak_attributes", "found NULL"),
    "anonymous scheme": ("p256", {"scheme": Scheme(algorithms.ECDAA, 0x000B, 1)}, "ak_attributes", "ECDAA"),
    "encryption scheme": ("rsa2048", {"scheme": Scheme(algorithms.OAEP, 0x000B)}, "ak_attributes", "OAEP"),
    "SHA-1 scheme": ("p256", {"scheme": Scheme(algorithms.ECDSA, algorithms.SHA1)}, "ak_weak", "SHA1"),
    "SM3 scheme": ("p256", {"scheme": Scheme(algorithms.ECDSA, algorithms.SM3_256)}, "ak_weak", "SM3_256"),
    "SHA-1 name": ("p256", SHA1_NAME, "ak_weak", "nameAlg"),
    "RSA-1024": ("rsa1024", {}, "ak_weak", "RSA-1024"),
    "P-224": ("p224", {}, "ak_weak", "P-224"),
    "exponent 3": ("rsa2048", {"exponent": 3}, "ak_weak", "65537"),
}


@pytest.mark.parametrize("name", EK_REFUSED)
def test_endorsement_key_refused(name: str) -> None:
    kind, fields, code, words = EK_REFUSED[name]
    with pytest.raises(Refusal, match=words) as refusal:
        check_endorsement_key(endorsement_key(kind, **fields))
    assert refusal.value.code == code


@pytest.mark.parametrize("name", AK_REFUSED)
def test_attestation_key_refused(name: str) -> None:
    kind, fields, code, words = AK_REFUSED[name]
    with pytest.raises(Refusal, match=words) as refusal:
        check_attestation_key(attestation_key(kind, **fields))
    assert refusal.value.code == code


@pytest.mark.parametrize("kind", ["rsa2048", "rsa3072", "p256", "p384"])
def test_accepted(kind: str) -> None:
    check_endorsement_key(endorsement_key(kind))
    check_endorsement_key(endorsement_key(kind, aes=256, name_alg=algorithms.SHA384))
    check_attestation_key(attestation_key(kind))


def test_each_is_refused_as_the_other() -> None:
    with pytest.raises(Refusal, match="ek_attributes"):
        check_endorsement_key(attestation_key())
    with pytest.raises(Refusal, match="ak_attributes"):
        check_attestation_key(endorsement_key())


def test_a_key_of_the_faulty_library_is_weak() -> None:
    # A modulus with the fingerprint, made as the library made its primes: powers of 65537 modulo the small
    # ones.
    small = [prime for prime, _group in roca._SUBGROUPS]
    product = 1
    for prime in small:
        product *= prime
    residue = pow(65537, 123457, product)
    modulus = residue + product * ((1 << 2047) // product + 1)
    assert modulus.bit_length() == 2048 and roca.has_fingerprint(modulus)
    ek = replace(endorsement_key(), modulus=modulus.to_bytes(256, "big"))
    with pytest.raises(Refusal, match="ROCA") as refusal:
        check_endorsement_key(ek)
    assert refusal.value.code == "ek_weak"


def test_qualified_names() -> None:
    ek, ak = endorsement_key(), attestation_key()
    primary = hashlib.sha256(bytes.fromhex("4000000b") + ak.name).digest()
    assert qualified_name(0x4000000B, ak) == b"\x00\x0b" + primary
    parent = b"\x00\x0b" + hashlib.sha256(bytes.fromhex("4000000b") + ek.name).digest()
    child = b"\x00\x0b" + hashlib.sha256(parent + ak.name).digest()
    assert endorsement_hierarchy_names(ek, ak) == (b"\x00\x0b" + primary, child)
    assert qualified_name(0x40000001, ak) != qualified_name(0x4000000B, ak)
