# SPDX-License-Identifier: GPL-3.0-or-later
"""The open audit log: append, group commit, rotation, retention. The rules are in the package's docstring."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trusted_infrastructure.audit.records import (
    MAX_TEXT,
    NO_HEAD,
    AuditRecord,
    Decision,
    Detail,
    Head,
    head_of,
    line_of,
    record_of,
)
from trusted_infrastructure.audit.segments import (
    NotARecord,
    Segment,
    closed_head,
    first_number,
    last_record,
    lock_path,
    segment_path,
    segments,
    sync_directory,
    tail,
)
from trusted_infrastructure.refusal import Refusal, Unavailable

SEGMENT_SIZE = 64 << 20
CHECKPOINT = "audit_checkpoint"

SignHead = Callable[[Head], str]
"""Signs where the chain stood. Raises Refusal when it cannot."""


@dataclass(frozen=True)
class Rotation:
    """When a file is closed, and what becomes of closed ones.

    segment_size: bytes at which the open file is closed. segments_kept: closed files that are kept; 0, the
    default, keeps them all. sign: signs the head before the oldest record that is kept.
    """

    segment_size: int = SEGMENT_SIZE
    segments_kept: int = 0
    sign: SignHead | None = None


class AuditLog:
    """An open audit log. Thread-safe. `append` blocks for the disk: call it from a worker thread."""

    def __init__(
        self, path: Path, service: str = "", time: int = 0, rotation: Rotation | None = None
    ) -> None:
        """Open or create `path` (0600). Raises Unavailable `audit_unavailable`.

        service, time: for the record that is written if a cut line had to be removed.
        """
        self._path = path
        self._service = service
        self._rotation = rotation or Rotation()
        self._writing = threading.Lock()
        self._syncing = threading.Lock()
        self._written = 0
        self._synced = 0
        self._failed = ""
        self._offset = 0
        self._head = NO_HEAD
        self._removed = 0
        self._opened = False
        # Time of the last record that was there on opening, Unix seconds; 0 where there was none.
        self.last_time = 0
        try:
            self._lock_file = os.open(
                lock_path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            with self._locked():
                self._file = self._open()
                self._read_tail()
                if self._removed:
                    self._record_repair(time)
                    self._sync_file()
        except NotARecord as error:
            raise _unavailable(str(error)) from None
        except OSError as error:
            raise _unavailable(f"{path} cannot be opened: {error.strerror}") from None

    def append(self, decision: Decision) -> AuditRecord:
        """Write one record and wait until it is on disk. Raises Unavailable `audit_unavailable`."""
        return self.append_all([decision])[0]

    def append_all(self, decisions: Sequence[Decision]) -> list[AuditRecord]:
        """Write a record for each, in this order, and wait until all are on disk.

        Raises Unavailable `audit_unavailable`: then none of them counts, although some may be there.
        """
        with self._writing:
            if self._failed:
                raise _unavailable(self._failed)
            records = self._write(decisions)
            self._written += 1
            ticket = self._written
        self._sync(ticket)
        return records

    def head(self) -> Head:
        """The chain's id, the last record's number and hash."""
        try:
            with self._writing, self._locked():
                self._follow()
                return self._head
        except NotARecord as error:
            raise _unavailable(str(error)) from None
        except OSError as error:
            raise _unavailable(f"{self._path} cannot be read: {error.strerror}") from None

    def close(self) -> None:
        """Close the file. Records are on disk already."""
        self._file.close()
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1

    def _open(self) -> io.FileIO:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        file = io.FileIO(os.open(self._path, flags, 0o600), "r+b")
        sync_directory(self._path.parent)
        return file

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._lock_file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock_file, fcntl.LOCK_UN)

    def _write(self, decisions: Sequence[Decision]) -> list[AuditRecord]:
        try:
            with self._locked():
                self._follow()
                return [self._write_one(decision) for decision in decisions]
        except NotARecord as error:
            raise _unavailable(str(error)) from None
        except OSError as error:
            raise _unavailable(f"{self._path} cannot be written: {error.strerror}") from None

    def _write_one(self, decision: Decision) -> AuditRecord:
        if self._removed:
            self._record_repair(decision.time)
        record, line = line_of(record_of(self._head, decision))
        if self._offset and self._offset + len(line) >= self._rotation.segment_size:
            self._rotate()
            self._forget_oldest(decision.time)
            record, line = line_of(record_of(self._head, decision))
        self._append_line(record, line)
        return record

    def _record_repair(self, time: int) -> None:
        detail: dict[str, Detail] = {"removed_bytes": self._removed}
        decision = Decision(
            time=time, service=self._service, host="", address="", code="audit_log_repaired", detail=detail
        )
        self._append_line(*line_of(record_of(self._head, decision)))
        self._removed = 0

    def _append_line(self, record: AuditRecord, line: bytes) -> None:
        try:
            if os.write(self._file.fileno(), line + b"\n") != len(line) + 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.ftruncate(self._file.fileno(), self._offset)
            raise
        self._offset += len(line) + 1
        self._head = head_of(record, line)

    def _sync(self, ticket: int) -> None:
        with self._syncing:
            if self._failed:
                raise _unavailable(self._failed)
            if self._synced >= ticket:
                return
            covered = self._written  # whoever wrote before this moment is covered by this sync
            self._sync_file()
            self._synced = covered

    def _sync_file(self) -> None:
        try:
            os.fdatasync(self._file.fileno())
        except OSError as error:
            self._failed = f"{self._path} could not be made durable: {error.strerror}"
            raise _unavailable(self._failed) from None

    # ---- rotation: always under the lock ------------------------------------------------------------------

    def _rotate(self) -> None:
        """Close the open file under its number, and open a new one. Each step leaves a whole log."""
        closed = segment_path(self._path, first_number(self._file, self._path))
        if closed.exists():
            raise OSError(errno.EEXIST, f"{closed.name} is there already")
        with self._syncing:
            # Others may still wait for their records in this file: all are durable before it is let go.
            self._sync_file()
            self._synced = self._written
            os.rename(self._path, closed)
            self._change_file()
        self._offset = 0

    def _change_file(self) -> None:
        before = self._file
        self._file = self._open()
        before.close()

    def _follow(self) -> None:
        """Go on where the log is now: another process may have appended, or rotated."""
        try:
            there = os.stat(self._path, follow_symlinks=False)
        except FileNotFoundError:
            there = None
        mine = os.fstat(self._file.fileno())
        if there is None or (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
            self._check_rotated(mine)
            with self._syncing:
                self._sync_file()
                self._synced = self._written
                self._change_file()
            before, self._offset, self._head = self._head, 0, NO_HEAD
            self._read_tail()
            if before.seq and (self._head.chain != before.chain or self._head.seq < before.seq):
                raise _unavailable(f"{self._path} was replaced while it was open")
        self._read_tail()

    def _check_rotated(self, mine: os.stat_result) -> None:
        """The open file was renamed by a rotation of ours, and not taken away."""
        for segment in segments(self._path):
            status = os.stat(segment.path, follow_symlinks=False)
            if (status.st_dev, status.st_ino) == (mine.st_dev, mine.st_ino):
                return
        if self._forgotten():
            return
        raise _unavailable(f"{self._path} was replaced while it was open")

    def _forgotten(self) -> bool:
        """Whether our file was closed, and has been deleted by retention since: later files are there."""
        found = segments(self._path)
        return bool(found and found[0].first > self._head.seq)

    def _forget_oldest(self, time: int) -> None:
        """Delete closed files that are not kept, after a checkpoint that says where the log begins."""
        if not self._rotation.segments_kept:
            return
        gone = segments(self._path)[: -self._rotation.segments_kept]
        if not gone:
            return
        try:
            checkpoint = self._checkpoint(gone, time)
        except Refusal:
            return  # without a signature nothing is deleted; the next rotation tries again
        self._append_line(*line_of(record_of(self._head, checkpoint)))
        with self._syncing:
            self._sync_file()
        for segment in gone:
            segment.path.unlink(missing_ok=True)
        sync_directory(self._path.parent)

    def _checkpoint(self, gone: list[Segment], time: int) -> Decision:
        with open(gone[-1].path, "rb", buffering=0) as file:
            found = last_record(file, gone[-1].path)
        if found is None:
            raise NotARecord(gone[-1].path)
        head = found[1]
        detail: dict[str, Detail] = {"chain": head.chain, "seq": head.seq, "hash": head.hash}
        if self._rotation.sign is not None:
            signed = self._rotation.sign(head)
            detail["signed"] = [signed[at : at + MAX_TEXT] for at in range(0, len(signed), MAX_TEXT)]
        return Decision(time=time, service=self._service, host="", address="", code=CHECKPOINT, detail=detail)

    # ---- what is in the file ------------------------------------------------------------------------------

    def _cut_torn_tail(self, size: int) -> int:
        """Remove a line that a killed process did not finish: nobody was told of it. The new size."""
        if size == 0 or os.pread(self._file.fileno(), 1, size - 1) == b"\n":
            return size
        end = tail(self._file, size)
        removed = len(end) - (end.rfind(b"\n") + 1)
        os.ftruncate(self._file.fileno(), size - removed)
        os.fsync(self._file.fileno())
        self._removed += removed
        return size - removed

    def _read_tail(self) -> None:
        """Bring head and offset up to what is in the file, where another process appended."""
        size = os.fstat(self._file.fileno()).st_size
        if size == self._offset and self._head.chain:
            return
        if size < self._offset:
            raise _unavailable(f"{self._path} became shorter while it was open")
        size = self._cut_torn_tail(size)
        found = last_record(self._file, self._path)
        if found is None:
            record, head = closed_head(self._path)
            self._head = head if head.chain else Head(os.urandom(16).hex(), 0, NO_HEAD.hash)
        else:
            record, self._head = found
        if not self._opened and record is not None:
            self.last_time = record.time
        self._opened = True
        self._offset = size


def _unavailable(message: str) -> Unavailable:
    return Unavailable(
        "audit_unavailable",
        message,
        "Nothing is decided without an audit record: free disk space, check the file's owner, restart.",
    )
