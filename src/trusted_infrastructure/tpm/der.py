# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking DER apart, one level at a time. For what has to be read of certificates by the byte.

Every length is compared with what is left before it is believed; an element is read once, so the work is
bounded by the size of the data.

Source: ITU-T X.690, 8.1 (encoding of a value), 10.1 (definite lengths).
"""

from __future__ import annotations

from dataclasses import dataclass

BOOLEAN = 0x01
INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
OBJECT_IDENTIFIER = 0x06
SEQUENCE = 0x30
SET = 0x31

_MAXIMUM_LENGTH_OCTETS = 3  # 16 MB


@dataclass(frozen=True)
class Element:
    """One value. tag: its identifier octet. content: without header. raw: header and content."""

    tag: int
    content: bytes
    raw: bytes


def encode(tag: int, content: bytes) -> bytes:
    """DER of one value."""
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + content


def elements(data: bytes) -> list[Element]:
    """The values that `data` consists of. Raises ValueError."""
    found = []
    offset = 0
    while offset < len(data):
        element = _element(data, offset)
        found.append(element)
        offset += len(element.raw)
    return found


def inside(data: bytes, tag: int, what: str) -> list[Element]:
    """The values in the one value that `data` is. what: its name for errors. Raises ValueError."""
    return elements(content(data, tag, what))


def content(data: bytes, tag: int, what: str) -> bytes:
    """The content of the one value that `data` is. Raises ValueError."""
    outer = elements(data)
    if len(outer) != 1 or outer[0].tag != tag:
        raise ValueError(f"{what}: expected one value with tag 0x{tag:02x}")
    return outer[0].content


def dotted(identifier: bytes) -> str:
    """The content of an OBJECT IDENTIFIER (X.690, 8.19) in dotted form. Raises ValueError."""
    numbers: list[int] = []
    value = 0
    if not identifier or identifier[-1] & 0x80 or len(identifier) > 64:
        raise ValueError("object identifier: is not one")
    for octet in identifier:
        value = value << 7 | octet & 0x7F
        if not octet & 0x80:
            numbers.append(value)
            value = 0
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, (first, numbers[0] - 40 * first, *numbers[1:])))


def _element(data: bytes, offset: int) -> Element:
    if len(data) - offset < 2:
        raise ValueError(f"a value at offset {offset} is cut")
    tag, size = data[offset], data[offset + 1]
    begin = offset + 2
    if tag & 0x1F == 0x1F:
        raise ValueError(f"a tag of several octets at offset {offset}")
    if size & 0x80:
        octets = size & 0x7F
        if not 1 <= octets <= _MAXIMUM_LENGTH_OCTETS:
            raise ValueError(f"a length at offset {offset} that no certificate has")
        size = int.from_bytes(data[begin : begin + octets], "big")
        # DER has one form for each length. Without this, one certificate would have any number of encodings.
        if size < 0x80 or size >> 8 * (octets - 1) == 0:
            raise ValueError(f"a length at offset {offset} that is not in its shortest form")
        begin += octets
    if begin + size > len(data):
        raise ValueError(f"a value at offset {offset} says {size} bytes, and fewer are left")
    return Element(tag, data[begin : begin + size], data[offset : begin + size])
