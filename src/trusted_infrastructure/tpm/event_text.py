# SPDX-License-Identifier: GPL-3.0-or-later
"""Text in event logs: ASCII and UTF-16, often with a NUL at its end, always written by somebody else.

Sources: UEFI Specification 2.10, 2.3.1 (CHAR8, CHAR16: little-endian UCS-2, NUL-terminated).
"""

from __future__ import annotations

MAXIMUM_SHOWN = 160


def text_of(data: bytes) -> str:
    """The text in event data: UTF-16 little-endian where it looks like that, else UTF-8; without NULs at the
    end. Bytes that are no text are replaced."""
    if looks_like_utf16(data):
        return data[: len(data) & ~1].decode("utf-16-le", "replace").rstrip("\0")
    return data.decode("utf-8", "replace").rstrip("\0")


def looks_like_utf16(data: bytes) -> bool:
    """Whether data is most likely UTF-16 of mostly Latin text: every other byte is mostly zero."""
    if len(data) < 2:
        return False
    high = data[1::2]
    return high.count(0) * 4 >= len(high) * 3 and data[0] != 0


def shown(text: str) -> str:
    """`text` fit for a refusal or a log line: one line, printable, not longer than 160 characters."""
    # Without this, a host could write control sequences, line breaks or a megabyte into logs and terminals.
    if len(text) > MAXIMUM_SHOWN:
        text = text[: MAXIMUM_SHOWN - 3] + "..."
    return "".join(character if character.isprintable() else "." for character in text)
