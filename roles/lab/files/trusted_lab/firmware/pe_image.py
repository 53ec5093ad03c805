# SPDX-License-Identifier: GPL-3.0-or-later
"""The Authenticode digest of a PE/COFF image: what firmware extends for a boot loader or an EFI stub kernel.

Sources: Microsoft, "Windows Authenticode Portable Executable Signature Format" (2008), "Calculating the PE
Image Hash"; PE format, "Optional Header". Everything counts but the checksum, the entry that points to the
signatures, and the signatures themselves, so that signing an image does not change its digest.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from ..errors import LabError

_CERTIFICATE_TABLE = 4  # index among the data directories
_OPTIONAL_HEADER_MAGIC = {0x10B: 96, 0x20B: 112}  # PE32, PE32+: where the data directories begin


@dataclass(frozen=True)
class _Layout:
    checksum: int
    certificate_entry: int | None
    certificate_size: int
    headers_size: int
    sections: list[tuple[int, int]]


def authenticode_digest(image: bytes, algorithm: str, name: str) -> bytes:
    """The digest in `algorithm` ("sha1" or "sha256"). LabError, with the name, if this is no PE image."""
    try:
        layout = _layout(image)
    except (struct.error, IndexError, ValueError) as problem:
        raise LabError(f"{name} is not a PE image that firmware could start: {problem}") from problem
    state = hashlib.new(algorithm, usedforsecurity=False)
    if layout.certificate_entry is None:
        state.update(image[: layout.checksum])
        state.update(image[layout.checksum + 4 : layout.headers_size])
    else:
        state.update(image[: layout.checksum])
        state.update(image[layout.checksum + 4 : layout.certificate_entry])
        state.update(image[layout.certificate_entry + 8 : layout.headers_size])
    end = layout.headers_size
    for offset, size in sorted(layout.sections):
        state.update(image[offset : offset + size])
        end += size
    # What follows the sections is hashed too, up to the signatures.
    state.update(image[end : max(end, len(image) - layout.certificate_size)])
    return state.digest()


def _layout(image: bytes) -> _Layout:
    if image[:2] != b"MZ":
        raise ValueError("it does not begin with 'MZ'")
    pe = struct.unpack_from("<I", image, 0x3C)[0]
    if image[pe : pe + 4] != b"PE\0\0":
        raise ValueError("there is no PE signature")
    section_count, optional_size = struct.unpack_from("<H12xH", image, pe + 6)
    optional = pe + 24
    directories_at = _OPTIONAL_HEADER_MAGIC.get(struct.unpack_from("<H", image, optional)[0])
    if directories_at is None:
        raise ValueError("its optional header has an unknown magic")
    headers_size = struct.unpack_from("<I", image, optional + 60)[0]
    directory_count = struct.unpack_from("<I", image, optional + directories_at - 4)[0]
    certificate_entry, certificate_size = None, 0
    if directory_count > _CERTIFICATE_TABLE:
        certificate_entry = optional + directories_at + 8 * _CERTIFICATE_TABLE
        certificate_size = struct.unpack_from("<I", image, certificate_entry + 4)[0]
    sections = []
    for index in range(section_count):
        size, offset = struct.unpack_from("<II", image, optional + optional_size + 40 * index + 16)
        if size:
            if offset + size > len(image):
                raise ValueError(f"section {index} ends behind the file")
            sections.append((offset, size))
    if headers_size > len(image) or certificate_size > len(image):
        raise ValueError("its headers say that it is longer than it is")
    return _Layout(optional + 64, certificate_entry, certificate_size, headers_size, sections)
