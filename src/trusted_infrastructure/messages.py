# SPDX-License-Identifier: GPL-3.0-or-later
"""The messages that agents and services exchange: attestation and key release (docs/protocol.md).

Binary values are standard base64 with padding in JSON (msgspec's encoding of `bytes`). TPM structures are
exactly what the TPM gave: TPM2B_PUBLIC with its size prefix, TPMS_ATTEST without one, TPMT_SIGNATURE,
TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET with their size prefix; big-endian (TCG TPM 2.0 Part 2).
Unknown fields are refused: a message that means more than we understand is not judged.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Sequence
from typing import Annotated, Literal, TypeVar

import msgspec

from trusted_infrastructure.decoding import decode_json

ATTESTATION_LABEL = b"trusted.infrastructure/attestation/v1"
ANSWER_LABEL = b"trusted.infrastructure/answer/v1"
SEAL_LABEL = b"trusted.infrastructure/seal/v1"
DELIVERY_LABEL = b"trusted.infrastructure/key-delivery/v1"
PCR_POLICY_LABEL = b"trusted.infrastructure/pcr-policy/v2"
# Object label of keys that are made to see that keys come, and are thrown away: nothing is kept under them.
KEY_CHECK_LABEL = "key-check"
# Number of what was wrapped for a host. JSON has it exactly (RFC 7493, 2.2).
MarkNumber = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
PURPOSE_TOKEN = "token"  # noqa: S105 - what a challenge is for, not a password

Message = TypeVar("Message", bound="WireMessage")


class WireMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A versioned message. version is 1 in this release."""

    version: Literal[1] = 1


class ChallengeRequest(WireMessage, frozen=True):
    """Agent to Attestation Service: who I am. docs/protocol.md 3.1.

    assertion: JWT of the workload manager's principal.
    ek_public, ak_public: TPM2B_PUBLIC. ek_certificates: DER, leaf first, then intermediates of the host's NV.
    """

    assertion: str
    ek_public: bytes
    ek_certificates: list[bytes]
    ak_public: bytes


class Challenge(WireMessage, frozen=True):
    """Attestation Service to agent. docs/protocol.md 3.2.

    challenge: opaque envelope that only this service can open, to be returned unchanged.
    challenge_id: 16 random bytes; nonce: 32 random bytes.
    credential_blob: TPM2B_ID_OBJECT; encrypted_secret: TPM2B_ENCRYPTED_SECRET.
    bank: TPM hash name ("sha256"); pcrs: PCR numbers to quote, ascending. expires: Unix seconds.
    """

    challenge: str
    challenge_id: bytes
    nonce: bytes
    credential_blob: bytes
    encrypted_secret: bytes
    bank: str
    pcrs: list[int]
    service_id: str
    expires: int


class ProofKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Public P-256 key as a JWK (RFC 7517, RFC 7518 6.2): x and y are base64url without padding."""

    x: str
    y: str
    kty: Literal["EC"] = "EC"
    crv: Literal["P-256"] = "P-256"

    def thumbprint(self) -> str:
        """RFC 7638 SHA-256 thumbprint, base64url without padding: the `jkt` of RFC 9449."""
        canonical = f'{{"crv":"P-256","kty":"EC","x":"{self.x}","y":"{self.y}"}}'
        return base64url(hashlib.sha256(canonical.encode()).digest())


class Evidence(WireMessage, frozen=True):
    """Agent to Attestation Service: what I booted. docs/protocol.md 3.3.

    quote: TPMS_ATTEST; signature: TPMT_SIGNATURE; event_log: the firmware's log, unchanged.
    claims: JSON object as the exact bytes that were hashed. hpke_suite: name from `sealing.SUITES`.
    """

    challenge: str
    quote: bytes
    signature: bytes
    event_log: bytes
    proof_key: ProofKey
    hpke_suite: str
    hpke_public_key: bytes
    claims: bytes = b"{}"


class AttestationResult(WireMessage, frozen=True):
    """Attestation Service to agent: the token (JWT) and when it ends (Unix seconds). image_state: STAGED
    where the base image is not in general use yet; for people."""

    token: str
    expires: int
    base_image: str
    security_generation: int
    image_state: Literal["STAGED", "ACTIVE", "RETIRED"] = "ACTIVE"


class CreateKeyRequest(WireMessage, frozen=True):
    """Agent to Key Provider Service: make a key encryption key for `object_label` and wrap it."""

    object_label: str
    hpke_public_key: bytes


class UnwrapKeyRequest(WireMessage, frozen=True):
    """Agent to Key Provider Service: give me the key encryption key in this wrapped key.

    keep: the host did not keep it so far, and does from now on."""

    wrapped_key: bytes
    hpke_public_key: bytes
    keep: bool | msgspec.UnsetType = msgspec.UNSET


class RewrapKeyRequest(WireMessage, frozen=True):
    """Agent to Key Provider Service: wrap the key in this wrapped key again, under the primary key of now.
    The answer has the key, too: `KeyAnswer` with `wrapped_key` set. docs/protocol.md 7.9."""

    wrapped_key: bytes
    hpke_public_key: bytes


class KeyUsageReport(WireMessage, frozen=True):
    """Agent to Key Provider Service: how many wrapped keys of a provider this host keeps, by primary key id.

    Complete: a primary key that is not named has none. known: what this service answered to the report
    before; keys that it had wrapped until then have arrived and are counted, or never will. Left out, it is
    0."""

    keys: dict[str, int]
    known: MarkNumber | msgspec.UnsetType = msgspec.UNSET


class PrimaryKeyIds(WireMessage, frozen=True):
    """Key Provider Service to agent, on a report: the primary key that wraps now, and earlier ones.

    compromised: those of the previous ones whose keys must be replaced, not wrapped again. known: the number
    of what was wrapped last for this host. Where the report has another, it may lack keys, and one more is to
    follow when those on their way have arrived. Left out, it is 0.
    """

    primary_key_id: str
    previous: list[str]
    compromised: list[str]
    known: MarkNumber | msgspec.UnsetType = msgspec.UNSET


class KeyAnswer(WireMessage, frozen=True):
    """Key Provider Service to agent. docs/protocol.md 7.3.

    sealed_key: HPKE encapsulation and ciphertext of the 32-byte key, to the agent's session key.
    wrapped_key: set for create: what the host keeps. signature: ES256 r||s (64 bytes) of `key_id` over
    `answer_to_be_signed`. service_id: the key provider service that answered.
    """

    kek_id: str
    sealed_key: bytes
    signature: bytes
    key_id: str
    service_id: str
    wrapped_key: bytes | None = None


def decode(data: bytes, message: type[Message]) -> Message:
    """Decode one JSON message. Raises InvalidField (400) that names the field."""
    return decode_json(data, message)


def number(known: int | msgspec.UnsetType) -> int:
    """Of `KeyUsageReport` and `PrimaryKeyIds`: 0 where it was left out."""
    return 0 if known is msgspec.UNSET else known


def encode(message: msgspec.Struct) -> bytes:
    """Encode one message as UTF-8 JSON."""
    return msgspec.json.encode(message)


def base64url(data: bytes) -> str:
    """RFC 7515 base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def length_prefixed(parts: Sequence[bytes]) -> bytes:
    """Each part as a 4-byte big-endian length and its bytes: no two lists of parts give the same bytes."""
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def qualifying_data(
    *,
    purpose: str,
    service_id: str,
    nonce: bytes,
    challenge_request: bytes,
    secret_proof: bytes,
    pcr_selection: bytes,
    proof_key_thumbprint: str,
    hpke_suite: str,
    hpke_public_key: bytes,
    event_log: bytes,
    claims: bytes,
) -> bytes:
    """The 32 bytes that the TPM signs with the quote. docs/protocol.md 3.3.

    challenge_request: exact body of the challenge request. secret_proof: HMAC-SHA256(secret, challenge_id),
    which only the TPM that holds the endorsement key can make. pcr_selection: TPML_PCR_SELECTION.
    """
    return hashlib.sha256(
        length_prefixed(
            [
                ATTESTATION_LABEL,
                purpose.encode(),
                service_id.encode(),
                nonce,
                hashlib.sha256(challenge_request).digest(),
                secret_proof,
                pcr_selection,
                proof_key_thumbprint.encode(),
                hpke_suite.encode() + b"\0" + hashlib.sha256(hpke_public_key).digest(),
                hashlib.sha256(event_log).digest(),
                hashlib.sha256(claims).digest(),
            ]
        )
    ).digest()


def answer_to_be_signed(
    *,
    request: bytes,
    proof_jti: str,
    kek_id: str,
    sealed_key: bytes,
    wrapped_key: bytes | None,
    service_id: str,
) -> bytes:
    """The bytes that a key provider's response key signs. docs/protocol.md 7.3.

    request: exact body of the key request; proof_jti: `jti` of the DPoP proof that came with it.
    """
    return length_prefixed(
        [
            ANSWER_LABEL,
            service_id.encode(),
            hashlib.sha256(request).digest(),
            proof_jti.encode(),
            kek_id.encode(),
            sealed_key,
            wrapped_key or b"",
        ]
    )


def delivery_info(*, kind: str, host: str, instance: str, provider: str, key_id: str) -> bytes:
    """HPKE `info` of a key that the workload manager passes to a host (docs/protocol.md 7.5).

    kind: "standard" or "native". instance: random id of the agent's start, so that what was recorded before a
    restart opens nothing after it.
    """
    parts = (kind, host, instance, provider, key_id)
    return length_prefixed([DELIVERY_LABEL, *(part.encode() for part in parts)])


def pcr_policy_reference(cluster: str) -> bytes:
    """Policy reference (32 bytes) of PCR policies for hosts of one cluster; on those of another they open
    nothing.

    cluster: its opaque id, which no other ever has. A digest, because a TPM takes no longer reference than
    its longest hash, and some have only SHA-256 (TCG TPM 2.0 Part 2, 10.4.2: TPM2B_DIGEST).
    """
    return hashlib.sha256(length_prefixed([PCR_POLICY_LABEL, cluster.encode()])).digest()


def seal_info(*, suite: str, token_jti: str, request: bytes, service_id: str) -> bytes:
    """HPKE `info` of a sealed key: an answer opens only in the context that it was made for."""
    return length_prefixed(
        [
            SEAL_LABEL,
            suite.encode(),
            token_jti.encode(),
            hashlib.sha256(request).digest(),
            service_id.encode(),
        ]
    )
