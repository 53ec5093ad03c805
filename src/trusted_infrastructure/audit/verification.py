# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading an audit log without writing it: is it whole, and does it hold what others remember of it?

Reads line by line, so that a log of any size takes little memory. What is checked: every line of every file,
that files follow each other, that a log which does not begin with record 1 has a checkpoint that accounts for
what was before, and that each head that is kept elsewhere is in the chain.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from trusted_infrastructure.audit.log import CHECKPOINT
from trusted_infrastructure.audit.records import (
    MAX_LINE,
    NO_HEAD,
    AuditRecord,
    Head,
    head_of,
    parse_line,
    why_not_after,
)
from trusted_infrastructure.audit.segments import read_locked, segments
from trusted_infrastructure.refusal import Unavailable

CheckSigned = Callable[[str, Head], str]
"""What is wrong with the signature of a checkpoint (JWS) that says `head`; "" when nothing is."""


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """Result of `verify`.

    records: how many fit, counted from the first that is there. first: number of that record: the log can
    vouch from there on. head: after the last one that fits.
    reason: why it is broken, "" when it is intact. file, broken_line, record: where: path, line in that file
    (from 1), number of the record that was expected there; None where no single place is wrong.
    missing: the head, kept elsewhere, that the log does not hold.
    """

    records: int
    head: Head
    first: int = 1
    reason: str = ""
    file: str | None = None
    broken_line: int | None = None
    record: int | None = None
    missing: Head | None = None

    @property
    def intact(self) -> bool:
        """True when every line fits, and every head that was given is in the chain."""
        return self.reason == ""


@dataclass(frozen=True)
class _File:
    """One file of the log as it was when reading began. size: bytes to read; None: all of a closed file."""

    path: Path
    named_first: int | None = None
    descriptor: int | None = None
    size: int | None = None

    def lines(self) -> Iterator[bytes]:
        with open(self.path if self.descriptor is None else self.descriptor, "rb") as file:
            left = self.size
            while left is None or left > 0:
                line = file.readline(MAX_LINE if left is None else min(MAX_LINE, left))
                if not line:
                    return
                if left is not None:
                    left -= len(line)
                yield line


@dataclass
class _Broken(Exception):
    reason: str
    file: Path
    line: int | None = None
    record: int | None = None
    missing: Head | None = None


class _Walk:
    """The state of one verification."""

    def __init__(self, heads: Sequence[Head], check_signed: CheckSigned | None) -> None:
        self.head = NO_HEAD
        self.first = 1
        self.records = 0
        self.before_first: Head | None = None
        self.accounted = False
        self._check_signed = check_signed
        self._wanted: dict[tuple[str, int], list[Head]] = {}
        for known in heads:
            if known.seq:
                self._wanted.setdefault((known.chain, known.seq), []).append(known)

    def take(self, file: _File, number: int, line: bytes) -> None:
        """One line. Raises _Broken."""
        expected = self.head.seq + 1
        if not line.endswith(b"\n"):
            raise _Broken("the line is cut short", file.path, number, expected)
        record = parse_line(line[:-1])
        if record is None:
            raise _Broken("the line is not an audit record", file.path, number, expected)
        if number == 1 and file.named_first is not None and file.named_first != record.seq:
            reason = f"the file is named for record {file.named_first} and begins with {record.seq}"
            raise _Broken(reason, file.path, number, expected)
        if not self.records and record.seq > 1:
            # Whether something accounts for what is missing before it is said later in the chain.
            self.before_first = Head(record.chain, record.seq - 1, record.prev)
            self.first, self.head = record.seq, self.before_first
        reason = why_not_after(self.head, record)
        if reason:
            raise _Broken(reason, file.path, number, expected)
        self.head = head_of(record, line[:-1])
        self.records += 1
        for wanted in self._wanted.pop((self.head.chain, self.head.seq), []):
            if wanted.hash != self.head.hash:
                text = "differs from the head that was kept elsewhere"
                raise _Broken(text, file.path, number, self.head.seq, wanted)
        if record.code == CHECKPOINT and self.before_first is not None and not self.accounted:
            self._account(record, file, number)

    def _account(self, record: AuditRecord, file: _File, number: int) -> None:
        """A checkpoint of our chain accounts for all up to its head; retention may have stopped early."""
        before = self.before_first
        said = _head_said(record)
        if before is None or said is None or said.chain != before.chain or said.seq < before.seq:
            return
        if said.seq == before.seq and said.hash != before.hash:
            return
        signed = record.detail.get("signed")
        if self._check_signed is not None:
            text = "".join(signed) if isinstance(signed, list) else ""
            reason = self._check_signed(text, said) if text else "it is not signed"
            if reason:
                raise _Broken(f"the checkpoint is not good: {reason}", file.path, number, record.seq)
        self.accounted = True

    def finish(self, path: Path, first_file: Path) -> None:
        """After the last line. Raises _Broken."""
        if self.before_first is not None and not self.accounted:
            reason = f"records 1 to {self.before_first.seq} are missing, and no checkpoint accounts for them"
            raise _Broken(reason, first_file, 1, 1)
        for chain, seq in sorted(self._wanted, key=lambda key: key[1]):
            # What retention removed, a checkpoint accounts for; older heads say nothing more.
            if chain == self.head.chain and seq < self.first:
                continue
            wanted = self._wanted[chain, seq][0]
            reason = f"record {seq} of chain {chain} is missing: the log was cut or replaced"
            raise _Broken(reason, path, None, seq, wanted)


