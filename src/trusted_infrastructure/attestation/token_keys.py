# SPDX-License-Identifier: GPL-3.0-or-later
"""The keys that this host's tokens are signed with: its own, in memory, certified by its identity.

Time is cut into periods of ROTATION seconds, and each has a key that follows from a secret of the service's
start alone: so all workers of a host sign with the same key at the same time, and never speak about it. The
key sets hold three keys:

- of the period before, because a token that it signed may live on for a period (ROTATION is no shorter than
  any token's life);
- of this period, which signs;
- of the next period, so that who read a key set in this one can verify what is signed in the next.

A restart makes a new secret: tokens of before end when key providers read the key set again, and their hosts
attest anew. docs/protocol.md 4, 6.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from trusted_infrastructure import tokens
from trusted_infrastructure.identity import load_certificates, load_key
from trusted_infrastructure.identity.pem import certificate_pem
from trusted_infrastructure.messages import length_prefixed
from trusted_infrastructure.refusal import Unavailable

ROTATION = max(86_400, tokens.MAX_TOKEN_LIFETIME)
SECRET_SIZE = 32
# Longer than any token: a key provider service goes on verifying the tokens of a peer that is down.
KEY_SET_LIFETIME = tokens.MAX_TOKEN_LIFETIME + 3_600
# Signing reads files; a key set is asked for by every agent and key provider.
KEY_SET_REUSE = 60

_LABEL = b"trusted.infrastructure/token-key/v1"
# FIPS 186-5, A.2.1: 64 bits more than the group's order, so that the remainder is not biased.
_SCALAR_BYTES = 40
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class TokenKey:
    """The key of one period. kid: its RFC 7638 thumbprint."""

    kid: str
    key: ec.EllipticCurvePrivateKey


def period_key(secret: bytes, service_id: str, period: int) -> TokenKey:
    """The token key of a period (Unix seconds // ROTATION), from the secret of the service's start.

    HKDF-SHA-256 (RFC 5869) of the secret with label, service id and period as info; 40 bytes of it, modulo
    n - 1, plus 1, are the private key (FIPS 186-5, A.2.1).
    """
    info = length_prefixed([_LABEL, service_id.encode(), period.to_bytes(8, "big", signed=True)])
    stream = HKDF(hashes.SHA256(), _SCALAR_BYTES, None, info).derive(secret)
    key = ec.derive_private_key(int.from_bytes(stream, "big") % (_ORDER - 1) + 1, ec.SECP256R1())
    return TokenKey(tokens.thumbprint(key.public_key()), key)


class ServiceIdentity:
    """The service's identity key and certificate, read again for every use: renewal needs no restart."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key

    def chain(self) -> list[x509.Certificate]:
        """Leaf first. Raises Unavailable `certificate_invalid`."""
        return self._read(self._certificate, load_certificates)

    def key_and_chain(self) -> tuple[ec.EllipticCurvePrivateKey, list[str]]:
        """The private key, and the chain in PEM. Raises Unavailable `certificate_invalid`."""
        chain = [certificate_pem(certificate) for certificate in self.chain()]
        return self._read(self._key, load_key), chain

    def _read(self, path: Path, load: Callable[[bytes], Answer]) -> Answer:
        try:
            return load(path.read_bytes())
        except OSError as error:
            raise Unavailable(
                "certificate_invalid", f"{path} cannot be read: {error.strerror}", "Run site.yml."
            ) from None


class TokenKeys:
    """Signs tokens and publishes their keys. Thread-safe.

    secret: SECRET_SIZE random bytes that all workers of this host share, and nobody else.
    """

    def __init__(self, service_id: str, identity: ServiceIdentity, secret: bytes) -> None:
        self._service_id = service_id
        self._identity = identity
        self._secret = secret
        self._lock = threading.Lock()
        self._keys: dict[int, TokenKey] = {}
        self._published: tuple[int, int, str] | None = None

    def sign(self, claims: tokens.TokenClaims, now: int) -> str:
        """The token, signed with the key of now."""
        key = self.current(now)[1]
        return tokens.sign_token(claims, key.key, key.kid)

    def current(self, now: int) -> tuple[TokenKey, TokenKey, TokenKey]:
        """The keys of the period before, of this one and of the next."""
        period = now // ROTATION
        with self._lock:
            wanted = (period - 1, period, period + 1)
            for one in wanted:
                if one not in self._keys:
                    self._keys[one] = period_key(self._secret, self._service_id, one)
            self._keys = {one: self._keys[one] for one in wanted}
            before, this, following = (self._keys[one] for one in wanted)
        return before, this, following

    def jwks(self, now: int) -> dict[str, list[dict[str, str]]]:
        """The keys as a JWK set (RFC 7517, 5), not signed: for who trusts the TLS connection."""
        return {
            "keys": [
                {**tokens.jwk(one.key.public_key()), "kid": one.kid, "use": "sig", "alg": "ES256"}
                for one in self.current(now)
            ]
        }

    def key_set(self, now: int) -> str:
        """The signed key set. Raises Unavailable `certificate_invalid`."""
        keys, period = self.current(now), now // ROTATION
        with self._lock:
            published = self._published
            if published is None or published[0] != period or not 0 <= now - published[1] < KEY_SET_REUSE:
                key, chain = self._identity.key_and_chain()
                public = {one.kid: one.key.public_key() for one in keys}
                signed = tokens.sign_key_set(public, self._service_id, key, chain, now, KEY_SET_LIFETIME)
                published = self._published = (period, now, signed)
            return published[2]
