# SPDX-License-Identifier: GPL-3.0-or-later
"""The rate limit that several processes share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from trusted_infrastructure.rate_limit import SharedRateLimit
from trusted_infrastructure.refusal import Refusal


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limit(clock: Clock) -> Iterator[SharedRateLimit]:
    made = SharedRateLimit(2, 3, clock)
    yield made
    made.close()


def taken(limit: SharedRateLimit, key: str, times: int) -> int:
    """How many of so many requests are allowed."""
    allowed = 0
    for _time in range(times):
        try:
            limit.take(key)
            allowed += 1
        except Refusal as refusal:
            assert (refusal.code, refusal.status) == ("rate_limited", 429)
    return allowed


def test_a_burst_and_then_the_rate(limit: SharedRateLimit, clock: Clock) -> None:
    assert taken(limit, "a", 10) == 3
    assert taken(limit, "b", 10) == 3
    clock.now += 1
    assert taken(limit, "a", 10) == 2
    clock.now += 100
    assert taken(limit, "a", 10) == 3


def test_forked_processes_share_it(limit: SharedRateLimit) -> None:
    children = []
    for _number in range(4):
        child = os.fork()
        if child == 0:
            os._exit(taken(limit, "a", 5))
        children.append(child)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sum(statuses) == 3
    assert taken(limit, "a", 1) == 0 and taken(limit, "b", 1) == 1


def test_a_process_that_dies_in_the_middle_blocks_nobody(limit: SharedRateLimit) -> None:
    child = os.fork()
    if child == 0:
        for start in range(0, limit.SETS * limit._set_size, limit._set_size):
            limit._locked(start).__enter__()
        os._exit(0)
    os.waitpid(child, 0)
    assert taken(limit, "a", 1) == 1


def test_a_limit_that_nobody_has_any_more_holds_no_file(clock: Clock) -> None:
    limit = SharedRateLimit(2, 3, clock)
    file = f"/proc/self/fd/{limit._file}"
    assert taken(limit, "a", 1) == 1
    before = os.readlink(file)
    assert "rate-limit" in before
    del limit
    # Somebody else may have the number by now.
    assert not os.path.lexists(file) or os.readlink(file) != before


def test_more_keys_than_there_is_room_for_forget_the_quietest(limit: SharedRateLimit, clock: Clock) -> None:
    limit.SETS = 1
    for number in range(limit.WAYS):
        clock.now += 0.001
        assert taken(limit, f"key {number}", 4) == 3
    clock.now += 0.001
    assert taken(limit, "one more", 4) == 3  # in the place of key 0
    assert taken(limit, f"key {limit.WAYS - 1}", 4) == 0
    assert taken(limit, "key 0", 4) == 3
