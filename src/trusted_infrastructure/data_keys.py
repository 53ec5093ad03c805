# SPDX-License-Identifier: GPL-3.0-or-later
"""Wrapped data keys: what is kept of the key that an object's data is encrypted with. docs/protocol.md 7.7.

    wrapped data key = header || ciphertext (32 bytes) || tag (16 bytes)
    header           = "TIDK" || version (1 byte) || algorithm (1 byte) || type (1 byte)
                       || provider || key id || object id || component || KEK id || KEK reference
                       || salt (32 bytes)

The five texts are UTF-8 with a 2-byte big-endian length before each, and so is the KEK reference, which is
bytes. Types are 1 STANDARD, 2 TRUSTED, 3 NATIVE. The reference is what leads to the key encryption key (KEK):
its wrapped form (see `wrapping`) where the type is TRUSTED or NATIVE; nothing where it is STANDARD, whose KEK
is found by its id. Algorithm 1 is

    key (32 bytes) || nonce (12 bytes) = HKDF-SHA-256(KEK, salt, info = DATA_KEY_LABEL || header)
    ciphertext || tag = AES-256-GCM(key, nonce, data key, additional data = header)

so no byte of the header can be changed: a wrapped data key can be moved neither to another object, nor to
another provider. All three types look the same to whoever keeps them. Pure: no I/O.

Sources: RFC 5869 (HKDF), NIST SP 800-38D (GCM).
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from trusted_infrastructure.header_fields import Reader, encode_bytes, encode_name
from trusted_infrastructure.refusal import InvalidField, Refusal

ProviderType = Literal["STANDARD", "TRUSTED", "NATIVE"]

VERSION = 1
ALGORITHM = "HKDF-SHA256+A256GCM"
KEY_BYTES = 32
SALT_BYTES = 32
MAX_REFERENCE_BYTES = 6 * 1024
# Five names of at most 255 characters of at most 4 bytes, and the reference: what is longer is not ours.
MAX_WRAPPED_BYTES = 12 * 1024

DATA_KEY_LABEL = b"trusted.infrastructure/wrapped-data-key/v1"

_MAGIC = b"TIDK"
_ALGORITHM_CODES = {ALGORITHM: 1}
_TYPE_CODES: dict[ProviderType, int] = {"STANDARD": 1, "TRUSTED": 2, "NATIVE": 3}
_NONCE_BYTES = 12
_TAG_BYTES = 16


@dataclass(frozen=True)
class DataKeyHeader:
    """What is written, readable and unchangeable, on a wrapped data key.

    type, provider: of the key provider. key_id: UUID of the data key. object_id, component: what it
    encrypts; component may be empty. kek_id, kek_reference: of the key encryption key. salt: 32 random bytes,
    never used twice.
    """

    type: ProviderType
    provider: str
    key_id: str
    object_id: str
    component: str
    kek_id: str
    kek_reference: bytes = field(repr=False)
    salt: bytes = field(repr=False)
    algorithm: str = ALGORITHM
    version: int = VERSION


@dataclass(frozen=True)
class WrappedDataKey:
    """A wrapped data key taken apart. header_bytes: what is authenticated. ciphertext: with its tag."""

    header: DataKeyHeader
    header_bytes: bytes = field(repr=False)
    ciphertext: bytes = field(repr=False)


def encode_header(header: DataKeyHeader) -> bytes:
    """The header's bytes. Raises InvalidField (400) naming the field that cannot be written."""
    if header.version != VERSION:
        raise InvalidField("version", f"is {header.version}; this release writes {VERSION}")
    if header.algorithm not in _ALGORITHM_CODES:
        known = ", ".join(_ALGORITHM_CODES)
        raise InvalidField("algorithm", f"{header.algorithm!r} is unknown; known: {known}")
    if header.type not in _TYPE_CODES:
        raise InvalidField("type", f"{header.type!r} is unknown; known: {', '.join(_TYPE_CODES)}")
    if len(header.salt) != SALT_BYTES:
        raise InvalidField("salt", f"has {len(header.salt)} bytes; must have {SALT_BYTES}")
    if not _is_uuid(header.key_id):
        raise InvalidField("key_id", "is no UUID in lower case")
    if not _reference_fits(header.type, header.kek_reference):
        raise InvalidField("kek_reference", f"has {len(header.kek_reference)} bytes, with type {header.type}")
    codes = bytes([header.version, _ALGORITHM_CODES[header.algorithm], _TYPE_CODES[header.type]])
    return b"".join(
        [
            _MAGIC + codes,
            encode_name("provider", header.provider),
            encode_name("key_id", header.key_id),
            encode_name("object_id", header.object_id),
            encode_name("component", header.component, empty=True),
            encode_name("kek_id", header.kek_id),
            encode_bytes(header.kek_reference),
            header.salt,
        ]
    )


