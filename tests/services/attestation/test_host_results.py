# SPDX-License-Identifier: GPL-3.0-or-later
"""How hosts stood: transitions, expiry, bounds, several worker processes, and what a manager reads of it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from services.attestation.world import World

from trusted_infrastructure.attestation.host_results import (
    DISORDER,
    KEPT_PER_HOST,
    RESULT_KEPT,
    HostResult,
)
from trusted_infrastructure.attestation.state import State
from trusted_infrastructure.manager.attestation_verdicts import HostResults, Page, Past

LIFE = 3600
BASE = "/attestation/manage/v1"


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path / "state.db")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.service.close()


def good(at: int, host: str = "host1", **fields: Any) -> HostResult:
    values = {"until": at + LIFE, "base_image": "image-1", "image_state": "ACTIVE", **fields}
    return HostResult(principal="p", host=host, state="ATTESTED", since=at, last=at, **values)


def bad(at: int, reason: str = "quote_signature", host: str = "host1", message: str = "") -> HostResult:
    return HostResult(
        principal="p", host=host, state="FAILED", since=at, last=at, reason=reason, message=message
    )


def story(state: State, now: int, host: str = "host1") -> list[tuple[Any, ...]]:
    """(state, reason, since, until) from the oldest on."""
    found = state.history(host, KEPT_PER_HOST, now)
    return [(one.state, one.reason, one.since, one.until) for one in reversed(found)]


def test_attesting_again_is_no_transition(state: State) -> None:
    for at in (100, 1000, 4000):
        state.record(good(at))
    assert story(state, 4001) == [("ATTESTED", "", 100, None)]
    (entry,) = state.history("host1", 10, 4001)
    assert (entry.attested_until, entry.base_image, entry.image_state) == (4000 + LIFE, "image-1", "ACTIVE")
    (result,) = state.results(4001)
    assert (result.since, result.last, result.until) == (100, 4000, 4000 + LIFE)


def test_a_refusal_and_another_reason_are_transitions(state: State) -> None:
    state.record(good(100))
    state.record(good(200))
    state.record(bad(300, message="first"))
    state.record(bad(310, message="last"))
    state.record(bad(320, "base_image_mismatch"))
    state.record(good(400))
    assert story(state, 401) == [
        ("ATTESTED", "", 100, 300),
        ("FAILED", "quote_signature", 300, 320),
        ("FAILED", "base_image_mismatch", 320, 400),
        ("ATTESTED", "", 400, None),
    ]
    by_time = list(reversed(state.history("host1", 10, 401)))
    assert by_time[0].attested_until == 200 + LIFE, "of the last token of that time"
    assert by_time[1].message == "last"


def test_another_image_and_its_state_are_transitions_but_the_state_lasts(state: State) -> None:
    state.record(good(100))
    state.record(good(200, base_image="image-2", image_state="STAGED"))
    state.record(good(300, base_image="image-2", image_state="ACTIVE"))
    images = [(one.base_image, one.image_state, one.since) for one in state.history("host1", 10, 301)]
    assert images == [("image-2", "ACTIVE", 300), ("image-2", "STAGED", 200), ("image-1", "ACTIVE", 100)]
    assert state.results(301)[0].since == 100


def test_a_token_that_ended_is_expired_from_its_end_on(state: State) -> None:
    state.record(good(100))
    assert state.results(100 + LIFE - 1)[0].state == "ATTESTED"
    (result,) = state.results(100 + LIFE)
    assert (result.state, result.since, result.reason) == ("EXPIRED", 100 + LIFE, "token_expired")
    assert story(state, 9000) == [
        ("ATTESTED", "", 100, 100 + LIFE),
        ("EXPIRED", "token_expired", 100 + LIFE, None),
    ]
    state.record(good(9000))
    assert story(state, 9001)[-1] == ("ATTESTED", "", 9000, None)


def test_an_end_that_nobody_read_is_in_the_history_all_the_same(state: State) -> None:
    state.record(good(100))
    state.record(good(9000))
    assert story(state, 9001) == [
        ("ATTESTED", "", 100, 100 + LIFE),
        ("EXPIRED", "token_expired", 100 + LIFE, 9000),
        ("ATTESTED", "", 9000, None),
    ]
    assert state.results(9001)[0].since == 9000


def test_workers_that_finish_in_another_order_do_not_undo_each_other(state: State) -> None:
    state.record(good(101))
    state.record(bad(100))
    assert story(state, 102) == [("ATTESTED", "", 101, None)]
    # A clock that was set back: what is judged now counts.
    state.record(bad(101 - DISORDER))
    assert state.results(102)[0].state == "FAILED"


def test_hosts_of_two_principals_with_one_name_are_two_hosts(state: State) -> None:
    state.record(good(100))
    other = HostResult(principal="q", host="host1", state="FAILED", since=200, last=200, reason="host_denied")
    state.record(other)
    state.record(good(300))
    assert story(state, 301) == [("ATTESTED", "", 100, None), ("FAILED", "host_denied", 200, None)]
    assert len(state.results(301)) == 2


def test_a_host_that_flaps_fills_its_own_rows_only(state: State) -> None:
    state.record(good(1, host="calm"))
    for at in range(3 * KEPT_PER_HOST):
        state.record(bad(at, f"reason_{at % 2}"))
    assert len(state.history("host1", 1000, 1)) == KEPT_PER_HOST
    assert story(state, 2, "calm") == [("ATTESTED", "", 1, None)]


def test_old_states_are_forgotten_and_the_current_one_is_not(state: State) -> None:
    state.record(bad(1))
    state.record(bad(2, "ek_weak"))
    state.record(bad(3, "ek_weak", host="gone"))
    state.record(bad(RESULT_KEPT, "ek_weak"))
    state.record(bad(2 * RESULT_KEPT, "ek_weak"))
    assert story(state, 2 * RESULT_KEPT) == [("FAILED", "ek_weak", 2, None)]
    assert [one.host for one in state.results(2 * RESULT_KEPT)] == ["host1"]
    assert story(state, 2 * RESULT_KEPT, "gone") == []


def test_the_feed_has_every_transition_once_and_in_order(state: State) -> None:
    state.record(good(100))
    state.record(good(110, host="host2"))
    first = state.transitions(0, 1, 120)
    assert ([one.host for one in first.transitions], first.more, first.last) == (["host1"], True, 2)
    rest = state.transitions(first.transitions[-1].sequence, 10, 120)
    assert ([one.host for one in rest.transitions], rest.more) == (["host2"], False)
    assert state.transitions(rest.last, 10, 120).transitions == []
    ended = state.transitions(rest.last, 10, 110 + LIFE).transitions
    assert [(one.host, one.state) for one in ended] == [("host1", "EXPIRED"), ("host2", "EXPIRED")]
    assert state.transitions(4, 10, 9000).transitions == [], "noted once, whoever reads"


def test_sequences_go_on_after_rows_were_forgotten_and_another_database_says_so(
    state: State, tmp_path: Path
) -> None:
    for at in range(2 * KEPT_PER_HOST):
        state.record(bad(at, f"reason_{at % 2}"))
    state.close()
    again = State(tmp_path / "state.db")
    feed = again.transitions(0, 1000, 1)
    assert (feed.last, len(feed.transitions)) == (2 * KEPT_PER_HOST, KEPT_PER_HOST)
    other = State(tmp_path / "other.db").transitions(0, 1000, 1)
    assert other.last == 0 and other.history != feed.history


def _work(path: Path, worker: int) -> None:
    """One worker process: hosts of its own, and one that all workers judge."""
    state = State(path)
    for at in range(1000, 1040):
        state.record(good(at, host=f"own{worker}"))
        state.record(good(at, host="shared"))
        state.results(at)
    state.close()


def test_several_processes_agree(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    State(path).close()
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_work, args=(path, number)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    feed = State(path).transitions(0, 1000, 1050)
    hosts = sorted(one.host for one in feed.transitions)
    assert hosts == ["own0", "own1", "own2", "own3", "shared"], "one transition each, whoever came first"


# ---- what the manager reads ------------------------------------------------------------------------------


def test_the_manager_reads_the_history_of_a_host(world: World) -> None:
    world.attested()
    world.host.start(())
    world.now += 100
    world.attest()
    answer = world.management.get(f"{BASE}/hosts/host1/history").json()
    assert answer["service"] == "attestation@ta1"
    states = [(one["state"], one["reason"], one["image_state"]) for one in answer["history"]]
    assert states == [("FAILED", "base_image_mismatch", ""), ("ATTESTED", "", "ACTIVE")]
    assert len(world.management.get(f"{BASE}/hosts/host1/history?limit=1").json()["history"]) == 1
    assert world.management.get(f"{BASE}/hosts/unknown/history").json()["history"] == []
    feed = world.management.get(f"{BASE}/transitions?after=1").json()
    assert [one["sequence"] for one in feed["transitions"]] == [2]


def test_the_manager_understands_what_it_reads(world: World) -> None:
    world.attested()
    world.now += LIFE
    hosts = msgspec.json.decode(world.management.get(f"{BASE}/hosts").content, type=HostResults)
    assert [(one.host, one.state, one.until) for one in hosts.hosts] == [("host1", "EXPIRED", world.now)]
    page = msgspec.json.decode(world.management.get(f"{BASE}/transitions").content, type=Page)
    assert (page.service, page.last, page.more) == ("attestation@ta1", 2, False)
    assert [one.state for one in page.transitions] == ["ATTESTED", "EXPIRED"]
    past = msgspec.json.decode(world.management.get(f"{BASE}/hosts/host1/history").content, type=Past)
    assert [one.until for one in past.history] == [None, world.now]


def test_hosts_of_one_principal(world: World) -> None:
    world.attested()
    (host,) = world.results()
    found = world.management.get(f"{BASE}/hosts", params={"principal": host["principal"]}).json()
    assert [one["host"] for one in found["hosts"]] == ["host1"]
    assert world.management.get(f"{BASE}/hosts?principal=other").json()["hosts"] == []


def test_a_staged_image_is_reported_as_staged(world: World) -> None:
    world.documents["base_image", "image-1"]["state"] = "STAGED"
    world.publish()
    answer = world.attest()
    assert answer.json()["image_state"] == "STAGED"
    assert (world.results()[0]["state"], world.results()[0]["image_state"]) == ("ATTESTED", "STAGED")


@pytest.mark.parametrize(
    "query", ["after=-1", "after=x", "after=9" * 30, "limit=0", "limit=1001", "limit=\u0661"]
)
def test_bad_numbers_name_the_parameter(world: World, query: str) -> None:
    answer = world.management.get(f"{BASE}/transitions?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "malformed_request"
    assert answer.json()["error"]["message"].startswith(query.partition("=")[0])


def test_anybody_may_ask_for_the_generation(world: World) -> None:
    answer = world.public.get("/attestation/v1/generation").json()
    assert set(answer) == {"security_generation", "grace_period"}
    assert answer["security_generation"] == world.attested().security_generation
