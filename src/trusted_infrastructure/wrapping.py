# SPDX-License-Identifier: GPL-3.0-or-later
"""Wrapped key encryption keys (KEKs): what a host keeps, and only its key provider can open.

    wrapped key = header || ciphertext (32 bytes) || tag (16 bytes)
    header      = "TIWK" || version (1 byte) || algorithm (1 byte)
                  || provider || primary key id || KEK id || object label || scope || salt (32 bytes)

Each of the five texts is UTF-8 with a 2-byte big-endian length before it (docs/protocol.md 7.2). Algorithm 1:

    key (32 bytes) || nonce (12 bytes) = HKDF-SHA-256(primary key, salt, info = WRAP_LABEL || header)
    ciphertext || tag = AES-256-GCM(key, nonce, KEK, additional data = header)

so every wrapped key has a key and a nonce of its own (the salt is random), and no byte of the header can be
changed: a wrapped key can be moved neither to another provider, nor to another scope, nor to another object.
Nothing in the header is internal to one installation: whoever has the primary key can open it. Pure: no I/O.

Sources: RFC 5869 (HKDF), NIST SP 800-38D (GCM).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from trusted_infrastructure.header_fields import Reader, encode_name
from trusted_infrastructure.refusal import InvalidField, Refusal

VERSION = 1
ALGORITHM = "HKDF-SHA256+A256GCM"
KEY_BYTES = 32
SALT_BYTES = 32
# A header holds five names of at most 255 characters, of at most 4 bytes each: what is longer is not ours.
MAX_WRAPPED_BYTES = 6 * 1024

WRAP_LABEL = b"trusted.infrastructure/wrapped-key/v1"
CHECK_LABEL = b"trusted.infrastructure/primary-key-check/v1"

_MAGIC = b"TIWK"
_ALGORITHM_CODES = {ALGORITHM: 1}
_NONCE_BYTES = 12
_TAG_BYTES = 16
_NAMES = ("provider", "primary_key_id", "kek_id", "object_label", "scope")


@dataclass(frozen=True)
class WrappedKeyHeader:
    """What is written, readable and unchangeable, on a wrapped key.

    provider: name of the trusted key provider. primary_key_id: the key's id on the key servers. kek_id: id of
    the key inside. object_label: what the host uses it for. scope: whose hosts may open it. salt: 32 random
    bytes, never used twice.
    """

    provider: str
    primary_key_id: str
    kek_id: str
    object_label: str
    scope: str
    salt: bytes
    algorithm: str = ALGORITHM
    version: int = VERSION


@dataclass(frozen=True)
class WrappedKey:
    """A wrapped key taken apart. header_bytes: exactly what is authenticated. ciphertext: with its tag."""

    header: WrappedKeyHeader
    header_bytes: bytes = field(repr=False)
    ciphertext: bytes = field(repr=False)


def encode_header(header: WrappedKeyHeader) -> bytes:
    """The header's bytes. Raises InvalidField (400) naming the field that cannot be written."""
    if header.version != VERSION:
        raise InvalidField("version", f"is {header.version}; this release writes {VERSION}")
    if header.algorithm not in _ALGORITHM_CODES:
        raise InvalidField(
            "algorithm", f"{header.algorithm!r} is unknown; known: {', '.join(_ALGORITHM_CODES)}"
        )
    if len(header.salt) != SALT_BYTES:
        raise InvalidField("salt", f"has {len(header.salt)} bytes; must have {SALT_BYTES}")
    parts = [_MAGIC, bytes([header.version, _ALGORITHM_CODES[header.algorithm]])]
    parts += [encode_name(name, getattr(header, name)) for name in _NAMES]
    parts.append(header.salt)
    return b"".join(parts)