def wrap(kek: bytes, header: DataKeyHeader, data_key: bytes) -> bytes:
    """Wrap `data_key` (32 bytes) under `kek` (32 bytes). Raises InvalidField."""
    if len(data_key) != KEY_BYTES:
        raise InvalidField("data_key", f"has {len(data_key)} bytes; must have {KEY_BYTES}")
    header_bytes = encode_header(header)
    key, nonce = _derive(kek, header.salt, header_bytes)
    return header_bytes + AESGCM(key).encrypt(nonce, data_key, header_bytes)


def parse(wrapped: bytes) -> WrappedDataKey:
    """Take a wrapped data key apart without opening it. Raises Refusal `wrapped_key_invalid`."""
    if len(wrapped) > MAX_WRAPPED_BYTES:
        raise _invalid(f"has {len(wrapped)} bytes; at most {MAX_WRAPPED_BYTES} are possible")
    reader = Reader(wrapped, _invalid)
    if reader.take(len(_MAGIC)) != _MAGIC:
        raise _invalid("does not begin with the mark of a wrapped data key")
    version, algorithm_code, type_code = reader.take(3)
    if version != VERSION:
        raise _invalid(f"is of version {version}; this release reads {VERSION}")
    algorithm = next((name for name, code in _ALGORITHM_CODES.items() if code == algorithm_code), None)
    if algorithm is None:
        raise _invalid(f"names algorithm {algorithm_code}, which is unknown")
    kind = next((name for name, code in _TYPE_CODES.items() if code == type_code), None)
    if kind is None:
        raise _invalid(f"names type {type_code}, which is unknown")
    header = DataKeyHeader(
        type=kind,
        provider=reader.name("provider"),
        key_id=reader.name("key_id"),
        object_id=reader.name("object_id"),
        component=reader.name("component", empty=True),
        kek_id=reader.name("kek_id"),
        kek_reference=reader.bytes(),
        salt=reader.take(SALT_BYTES),
        algorithm=algorithm,
        version=version,
    )
    if not _is_uuid(header.key_id):
        raise _invalid("has a key_id that is no UUID in lower case")
    if not _reference_fits(kind, header.kek_reference):
        raise _invalid(f"has a KEK reference of {len(header.kek_reference)} bytes, with type {kind}")
    header_bytes = wrapped[: reader.position]
    ciphertext = reader.take(KEY_BYTES + _TAG_BYTES)
    reader.end()
    return WrappedDataKey(header, header_bytes, ciphertext)


def unwrap(kek: bytes, wrapped: WrappedDataKey) -> bytes:
    """The 32-byte data key. Raises Refusal `wrapped_key_invalid`: changed, or wrapped under another key."""
    key, nonce = _derive(kek, wrapped.header.salt, wrapped.header_bytes)
    try:
        return AESGCM(key).decrypt(nonce, wrapped.ciphertext, wrapped.header_bytes)
    except InvalidTag:
        raise _invalid(
            f"does not open under key encryption key {wrapped.header.kek_id!r}: it was changed, or wrapped"
            " under another key"
        ) from None


def _derive(kek: bytes, salt: bytes, header_bytes: bytes) -> tuple[bytes, bytes]:
    if len(kek) != KEY_BYTES:
        raise InvalidField("kek", f"has {len(kek)} bytes; must have {KEY_BYTES}")
    hkdf = HKDF(hashes.SHA256(), KEY_BYTES + _NONCE_BYTES, salt=salt, info=DATA_KEY_LABEL + header_bytes)
    derived = hkdf.derive(kek)
    return derived[:KEY_BYTES], derived[KEY_BYTES:]


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _reference_fits(kind: ProviderType, reference: bytes) -> bool:
    """Whether a key of this type has such a reference: none where it is standard, else one that is not."""
    return not reference if kind == "STANDARD" else 1 <= len(reference) <= MAX_REFERENCE_BYTES


def _invalid(message: str) -> Refusal:
    return Refusal(
        "wrapped_key_invalid", f"the wrapped data key {message}", "Use the wrapped data key as it was given."
    )
