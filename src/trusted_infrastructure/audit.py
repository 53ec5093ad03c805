# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit log: one record for each decision, chained by hash, durable before its effect leaves. PROTOCOL 7.

Rules
- A record is one line of JSON. `prev` is the SHA-256 (hex) of the exact bytes of the line before, without its
  newline; 64 zeros for the first. Changing, removing or moving a line breaks the chain at the next one.
- `append` returns only when the record is on disk (fdatasync). Concurrent callers share one sync (group
  commit).
- The caller of a record that could not be written or synced gets `audit_unavailable`: no record, no token and
  no key. A half-written line is taken back. After a failed sync the log takes nothing more until it is opened
  again, because what the kernel then still holds is unknown.
- Several processes may append to one file: each takes the file lock and reads the tail that others wrote.
- A line that a crash cut short was never acknowledged; it is removed on opening, and a record says so.

What the chain alone does not show is a tail that was cut off, or a whole new chain. Heads that are kept
elsewhere do: `verify` takes them.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from trusted_infrastructure.refusal import Unavailable

FIRST_PREVIOUS = "0" * 64
MAX_TEXT = 512  # an unauthenticated caller chooses some of these texts: it must not fill the disk with them
MAX_LINE = 65536

Detail = str | int | bool | None | list[str]


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided. time: Unix seconds. host: host id as far as known, else "". address: of the caller.

    code: "ok" or the reason code of the refusal. service: id of the service that decided.
    detail: further plain values; never a secret.
    """

    time: int
    service: str
    host: str
    address: str
    code: str
    detail: dict[str, Detail] = {}


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A decision in its place in the chain. chain: random id of this log; seq: from 1 without gaps."""

    version: Literal[1] = 1
    chain: str
    seq: int
    prev: str
    time: int
    service: str
    host: str
    address: str
    code: str
    detail: dict[str, Detail] = {}


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a chain stands: `hash` is the SHA-256 (hex) of record `seq`'s line. seq 0: no record yet."""

    chain: str
    seq: int
    hash: str


class Verification(msgspec.Struct, frozen=True):
    """Result of `verify`. broken_line: number of the first line that does not fit (from 1), else None."""

    records: int
    head: Head
    broken_line: int | None = None
    reason: str = ""

    @property
    def intact(self) -> bool:
        """True when every line fits, and every head that was given is in the chain."""
        return self.reason == ""


