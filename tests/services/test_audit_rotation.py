# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit log in several files: one chain, whatever is killed, runs at once, or is taken away."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trusted_infrastructure import audit
from trusted_infrastructure.audit import (
    CHECKPOINT,
    AuditLog,
    Decision,
    Head,
    Rotation,
    records,
    segments,
    verify,
)
from trusted_infrastructure.refusal import Refusal, Unavailable

SIZE = 4096
SMALL = Rotation(segment_size=SIZE)


def decision(number: int = 1, text: str = "x") -> Decision:
    return Decision(
        time=1_000_000 + number,
        service="s@ta1",
        host=f"host{number}",
        address="",
        code="ok",
        detail={"n": text},
    )


def filled(path: Path, number: int = 60, rotation: Rotation = SMALL) -> list[Head]:
    """Heads after each of so many records."""
    log = AuditLog(path, "s@ta1", rotation=rotation)
    heads = []
    for count in range(number):
        log.append(decision(count))
        heads.append(log.head())
    log.close()
    return heads


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def test_files_stay_below_their_size_and_make_one_chain(path: Path) -> None:
    heads = filled(path)
    closed = segments(path)
    assert len(closed) >= 3 and closed[0].path.name == "audit.000000000001.jsonl"
    assert all(file.stat().st_size <= SIZE for file in [path, *(one.path for one in closed)])
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in path.parent.iterdir())
    result = verify(path, heads)
    assert result.intact and (result.records, result.first, result.head) == (60, 1, heads[-1])
    assert [record.seq for record in records(path)] == list(range(1, 61))


def test_the_chain_goes_on_after_a_restart_with_an_empty_open_file(path: Path) -> None:
    heads = filled(path)
    os.rename(
        path, audit.segment_path(path, 1 + segments(path)[-1].first + count_of(segments(path)[-1].path) - 1)
    )
    again = AuditLog(path, rotation=SMALL)
    assert again.head() == heads[-1] and again.last_time == 1_000_059
    assert again.append(decision(60)).seq == 61
    assert verify(path, heads).intact


def count_of(path: Path) -> int:
    return len(path.read_bytes().splitlines())


def test_a_record_larger_than_a_file_has_a_file_of_its_own(path: Path) -> None:
    log = AuditLog(path, rotation=SMALL)
    for number in range(3):
        log.append(
            Decision(time=number, service="s", host="", address="", code="ok", detail={"n": ["y" * 512] * 16})
        )
    assert len(segments(path)) == 2 and verify(path).intact


def edited(line: bytes) -> bytes:
    return line.replace(b'"ok"', b'"no"')


Tampering = Callable[[Path, list[Path]], None]


