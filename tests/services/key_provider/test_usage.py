# SPDX-License-Identifier: GPL-3.0-or-later
"""What one Trust Authority host knows of the keys that hosts keep: reports, marks, and what survives."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from trusted_infrastructure.key_provider.usage import VERSION, Holder, Usage
from trusted_infrastructure.refusal import Refusal

HOST = Holder("lab", "host1")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def usage(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Usage:
    """Its first numbers are 1, so that they can be read."""
    monkeypatch.setattr("trusted_infrastructure.key_provider.usage.FIRST_BELOW", 1)
    return Usage(tmp_path / "usage.db", clock)


def known(
    usage: Usage, provider: str = "finance"
) -> list[tuple[str, float | None, dict[str, int], dict[str, int]]]:
    return [(one.host, one.reported, one.keys, one.marks) for one in usage.of(provider)]


def other_process(usage: Usage, clock: Clock) -> Usage:
    return Usage(usage._path, clock)


def test_nothing_is_known(usage: Usage) -> None:
    assert known(usage) == []


def test_what_is_wrapped_counts_from_then_on(usage: Usage, clock: Clock) -> None:
    """Durable at once, and one more with each."""
    usage.kept(HOST, "finance", "K1")
    assert known(other_process(usage, clock)) == [("host1", None, {}, {"K1": 1})]
    usage.kept(HOST, "finance", "K1")
    usage.kept(HOST, "finance", "K2")
    assert known(other_process(usage, clock)) == [("host1", None, {}, {"K1": 2, "K2": 1})]


def test_a_report_does_not_cover_what_it_does_not_know_of(usage: Usage, clock: Clock) -> None:
    """It was counted before the key came, and came here after the mark."""
    usage.kept(HOST, "finance", "K1")
    assert usage.report(HOST, "finance", {"K2": 1, "K3": 0}, 0) == 1
    assert known(usage) == [("host1", 1000.0, {"K2": 1}, {"K1": 1})]
    clock.now += 10
    assert usage.report(HOST, "finance", {"K1": 1, "K2": 1}, 1) == 1
    assert known(usage) == [("host1", 1010.0, {"K1": 1, "K2": 1}, {})]
    usage.kept(HOST, "finance", "K1")
    assert usage.report(HOST, "finance", {}, 1) == 2
    assert known(usage) == [("host1", 1010.0, {}, {"K1": 1})]


def test_marks_are_covered_one_after_the_other(usage: Usage) -> None:
    usage.kept(HOST, "finance", "K1")
    usage.kept(HOST, "finance", "K2")
    assert usage.report(HOST, "finance", {"K1": 1}, 1) == 2
    assert known(usage)[0][2:] == ({"K1": 1}, {"K2": 1})
    # K2 again, before a report that knows of the first one only: which of them it has is not known.
    usage.kept(HOST, "finance", "K2")
    assert usage.report(HOST, "finance", {"K1": 1, "K2": 1}, 2) == 3
    assert known(usage)[0][2:] == ({"K1": 1, "K2": 1}, {"K2": 2})
    assert usage.report(HOST, "finance", {"K1": 1, "K2": 2}, 3) == 3
    assert known(usage)[0][2:] == ({"K1": 1, "K2": 2}, {})


def test_a_report_that_was_overtaken_is_not_taken(usage: Usage, clock: Clock) -> None:
    """The host gave it up, and a later one is here; the marks that it does not know of are gone."""
    usage.kept(HOST, "finance", "K1")
    usage.report(HOST, "finance", {"K1": 1}, 1)
    clock.now += 1
    assert usage.report(HOST, "finance", {}, 0) == 1
    assert known(usage) == [("host1", 1000.0, {"K1": 1}, {})]


def test_a_number_of_a_database_that_is_gone_covers_nothing(usage: Usage) -> None:
    usage.kept(HOST, "finance", "K1")
    assert usage.report(HOST, "finance", {}, 2) == 1
    assert known(usage) == [("host1", 1000.0, {}, {"K1": 1})]


def test_a_new_database_never_takes_the_numbers_of_one_that_is_gone(tmp_path: Path, clock: Clock) -> None:
    """Whichever of them is ahead: a report with a number of the other covers nothing."""
    seen, owner = [], "finance"
    for number in range(4):
        here = Usage(tmp_path / f"{number}.db", clock)
        for _key in range(number + 1):
            here.kept(HOST, owner, "K1")
        for before in seen:
            assert here.report(HOST, owner, {}, before) > before or before > here.report(HOST, owner, {}, 0)
            assert known(here, owner)[0][3] == {"K1": number + 1}
        seen.append(here.report(HOST, owner, {}, 0))
    assert len({after - number for number, after in enumerate(seen)}) == 4


def test_a_damaged_cell_is_said(usage: Usage) -> None:
    usage.report(HOST, "finance", {"K": 1}, 0)
    for damage in ("keys = '{\"K\": '", "keys = '[]'", "keys = x'ff'", "reported = 'never'"):
        usage._database.execute("UPDATE reports SET " + damage)
        with pytest.raises(Refusal) as refused:
            usage.of("finance")
        assert refused.value.code == "state_unusable", damage
        usage._database.execute("UPDATE reports SET keys = '{}', reported = 1.0")
    assert known(usage) == [("host1", 1.0, {}, {})]


def test_providers_and_hosts_are_apart(usage: Usage) -> None:
    usage.report(HOST, "finance", {"K": 1}, 0)
    usage.report(Holder("lab", "host2"), "finance", {"K": 2}, 0)
    usage.report(Holder("other", "host1"), "finance", {"K": 3}, 0)
    usage.report(HOST, "hr", {"K": 4}, 0)
    usage.report(HOST, "finance", {}, 0)
    usage.kept(Holder("other", "host1"), "finance", "K")
    usage.kept(HOST, "hr", "K")
    assert usage.report(HOST, "finance", {}, 0) == 0
    assert [(one.scope, one.host, one.keys, one.marks) for one in usage.of("finance")] == [
        ("lab", "host1", {}, {}),
        ("lab", "host2", {"K": 2}, {}),
        ("other", "host1", {"K": 3}, {"K": 1}),
    ]
    assert known(usage, "hr") == [("host1", 1000.0, {"K": 4}, {"K": 1})]


def test_several_processes_share_it(usage: Usage, clock: Clock) -> None:
    other = other_process(usage, clock)

    def work(own: Usage, host: str) -> None:
        for number in range(20):
            own.kept(Holder("lab", host), "finance", f"K{number % 10}")

    threads = [
        threading.Thread(target=work, args=(own, f"host{number % 2}"))
        for number, own in enumerate([usage, other, usage, other])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.marks for one in usage.of("finance")] == [{f"K{number}": 4 for number in range(10)}] * 2
    assert other.report(Holder("lab", "host0"), "finance", {}, 0) == 40
    assert other.report(Holder("lab", "host0"), "finance", {}, 40) == 40
    assert known(usage)[0] == ("host0", 1000.0, {}, {})


def test_the_file_is_private(usage: Usage) -> None:
    usage.kept(HOST, "finance", "K1")
    for path in usage._path.parent.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_file_that_is_none_is_not_replaced(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "usage.db"
    path.write_bytes(b"something else" * 100)
    with pytest.raises(Refusal) as refused:
        Usage(path, clock)
    assert refused.value.code == "state_unusable"
    assert path.read_bytes() == b"something else" * 100


def test_a_file_of_a_later_release_is_left_alone(usage: Usage, clock: Clock) -> None:
    with sqlite3.connect(usage._path) as database:
        database.execute(f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(Refusal) as refused:
        Usage(usage._path, clock)
    assert "later release" in refused.value.message


def test_what_the_first_form_had_stays(tmp_path: Path, clock: Clock) -> None:
    """A mark of it was a time; it says that there is one."""
    with sqlite3.connect(tmp_path / "usage.db") as database:
        database.executescript(
            "CREATE TABLE reports (scope TEXT NOT NULL, host TEXT NOT NULL, provider TEXT NOT NULL,"
            " reported REAL NOT NULL, keys TEXT NOT NULL, PRIMARY KEY (scope, host, provider)) WITHOUT ROWID;"
            "CREATE TABLE marks (scope TEXT NOT NULL, host TEXT NOT NULL, provider TEXT NOT NULL,"
            " primary_key_id TEXT NOT NULL, marked REAL NOT NULL,"
            " PRIMARY KEY (scope, host, provider, primary_key_id)) WITHOUT ROWID;"
            "INSERT INTO reports VALUES ('lab', 'host1', 'finance', 5.0, '{\"K1\":2}');"
            "INSERT INTO marks VALUES ('lab', 'host1', 'finance', 'K2', 7.5);"
            "PRAGMA user_version = 1;"
        )
    for _start in range(2):
        usage = Usage(tmp_path / "usage.db", clock)
        assert known(usage) == [("host1", 5.0, {"K1": 2}, {"K2": 1})]
    assert usage.report(HOST, "finance", {"K2": 1}, 0) == 1
    assert usage.report(HOST, "finance", {"K2": 1}, 1) == 1
    assert known(usage) == [("host1", 1000.0, {"K2": 1}, {})]


def test_what_cannot_be_written_is_said(usage: Usage) -> None:
    usage._database.execute("PRAGMA query_only = ON")
    with pytest.raises(Refusal) as refused:
        usage.kept(HOST, "finance", "K2")
    assert refused.value.code == "state_unusable"
    usage._database.execute("PRAGMA query_only = OFF")
    assert known(usage) == []