class AuditLog:
    """An open audit log. Thread-safe. `append` blocks for the disk: call it from a worker thread."""

    def __init__(self, path: Path, service: str = "", time: int = 0) -> None:
        """Open or create `path` (0600). Raises Unavailable `audit_unavailable`.

        service, time: for the record that is written if a cut line had to be removed.
        """
        self._path = path
        self._writing = threading.Lock()
        self._syncing = threading.Lock()
        self._written = 0
        self._synced = 0
        self._failed = ""
        self._offset = 0
        self._head = Head("", 0, FIRST_PREVIOUS)
        try:
            self._file = self._open()
            with self._locked():
                removed = self._cut_torn_tail()
                self._read_tail()
            if removed:
                self.append(
                    Decision(
                        time=time, service=service, host="", address="", code="audit_log_repaired",
                        detail={"removed_bytes": removed},
                    )
                )  # fmt: skip
        except OSError as error:
            raise _unavailable(f"{path} cannot be opened: {error.strerror}") from None

    def append(self, decision: Decision) -> AuditRecord:
        """Write one record and wait until it is on disk. Raises Unavailable `audit_unavailable`."""
        with self._writing:
            if self._failed:
                raise _unavailable(self._failed)
            record = self._write(decision)
            self._written += 1
            ticket = self._written
        self._sync(ticket)
        return record

    def head(self) -> Head:
        """The chain's id, the last record's number and hash."""
        with self._writing, self._locked():
            self._read_tail()
            return self._head

    def close(self) -> None:
        """Close the file. Records are on disk already."""
        self._file.close()

    def _open(self) -> io.FileIO:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, 0o600)
        file = io.FileIO(descriptor, "r+b")
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return file

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _write(self, decision: Decision) -> AuditRecord:
        try:
            with self._locked():
                self._read_tail()
                record = _record(self._head, decision)
                line = msgspec.json.encode(record)
                if len(line) >= MAX_LINE:
                    record = msgspec.structs.replace(record, detail={"left_out": "the detail is too long"})
                    line = msgspec.json.encode(record)
                self._write_line(line + b"\n")
                self._offset += len(line) + 1
                self._head = Head(record.chain, record.seq, hashlib.sha256(line).hexdigest())
                return record
        except OSError as error:
            raise _unavailable(f"{self._path} cannot be written: {error.strerror}") from None

    def _write_line(self, line: bytes) -> None:
        try:
            if os.write(self._file.fileno(), line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.ftruncate(self._file.fileno(), self._offset)
            raise

    def _sync(self, ticket: int) -> None:
        with self._syncing:
            if self._failed:
                raise _unavailable(self._failed)
            if self._synced >= ticket:
                return
            covered = self._written  # whoever wrote before this moment is covered by this sync
            try:
                os.fdatasync(self._file.fileno())
            except OSError as error:
                self._failed = f"{self._path} could not be made durable: {error.strerror}"
                raise _unavailable(self._failed) from None
            self._synced = covered

    def _cut_torn_tail(self) -> int:
        size = os.fstat(self._file.fileno()).st_size
        tail = _tail(self._file, size)
        keep = tail.rfind(b"\n") + 1
        removed = len(tail) - keep
        if removed:
            os.ftruncate(self._file.fileno(), size - removed)
            os.fsync(self._file.fileno())
        return removed

    def _read_tail(self) -> None:
        """Bring head and offset up to what is in the file, where another process appended."""
        size = os.fstat(self._file.fileno()).st_size
        if size == self._offset and self._head.chain:
            return
        if size < self._offset:
            raise _unavailable(f"{self._path} became shorter while it was open")
        if size == 0:
            self._head = Head(os.urandom(16).hex(), 0, FIRST_PREVIOUS)
            return
        line = _tail(self._file, size).removesuffix(b"\n").rpartition(b"\n")[2]
        try:
            record = msgspec.json.decode(line, type=AuditRecord)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise _unavailable(f"the last line of {self._path} is not an audit record") from None
        self._offset = size
        self._head = Head(record.chain, record.seq, hashlib.sha256(line).hexdigest())


def verify(path: Path, heads: Sequence[Head] = ()) -> Verification:
    """Check every line of an audit log, and that each of `heads` (kept elsewhere) is in it.

    Reads line by line. Raises Unavailable `audit_unavailable` when the file cannot be read.
    """
    head = Head("", 0, FIRST_PREVIOUS)
    wanted = {(known.chain, known.seq): known.hash for known in heads if known.seq}
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), b""), start=1):
                reason, head = _follows(head, line)
                if reason:
                    return Verification(number - 1, head, number, reason)
                expected = wanted.pop((head.chain, head.seq), head.hash)
                if expected != head.hash:
                    return Verification(number, head, number, "differs from the head that was kept elsewhere")
    except OSError as error:
        raise _unavailable(f"{path} cannot be read: {error.strerror}") from None
    if wanted:
        chain, seq = min(wanted, key=lambda known: known[1])
        return Verification(
            head.seq, head, None, f"record {seq} of chain {chain} is missing: the log was cut or replaced"
        )
    return Verification(head.seq, head)


def _follows(head: Head, line: bytes) -> tuple[str, Head]:
    """Why `line` does not follow `head` ("" when it does), and the head after it (unchanged when not)."""
    if not line.endswith(b"\n"):
        return "the line is cut short", head
    line = line[:-1]
    try:
        record = msgspec.json.decode(line, type=AuditRecord)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "the line is not an audit record", head
    if record.prev != head.hash:
        return "the hash of the line before does not match", head
    if record.seq != head.seq + 1:
        return f"expected record {head.seq + 1}, found {record.seq}", head
    if head.chain and record.chain != head.chain:
        return f"belongs to another chain, {record.chain}", head
    return "", Head(record.chain, record.seq, hashlib.sha256(line).hexdigest())


def _record(head: Head, decision: Decision) -> AuditRecord:
    return AuditRecord(
        chain=head.chain,
        seq=head.seq + 1,
        prev=head.hash,
        time=decision.time,
        service=_short(decision.service),
        host=_short(decision.host),
        address=_short(decision.address),
        code=decision.code,
        detail={name: _short_detail(value) for name, value in decision.detail.items()},
    )


def _short(text: str) -> str:
    # Lone surrogates (bytes that were no UTF-8) cannot be encoded as JSON.
    return text[:MAX_TEXT].encode("utf-8", "backslashreplace").decode()[:MAX_TEXT]


def _short_detail(value: Detail) -> Detail:
    if isinstance(value, str):
        return _short(value)
    if isinstance(value, list):
        return [_short(text) for text in value[:16]]
    return value


def _tail(file: io.FileIO, size: int) -> bytes:
    """The last line, with whatever is before it, up to the longest line that is ever written."""
    start = max(0, size - 2 * MAX_LINE)
    return os.pread(file.fileno(), size - start, start)


def _unavailable(message: str) -> Unavailable:
    return Unavailable(
        "audit_unavailable",
        message,
        "Nothing is decided without an audit record: free disk space, check the file's owner, restart.",
    )
