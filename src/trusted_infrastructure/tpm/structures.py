# SPDX-License-Identifier: GPL-3.0-or-later
"""Bounded reading and writing of binary structures: TPM structures (big-endian) and TCG logs (little-endian).

Everything read here was made by somebody who may be an attacker. The rules:
- no length is believed before it was compared with what is left;
- a structure ends where its buffer ends: `finish` refuses trailing bytes, so that two different encodings
  never mean the same;
- every refusal is an `InvalidField` (HTTP 400) that names the structure, the field and the offset.

Sources: TCG TPM 2.0 Library Part 2, clause 4 (big-endian, packed) and Part 1, clause 4 (TPM2B); TCG PC Client
Platform Firmware Profile, clause 10 (event log structures are little-endian).
"""

from __future__ import annotations

import struct

from trusted_infrastructure.refusal import InvalidField


class Reader:
    """Reads one structure from `data`, front to back.

    data: the untrusted bytes. structure: how errors name it, such as 'ak_public'. order: '>' big-endian
    (TPM), '<' little-endian (event log, UEFI). code: reason code of every refusal.
    """

    __slots__ = ("_code", "_data", "_order", "_structure", "offset")

    def __init__(
        self, data: bytes, structure: str, *, order: str = ">", code: str = "malformed_request"
    ) -> None:
        self._data = data
        self._structure = structure
        self._order = order
        self._code = code
        self.offset = 0

    @property
    def remaining(self) -> int:
        """Bytes that were not read yet."""
        return len(self._data) - self.offset

    def refusal(self, field: str, message: str) -> InvalidField:
        """The refusal to raise for `field` of this structure."""
        name = f"{self._structure}.{field}" if field else self._structure
        return InvalidField(name, message, code=self._code)

    def take(self, size: int, field: str) -> bytes:
        """The next `size` bytes. Raises InvalidField when fewer are left (or size is negative)."""
        # Without this, a length of 4 GiB in a 100-byte message would be cut silently, or allocate 4 GiB.
        if size < 0 or size > self.remaining:
            raise self.refusal(
                field, f"needs {size} bytes at offset {self.offset}, but only {self.remaining} are left"
            )
        end = self.offset + size
        value = self._data[self.offset : end]
        self.offset = end
        return value

    def _integer(self, code: str, size: int, field: str) -> int:
        value: int = struct.unpack(self._order + code, self.take(size, field))[0]
        return value

    def u8(self, field: str) -> int:
        """Unsigned 8-bit integer."""
        return self._integer("B", 1, field)

    def u16(self, field: str) -> int:
        """Unsigned 16-bit integer in the structure's byte order."""
        return self._integer("H", 2, field)

    def u32(self, field: str) -> int:
        """Unsigned 32-bit integer in the structure's byte order."""
        return self._integer("I", 4, field)

    def u64(self, field: str) -> int:
        """Unsigned 64-bit integer in the structure's byte order."""
        return self._integer("Q", 8, field)

    def sized(self, maximum: int, field: str) -> bytes:
        """The content of a TPM2B: a 16-bit size and that many bytes, at most `maximum`."""
        size = self.u16(field + ".size")
        if size > maximum:
            raise self.refusal(field, f"is {size} bytes long: expected at most {maximum}")
        return self.take(size, field)

    def rest(self) -> bytes:
        """All bytes that are left."""
        value = self._data[self.offset :]
        self.offset = len(self._data)
        return value

    def finish(self) -> None:
        """Refuse trailing bytes.

        Without this, an attacker could append bytes that one reader skips and another one interprets, or give
        one key any number of encodings (and digests).
        """
        if self.remaining:
            raise self.refusal("", f"has {self.remaining} trailing bytes after offset {self.offset}")


def u8(value: int) -> bytes:
    """Big-endian 8-bit integer."""
    return struct.pack(">B", value)


def u16(value: int) -> bytes:
    """Big-endian 16-bit integer."""
    return struct.pack(">H", value)


def u32(value: int) -> bytes:
    """Big-endian 32-bit integer."""
    return struct.pack(">I", value)


def tpm2b(content: bytes) -> bytes:
    """TPM2B: 16-bit size and content (TPM 2.0 Part 2, 10.4). content: at most 65535 bytes."""
    return u16(len(content)) + content


def unwrap_tpm2b(data: bytes, structure: str, maximum: int = 0xFFFF) -> bytes:
    """The content of a buffer that is exactly one TPM2B. Raises InvalidField for anything else."""
    reader = Reader(data, structure)
    content = reader.sized(maximum, "")
    reader.finish()
    return content
