# SPDX-License-Identifier: GPL-3.0-or-later
"""Fields of the headers of wrapped keys: texts and bytes with their length before them. Pure: no I/O."""

from __future__ import annotations

import struct
from collections.abc import Callable

from trusted_infrastructure.refusal import InvalidField, Refusal

MAX_NAME = 255


def encode_name(field: str, value: str, *, empty: bool = False) -> bytes:
    """A text of 1 to 255 printable characters: UTF-8, its size before it (2 bytes, big-endian).

    empty: whether it may have no character. Raises InvalidField naming `field`.
    """
    least = 0 if empty else 1
    if not least <= len(value) <= MAX_NAME:
        raise InvalidField(field, f"has {len(value)} characters; {least} to {MAX_NAME} are possible")
    if not value.isprintable():
        raise InvalidField(field, "has characters that cannot be printed")
    return encode_bytes(value.encode())


def encode_bytes(value: bytes) -> bytes:
    """Bytes with their size before them (2 bytes, big-endian); at most 65535 of them."""
    return struct.pack(">H", len(value)) + value


class Reader:
    """Bounds first: every read says what it wants and is refused where the bytes end.

    invalid: from what is wrong ("ends inside a field") to the Refusal that is raised.
    """

    def __init__(self, data: bytes, invalid: Callable[[str], Refusal]) -> None:
        self._data = data
        self._invalid = invalid
        self.position = 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        taken = self._data[self.position : self.position + size]
        if len(taken) != size:
            raise self._invalid(f"ends after {len(self._data)} bytes, inside a field")
        self.position += size
        return taken

    def bytes(self) -> bytes:
        """What `encode_bytes` wrote."""
        (size,) = struct.unpack(">H", self.take(2))
        return self.take(size)

    def name(self, field: str, *, empty: bool = False) -> str:
        """What `encode_name` wrote."""
        try:
            value = self.bytes().decode()
        except UnicodeDecodeError:
            raise self._invalid(f"has a {field} that is not UTF-8") from None
        if not (0 if empty else 1) <= len(value) <= MAX_NAME or not value.isprintable():
            raise self._invalid(f"has a {field} that is no name")
        return value

    def end(self) -> None:
        """Refuse what comes after the last field."""
        if self.position != len(self._data):
            raise self._invalid(f"has {len(self._data) - self.position} bytes after its end")