def wrap(primary_key: bytes, header: WrappedKeyHeader, kek: bytes) -> bytes:
    """Wrap `kek` (32 bytes) under `primary_key` (32 bytes). Raises InvalidField."""
    if len(kek) != KEY_BYTES:
        raise InvalidField("kek", f"has {len(kek)} bytes; must have {KEY_BYTES}")
    header_bytes = encode_header(header)
    key, nonce = _derive(primary_key, header.salt, header_bytes)
    return header_bytes + AESGCM(key).encrypt(nonce, kek, header_bytes)


def parse(wrapped: bytes) -> WrappedKey:
    """Take a wrapped key apart without opening it. Raises Refusal `wrapped_key_invalid`."""
    if len(wrapped) > MAX_WRAPPED_BYTES:
        raise _invalid(f"has {len(wrapped)} bytes; at most {MAX_WRAPPED_BYTES} are possible")
    reader = Reader(wrapped, _invalid)
    if reader.take(len(_MAGIC)) != _MAGIC:
        raise _invalid("does not begin with the mark of a wrapped key")
    version, code = reader.take(2)
    if version != VERSION:
        raise _invalid(f"is of version {version}; this release reads {VERSION}")
    algorithm = next((name for name, known in _ALGORITHM_CODES.items() if known == code), None)
    if algorithm is None:
        raise _invalid(f"names algorithm {code}, which is unknown")
    names = {name: reader.name(name) for name in _NAMES}
    salt = reader.take(SALT_BYTES)
    header_bytes = wrapped[: reader.position]
    ciphertext = reader.take(KEY_BYTES + _TAG_BYTES)
    reader.end()
    header = WrappedKeyHeader(**names, salt=salt, algorithm=algorithm, version=version)
    return WrappedKey(header, header_bytes, ciphertext)


def unwrap(primary_key: bytes, wrapped: bytes) -> tuple[WrappedKeyHeader, bytes]:
    """The header and the 32-byte KEK. Raises Refusal `wrapped_key_invalid`: changed, or under another key."""
    parsed = parse(wrapped)
    return parsed.header, unwrap_parsed(primary_key, parsed)


def unwrap_parsed(primary_key: bytes, wrapped: WrappedKey) -> bytes:
    """The 32-byte KEK of a wrapped key that `parse` took apart. Raises Refusal `wrapped_key_invalid`."""
    key, nonce = _derive(primary_key, wrapped.header.salt, wrapped.header_bytes)
    try:
        return AESGCM(key).decrypt(nonce, wrapped.ciphertext, wrapped.header_bytes)
    except InvalidTag:
        raise _invalid(
            f"does not open under primary key {wrapped.header.primary_key_id!r}: it was changed, or wrapped"
            " under another key",
        ) from None


def check_value(primary_key: bytes, key_id: str) -> str:
    """64 hex digits by which two copies of a primary key are compared without showing the key.

    HKDF-SHA-256(primary key, no salt, CHECK_LABEL || key id as UTF-8), 32 bytes: it depends on the id, so
    the same key under two ids does not show as the same.
    """
    _require_primary_key(primary_key)
    derived = HKDF(hashes.SHA256(), 32, salt=None, info=CHECK_LABEL + key_id.encode()).derive(primary_key)
    return derived.hex()


def _derive(primary_key: bytes, salt: bytes, header_bytes: bytes) -> tuple[bytes, bytes]:
    _require_primary_key(primary_key)
    hkdf = HKDF(hashes.SHA256(), KEY_BYTES + _NONCE_BYTES, salt=salt, info=WRAP_LABEL + header_bytes)
    derived = hkdf.derive(primary_key)
    return derived[:KEY_BYTES], derived[KEY_BYTES:]


def _require_primary_key(primary_key: bytes) -> None:
    if len(primary_key) != KEY_BYTES:
        raise Refusal(
            "primary_key_unavailable",
            f"the primary key has {len(primary_key)} bytes; it must have {KEY_BYTES}",
            "Use an AES-256 key as primary key.",
        )


def _invalid(message: str) -> Refusal:
    return Refusal(
        "wrapped_key_invalid", f"the wrapped key {message}", "Use the wrapped key as it was given."
    )
