# SPDX-License-Identifier: GPL-3.0-or-later
"""Policy digests and approvals. tests/integration/test_sealed_data.py compares them with a TPM's."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from trusted_infrastructure.messages import pcr_policy_reference
from trusted_infrastructure.refusal import InvalidField
from trusted_infrastructure.tpm.policy import (
    SignedPcrPolicy,
    is_signed,
    pcr_policy_digest,
    policy_authorize_digest,
    policy_key_name,
    policy_key_public_area,
    to_be_signed,
)
from trusted_infrastructure.tpm.public_area import Attributes, parse_tpm2b_public

REFERENCE = b"for these tests"
VALUES = {0: bytes(32), 7: b"\x77" * 32, 12: bytes(range(32))}
KEY = ec.derive_private_key(0x1234, ec.SECP256R1())


def pem(key: Any) -> str:
    return str(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def sign(data: bytes, key: ec.EllipticCurvePrivateKey = KEY) -> bytes:
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def policy(**changes: Any) -> SignedPcrPolicy:
    approved = pcr_policy_digest("sha256", VALUES)
    made = SignedPcrPolicy("sha256", VALUES, pem(KEY), sign(to_be_signed(approved, REFERENCE)), REFERENCE)
    return dataclasses.replace(made, **changes)


def test_a_pcr_policy_is_that_of_the_specification() -> None:
    selection = struct.pack(">IHB", 1, 0x000B, 3) + bytes([0b10000001, 0b00010000, 0])
    values = hashlib.sha256(VALUES[0] + VALUES[7] + VALUES[12]).digest()
    expected = hashlib.sha256(bytes(32) + struct.pack(">I", 0x17F) + selection + values).digest()
    assert pcr_policy_digest("sha256", VALUES) == expected
    assert pcr_policy_digest("sha256", dict(reversed(VALUES.items()))) == expected


def test_an_authorization_is_that_of_the_specification() -> None:
    name = policy_key_name(pem(KEY))
    first = hashlib.sha256(bytes(32) + struct.pack(">I", 0x16A) + name).digest()
    assert policy_authorize_digest(name, REFERENCE) == hashlib.sha256(first + REFERENCE).digest()


def test_policies_of_two_clusters_of_one_key_have_nothing_in_common() -> None:
    """TCG TPM 2.0 Part 3, 23.16: the policy is policyDigestNew = H(H(0 || CC || keySign) || policyRef), and
    what is signed is aHash = H(approvedPolicy || policyRef)."""
    name, approved = policy_key_name(pem(KEY)), pcr_policy_digest("sha256", VALUES)
    first = hashlib.sha256(bytes(32) + struct.pack(">I", 0x16A) + name).digest()
    ids = ["00" * 16, "11" * 16, "", "1" * 31, "11" * 16 + "1"]
    references = [pcr_policy_reference(one) for one in ids]
    for cluster, reference in zip(ids, references, strict=True):
        label = b"trusted.infrastructure/pcr-policy/v2"
        parts = struct.pack(">I", len(label)) + label + struct.pack(">I", len(cluster)) + cluster.encode()
        assert reference == hashlib.sha256(parts).digest()
        assert len(reference) == 32  # a TPM that has no longer hash than SHA-256 takes no more
        assert policy_authorize_digest(name, reference) == hashlib.sha256(first + reference).digest()
        signature = sign(approved + reference)
        for other in references:
            assert is_signed(pem(KEY), approved, other, signature) is (other == reference)
    assert len({policy_authorize_digest(name, reference) for reference in references}) == len(ids)


def test_values_of_a_long_bank_are_hashed_with_the_policys_hash() -> None:
    values = {4: bytes(range(48))}
    selection = struct.pack(">IHB", 1, 0x000C, 3) + bytes([0b00010000, 0, 0])
    digest = hashlib.sha256(values[4]).digest()
    expected = hashlib.sha256(bytes(32) + struct.pack(">I", 0x17F) + selection + digest).digest()
    assert pcr_policy_digest("sha384", values) == expected


@pytest.mark.parametrize(
    ("bank", "values", "field"),
    [
        ("sha256", {}, "pcrs"),
        ("sha3", VALUES, "bank"),
        ("", VALUES, "bank"),
        ("sha256", {24: bytes(32)}, "pcrs"),
        ("sha256", {-1: bytes(32)}, "pcrs"),
        ("sha256", {0: bytes(31)}, "pcrs.0"),
        ("sha256", {0: bytes(32), 3: b""}, "pcrs.3"),
        ("sha384", VALUES, "pcrs.0"),
    ],
)
def test_what_is_no_pcr_policy_names_the_field(bank: str, values: dict[int, bytes], field: str) -> None:
    with pytest.raises(InvalidField) as refusal:
        pcr_policy_digest(bank, values)
    assert refusal.value.field == field


def test_every_value_and_number_counts() -> None:
    digests = {
        pcr_policy_digest("sha256", values)
        for values in (
            VALUES,
            VALUES | {0: b"\1" + bytes(31)},
            VALUES | {1: bytes(32)},
            {1: VALUES[0], 7: VALUES[7], 12: VALUES[12]},
        )
    }
    assert len(digests) == 4


def test_a_policy_key_may_sign_and_nothing_else() -> None:
    area = parse_tpm2b_public(policy_key_public_area(pem(KEY)))
    assert area.attributes == Attributes.SIGN
    assert area.algorithm_name == "ECC P-256"
    assert area.auth_policy == b""
    assert area.name == policy_key_name(pem(KEY))
    assert area.public_key() == KEY.public_key()


def test_coordinates_have_their_full_size() -> None:
    """One with leading zeros in x: shortened, it would have another Name than in the TPM."""
    scalar = next(
        number
        for number in range(1, 2000)
        if ec.derive_private_key(number, ec.SECP256R1()).public_key().public_numbers().x < 1 << 248
    )
    area = parse_tpm2b_public(policy_key_public_area(pem(ec.derive_private_key(scalar, ec.SECP256R1()))))
    assert (len(area.x), len(area.y)) == (32, 32)


@pytest.mark.parametrize(
    "public_key",
    [
        "",
        "no key",
        pem(ec.derive_private_key(5, ec.SECP384R1())),
        pem(rsa.generate_private_key(65537, 2048)),
        KEY.private_bytes(
            Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
    ],
)
def test_what_is_no_policy_key_is_refused(public_key: str) -> None:
    for use in (policy_key_public_area, policy_key_name, lambda key: is_signed(key, b"", b"", bytes(64))):
        with pytest.raises(InvalidField, match="public_key"):
            use(public_key)


def test_what_its_key_signed_is_signed() -> None:
    assert policy().is_signed()


OTHER = ec.derive_private_key(0x4321, ec.SECP256R1())
DIGEST = pcr_policy_digest("sha256", VALUES)
UNSIGNED: dict[str, dict[str, Any]] = {
    "another value": {"pcrs": VALUES | {7: bytes(32)}},
    "fewer PCRs": {"pcrs": {0: VALUES[0]}},
    "another reference": {"reference": b"for others"},
    "no reference": {"reference": b""},
    "another key": {"public_key": pem(OTHER)},
    "a signature of another key": {"signature": sign(to_be_signed(DIGEST, REFERENCE), OTHER)},
    "a signature without the reference": {"signature": sign(DIGEST)},
    "no signature": {"signature": b""},
    "a short signature": {"signature": policy().signature[:-1]},
    "a long signature": {"signature": policy().signature + b"\0"},
    "zeros": {"signature": bytes(64)},
    "ones": {"signature": b"\xff" * 64},
}


@pytest.mark.parametrize("name", UNSIGNED)
def test_what_its_key_did_not_sign_is_not_signed(name: str) -> None:
    assert not policy(**UNSIGNED[name]).is_signed()
