# SPDX-License-Identifier: GPL-3.0-or-later
"""Rotations of primary keys: when they end, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import ApiError, Call
from ansible_collections.trusted.infrastructure.plugins.modules.key_provider_rotation import (
    plan_complete,
    plan_compromised,
)

BASE = "/trust/clusters/domain-c1/kms/providers/the%20provider/rotation"
HOST = {"scope": "lab", "host": "host1", "keys": 2, "denied": False, "reported": 1}
REMOVED = {**HOST, "host": "host3", "denied": True}


def previous(key_id: str, *hosts: dict[str, Any], compromised: bool = False) -> dict[str, Any]:
    left = sum(host["keys"] for host in hosts)
    return {
        "master_key_id": key_id,
        "since": 1,
        "compromised": compromised,
        "keys_left": left,
        "hosts": list(hosts),
    }


def rotation(
    *keys: dict[str, Any], unknown: tuple[str, ...] = (), behind: tuple[str, ...] = ()
) -> dict[str, Any]:
    return {
        "master_key_id": "3",
        "previous": list(keys),
        "unknown": list(unknown),
        "behind": list(behind),
    }


def complete(force: bool, **more: Any) -> Call:
    return Call("POST", BASE, {"force": force, **more}, query=(("action", "complete"),), task=True)


def compromise(key_id: str) -> Call:
    return Call("POST", BASE, {"master_key_id": key_id}, query=(("action", "compromise"),), task=True)


@pytest.mark.parametrize(
    "found, force, calls",
    [
        (rotation(), False, ()),
        (rotation(), True, ()),
        # Nothing to give up: that a host cannot be asked does not matter.
        (rotation(unknown=("ta2",)), False, ()),
        (rotation(previous("1")), False, (complete(False),)),
        (rotation(previous("1"), previous("2", compromised=True)), False, (complete(False),)),
        (rotation(previous("1", HOST)), True, (complete(True),)),
        (rotation(previous("1"), unknown=("ta2",)), True, (complete(True),)),
        # It was given up before, and a Trust Authority host has not heard of it.
        (rotation(behind=("ta2",)), False, (complete(False),)),
        (rotation(unknown=("ta1",), behind=("ta2",)), False, (complete(False),)),
    ],
)
def test_complete(found: dict[str, Any], force: bool, calls: tuple[Call, ...]) -> None:
    plan = plan_complete(BASE, "the provider", found, force)
    assert plan.calls == calls
    assert plan.changed is bool(calls)
    assert plan.before is not None and len(plan.before["previous"]) == len(found["previous"])
    assert plan.after == {"provider": "the provider", "master_key_id": "3", "previous": [], "behind": []}


@pytest.mark.parametrize(
    "hosts, without, refused",
    [
        ([REMOVED], ["host3"], ""),
        ([REMOVED], ["host3", "host9"], ""),
        ([REMOVED], [], "host3 .* is denied: without_hosts"),
        ([REMOVED], ["host1"], "host3"),
        # Naming a host that may have its keys is not enough, nor does it cover others.
        ([HOST], ["host1"], "host1"),
        ([HOST, REMOVED], ["host3"], "host1"),
    ],
)
def test_without_hosts(hosts: list[dict[str, Any]], without: list[str], refused: str) -> None:
    found = rotation(previous("1", *hosts))
    if not refused:
        plan = plan_complete(BASE, "the provider", found, False, without)
        assert plan.calls == (complete(False, without_hosts=without),)
        return
    with pytest.raises(ApiError, match=refused) as error:
        plan_complete(BASE, "the provider", found, False, without)
    if hosts != [REMOVED]:
        assert "host3" not in str(error.value)


def test_without_hosts_covers_no_unknown_ones() -> None:
    with pytest.raises(ApiError, match="ta2 cannot be asked"):
        plan_complete(BASE, "p", rotation(previous("1", REMOVED), unknown=("ta2",)), False, ["host3"])


@pytest.mark.parametrize(
    "found, words",
    [
        (rotation(previous("1", HOST)), "host1 (scope lab) keeps 2 under 1"),
        (rotation(previous("1"), previous("2", HOST)), "keeps 2 under 2"),
        (rotation(previous("1"), unknown=("ta2",)), "ta2 cannot be asked"),
    ],
)
def test_what_is_left_is_named(found: dict[str, Any], words: str) -> None:
    with pytest.raises(ApiError, match="cannot be given up") as refused:
        plan_complete(BASE, "the provider", found, force=False)
    assert words in str(refused.value)
    assert refused.value.error_type == "NOT_ALLOWED_IN_CURRENT_STATE"


@pytest.mark.parametrize(
    "found, key_id, calls, keys",
    [
        (rotation(), "4", (compromise("4"),), ["3"]),
        (rotation(previous("1")), "4", (compromise("4"),), ["1", "3"]),
        (rotation(previous("1", compromised=True)), "4", (compromise("4"),), ["1", "3"]),
        (rotation(previous("1", HOST, compromised=True)), "3", (), ["1"]),
        (rotation(previous("1", compromised=True), behind=("ta2",)), "3", (compromise("3"),), ["1"]),
        (rotation(), "3", (), []),
    ],
)
def test_compromised(found: dict[str, Any], key_id: str, calls: tuple[Call, ...], keys: list[str]) -> None:
    plan = plan_compromised(BASE, "the provider", found, key_id)
    assert plan.calls == calls
    assert plan.after == {
        "provider": "the provider",
        "master_key_id": key_id,
        "previous": [{"master_key_id": key, "compromised": True} for key in keys],
        "behind": [],
    }
    # Once it is done, the same again is no change.
    done = {**rotation(*(previous(key, compromised=True) for key in keys)), "master_key_id": key_id}
    assert plan_compromised(BASE, "the provider", done, key_id).calls == ()


@pytest.mark.parametrize(
    "found, key_id",
    [
        # It has what was wrapped under 1 before.
        (rotation(previous("1")), "3"),
        (rotation(previous("1", compromised=True), previous("2")), "3"),
        (rotation(previous("1"), behind=("ta2",)), "3"),
        (rotation(previous("1", compromised=True)), "1"),
    ],
)
def test_what_is_compromised_is_replaced_by_no_key_of_before(
    run_module: Any, client: Any, found: dict[str, Any], key_id: str
) -> None:
    fake = client({("GET", BASE): found})
    wanted = {"cluster": "one", "provider": "the provider", "state": "compromised", "primary_key_id": key_id}
    for check in (True, False):
        result = run_module("key_provider_rotation", fake, check=check, **wanted)
        assert result["failed"] and "make a new one" in result["msg"]
    assert fake.changes == []


def test_the_module(run_module: Any, client: Any) -> None:
    fake = client(
        {
            ("GET", BASE): rotation(previous("1", HOST)),
            ("POST", BASE): {"master_key_id": "3", "removed": ["1"], "lost": [{"keys": 2}], "unknown": []},
        }
    )
    wanted = {"cluster": "one", "provider": "the provider"}
    failed = run_module("key_provider_rotation", fake, check=True, **wanted)
    assert failed["failed"] and "host1" in failed["msg"]
    predicted = run_module("key_provider_rotation", fake, check=True, force=True, **wanted)
    assert (predicted["changed"], predicted["removed"], fake.changes) == (True, [], [])
    done = run_module("key_provider_rotation", fake, force=True, **wanted)
    assert (done["changed"], done["removed"], done["lost"]) == (True, ["1"], [{"keys": 2}])
    assert done["diff"]["before"]["previous"] == [{"master_key_id": "1", "compromised": False}]
    assert done["diff"]["after"]["previous"] == []
    assert fake.changes == [complete(True)]


def test_a_provider_that_is_still_to_be_made(run_module: Any, client: Any) -> None:
    """It has no rotation to complete; to replace its primary key is a change."""
    fake = client({("GET", BASE): ApiError("no provider", "NOT_FOUND", 404)})
    wanted = {"cluster": "one", "provider": "the provider"}
    assert run_module("key_provider_rotation", fake, check=True, **wanted)["changed"] is False
    stolen = {**wanted, "state": "compromised", "primary_key_id": "3"}
    assert run_module("key_provider_rotation", fake, check=True, **stolen)["changed"] is True
    assert run_module("key_provider_rotation", fake, **wanted)["error_type"] == "NOT_FOUND"


def test_a_wrong_id_is_said_to_be_one(run_module: Any, client: Any) -> None:
    fake = client({("GET", BASE): rotation()})
    wanted = {"cluster": "one", "provider": "the provider", "state": "compromised"}
    result = run_module("key_provider_rotation", fake, primary_key_id="3", **wanted)
    assert result["changed"] is False
    assert "primary key already" in str(result["warnings"])
    assert run_module("key_provider_rotation", fake, **wanted)["failed"]


def test_information(run_module: Any, client: Any) -> None:
    fake = client({("GET", BASE): rotation(previous("1", HOST))})
    wanted = {"cluster": "one", "provider": "the provider"}
    result = run_module("key_provider_rotation_info", fake, **wanted)
    assert result["rotation"]["previous"][0]["hosts"] == [HOST]
    gone = client({("GET", BASE): ApiError("no provider", "NOT_FOUND", 404)})
    result = run_module("key_provider_rotation_info", gone, **wanted)
    assert (result["rotation"], len(result["warnings"])) == ({}, 1)
