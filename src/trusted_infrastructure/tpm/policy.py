# SPDX-License-Identifier: GPL-3.0-or-later
"""Policies for data that is sealed to a TPM: PCR values that a key approves, and the digests that result.

Sealed data has the policy `policy_authorize_digest`, which names the key that approves and no PCR value. What
is approved is the policy `pcr_policy_digest` of the values that a host has after a boot, signed by that key.
So new values, those of an upgrade, are approved by a signature alone, before the upgrade, and nothing is
sealed again. Policies and Names are SHA-256 here, whatever the PCR bank is.

Sources: TCG TPM 2.0 Library Part 1, 19.7 (policy); Part 2, 12.2.4 (TPMT_PUBLIC); Part 3, 20.1
(TPM2_VerifySignature), 23.7 (TPM2_PolicyPCR), 23.16 (TPM2_PolicyAuthorize).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from trusted_infrastructure.refusal import InvalidField
from trusted_infrastructure.tpm import algorithms
from trusted_infrastructure.tpm.public_area import (
    Attributes,
    PublicArea,
    Scheme,
    Symmetric,
    marshal_tpmt_public,
    parse_tpmt_public,
)
from trusted_infrastructure.tpm.quote import PCR_COUNT, pcr_selection
from trusted_infrastructure.tpm.structures import u32

DIGEST_SIZE = 32
SIGNATURE_SIZE = 64
CC_POLICY_AUTHORIZE = 0x0000016A  # Part 2, 6.5.2 (TPM_CC)
CC_POLICY_PCR = 0x0000017F
_EMPTY_POLICY = bytes(DIGEST_SIZE)
_COORDINATE = 32


@dataclass(frozen=True)
class SignedPcrPolicy:
    """PCR values that a key approves. pcrs: number -> value. public_key: PEM of the P-256 key that signs.
    signature: ECDSA with SHA-256 over `to_be_signed`, r and s, 32 bytes each, big-endian. reference: what the
    signature is for; a signature for another use is none."""

    bank: str
    pcrs: Mapping[int, bytes]
    public_key: str
    signature: bytes = field(repr=False)
    reference: bytes

    @property
    def digest(self) -> bytes:
        """The policy that is approved (32 bytes). Raises InvalidField for values that no PCR has."""
        return pcr_policy_digest(self.bank, self.pcrs)

    def is_signed(self) -> bool:
        """Whether the signature is the key's over this policy. Raises InvalidField: no policy, or no key."""
        return is_signed(self.public_key, self.digest, self.reference, self.signature)


def pcr_policy_digest(bank: str, pcrs: Mapping[int, bytes]) -> bytes:
    """Policy digest (SHA-256, 32 bytes) after one TPM2_PolicyPCR for these values. Part 3, 23.7.

    bank: TPM hash name, such as "sha256". pcrs: PCR number (0 to 23) -> value, of the bank's size; one at
    least. Raises InvalidField naming "bank" or "pcrs".
    """
    known = algorithms.HASHES_BY_NAME.get(bank)
    if known is None:
        raise InvalidField("bank", f"{bank!r} is not a PCR bank")
    if not pcrs:
        raise InvalidField("pcrs", "has no PCR: such a policy would always be fulfilled")
    for number, value in pcrs.items():
        if not 0 <= number < PCR_COUNT:
            raise InvalidField("pcrs", f"has PCR {number}: expected 0 to {PCR_COUNT - 1}")
        if len(value) != known.size:
            raise InvalidField(
                f"pcrs.{number}", f"has {len(value)} bytes; a value of bank {bank} has {known.size}"
            )
    selection = pcr_selection(bank, list(pcrs))
    return _extended(_EMPTY_POLICY, u32(CC_POLICY_PCR) + selection + pcr_values_digest(pcrs))


def pcr_values_digest(pcrs: Mapping[int, bytes]) -> bytes:
    """SHA-256 over the values, PCR numbers ascending: `pcrDigest` of TPM2_PolicyPCR. The hash is that
    of the policy, not with that of the bank."""
    return hashlib.sha256(b"".join(pcrs[number] for number in sorted(pcrs))).digest()


def policy_authorize_digest(key_name: bytes, policy_reference: bytes) -> bytes:
    """Policy digest (SHA-256, 32 bytes) after TPM2_PolicyAuthorize, whatever was approved. Part 3, 23.16.

    key_name: Name of the key that approves (`policy_key_name`). policy_reference: see `to_be_signed`.
    """
    return _extended(_extended(_EMPTY_POLICY, u32(CC_POLICY_AUTHORIZE) + key_name), policy_reference)


def to_be_signed(approved_policy: bytes, policy_reference: bytes) -> bytes:
    """What the approving key signs, by ECDSA with SHA-256: the approved policy digest (32 bytes), then the
    reference. Part 3, 23.16 (aHash)."""
    return approved_policy + policy_reference


def policy_key_public_area(public_key: str) -> bytes:
    """TPM2B_PUBLIC of an approving key, as TPM2_LoadExternal takes it: ECC P-256, ECDSA with SHA-256, Name by
    SHA-256, attribute sign alone, no policy.

    public_key: PEM (SubjectPublicKeyInfo). Raises InvalidField naming "public_key".
    """
    return _public_area(public_key).tpm2b()


def policy_key_name(public_key: str) -> bytes:
    """Name (34 bytes: 0x000b and a SHA-256) of an approving key. Raises InvalidField."""
    return _public_area(public_key).name


def is_signed(public_key: str, approved_policy: bytes, policy_reference: bytes, signature: bytes) -> bool:
    """Whether `signature` (r and s, 32 bytes each, big-endian) approves the policy.

    Raises InvalidField naming "public_key".
    """
    key = _p256(public_key)
    if len(signature) != SIGNATURE_SIZE:
        return False
    r, s = (int.from_bytes(half, "big") for half in (signature[:_COORDINATE], signature[_COORDINATE:]))
    try:
        key.verify(
            encode_dss_signature(r, s),
            to_be_signed(approved_policy, policy_reference),
            ec.ECDSA(hashes.SHA256()),
        )
    except InvalidSignature:
        return False
    return True


def _extended(policy: bytes, data: bytes) -> bytes:
    return hashlib.sha256(policy + data).digest()


def _public_area(public_key: str) -> PublicArea:
    numbers = _p256(public_key).public_numbers()
    area = PublicArea(
        key_type=algorithms.ECC,
        name_alg=algorithms.SHA256,
        attributes=Attributes.SIGN,
        auth_policy=b"",
        symmetric=Symmetric(algorithms.NULL),
        scheme=Scheme(algorithms.ECDSA, algorithms.SHA256),
        marshalled=b"",
        curve=algorithms.CURVE_P256,
        x=numbers.x.to_bytes(_COORDINATE, "big"),
        y=numbers.y.to_bytes(_COORDINATE, "big"),
    )
    return parse_tpmt_public(marshal_tpmt_public(area), "public_key")


def _p256(public_key: str) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_pem_public_key(public_key.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidField("public_key", "is no public key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidField("public_key", "is not an EC key on the curve P-256")
    return key
