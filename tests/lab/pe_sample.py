# SPDX-License-Identifier: GPL-3.0-or-later
"""PE images small enough to look at."""

from __future__ import annotations

import struct

PE_AT, HEADERS, SECTION, SECTION_SIZE = 0x80, 0x200, 0x200, 0x100
OPTIONAL_AT = PE_AT + 24
CHECKSUM_AT = OPTIONAL_AT + 64
CERTIFICATE_ENTRY_AT = OPTIONAL_AT + 112 + 8 * 4


def image(certificate: bytes = b"", checksum: int = 0, body: bytes = b"\x90", tail: bytes = b"") -> bytes:
    """A PE32+ image with one section, bytes after it, and a certificate table at its end."""
    built = bytearray(HEADERS)
    built[:2] = b"MZ"
    struct.pack_into("<I", built, 0x3C, PE_AT)
    built[PE_AT : PE_AT + 4] = b"PE\0\0"
    struct.pack_into("<HHIIIHH", built, PE_AT + 4, 0x8664, 1, 0, 0, 0, 112 + 8 * 16, 0x22)
    struct.pack_into("<H", built, OPTIONAL_AT, 0x20B)
    struct.pack_into("<I", built, OPTIONAL_AT + 60, HEADERS)
    struct.pack_into("<I", built, CHECKSUM_AT, checksum)
    struct.pack_into("<I", built, OPTIONAL_AT + 108, 16)
    content = body * (SECTION_SIZE // len(body)) + tail
    if certificate:
        struct.pack_into("<II", built, CERTIFICATE_ENTRY_AT, HEADERS + len(content), len(certificate))
    struct.pack_into("<8sIIII", built, OPTIONAL_AT + 240, b".text", SECTION_SIZE, 0, SECTION_SIZE, SECTION)
    return bytes(built) + content + certificate
