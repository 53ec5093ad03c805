# SPDX-License-Identifier: GPL-3.0-or-later
"""The check for pipelines: what passes, what fails, and what it says of each host."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils import attestation
from ansible_collections.trusted.infrastructure.plugins.module_utils.attestation import (
    Expected,
    shortcoming,
    state_of,
    with_history,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import ApiError, Call
from ansible_collections.trusted.infrastructure.plugins.modules import attestation_assert

NOW = datetime.datetime(2026, 11, 1, 9, 0, 0, tzinfo=datetime.UTC)
GOOD = {
    "host": "host-1",
    "name": "first",
    "state": "ATTESTED",
    "base_image": "2026.11",
    "base_image_state": "ACTIVE",
    "since": "2026-11-01T08:00:00Z",
    "attested_until": "2026-11-01T09:10:00Z",
}
BAD = {
    "host": "host-2",
    "name": "second",
    "state": "FAILED",
    "reason": "base_image_mismatch",
    "message": "PCR 9 differs.",
    "remedy": "Find out why.",
    "since": "2026-11-01T08:30:00Z",
}
LIST = ("GET", "/trust/attestation")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (GOOD, Expected()),
        (GOOD, Expected(base_images=("2026.10", "2026.11"), not_staged=True, minimum_validity=600)),
        ({**GOOD, "base_image_state": "STAGED"}, Expected(base_images=("2026.11",))),
        (BAD, Expected(state="FAILED")),
        ({**BAD, "state": "UNREACHABLE"}, Expected(state="UNREACHABLE")),
    ],
)
def test_as_expected(row: dict[str, Any], expected: Expected) -> None:
    assert shortcoming(state_of("x", row), expected, NOW) is None


@pytest.mark.parametrize(
    ("row", "expected", "problem", "remedy"),
    [
        (None, Expected(), "no host is named x", "name or id"),
        (
            BAD,
            Expected(),
            "is FAILED: base_image_mismatch: PCR 9 differs. (since 2026-11-01T08:30:00Z)",
            "Find out why.",
        ),
        ({**BAD, "remedy": ""}, Expected(), "is FAILED", "section 12"),
        ({"name": "x", "state": "EXPIRED"}, Expected(), "is EXPIRED", "section 12"),
        (GOOD, Expected(state="FAILED"), "is ATTESTED (since 2026-11-01T08:00:00Z)", "section 12"),
        (GOOD, Expected(base_images=("2026.12",)), "2026.11; allowed: 2026.12", "boot the host"),
        ({**GOOD, "base_image": None}, Expected(base_images=("2026.12",)), "base image None", "boot"),
        ({**GOOD, "base_image_state": "STAGED"}, Expected(not_staged=True), "which is STAGED", "activate"),
        # What nobody says is not taken for active.
        ({**GOOD, "base_image_state": None}, Expected(not_staged=True), "nobody says", "activate"),
        (GOOD, Expected(minimum_validity=601), "attested for 600 s more", "token_lifetime"),
        ({**GOOD, "attested_until": None}, Expected(minimum_validity=1), "for 0 s more", "attest again"),
        ({**GOOD, "attested_until": "soon"}, Expected(minimum_validity=1), "for 0 s more", "attest again"),
        (
            {**GOOD, "attested_until": "2026-11-01T08:59:59"},
            Expected(minimum_validity=1),
            "for 0 s more",
            "attest",
        ),
    ],
)
def test_not_as_expected(row: Any, expected: Expected, problem: str, remedy: str) -> None:
    found = shortcoming(state_of("x", row), expected, NOW)
    assert found is not None
    assert problem in found[0] and remedy in found[1]


@pytest.mark.parametrize("check", [False, True])
def test_it_passes_and_gives_the_hosts(run_module: Any, client: Any, check: bool) -> None:
    fake = client({LIST: [GOOD]})
    result = run_module("attestation_assert", fake, check=check)
    assert (result["changed"], result["failures"]) == (False, [])
    assert [row["name"] for row in result["hosts"]] == ["first"]


def test_it_fails_and_names_each_host_with_reason_and_remedy(run_module: Any, client: Any) -> None:
    result = run_module("attestation_assert", client({LIST: [GOOD, BAD]}), hosts=["first", "second", "third"])
    assert result["failed"] is True
    assert result["msg"] == (
        "2 of 3 hosts are not as expected: second is FAILED: base_image_mismatch: PCR 9 differs. "
        "(since 2026-11-01T08:30:00Z) [Find out why.]; third is unknown: no host is named third "
        "[use a name or id of a host of this manager]"
    )
    assert [(one["name"], one["reason"]) for one in result["failures"]] == [
        ("second", "base_image_mismatch"),
        ("third", "host_unknown"),
    ]
    assert len(result["hosts"]) == 3


def test_nothing_to_check_is_not_a_success(run_module: Any, client: Any) -> None:
    result = run_module("attestation_assert", client({LIST: []}))
    assert result["failed"] is True and "nothing was checked" in result["msg"]


@pytest.mark.parametrize("answer", [ApiError("no such path", "NOT_FOUND", 404), [{"state": "ATTESTED"}], 7])
def test_a_manager_that_does_not_answer_as_it_should_is_no_success(
    run_module: Any, client: Any, answer: Any
) -> None:
    assert run_module("attestation_assert", client({LIST: answer}))["failed"] is True


def test_hosts_that_are_not_as_expected_attest_once(run_module: Any, client: Any) -> None:
    state = {"now": BAD}

    def attest(_call: Call) -> dict[str, Any]:
        state["now"] = {**GOOD, "host": "host-2", "name": "second"}
        return {}

    answers = {
        LIST: lambda _call: [GOOD, state["now"]],
        ("GET", "/vcenter/host"): [{"host": "host-1", "name": "first"}, {"host": "host-2", "name": "second"}],
        ("POST", "/trust/hosts/host-2/attestation"): attest,
    }
    fake = client(answers)
    assert run_module("attestation_assert", fake, attest=True)["failures"] == []
    assert [call.path for call in fake.calls if call.method == "POST"] == ["/trust/hosts/host-2/attestation"]
    state["now"] = BAD
    fake = client(answers)
    assert run_module("attestation_assert", fake, check=True, attest=True)["failed"] is True
    assert [call for call in fake.calls if call.method == "POST"] == []


def test_it_waits_until_hosts_are_as_expected(
    run_module: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = {"now": 100.0}
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock["now"] += seconds

    monkeypatch.setattr(attestation_assert.time, "monotonic", lambda: clock["now"])
    monkeypatch.setattr(attestation_assert.time, "sleep", sleep)
    fake = client({LIST: lambda _call: [GOOD if clock["now"] >= 106 else {**GOOD, "state": "EXPIRED"}]})
    assert run_module("attestation_assert", fake, wait_timeout=30)["failures"] == []
    assert pauses == [2.0, 2.0, 2.0]
    pauses.clear()
    clock["now"] = 0.0
    assert run_module("attestation_assert", fake, wait_timeout=5)["failed"] is True
    assert pauses == [2.0, 2.0, 1.0]


def test_history_is_asked_for_in_portions(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attestation, "HOSTS_AT_ONCE", 2)
    past = [
        {"name": "a", "state": "ATTESTED", "since": "x"},
        {"name": "c", "state": "FAILED", "since": "y", "principal": "p"},
    ]
    fake = client(
        {
            ("GET", "/trust/attestation/history"): lambda call: [
                row for row in past if ("hosts", row["name"]) in call.query
            ]
        }
    )
    rows = [state_of(name, {"name": name, "state": "ATTESTED"}) for name in "abc"] + [state_of("d", None)]
    with fake:
        found = with_history(fake, rows, 7)
    assert [len(row["history"]) for row in found] == [1, 0, 0, 0], "another principal's host is another host"
    assert [call.query for call in fake.calls] == [
        (("hosts", "a"), ("hosts", "b"), ("limit", "7")),
        (("hosts", "c"), ("limit", "7")),
    ]


def test_events(run_module: Any, client: Any) -> None:
    fake = client({("GET", "/trust/events"): [{"id": 7, "time": "t", "type": "x", "message": "m"}]})
    result = run_module("events_info", fake, types=["x"], hosts=["a"], since="s", after=3, limit=1)
    assert result["last"] == 7
    assert result["events"] == [
        {
            "id": 7,
            "time": "t",
            "type": "x",
            "message": "m",
            "host": None,
            "object": None,
            "user": None,
            "operation": None,
            "key_id": None,
            "details": {},
        }
    ]
    assert fake.calls[-1].query == (
        ("types", "x"),
        ("hosts", "a"),
        ("since", "s"),
        ("after", "3"),
        ("limit", "1"),
    )
    fake = client({("GET", "/trust/events"): []})
    assert run_module("events_info", fake, after=3)["last"] == 3
    assert run_module("events_info", fake)["last"] == 0
