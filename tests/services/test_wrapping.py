# SPDX-License-Identifier: GPL-3.0-or-later
"""Wrapped keys: what is refused, that nothing of one can be changed, and vectors that fix the encoding."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from trusted_infrastructure import wrapping
from trusted_infrastructure.refusal import InvalidField, Refusal
from trusted_infrastructure.wrapping import WrappedKeyHeader, check_value, parse, unwrap, wrap

PRIMARY_KEY = bytes(range(32))
KEK = bytes(range(100, 132))
HEADER = WrappedKeyHeader(
    provider="finance",
    primary_key_id="1001",
    kek_id="6f6a1f6e-6f0d-4f3a-9d5e-0d3f3c1f8f10",
    object_label="machine 4711",
    scope="cluster-a",
    salt=bytes(range(32, 64)),
)
WRAPPED = wrap(PRIMARY_KEY, HEADER, KEK)


def header(**changes: Any) -> WrappedKeyHeader:
    return dataclasses.replace(HEADER, **changes)


def test_round_trip() -> None:
    assert unwrap(PRIMARY_KEY, WRAPPED) == (HEADER, KEK)


def test_encoding_is_what_the_module_says() -> None:
    texts = ["finance", "1001", HEADER.kek_id, "machine 4711", "cluster-a"]
    expected = b"TIWK\x01\x01"
    for text in texts:
        expected += len(text).to_bytes(2, "big") + text.encode()
    expected += HEADER.salt
    assert WRAPPED[: len(expected)] == expected
    derived = HKDF(
        hashes.SHA256(), 44, HEADER.salt, b"trusted.infrastructure/wrapped-key/v1" + expected
    ).derive(PRIMARY_KEY)
    assert WRAPPED[len(expected) :] == AESGCM(derived[:32]).encrypt(derived[32:], KEK, expected)


def test_vector_stays() -> None:
    """A change of these bytes makes every stored wrapped key unreadable."""
    assert hashlib.sha256(WRAPPED).hexdigest() == VECTOR_DIGEST
    assert check_value(PRIMARY_KEY, "1001") == VECTOR_CHECK_VALUE


VECTOR_DIGEST = "37992b01e4ce491268723a63243bb38cb84990e3f023e6303be7c7172c4bb586"
VECTOR_CHECK_VALUE = "cb0cef5e50386e6f466d7a38caa5bb1dd3b9a5250fcb28ce4d84c7e20c92f626"


@pytest.mark.parametrize("position", range(len(WRAPPED)))
def test_no_byte_can_be_changed(position: int) -> None:
    changed = bytearray(WRAPPED)
    changed[position] ^= 0x01
    with pytest.raises(Refusal) as refused:
        unwrap(PRIMARY_KEY, bytes(changed))
    assert refused.value.code == "wrapped_key_invalid"


@pytest.mark.parametrize("size", range(len(WRAPPED)))
def test_no_end_can_be_cut(size: int) -> None:
    with pytest.raises(Refusal) as refused:
        parse(WRAPPED[:size])
    assert refused.value.code == "wrapped_key_invalid"


@pytest.mark.parametrize("field", ["provider", "primary_key_id", "kek_id", "object_label", "scope", "salt"])
def test_every_header_field_is_bound(field: str) -> None:
    """The ciphertext of one header does not open under another, whatever field differs."""
    value = bytes(32) if field == "salt" else "other"
    other = wrapping.encode_header(header(**{field: value}))
    moved = other + parse(WRAPPED).ciphertext
    with pytest.raises(Refusal) as refused:
        unwrap(PRIMARY_KEY, moved)
    assert refused.value.code == "wrapped_key_invalid"


@pytest.mark.parametrize(
    ("wrapped", "words"),
    [
        (b"", "ends after 0 bytes"),
        (b"NOPE" + WRAPPED[4:], "mark"),
        (b"TIWK\x02" + WRAPPED[5:], "version 2"),
        (b"TIWK\x01\x09" + WRAPPED[6:], "algorithm 9"),
        (b"TIWK\x01\x01\x00\x00" + WRAPPED[15:], "provider that is no name"),
        (b"TIWK\x01\x01\x00\x02\xff\xfe" + WRAPPED[15:], "not UTF-8"),
        (b"TIWK\x01\x01\x00\x02a\n" + WRAPPED[15:], "no name"),
        (b"TIWK\x01\x01\xff\xff" + WRAPPED[8:], "inside a field"),
        (WRAPPED + b"\0", "1 bytes after its end"),
        (WRAPPED + bytes(wrapping.MAX_WRAPPED_BYTES), "at most"),
    ],
)
def test_malformed_is_refused_with_a_reason(wrapped: bytes, words: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse(wrapped)
    assert refused.value.code == "wrapped_key_invalid"
    assert words in refused.value.message


def test_another_primary_key_does_not_open_it() -> None:
    with pytest.raises(Refusal) as refused:
        unwrap(bytes(32), WRAPPED)
    assert refused.value.code == "wrapped_key_invalid"
    assert KEK.hex() not in str(refused.value)


@pytest.mark.parametrize("key", [b"", bytes(16), bytes(31), bytes(33)])
def test_primary_key_must_be_256_bits(key: bytes) -> None:
    for use in (lambda: wrap(key, HEADER, KEK), lambda: unwrap(key, WRAPPED), lambda: check_value(key, "1")):
        with pytest.raises(Refusal) as refused:
            use()
        assert refused.value.code == "primary_key_unavailable"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"provider": ""}, "provider"),
        ({"scope": "x" * 256}, "scope"),
        ({"object_label": "a\x00b"}, "object_label"),
        ({"kek_id": "a\u2028b"}, "kek_id"),
        ({"salt": b"short"}, "salt"),
        ({"algorithm": "none"}, "algorithm"),
        ({"version": 2}, "version"),
    ],
)
def test_header_that_cannot_be_written(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidField) as refused:
        wrap(PRIMARY_KEY, header(**changes), KEK)
    assert refused.value.field == field


def test_kek_must_be_256_bits() -> None:
    with pytest.raises(InvalidField) as refused:
        wrap(PRIMARY_KEY, HEADER, bytes(16))
    assert refused.value.field == "kek"


def test_check_value_depends_on_key_and_id() -> None:
    values = {check_value(PRIMARY_KEY, "1"), check_value(PRIMARY_KEY, "2"), check_value(bytes(32), "1")}
    assert len(values) == 3
    assert all(len(value) == 64 for value in values)


def test_representations_show_no_key() -> None:
    shown = repr(parse(WRAPPED)) + repr(HEADER)
    assert parse(WRAPPED).ciphertext.hex() not in shown
    assert "ciphertext" not in shown


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    with pytest.raises(Refusal):
        unwrap(PRIMARY_KEY, data)


names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=255)


@given(names, names, names, names, names, st.binary(min_size=32, max_size=32))
def test_any_names_come_back(
    provider: str, primary_key_id: str, kek_id: str, object_label: str, scope: str, salt: bytes
) -> None:
    written = WrappedKeyHeader(provider, primary_key_id, kek_id, object_label, scope, salt)
    wrapped = wrap(PRIMARY_KEY, written, KEK)
    assert len(wrapped) <= wrapping.MAX_WRAPPED_BYTES
    assert unwrap(PRIMARY_KEY, wrapped) == (written, KEK)
