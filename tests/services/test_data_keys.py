# SPDX-License-Identifier: GPL-3.0-or-later
"""Wrapped data keys: what is refused, that nothing of one can be changed, and that kinds look alike."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trusted_infrastructure import data_keys, wrapping
from trusted_infrastructure.data_keys import DataKeyHeader, ProviderType, encode_header, parse, unwrap, wrap
from trusted_infrastructure.refusal import InvalidField, Refusal

KEK = bytes(range(32))
DATA_KEY = bytes(range(100, 132))
HEADER = DataKeyHeader(
    type="TRUSTED",
    provider="finance",
    key_id="6f6a1f6e-6f0d-4f3a-9d5e-0d3f3c1f8f10",
    object_id="machine 4711",
    component="Virtual Machine",
    kek_id="kek-1",
    kek_reference=b"TIWK of the key encryption key",
    salt=bytes(range(32, 64)),
)
WRAPPED = wrap(KEK, HEADER, DATA_KEY)


def header(**changes: Any) -> DataKeyHeader:
    return dataclasses.replace(HEADER, **changes)


def refused(wrapped: bytes) -> Refusal:
    with pytest.raises(Refusal) as caught:
        unwrap(KEK, parse(wrapped))
    assert caught.value.code == "wrapped_key_invalid"
    return caught.value


@pytest.mark.parametrize("kind", ["STANDARD", "TRUSTED", "NATIVE"])
def test_round_trip(kind: ProviderType) -> None:
    given_header = header(type=kind, kek_reference=b"" if kind == "STANDARD" else b"reference", component="")
    parsed = parse(wrap(KEK, given_header, DATA_KEY))
    assert (parsed.header, unwrap(KEK, parsed)) == (given_header, DATA_KEY)


@pytest.mark.parametrize("position", range(len(WRAPPED)))
def test_no_byte_can_be_changed(position: int) -> None:
    changed = bytearray(WRAPPED)
    changed[position] ^= 0x01
    refused(bytes(changed))


@pytest.mark.parametrize("size", range(len(WRAPPED)))
def test_no_end_can_be_cut(size: int) -> None:
    refused(WRAPPED[:size])


MOVED: dict[str, Any] = {
    "type": "NATIVE",
    "provider": "hr",
    "key_id": "6f6a1f6e-6f0d-4f3a-9d5e-0d3f3c1f8f11",
    "object_id": "machine 4712",
    "component": "Host",
    "kek_id": "kek-2",
    "kek_reference": b"another",
    "salt": bytes(32),
}


@pytest.mark.parametrize("field", MOVED)
def test_every_field_is_bound(field: str) -> None:
    """The ciphertext of one header does not open under another: a key cannot be moved to another object."""
    refused(encode_header(header(**{field: MOVED[field]})) + parse(WRAPPED).ciphertext)


AFTER_CODES = WRAPPED[7:]
MALFORMED = {
    "nothing": (b"", "ends after 0 bytes"),
    "a wrapped key encryption key": (b"TIWK" + WRAPPED[4:], "mark"),
    "another version": (b"TIDK\x02\x01\x02" + AFTER_CODES, "version 2"),
    "another algorithm": (b"TIDK\x01\x09\x02" + AFTER_CODES, "algorithm 9"),
    "another type": (b"TIDK\x01\x01\x09" + AFTER_CODES, "type 9"),
    "an empty provider": (b"TIDK\x01\x01\x02\x00\x00" + WRAPPED[16:], "no name"),
    "a provider that is no text": (b"TIDK\x01\x01\x02\x00\x02\xff\xfe" + WRAPPED[16:], "UTF-8"),
    "a provider with a line end": (b"TIDK\x01\x01\x02\x00\x02a\n" + WRAPPED[16:], "no name"),
    "a provider beyond the end": (b"TIDK\x01\x01\x02\xff\xff" + WRAPPED[9:], "inside a field"),
    "more at the end": (WRAPPED + b"\0", "1 bytes after its end"),
    "too much": (WRAPPED + bytes(data_keys.MAX_WRAPPED_BYTES), "at most"),
    "a standard key with a reference": (b"TIDK\x01\x01\x01" + AFTER_CODES, "KEK reference"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_is_refused_with_a_reason(name: str) -> None:
    wrapped, words = MALFORMED[name]
    assert words in refused(wrapped).message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 2),
        ("algorithm", "none"),
        ("type", "OTHER"),
        ("provider", ""),
        ("provider", "x" * 256),
        ("object_id", ""),
        ("object_id", "a\nb"),
        ("component", "a\0"),
        ("kek_id", ""),
        ("key_id", "no uuid"),
        ("key_id", HEADER.key_id.upper()),
        ("kek_reference", b""),
        ("kek_reference", bytes(data_keys.MAX_REFERENCE_BYTES + 1)),
        ("salt", bytes(31)),
    ],
)
def test_what_cannot_be_written_names_the_field(field: str, value: Any) -> None:
    with pytest.raises(InvalidField) as caught:
        wrap(KEK, header(**{field: value}), DATA_KEY)
    assert caught.value.field == field


@pytest.mark.parametrize(("kek", "key"), [(bytes(31), DATA_KEY), (KEK, bytes(16)), (KEK, b"")])
def test_keys_have_32_bytes(kek: bytes, key: bytes) -> None:
    with pytest.raises(InvalidField):
        wrap(kek, HEADER, key)


def test_another_key_does_not_open_it() -> None:
    with pytest.raises(Refusal) as caught:
        unwrap(bytes(32), parse(WRAPPED))
    assert caught.value.code == "wrapped_key_invalid"
    assert KEK.hex() not in str(caught.value) + repr(parse(WRAPPED))


def test_the_largest_fits() -> None:
    """Five names of 255 characters of 4 bytes, and a wrapped key encryption key of the largest size."""
    name = "\U0001f511" * 255
    largest = header(
        provider=name,
        object_id=name,
        component=name,
        kek_id=name,
        kek_reference=bytes(wrapping.MAX_WRAPPED_BYTES),
    )
    assert parse(wrap(KEK, largest, DATA_KEY)).header == largest


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_and_nothing_else_happens(data: bytes) -> None:
    for wrapped in (data, b"TIDK\x01\x01\x02" + data):
        with pytest.raises(Refusal):
            unwrap(KEK, parse(wrapped))
