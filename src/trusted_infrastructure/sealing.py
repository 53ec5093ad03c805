# SPDX-License-Identifier: GPL-3.0-or-later
"""Sealing: HPKE (RFC 9180, base mode) to a key that only its host has. Pure: no I/O.

Two uses: a key provider seals a key to the session key of an attested host, and a secret field
of a document is sealed to the configuration key of each host that may open it (docs/protocol.md 8).

Suites, by the ids of IANA's HPKE registry:

| name             | KEM                                     | KDF                  | AEAD                 |
| ---------------- | --------------------------------------- | -------------------- | -------------------- |
| MLKEM768_X25519  | 0x647A hybrid of ML-KEM-768 and X25519  | 0x0001 HKDF-SHA256   | 0x0002 AES-256-GCM   |
| MLKEM1024_P384   | 0x0051 hybrid of ML-KEM-1024 and P-384  | 0x0002 HKDF-SHA384   | 0x0002 AES-256-GCM   |
| X25519           | 0x0020                                  | 0x0001 HKDF-SHA256   | 0x0002 AES-256-GCM   |
| P256             | 0x0010                                  | 0x0001 HKDF-SHA256   | 0x0002 AES-256-GCM   |

Encodings: a public key is the KEM's own serialization; hybrids are the ML-KEM encapsulation key followed by
the X25519 key (32 bytes) or the uncompressed P-384 point (97 bytes). A private key is the ML-KEM seed (64
bytes) followed by the raw X25519 key (32) or the P-384 scalar (48, big-endian); plain suites have the second
part alone. A ciphertext is `enc || ct`.

What sealing does not say: who sealed. Base mode has no sender, so whoever knows the public key can seal; a
caller that must know the sender checks a signature first.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke, serialization
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x25519
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from trusted_infrastructure.refusal import InvalidField, Refusal

DEFAULT_SUITE = "MLKEM768_X25519"
FIELD_LABEL = b"trusted.infrastructure/sealed-field/v1"

_MLKEM_SEED = 64


@dataclass(frozen=True)
class _Kem:
    """How the keys of one KEM are made and serialized. The key types differ for each KEM, hence Any."""

    suite: hpke.Suite
    public_size: int
    private_size: int
    enc_size: int
    generate: Callable[[], bytes]
    load_private: Callable[[bytes], tuple[Any, bytes]]
    load_public: Callable[[bytes], Any]


def _x25519_generate() -> bytes:
    return x25519.X25519PrivateKey.generate().private_bytes_raw()


def _x25519_private(data: bytes) -> tuple[Any, bytes]:
    key = x25519.X25519PrivateKey.from_private_bytes(data)
    return key, key.public_key().public_bytes_raw()


def _point(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def _ec_generate(curve: ec.EllipticCurve) -> bytes:
    scalar = ec.generate_private_key(curve).private_numbers().private_value
    return scalar.to_bytes(curve.key_size // 8, "big")


def _ec_private(curve: ec.EllipticCurve, data: bytes) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    key = ec.derive_private_key(int.from_bytes(data, "big"), curve)
    return key, _point(key.public_key())


def _ec_public(curve: ec.EllipticCurve, data: bytes) -> ec.EllipticCurvePublicKey:
    return ec.EllipticCurvePublicKey.from_encoded_point(curve, data)


def _mlkem768_x25519_private(data: bytes) -> tuple[Any, bytes]:
    post_quantum = mlkem.MLKEM768PrivateKey.from_seed_bytes(data[:_MLKEM_SEED])
    classical, public = _x25519_private(data[_MLKEM_SEED:])
    key = hpke.MLKEM768X25519PrivateKey(post_quantum, classical)
    return key, post_quantum.public_key().public_bytes_raw() + public


def _mlkem768_x25519_public(data: bytes) -> Any:
    return hpke.MLKEM768X25519PublicKey(
        mlkem.MLKEM768PublicKey.from_public_bytes(data[:1184]),
        x25519.X25519PublicKey.from_public_bytes(data[1184:]),
    )


def _mlkem1024_p384_private(data: bytes) -> tuple[Any, bytes]:
    post_quantum = mlkem.MLKEM1024PrivateKey.from_seed_bytes(data[:_MLKEM_SEED])
    classical, public = _ec_private(ec.SECP384R1(), data[_MLKEM_SEED:])
    key = hpke.MLKEM1024P384PrivateKey(post_quantum, classical)
    return key, post_quantum.public_key().public_bytes_raw() + public


def _mlkem1024_p384_public(data: bytes) -> Any:
    return hpke.MLKEM1024P384PublicKey(
        mlkem.MLKEM1024PublicKey.from_public_bytes(data[:1568]),
        _ec_public(ec.SECP384R1(), data[1568:]),
    )


def _kem(
    kem: hpke.KEM,
    kdf: hpke.KDF,
    sizes: tuple[int, int],
    generate: Callable[[], bytes],
    load_private: Callable[[bytes], tuple[Any, bytes]],
    load_public: Callable[[bytes], Any],
) -> _Kem:
    public_size, private_size = sizes
    suite = hpke.Suite(kem, kdf, hpke.AEAD.AES_256_GCM)
    return _Kem(suite, public_size, private_size, kem.enc_length(), generate, load_private, load_public)


_KEMS: Mapping[str, _Kem] = MappingProxyType(
    {
        "MLKEM768_X25519": _kem(
            hpke.KEM.MLKEM768_X25519,
            hpke.KDF.HKDF_SHA256,
            (1184 + 32, _MLKEM_SEED + 32),
            lambda: os.urandom(_MLKEM_SEED) + _x25519_generate(),
            _mlkem768_x25519_private,
            _mlkem768_x25519_public,
        ),
        "MLKEM1024_P384": _kem(
            hpke.KEM.MLKEM1024_P384,
            hpke.KDF.HKDF_SHA384,
            (1568 + 97, _MLKEM_SEED + 48),
            lambda: os.urandom(_MLKEM_SEED) + _ec_generate(ec.SECP384R1()),
            _mlkem1024_p384_private,
            _mlkem1024_p384_public,
        ),
        "X25519": _kem(
            hpke.KEM.X25519,
            hpke.KDF.HKDF_SHA256,
            (32, 32),
            _x25519_generate,
            _x25519_private,
            x25519.X25519PublicKey.from_public_bytes,
        ),
        "P256": _kem(
            hpke.KEM.P256,
            hpke.KDF.HKDF_SHA256,
            (65, 32),
            lambda: _ec_generate(ec.SECP256R1()),
            lambda data: _ec_private(ec.SECP256R1(), data),
            lambda data: _ec_public(ec.SECP256R1(), data),
        ),
    }
)

SUITES: Mapping[str, hpke.Suite] = MappingProxyType({name: kem.suite for name, kem in _KEMS.items()})


# A configured suite is a minimum: a key of a lower level is not sealed to.
_LEVELS = {"P256": 0, "X25519": 0, "MLKEM768_X25519": 1, "MLKEM1024_P384": 2}


def meets_minimum(suite: str, minimum: str) -> bool:
    """Whether `suite` is at least as strong as `minimum`: classical, then ML-KEM-768, then ML-KEM-1024.

    Raises InvalidField for an unknown suite.
    """
    _kem_of(suite), _kem_of(minimum)
    return _LEVELS[suite] >= _LEVELS[minimum]


def check_public_key(suite: str, public_key: bytes, field: str = "hpke_public_key") -> None:
    """Check that `public_key` is a key of `suite`. Raises InvalidField naming the suite or `field`."""
    _load_public(suite, public_key, field)


def seal(suite: str, public_key: bytes, plaintext: bytes, info: bytes) -> bytes:
    """HPKE-seal `plaintext` to `public_key`; answers `enc || ct`.

    info binds the context: the ciphertext opens only with the same bytes. Raises InvalidField.
    """
    kem, key = _load_public(suite, public_key, "hpke_public_key")
    try:
        return kem.suite.encrypt(plaintext, key, info=info)
    except ValueError:
        # A low-order X25519 point: the shared secret would be zero, known to everybody.
        raise InvalidField("hpke_public_key", f"cannot be used with {suite}") from None


class SealingKey:
    """A private HPKE key. It is never in a representation, a log line or an exception."""

    def __init__(self, suite: str, private: bytes) -> None:
        kem = _kem_of(suite)
        if len(private) != kem.private_size:
            raise InvalidField(
                "sealing_key", f"{suite}: expected {kem.private_size} bytes, found {len(private)}"
            )
        try:
            self._key, self._public = kem.load_private(private)
        except ValueError:
            raise InvalidField("sealing_key", f"is no private key of {suite}") from None
        self._private = private
        self._kem = kem
        self.suite = suite

    @classmethod
    def generate(cls, suite: str = DEFAULT_SUITE) -> SealingKey:
        """A new key of `suite`. Raises InvalidField for an unknown suite."""
        return cls(suite, _kem_of(suite).generate())

    @classmethod
    def from_bytes(cls, suite: str, private: bytes) -> SealingKey:
        """The key that `to_bytes` gave. Raises InvalidField."""
        return cls(suite, private)

    def to_bytes(self) -> bytes:
        """The private key (secret; encoding in the module's docstring)."""
        return self._private

    def public_bytes(self) -> bytes:
        """The public key, to be published."""
        return self._public

    def open(self, ciphertext: bytes, info: bytes) -> bytes:
        """Open `enc || ct`. Raises Refusal `sealed_value_invalid`: other key, other context, or changed."""
        if len(ciphertext) < self._kem.enc_size + 16:
            raise _not_opened("is too short to be a sealed value")
        try:
            return self._kem.suite.decrypt(ciphertext, self._key, info=info)
        except (InvalidTag, ValueError):
            raise _not_opened("was sealed to another key or for another use, or was changed") from None

    def __repr__(self) -> str:
        return f"SealingKey({self.suite})"


@dataclass(frozen=True)
class SealedSecret:
    """A secret sealed for several hosts; same shape as `config.documents.Sealed`.

    digest: "salt:scrypt" in hex, for comparison without opening. sealed: host -> `enc || ct`.
    """

    suite: str
    digest: str
    sealed: dict[str, bytes]


def seal_secret(secret: bytes, suite: str, hosts: Mapping[str, bytes], purpose: str) -> SealedSecret:
    """Seal a document's secret for each of `hosts` (host -> public key of its configuration key).

    purpose: what the field is ("key_provider/finance/password"): a value does not open as another field.
    Raises InvalidField.
    """
    sealed = {}
    for host, public_key in hosts.items():
        sealed[host] = seal(suite, public_key, secret, _field_info(suite, host, purpose))
    return SealedSecret(suite, secret_digest(secret), sealed)


def open_secret(sealed: SealedSecret, host: str, key: SealingKey, purpose: str) -> bytes:
    """Open `host`'s part of a sealed secret. Raises Refusal `sealed_value_invalid`."""
    if sealed.suite != key.suite:
        raise _not_opened(f"uses suite {sealed.suite}, but this host's configuration key is {key.suite}")
    if host not in sealed.sealed:
        raise _not_opened(f"is not sealed for host {host}")
    return key.open(sealed.sealed[host], _field_info(key.suite, host, purpose))


def secret_digest(secret: bytes, salt: bytes | None = None) -> str:
    """ "salt:digest" (hex, 16 and 32 bytes) by which managers tell sealed values apart without opening them:
    what is sealed again, for another host, keeps its own.

    scrypt, not a plain hash: the secret may be a password that somebody chose, and a manager that sees the
    digest must not be able to find it by trying (RFC 7914; N 2^14, r 8, p 1).
    """
    salt = os.urandom(16) if salt is None else salt
    return f"{salt.hex()}:{Scrypt(salt=salt, length=32, n=2**14, r=8, p=1).derive(secret).hex()}"


def _field_info(suite: str, host: str, purpose: str) -> bytes:
    parts = [FIELD_LABEL, suite.encode(), host.encode(), purpose.encode()]
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def _kem_of(suite: str) -> _Kem:
    if suite not in _KEMS:
        raise InvalidField("hpke_suite", f"unknown suite {suite!r}; known: {', '.join(sorted(_KEMS))}")
    return _KEMS[suite]


def _load_public(suite: str, public_key: bytes, field: str) -> tuple[_Kem, Any]:
    kem = _kem_of(suite)
    if len(public_key) != kem.public_size:
        raise InvalidField(field, f"{suite}: expected {kem.public_size} bytes, found {len(public_key)}")
    try:
        return kem, kem.load_public(public_key)
    except ValueError:
        raise InvalidField(field, f"is no public key of {suite}") from None


def _not_opened(reason: str) -> Refusal:
    return Refusal(
        "sealed_value_invalid",
        f"the sealed value {reason}",
        "Seal it again for this host's current configuration key.",
    )
