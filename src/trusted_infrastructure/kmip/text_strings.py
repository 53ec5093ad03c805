# SPDX-License-Identifier: GPL-3.0-or-later
"""Text strings (KMIP 1.x Specification, section 9.1.1.4): UTF-8, padded with zeros to a multiple of 8 bytes.

PyKMIP counts characters and not bytes, reads no character that is not ASCII, and pads what it has read and
whose length is a multiple of 8 with 8 bytes too many. Names of objects have such texts.
"""

from __future__ import annotations

from typing import Any

from kmip.core import enums, primitives

PADDING = 8


def write(self: Any, stream: Any, kmip_version: Any = enums.KMIPVersion.KMIP_1_0) -> None:
    """The header with the length in bytes, then text and padding."""
    self.length = len(self.value.encode())
    primitives.Base.write(self, stream, kmip_version=kmip_version)
    write_value(self, stream)


def write_value(self: Any, stream: Any, kmip_version: Any = None) -> None:
    """Text and padding."""
    data = self.value.encode()
    stream.write(data + bytes(-len(data) % PADDING))


def read_value(self: Any, stream: Any, kmip_version: Any = None) -> None:
    """Text of the length that the header said, and padding. Raises ValueError."""
    padding = -self.length % PADDING
    data = bytes(stream.read(self.length + padding))
    if len(data) != self.length + padding or any(data[self.length :]):
        raise ValueError("a text string that is not padded with zeros")
    self.value = data[: self.length].decode()


def repair() -> None:
    """Let PyKMIP's text strings be those of KMIP, in this process."""
    for method in (write, write_value, read_value):
        setattr(primitives.TextString, method.__name__, method)
