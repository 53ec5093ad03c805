# SPDX-License-Identifier: GPL-3.0-or-later
"""What a line of the audit log is, and when one line follows another. Pure."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

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


NO_HEAD = Head("", 0, FIRST_PREVIOUS)


def record_of(head: Head, decision: Decision) -> AuditRecord:
    """The record that takes a decision into the chain after `head`; texts are cut to MAX_TEXT."""
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


def line_of(record: AuditRecord) -> tuple[AuditRecord, bytes]:
    """The record's line without its newline; where the detail is too long, the record without it."""
    line = msgspec.json.encode(record)
    if len(line) >= MAX_LINE:
        record = msgspec.structs.replace(record, detail={"left_out": "the detail is too long"})
        line = msgspec.json.encode(record)
    return record, line


def head_of(record: AuditRecord, line: bytes) -> Head:
    """Where the chain stands after this record. line: its bytes without the newline."""
    return Head(record.chain, record.seq, hashlib.sha256(line).hexdigest())


def parse_line(line: bytes) -> AuditRecord | None:
    """The record of a line without its newline, or None where it is none."""
    try:
        return msgspec.json.decode(line, type=AuditRecord)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def why_not_after(head: Head, record: AuditRecord) -> str:
    """Why a record does not follow `head`, in plain words; "" when it does."""
    if head.chain and record.chain != head.chain:
        return f"belongs to another chain, {record.chain}"
    if record.seq == head.seq + 1:
        return "" if record.prev == head.hash else "the hash of the line before does not match"
    if record.seq > head.seq + 1:
        return f"records {head.seq + 1} to {record.seq - 1} are missing"
    return f"expected record {head.seq + 1}, found {record.seq}"


def why_not_successor(before: Head, after: Head) -> str:
    """What is wrong with a head that was heard after `before` of the same log; "" when nothing is.

    This is all that somebody can tell who keeps heads and has not the log.
    """
    if before.seq == 0:
        return ""
    if after.chain != before.chain:
        return f"the audit log was replaced: chain {before.chain} had {before.seq} records"
    if after.seq < before.seq:
        return f"the audit log lost records: it had {before.seq}, it has {after.seq}"
    if after.seq == before.seq and after.hash != before.hash:
        return f"record {before.seq} of the audit log was changed"
    return ""


def _short(text: str) -> str:
    # Lone surrogates (bytes that were no UTF-8) cannot be encoded as JSON.
    return text[:MAX_TEXT].encode("utf-8", "backslashreplace").decode()[:MAX_TEXT]


def _short_detail(value: Detail) -> Detail:
    if isinstance(value, str):
        return _short(value)
    if isinstance(value, list):
        return [_short(text) for text in value[:16]]
    return value
