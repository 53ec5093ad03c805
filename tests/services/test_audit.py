# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit log: what breaks the chain is found, and nothing is acknowledged that is not on disk."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from trusted_infrastructure import audit
from trusted_infrastructure.audit import AuditLog, Decision, Head, verify
from trusted_infrastructure.refusal import Unavailable


def decision(number: int = 1, **changes: object) -> Decision:
    fields: dict[str, object] = {
        "time": 1_000_000 + number,
        "service": "attestation@ta1",
        "host": f"host{number}",
        "address": "192.0.2.1",
        "code": "ok",
        "detail": {"base_image": "image-1"},
    }
    return Decision(**(fields | changes))  # type: ignore[arg-type]


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    log = AuditLog(tmp_path / "audit.jsonl")
    for number in range(1, 6):
        log.append(decision(number))
    return log


def lines(log_path: Path) -> list[bytes]:
    return log_path.read_bytes().splitlines(keepends=True)


def test_chain_continues_over_a_restart(tmp_path: Path, log: AuditLog) -> None:
    before = log.head()
    log.close()
    again = AuditLog(tmp_path / "audit.jsonl")
    assert again.head() == before
    record = again.append(decision(6))
    assert (record.chain, record.seq, record.prev) == (before.chain, 6, before.hash)
    result = verify(tmp_path / "audit.jsonl", [before])
    assert result.intact and result.records == 6 and result.head == again.head()


def test_file_is_private_and_two_logs_are_two_chains(tmp_path: Path, log: AuditLog) -> None:
    assert stat.S_IMODE((tmp_path / "audit.jsonl").stat().st_mode) == 0o600
    assert AuditLog(tmp_path / "other.jsonl").head().chain != log.head().chain


Tampering = Callable[[list[bytes]], list[bytes]]


@pytest.mark.parametrize(
    ("name", "tamper", "line"),
    [
        ("changed host", lambda x: [*x[:1], x[1].replace(b"host2", b"host9"), *x[2:]], 3),
        ("changed code", lambda x: [*x[:3], x[3].replace(b'"ok"', b'"no"'), *x[4:]], 5),
        ("removed", lambda x: x[:2] + x[3:], 3),
        ("first removed", lambda x: x[1:], 1),
        ("swapped", lambda x: [x[0], x[2], x[1], *x[3:]], 2),
        ("repeated", lambda x: [*x, x[-1]], 6),
        ("not a record", lambda x: [*x[:2], b"{}\n", *x[2:]], 3),
        ("cut short", lambda x: [*x[:4], x[4][:-10]], 5),
        ("unknown field", lambda x: [x[0].replace(b'{"', b'{"extra":1,"', 1), *x[1:]], 1),
    ],
)
def test_verify_names_the_line_that_breaks(
    tmp_path: Path, log: AuditLog, name: str, tamper: Tampering, line: int
) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"".join(tamper(lines(path))))
    result = verify(path)
    assert not result.intact and result.broken_line == line, name


def test_a_cut_tail_and_a_new_chain_show_against_a_kept_head(tmp_path: Path, log: AuditLog) -> None:
    path = tmp_path / "audit.jsonl"
    head = log.head()
    path.write_bytes(b"".join(lines(path)[:3]))
    assert verify(path).intact
    assert "record 5" in verify(path, [head]).reason
    path.unlink()
    replacement = AuditLog(path)
    for number in range(1, 7):
        replacement.append(decision(number))
    assert not verify(path, [head]).intact
    assert not verify(path, [Head(replacement.head().chain, 5, "0" * 64)]).intact


def test_a_line_cut_by_a_crash_is_removed_and_recorded(tmp_path: Path, log: AuditLog) -> None:
    path = tmp_path / "audit.jsonl"
    whole = path.read_bytes()
    line = lines(path)[-1]
    for length in range(1, len(line)):
        path.write_bytes(whole[: -len(line)] + line[:length])
        AuditLog(path, service="s", time=7).close()
        result = verify(path)
        assert result.intact and result.records == 5, length
        assert b"audit_log_repaired" in lines(path)[-1]


def test_refuses_a_log_whose_last_line_is_no_record(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"something else\n")
    with pytest.raises(Unavailable) as refusal:
        AuditLog(path)
    assert refusal.value.code == "audit_unavailable" and refusal.value.status == 503
    assert path.read_bytes() == b"something else\n"


def test_refuses_a_symbolic_link_and_a_missing_directory(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for path in (tmp_path / "link", tmp_path / "missing" / "audit.jsonl"):
        with pytest.raises(Unavailable):
            AuditLog(path)


def test_a_full_disk_refuses_and_leaves_no_part_of_a_line(
    tmp_path: Path, log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.jsonl"
    before = path.read_bytes()
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, line: write(file, line[:20]))
    with pytest.raises(Unavailable):
        log.append(decision(6))
    assert path.read_bytes() == before
    monkeypatch.undo()
    assert log.append(decision(6)).seq == 6
    assert verify(path).intact


def test_after_a_failed_sync_nothing_is_acknowledged(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_file: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(Unavailable):
        log.append(decision(6))
    monkeypatch.undo()
    with pytest.raises(Unavailable, match="durable"):
        log.append(decision(7))


def test_a_log_that_became_shorter_is_not_continued(tmp_path: Path, log: AuditLog) -> None:
    (tmp_path / "audit.jsonl").write_bytes(b"")
    with pytest.raises(Unavailable, match="shorter"):
        log.append(decision(6))


def test_many_writers_in_two_logs_make_one_chain_and_share_syncs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.jsonl"
    logs = [AuditLog(path), AuditLog(path)]
    syncs = []
    fdatasync = os.fdatasync

    def slow(file: int) -> None:
        syncs.append(file)
        threading.Event().wait(0.002)
        fdatasync(file)

    monkeypatch.setattr(os, "fdatasync", slow)

    def write(log: AuditLog) -> None:
        for number in range(10):
            log.append(decision(number))

    threads = [threading.Thread(target=write, args=(logs[number % 2],)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result = verify(path)
    assert result.intact and result.records == 160
    assert len(syncs) < 160


def test_texts_of_a_caller_stay_short_and_on_one_line(tmp_path: Path, log: AuditLog) -> None:
    record = log.append(
        decision(6, host="a\nb" * 10_000, address="\udcff", detail={"names": ["\0" * 9999] * 999})
    )
    assert len(record.host) == audit.MAX_TEXT
    path = tmp_path / "audit.jsonl"
    assert len(lines(path)) == 6 and len(lines(path)[-1]) <= audit.MAX_LINE
    huge = {f"name{number}": "\0" * 9999 for number in range(100)}
    assert log.append(decision(7, detail=huge)).detail == {"left_out": "the detail is too long"}
    assert verify(path).intact
