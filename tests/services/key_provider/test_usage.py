# SPDX-License-Identifier: GPL-3.0-or-later
"""What one Trust Authority host knows of the keys that hosts keep: reports, marks, and what survives."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from trusted_infrastructure.key_provider.usage import CURRENT_AGAIN, PREVIOUS_AGAIN, Holder, Usage
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
def usage(tmp_path: Path, clock: Clock) -> Usage:
    return Usage(tmp_path / "usage.db", clock)


def known(
    usage: Usage, provider: str = "finance"
) -> list[tuple[str, float | None, dict[str, int], dict[str, float]]]:
    return [(one.host, one.reported, one.keys, one.marks) for one in usage.of(provider)]


def other_process(usage: Usage, clock: Clock) -> Usage:
    return Usage(usage._path, clock)


def test_nothing_is_known(usage: Usage) -> None:
    assert known(usage) == []


def test_a_report_takes_the_place_of_all_before(usage: Usage, clock: Clock) -> None:
    usage.made(HOST, "finance", "K1")
    usage.opened(HOST, "finance", "K2", previous=False)
    usage.report(HOST, "finance", {"K1": 2, "K3": 0})
    assert known(usage) == [("host1", 1000.0, {"K1": 2}, {})]
    clock.now += 10
    usage.report(HOST, "finance", {})
    assert known(usage) == [("host1", 1010.0, {}, {})]


def test_a_mark_after_the_report_stays(usage: Usage, clock: Clock) -> None:
    usage.report(HOST, "finance", {"K2": 1})
    clock.now += 1
    usage.made(HOST, "finance", "K1")
    assert known(usage) == [("host1", 1000.0, {"K2": 1}, {"K1": 1001.0})]


def test_providers_and_hosts_are_apart(usage: Usage) -> None:
    usage.report(HOST, "finance", {"K": 1})
    usage.report(Holder("lab", "host2"), "finance", {"K": 2})
    usage.report(Holder("other", "host1"), "finance", {"K": 3})
    usage.report(HOST, "hr", {"K": 4})
    usage.report(HOST, "finance", {})
    assert [(one.scope, one.host, one.keys) for one in usage.of("finance")] == [
        ("lab", "host1", {}),
        ("lab", "host2", {"K": 2}),
        ("other", "host1", {"K": 3}),
    ]
    assert known(usage, "hr") == [("host1", 1000.0, {"K": 4}, {})]


def test_what_is_wrapped_is_durable_at_once(usage: Usage, clock: Clock) -> None:
    usage.made(HOST, "finance", "K1")
    assert known(other_process(usage, clock)) == [("host1", None, {}, {"K1": 1000.0})]
    clock.now += 1
    usage.made(HOST, "finance", "K1")
    assert known(other_process(usage, clock)) == [("host1", None, {}, {"K1": 1001.0})]


def test_what_is_opened_under_a_previous_key_is_durable_at_once(usage: Usage, clock: Clock) -> None:
    usage.opened(HOST, "finance", "K1", previous=True)
    assert known(other_process(usage, clock)) == [("host1", None, {}, {"K1": 1000.0})]


def test_what_is_opened_under_the_key_of_now_is_written_in_a_moment(usage: Usage, clock: Clock) -> None:
    usage.opened(HOST, "finance", "K1", previous=False)
    assert known(other_process(usage, clock)) == []
    usage.flush()
    assert known(other_process(usage, clock)) == [("host1", None, {}, {"K1": 1000.0})]
    usage.opened(Holder("lab", "host2"), "finance", "K1", previous=False)
    usage.close()
    assert len(known(other_process(usage, clock))) == 2


@pytest.mark.parametrize(("previous", "again"), [(False, CURRENT_AGAIN), (True, PREVIOUS_AGAIN)])
def test_opening_again_is_not_written_again_for_a_while(
    usage: Usage, clock: Clock, previous: bool, again: float
) -> None:
    usage.opened(HOST, "finance", "K1", previous)
    clock.now += again - 0.5
    usage.opened(HOST, "finance", "K1", previous)
    assert known(usage)[0][3] == {"K1": 1000.0}
    clock.now += 1
    usage.opened(HOST, "finance", "K1", previous)
    assert known(usage)[0][3] == {"K1": clock.now}


def test_what_a_host_has_reported_needs_no_mark(usage: Usage, clock: Clock) -> None:
    """After a power cut, with a thousand hosts that open what they have: nothing is written."""
    usage.report(HOST, "finance", {"K1": 3})
    again = other_process(usage, clock)
    clock.now += CURRENT_AGAIN / 2
    again.opened(HOST, "finance", "K1", previous=False)
    assert known(again) == [("host1", 1000.0, {"K1": 3}, {})]


def test_a_clock_that_was_set_back_hides_nothing(usage: Usage, clock: Clock) -> None:
    usage.opened(HOST, "finance", "K1", previous=True)
    clock.now -= 500
    usage.opened(HOST, "finance", "K1", previous=True)
    assert known(usage)[0][3] == {"K1": 1000.0}


def test_a_mark_is_later_than_the_report_before_it(usage: Usage, clock: Clock) -> None:
    """Also where the clock was set back: the manager compares the two."""
    usage.report(HOST, "finance", {"K1": 0})
    clock.now -= 60
    usage.made(HOST, "finance", "K1")
    usage.opened(HOST, "finance", "K2", previous=False)
    ((_host, reported, _keys, marks),) = known(usage)
    assert reported == 1000.0
    assert marks == {"K1": 1000.001, "K2": 1000.001}


def test_several_processes_share_it(usage: Usage, clock: Clock) -> None:
    other = other_process(usage, clock)

    def work(own: Usage, host: str) -> None:
        for number in range(20):
            own.made(Holder("lab", host), "finance", f"K{number}")

    threads = [
        threading.Thread(target=work, args=(own, f"host{number}"))
        for number, own in enumerate([usage, other, usage, other])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(one.marks) for one in usage.of("finance")] == [20] * 4
    other.report(Holder("lab", "host0"), "finance", {})
    assert known(usage)[0] == ("host0", 1000.0, {}, {})


def test_the_file_is_private(usage: Usage) -> None:
    usage.made(HOST, "finance", "K1")
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
        database.execute("PRAGMA user_version = 2")
    with pytest.raises(Refusal) as refused:
        Usage(usage._path, clock)
    assert "later release" in refused.value.message


def test_what_could_not_be_written_is_kept(usage: Usage) -> None:
    usage.opened(HOST, "finance", "K1", previous=False)
    usage._database.execute("PRAGMA query_only = ON")
    for work in (usage.flush, lambda: usage.made(HOST, "finance", "K2")):
        with pytest.raises(Refusal) as refused:
            work()
        assert refused.value.code == "state_unusable"
    usage._database.execute("PRAGMA query_only = OFF")
    assert known(usage) == [("host1", None, {}, {"K1": 1000.0})]


def test_what_another_process_was_told_is_known_in_a_moment(usage: Usage, clock: Clock) -> None:
    """A host's report came to another worker: what this one noted before does not hide what is opened now."""
    usage.opened(HOST, "finance", "K1", previous=False)
    usage.flush()
    other = other_process(usage, clock)
    clock.now += 10
    other.report(HOST, "finance", {})
    usage.flush()
    usage.opened(HOST, "finance", "K1", previous=False)
    usage.flush()
    assert known(other) == [("host1", 1010.0, {}, {"K1": 1010.001})]
