# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of one audit log: `audit.jsonl`, which is open, and the closed `audit.<first record>.jsonl`.

Rotation renames the open file and makes a new one; the chain goes on, so the first line of the new file holds
the hash of the last line of the one before. Nothing else says that files belong together, and nothing else is
needed. A crash between the two steps leaves closed files and no open one, which is a state like any other.

All processes and readers take one lock, on `audit.jsonl.lock`, which is never renamed.
"""

from __future__ import annotations

import fcntl
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trusted_infrastructure.audit.records import MAX_LINE, NO_HEAD, AuditRecord, Head, head_of, parse_line


@dataclass(frozen=True)
class Segment:
    """A closed file of the log. first: number of its first record, as the name says."""

    path: Path
    first: int


class NotARecord(Exception):
    """The last line of a file is not an audit record: nothing can be said about where the chain stands."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"the last line of {path} is not an audit record")
        self.path = path


def segment_path(path: Path, first: int) -> Path:
    """Name of the closed file that begins with record `first`. path: of the open file."""
    return path.with_name(f"{path.stem}.{first:012d}{path.suffix}")


def segments(path: Path) -> list[Segment]:
    """The closed files, oldest first. path: of the open file. Raises OSError."""
    pattern = re.compile(re.escape(path.stem) + r"\.([0-9]{1,18})" + re.escape(path.suffix))
    found = []
    for name in os.listdir(path.parent):
        match = pattern.fullmatch(name)
        if match:
            found.append(Segment(path.with_name(name), int(match.group(1))))
    return sorted(found, key=lambda segment: (segment.first, segment.path.name))


def last_record(file: io.FileIO, path: Path) -> tuple[AuditRecord, Head] | None:
    """The last record of an open file and the head after it; None when the file is empty.

    Raises NotARecord, OSError.
    """
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        return None
    line = tail(file, size).removesuffix(b"\n").rpartition(b"\n")[2]
    record = parse_line(line)
    if record is None:
        raise NotARecord(path)
    return record, head_of(record, line)


def first_number(file: io.FileIO, path: Path) -> int:
    """Number of the first record of an open file. Raises NotARecord, OSError."""
    line = os.pread(file.fileno(), MAX_LINE, 0).partition(b"\n")[0]
    record = parse_line(line)
    if record is None:
        raise NotARecord(path)
    return record.seq


def closed_head(path: Path) -> tuple[AuditRecord | None, Head]:
    """Last record and head of the closed files; None and seq 0 where there are none.

    Raises NotARecord, OSError.
    """
    for segment in reversed(segments(path)):
        with open(segment.path, "rb", buffering=0) as file:
            found = last_record(file, segment.path)
        if found is not None:
            return found
    return None, NO_HEAD


def tail(file: io.FileIO, size: int) -> bytes:
    """The last line, with whatever is before it, up to the longest line that is ever written."""
    start = max(0, size - 2 * MAX_LINE)
    return os.pread(file.fileno(), size - start, start)


def lock_path(path: Path) -> Path:
    """The file that is locked. path: of the open file."""
    return path.with_name(path.name + ".lock")


@contextmanager
def read_locked(path: Path) -> Iterator[None]:
    """Nobody appends or rotates inside. Without a lock file nobody ever wrote. Raises OSError."""
    try:
        descriptor = os.open(lock_path(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def sync_directory(directory: Path) -> None:
    """Make names in a directory durable. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
