# SPDX-License-Identifier: GPL-3.0-or-later
"""The keys that this host's tokens are signed with: its own, in memory, certified by its identity.

A key is made at start and again every ROTATION; the one before stays published for as long as a token that it
signed may live. A restart forgets it: tokens of before end when key providers read the key set again, and
their hosts attest anew. PROTOCOL 1, 4.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from trusted_infrastructure import tokens
from trusted_infrastructure.audit import Head
from trusted_infrastructure.identity import load_certificates, load_key
from trusted_infrastructure.identity.pem import certificate_pem
from trusted_infrastructure.refusal import Unavailable

ROTATION = 86_400
# Longer than any token: a key provider service goes on verifying the tokens of a peer that is down.
KEY_SET_LIFETIME = tokens.MAX_TOKEN_LIFETIME + 3_600
# Signing reads files; a key set is asked for by every agent and key provider.
KEY_SET_REUSE = 60

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class _TokenKey:
    kid: str
    key: ec.EllipticCurvePrivateKey
    made: int


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
    """Signs tokens and publishes their keys. Thread-safe."""

    def __init__(self, service_id: str, identity: ServiceIdentity, now: int) -> None:
        self._service_id = service_id
        self._identity = identity
        self._lock = threading.Lock()
        self._keys = [_new_key(now)]
        self._published: tuple[int, str] | None = None

    def sign(self, claims: tokens.TokenClaims, now: int) -> str:
        """The token, signed with the newest key."""
        with self._lock:
            self._rotate(now)
            newest = self._keys[-1]
        return tokens.sign_token(claims, newest.key, newest.kid)

    def key_set(self, now: int) -> str:
        """The signed key set. Raises Unavailable `certificate_invalid`."""
        with self._lock:
            self._rotate(now)
            if self._published is None or not 0 <= now - self._published[0] < KEY_SET_REUSE:
                key, chain = self._identity.key_and_chain()
                keys = {one.kid: one.key.public_key() for one in self._keys}
                signed = tokens.sign_key_set(keys, self._service_id, key, chain, now, KEY_SET_LIFETIME)
                self._published = (now, signed)
            return self._published[1]

    def sign_head(self, head: Head, now: int) -> str:
        """The audit log's head, signed by the service's identity. Raises Unavailable
        `certificate_invalid`."""
        key, chain = self._identity.key_and_chain()
        claims = tokens.AuditHeadClaims(
            service_id=self._service_id, chain=head.chain, seq=head.seq, hash=head.hash, iat=now
        )
        return tokens.sign_audit_head(claims, key, chain)

    def _rotate(self, now: int) -> None:
        if now - self._keys[-1].made < ROTATION:
            return
        # A key signs until the next one is made, and its last token lives for MAX_TOKEN_LIFETIME after that.
        oldest = now - ROTATION - tokens.MAX_TOKEN_LIFETIME
        self._keys = [one for one in self._keys if one.made > oldest] + [_new_key(now)]
        self._published = None


def _new_key(now: int) -> _TokenKey:
    key = ec.generate_private_key(ec.SECP256R1())
    return _TokenKey(tokens.thumbprint(key.public_key()), key, now)