def rewrite(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


def swap(first: Path, second: Path) -> None:
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


@pytest.mark.parametrize(
    ("tamper", "where", "words"),
    [
        (lambda _open, closed: closed[1].unlink(), 2, "are missing"),
        (lambda _open, closed: closed[0].unlink(), 1, "no checkpoint accounts"),
        (lambda _open, closed: swap(closed[0], closed[1]), 0, "the file is named for record 1"),
        (lambda _open, closed: rewrite(closed[1], lambda x: [*x[:4], edited(x[4]), *x[5:]]), 1, "hash"),
        (lambda _open, closed: rewrite(closed[0], lambda x: [*x[:-1], edited(x[-1])]), 1, "hash"),
        (lambda _open, closed: rewrite(closed[1], lambda x: x[:-2]), 2, "are missing"),
        (lambda _open, closed: rewrite(closed[1], lambda x: x[1:]), 1, "named for"),
        (lambda _open, closed: rewrite(closed[1], lambda x: [*x[:3], b"{}\n"]), 1, "not an audit record"),
        (lambda _open, closed: rewrite(closed[1], lambda x: [*x[:-1], x[-1][:-9]]), 1, "cut short"),
        (lambda _open, closed: shutil.copy(closed[0], closed[1]), 1, "named for"),
        (lambda open_, closed: shutil.copy(closed[0], open_), -1, "expected record"),
        (lambda open_, _closed: rewrite(open_, lambda x: [edited(x[0]), *x[1:]]), -1, "hash"),
    ],
    ids=[
        "middle deleted", "first deleted", "swapped", "edited", "last edited", "tail of one", "head of one",
        "line put in", "line cut", "copied over", "replaced", "open edited",
    ],
)  # fmt: skip
def test_verify_says_where_it_breaks(path: Path, tamper: Tampering, where: int, words: str) -> None:
    filled(path)
    closed = [one.path for one in segments(path)]
    tamper(path, closed)
    result = verify(path)
    assert not result.intact and words in result.reason
    assert result.file == str([*closed, path][where])
    assert result.broken_line is not None and result.record is not None


def test_a_cut_tail_shows_against_a_head_of_a_peer_alone(path: Path) -> None:
    heads = filled(path)
    path.unlink()
    assert verify(path).intact
    result = verify(path, heads[-1:])
    assert "record 60" in result.reason and result.missing == heads[-1] and result.record == 60


def test_a_log_that_was_cut_and_grew_again_does_not_hold_an_older_head(path: Path) -> None:
    heads = filled(path)
    rewrite(path, lambda lines: lines[:1])
    log = AuditLog(path, rotation=SMALL)
    for number in range(30):
        log.append(decision(number, "forged"))
    assert verify(path).intact and log.head().seq > 60
    result = verify(path, [heads[-1]])
    assert result.reason == "differs from the head that was kept elsewhere" and result.record == 60


def test_a_head_ahead_of_the_log_is_named(path: Path) -> None:
    heads = filled(path)
    ahead = Head(heads[-1].chain, 61, "0" * 64)
    assert "record 61" in verify(path, [ahead]).reason


# ---- retention ----


def keeping(number: int, sign: Callable[[Head], str] | None = None) -> Rotation:
    return Rotation(SIZE, number, sign or (lambda head: f"{head.seq}.{head.hash}" * 9))


def good(signed: str, head: Head) -> str:
    return "" if signed == f"{head.seq}.{head.hash}" * 9 else "not signed so"


def test_retention_says_from_where_on_the_log_is_whole(path: Path) -> None:
    heads = filled(path, 100, keeping(2))
    assert len(segments(path)) == 2
    result = verify(path, heads, good)
    assert result.intact, result
    assert result.first == segments(path)[0].first > 1
    assert result.records == result.head.seq - result.first + 1
    assert any(record.code == CHECKPOINT for record in records(path))


def test_nothing_is_deleted_unless_it_is_configured(path: Path) -> None:
    filled(path, 200)
    assert segments(path)[0].first == 1 and verify(path).records == 200


def test_a_checkpoint_that_is_not_signed_by_the_service_accounts_for_nothing(path: Path) -> None:
    filled(path, 100, keeping(2, lambda _head: "somebody"))
    assert "checkpoint is not good" in verify(path, [], good).reason


def test_nothing_is_deleted_where_the_checkpoint_cannot_be_signed(path: Path) -> None:
    def refuse(_head: Head) -> str:
        raise Refusal("certificate_invalid", "gone")

    filled(path, 100, keeping(2, refuse))
    assert verify(path).intact and verify(path).first == 1


def test_deleting_more_than_the_checkpoint_says_shows(path: Path) -> None:
    filled(path, 100, keeping(3))
    segments(path)[0].path.unlink()
    assert "no checkpoint accounts" in verify(path, [], good).reason


def test_a_retention_that_was_killed_half_way_is_in_order(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Path] = []
    unlink = Path.unlink

    def lose(self: Path, missing_ok: bool = False) -> None:
        # The first deletion alone is done: as if the process had been killed after it.
        if kept:
            return
        kept.append(self)
        unlink(self, missing_ok=missing_ok)

    log = AuditLog(path, rotation=Rotation(SIZE))
    for number in range(80):
        log.append(decision(number))
    log.close()
    monkeypatch.setattr(Path, "unlink", lose)
    log = AuditLog(path, rotation=keeping(1))
    for number in range(20):
        log.append(decision(number))
    monkeypatch.undo()
    assert len(segments(path)) > 2
    assert verify(path, [], good).intact


# ---- several processes, and kills ----


def test_two_logs_of_one_file_follow_each_others_rotation(path: Path) -> None:
    logs = [AuditLog(path, rotation=SMALL), AuditLog(path, rotation=keeping(3))]
    for number in range(120):
        assert logs[number % 2].append(decision(number)).chain == logs[0].head().chain
    assert logs[0].head() == logs[1].head()
    assert verify(path, [logs[0].head()], good).intact
    idle = AuditLog(path, rotation=SMALL)
    for number in range(120):
        logs[1].append(decision(number))
    assert idle.append(decision(1)).seq == logs[1].head().seq  # its own file was closed and deleted since


def test_threads_of_two_logs_rotate_and_share_syncs(path: Path) -> None:
    logs = [AuditLog(path, rotation=SMALL) for _count in range(2)]

    def write(log: AuditLog) -> None:
        for number in range(25):
            log.append(decision(number))

    threads = [threading.Thread(target=write, args=(logs[number % 2],)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result = verify(path)
    assert result.intact and result.records == 200


@pytest.mark.parametrize("change", ["replaced", "removed"])
def test_a_log_that_was_taken_away_while_it_was_open_is_not_continued(path: Path, change: str) -> None:
    filled(path, 30)
    log = AuditLog(path, rotation=SMALL)
    path.unlink()
    if change == "replaced":
        filled(path.with_name("other.jsonl"), 3)
        os.rename(path.with_name("other.jsonl"), path)
    with pytest.raises(Unavailable, match="replaced"):
        log.append(decision(6))


def test_a_planted_file_is_not_overwritten(path: Path) -> None:
    log = AuditLog(path, rotation=SMALL)
    log.append(decision(1))
    planted = audit.segment_path(path, 1)
    planted.write_bytes(b"mine")
    with pytest.raises(Unavailable):
        for number in range(60):
            log.append(decision(number))
    assert planted.read_bytes() == b"mine"


def test_a_torn_line_of_a_killed_neighbour_is_removed_by_whoever_writes_next(path: Path) -> None:
    log = AuditLog(path, rotation=SMALL)
    log.append(decision(1))
    with path.open("ab") as file:
        file.write(b'{"version":1,"cha')
    assert log.append(decision(2)).seq == 3
    assert [record.code for record in records(path)] == ["ok", "audit_log_repaired", "ok"]
    assert verify(path).intact


WRITER = """
import sys
from pathlib import Path
from trusted_infrastructure.audit import AuditLog, Decision, Rotation
log = AuditLog(Path(sys.argv[1]), "s@ta1", rotation=Rotation(4096, int(sys.argv[2]), lambda head: "signed"))
for number in range(int(sys.argv[3])):
    detail = {"n": "x" * 90}
    record = log.append(Decision(time=1, service="s", host="h", address="", code="ok", detail=detail))
    sys.stdout.write(f"{record.seq}\\n")
    sys.stdout.flush()
"""


def writer(path: Path, kept: int, number: int) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    command = [sys.executable, "-c", WRITER, str(path), str(kept), str(number)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)


def test_processes_rotate_at_once_and_lose_nothing(path: Path) -> None:
    processes = [writer(path, 0, 150) for _count in range(3)]
    acknowledged = [int(line) for process in processes for line in process.communicate()[0].split()]
    assert sorted(acknowledged) == list(range(1, 451))
    result = verify(path)
    assert result.intact and result.records == 450


@pytest.mark.parametrize("kept", [0, 2])
def test_sigkill_at_any_moment_loses_nothing_that_was_acknowledged(path: Path, kept: int) -> None:
    highest = 0
    for round_ in range(4):
        processes = [writer(path, kept, 10_000) for _count in range(2)]
        pipes = [process.stdout for process in processes]
        for _count in range(20 + 7 * round_):
            for pipe in pipes:
                assert pipe is not None and pipe.readline()
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for process in processes:
            lines = process.communicate()[0].rpartition(b"\n")[0].split()
            highest = max([highest, *(int(line) for line in lines)])
        AuditLog(path, rotation=SMALL).close()
        result = verify(path, [], lambda _signed, _head: "")
        assert result.intact, result
        assert result.head.seq >= highest


STEPS = ["rename", "open", "write", "fdatasync", "fsync", "unlink"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_at_each_step_of_a_rotation(path: Path, step: str, after: bool) -> None:
    """The process ends at its n-th call of a step, for each n until none is left, and another goes on."""
    filled(path, 15, keeping(1))
    for number in range(1, 40):
        child = os.fork()
        if child == 0:
            die_at(step, number, after)
            try:
                log = AuditLog(path, "s@ta1", rotation=keeping(1))
                for count in range(12):
                    log.append(decision(count))
            finally:
                os._exit(0)
        _pid, status = os.waitpid(child, 0)
        result = verify(path, [], good)
        if not result.intact:
            # The line that was being written, and that nobody was told of.
            assert result.reason == "the line is cut short"
        log = AuditLog(path, "s@ta1", rotation=keeping(1))
        log.append(decision(number))
        log.close()
        assert verify(path, [], good).intact
        if os.waitstatus_to_exitcode(status) == 0:
            return
    assert step in ("write", "fdatasync"), "the step is called more often than anybody thought"


def die_at(step: str, number: int, after: bool) -> None:
    real = getattr(os, step)
    calls = [0]

    def call(*arguments: object, **options: object) -> object:
        calls[0] += 1
        if calls[0] == number and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*arguments, **options)
        if calls[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(os, step, call)


# ---- properties ----


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at=st.integers(0, 9_999), value=st.integers(0, 255), kind=st.sampled_from(["change", "insert", "delete"])
)
def test_no_single_byte_can_change_unseen(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int, kind: str
) -> None:
    path = tmp_path_factory.mktemp("log") / "audit.jsonl"
    head = filled(path, 30)[-1]
    files = [*(one.path for one in segments(path)), path]
    contents = [file.read_bytes() for file in files]
    at %= sum(len(content) for content in contents)
    for file, content in zip(files, contents, strict=True):
        if at < len(content):
            changed = {
                "change": content[:at] + bytes([value]) + content[at + 1 :],
                "insert": content[:at] + bytes([value]) + content[at:],
                "delete": content[:at] + content[at + 1 :],
            }[kind]
            file.write_bytes(changed)
            assert verify(path, [head]).intact == (changed == content)
            return
        at -= len(content)


@settings(max_examples=60, deadline=None)
@given(
    plan=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 900), st.booleans()), min_size=1, max_size=60)
)
def test_any_order_of_writers_sizes_and_restarts_is_one_chain(
    tmp_path_factory: pytest.TempPathFactory, plan: list[tuple[int, int, bool]]
) -> None:
    path = tmp_path_factory.mktemp("log") / "audit.jsonl"
    rotations = [SMALL, keeping(1), keeping(2)]
    logs = [AuditLog(path, rotation=rotation) for rotation in rotations]
    heads = []
    for which, length, restart in plan:
        if restart:
            logs[which].close()
            logs[which] = AuditLog(path, rotation=rotations[which])
        logs[which].append(decision(1, "z" * length))
        heads.append(logs[which].head())
    result = verify(path, heads, good)
    assert result.intact and result.head == heads[-1]
    for log in logs:
        log.close()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_judged_and_never_raise(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("log") / "audit.jsonl"
    path.write_bytes(data)
    assert verify(path).intact == (data == b"")
    list(records(path))


def test_reading_a_log_that_is_not_there_says_so(path: Path) -> None:
    with pytest.raises(Unavailable) as refusal:
        verify(path)
    assert refusal.value.code == "audit_unavailable"
