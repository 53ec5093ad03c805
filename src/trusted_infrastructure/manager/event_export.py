# SPDX-License-Identifier: GPL-3.0-or-later
"""Events as files: JSON lines, and CSV. Pure.

CSV is RFC 4180 with a header line, in UTF-8. Names and messages in it come from hosts and users, and
spreadsheets run what looks like a formula: a cell that begins with one of FORMULA gets an apostrophe first.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

MEDIA_TYPES = {"jsonl": "application/jsonl", "csv": "text/csv"}
FORMULA = ("=", "+", "-", "@", "\t", "\r")
COLUMNS = (
    "id",
    "time",
    "type",
    "message",
    "host",
    "object",
    "user",
    "operation",
    "key_id",
    "details",
)


@dataclass(frozen=True)
class Format:
    """head: what the file begins with. lines: events (structures with the fields of COLUMNS) as bytes."""

    head: bytes
    lines: Callable[[Sequence[msgspec.Struct]], bytes]


def json_lines(found: Sequence[msgspec.Struct]) -> bytes:
    """One JSON object in each line, which ends with a line feed."""
    return b"".join(msgspec.json.encode(event) + b"\n" for event in found)


def csv_lines(found: Sequence[msgspec.Struct]) -> bytes:
    """One record for each event; lines end with CR LF."""
    return records([[cell(getattr(event, name)) for name in COLUMNS] for event in found])


def records(rows: Sequence[Sequence[str]]) -> bytes:
    """Rows as CSV."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()


def cell(value: object) -> str:
    """A value as the text of a cell. Of an object: its JSON."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return f"'{text}" if text.startswith(FORMULA) else text


FORMATS = {
    "jsonl": Format(b"", json_lines),
    "csv": Format(records([COLUMNS]), csv_lines),
}
