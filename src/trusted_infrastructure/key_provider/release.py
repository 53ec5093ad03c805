# SPDX-License-Identifier: GPL-3.0-or-later
"""Making, opening and answering keys for a host that may have them. Pure but for randomness."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from trusted_infrastructure import messages, sealing, tokens, wrapping
from trusted_infrastructure.key_provider.authorization import Authorization
from trusted_infrastructure.kmip.pool import PrimaryKey
from trusted_infrastructure.messages import KeyAnswer


@dataclass(frozen=True)
class ReleasedKey:
    """A key encryption key on its way to a host. wrapped_key: set when it was made or wrapped again just
    now."""

    kek_id: str
    kek: bytes = field(repr=False)
    wrapped_key: bytes | None = field(default=None, repr=False)


class ResponseKey:
    """The key that signs answers: made at the start of the service, in memory only. docs/protocol.md 7.3."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.public_key = self._key.public_key()
        self.key_id = tokens.thumbprint(self.public_key)

    def sign(self, data: bytes) -> bytes:
        """ES256: r and s, 32 bytes each, big-endian (RFC 7518 3.4)."""
        r, s = decode_dss_signature(self._key.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def make_key(provider: str, authorization: Authorization, primary_key: PrimaryKey) -> ReleasedKey:
    """A new KEK, wrapped for the host's scope. Raises InvalidField for an object label that cannot be one."""
    kek = os.urandom(wrapping.KEY_BYTES)
    header = wrapping.WrappedKeyHeader(
        provider=provider,
        primary_key_id=primary_key.key_id,
        kek_id=str(uuid.uuid4()),
        object_label=authorization.object_label,
        scope=authorization.claims.scope,
        salt=os.urandom(wrapping.SALT_BYTES),
    )
    return ReleasedKey(header.kek_id, kek, wrapping.wrap(primary_key.material, header, kek))


def open_key(wrapped: wrapping.WrappedKey, primary_key: PrimaryKey) -> ReleasedKey:
    """The KEK of a wrapped key. Raises Refusal `wrapped_key_invalid`."""
    return ReleasedKey(wrapped.header.kek_id, wrapping.unwrap_parsed(primary_key.material, wrapped))


def rewrap_key(wrapped: wrapping.WrappedKey, opens: PrimaryKey, wraps: PrimaryKey | None) -> ReleasedKey:
    """The KEK of a wrapped key, wrapped again: same provider, scope, object label and id.

    opens, wraps: the primary key that it is under, and the one of now; None where that is the same: then what
    was sent is the answer. Raises Refusal `wrapped_key_invalid`.
    """
    kek = wrapping.unwrap_parsed(opens.material, wrapped)
    if wraps is None:
        return ReleasedKey(wrapped.header.kek_id, kek, wrapped.header_bytes + wrapped.ciphertext)
    header = replace(wrapped.header, primary_key_id=wraps.key_id, salt=os.urandom(wrapping.SALT_BYTES))
    return ReleasedKey(header.kek_id, kek, wrapping.wrap(wraps.material, header, kek))


def answer(
    key: ReleasedKey, authorization: Authorization, request: bytes, service_id: str, response_key: ResponseKey
) -> KeyAnswer:
    """The sealed and signed answer. request: exact body of the request.

    Sealed to the host's attested key, in the context of this token, request and service; signed, so that
    nobody between can put a key of his own in its place. Raises InvalidField `hpke_public_key`.
    """
    claims = authorization.claims
    info = messages.seal_info(
        suite=claims.hpke.suite, token_jti=claims.jti, request=request, service_id=service_id
    )
    sealed_key = sealing.seal(claims.hpke.suite, authorization.hpke_public_key, key.kek, info)
    signed = messages.answer_to_be_signed(
        request=request,
        proof_jti=authorization.proof_jti,
        kek_id=key.kek_id,
        sealed_key=sealed_key,
        wrapped_key=key.wrapped_key,
        service_id=service_id,
    )
    return KeyAnswer(
        kek_id=key.kek_id,
        sealed_key=sealed_key,
        signature=response_key.sign(signed),
        key_id=response_key.key_id,
        service_id=service_id,
        wrapped_key=key.wrapped_key,
    )