def verify(path: Path, heads: Sequence[Head] = (), check_signed: CheckSigned | None = None) -> Verification:
    """Check every line of an audit log, and that each of `heads` (kept elsewhere) is in it.

    path: of the open file; the closed ones lie beside it. check_signed: judges the signature of a checkpoint;
    without it, a checkpoint of the chain is taken as it is. Ask for `heads` before calling: one that is
    younger than the log that is read would seem to be missing.
    Raises Unavailable `audit_unavailable` when a file cannot be read.
    """
    walk = _Walk(heads, check_signed)
    try:
        files = _files(path)
        for file in files:
            for number, line in enumerate(file.lines(), start=1):
                walk.take(file, number, line)
        walk.finish(path, files[0].path if files else path)
    except _Broken as broken:
        return Verification(
            records=walk.records,
            head=walk.head,
            first=walk.first,
            reason=broken.reason,
            file=str(broken.file),
            broken_line=broken.line,
            record=broken.record,
            missing=broken.missing,
        )
    except OSError as error:
        raise _unreadable(path, error) from None
    return Verification(records=walk.records, head=walk.head, first=walk.first)


def records(path: Path) -> Iterator[AuditRecord]:
    """All records, oldest first; lines that are none are left out: `verify` tells of them.

    Raises Unavailable `audit_unavailable`.
    """
    try:
        for file in _files(path):
            for line in file.lines():
                record = parse_line(line.removesuffix(b"\n"))
                if record is not None:
                    yield record
    except OSError as error:
        raise _unreadable(path, error) from None


def _head_said(checkpoint: AuditRecord) -> Head | None:
    try:
        return msgspec.convert({name: checkpoint.detail.get(name) for name in ("chain", "seq", "hash")}, Head)
    except msgspec.ValidationError:
        return None


def _files(path: Path) -> list[_File]:
    """The files as they are at one moment: the open one may grow, or be closed, while they are read."""
    with read_locked(path):
        found = [_File(segment.path, segment.first) for segment in segments(path)]
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            # A crash in a rotation leaves closed files alone; without these there is no log.
            if not found:
                raise
            return found
        return [*found, _File(path, None, descriptor, os.fstat(descriptor).st_size)]


def _unreadable(path: Path, error: OSError) -> Unavailable:
    return Unavailable(
        "audit_unavailable",
        f"{error.filename or path} cannot be read: {error.strerror}",
        "Read it as root, on the host whose log it is.",
    )
