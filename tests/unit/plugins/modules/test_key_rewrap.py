# SPDX-License-Identifier: GPL-3.0-or-later
"""Wrapping keys again: what is asked, when something was changed, and what is a failure."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import ApiError, Call

PATH = "/trust/clusters/domain-c1/keys"
KEY = {
    "host": "host1",
    "key_id": "k1",
    "object_id": "vm-1",
    "provider": "finance",
    "kek_id": "e1",
    "primary_key_id": "1",
}
LEFT = {"host": "host1", "key_id": "k2", "object_id": "vm-2", "provider": "finance", "code": "key_missing"}
MESSAGE = {"id": "x", "default_message": "host2: cannot be reached", "args": []}


def outcome(rewrapped: Any = (), left: Any = (), deep: Any = (), unreachable: Any = ()) -> dict[str, Any]:
    return {
        "rewrapped": list(rewrapped),
        "left": list(left),
        "deep_recrypt": list(deep),
        "unreachable": list(unreachable),
        "details": [MESSAGE for _host in unreachable],
        "counts": {"rewrapped": len(rewrapped), "left": len(left), "deep_recrypt": len(deep)},
    }


NEW = {**KEY, "primary_key_id": "2"}
NOTHING, WOULD, DID = outcome(), outcome([KEY]), outcome([NEW])
AWAY = outcome(unreachable=["host2"])


def answering(query: dict[str, Any], rewrap: Any = None) -> Any:
    """Answers of both actions."""

    def answer(call: Call) -> Any:
        found = query if ("action", "query") in call.query else rewrap
        if isinstance(found, Exception):
            raise found
        return found

    return {("POST", PATH): answer}


@pytest.mark.parametrize(
    "query, rewrap, check, changed, failed, sent",
    [
        (NOTHING, None, False, False, False, 0),
        (NOTHING, None, True, False, False, 0),
        (WOULD, None, True, True, False, 0),
        (WOULD, DID, False, True, False, 1),
        # Nothing came of it after all: nothing was changed.
        (WOULD, outcome(left=[LEFT]), False, False, True, 1),
        (WOULD, outcome([NEW], left=[LEFT]), False, True, True, 1),
        (outcome(left=[LEFT]), None, False, False, True, 0),
        (AWAY, None, False, False, True, 0),
        (AWAY, None, True, False, True, 0),
        (outcome([KEY], unreachable=["host2"]), outcome([NEW], unreachable=["host2"]), False, True, True, 1),
    ],
)
def test_what_is_done(
    run_module: Any, client: Any, query: Any, rewrap: Any, check: bool, changed: bool, failed: bool, sent: int
) -> None:
    fake = client(answering(query, rewrap))
    result = run_module("key_rewrap", fake, cluster="one", check=check)
    assert (result["changed"], result.get("failed", False)) == (changed, failed)
    assert len(fake.changes) == sent
    last = rewrap if sent else query
    assert result["unreachable_hosts"] == last["unreachable"]
    for name in ("rewrapped", "left", "deep_recrypt", "counts"):
        assert result[name] == last[name]


def test_what_is_asked(run_module: Any, client: Any) -> None:
    fake = client(answering(WOULD, DID))
    run_module(
        "key_rewrap", fake, cluster="one", provider="finance", target="hr", objects=["vm-1"], replace=True
    )
    spec = {"provider": "finance", "target": "hr", "objects": ["vm-1"], "replace": True}
    assert fake.calls[-2:] == [
        Call("POST", PATH, spec, query=(("action", action),), task=True) for action in ("query", "rewrap")
    ]
    fake = client(answering(NOTHING))
    run_module("key_rewrap", fake, cluster="one")
    assert fake.calls[-1].body == {"replace": False}


def test_the_diff_shows_what_keys_rest_on(run_module: Any, client: Any) -> None:
    diff = run_module("key_rewrap", client(answering(WOULD, DID)), cluster="one")["diff"]
    assert [key["primary_key_id"] for key in diff["before"]["keys"]] == ["1"]
    assert [key["primary_key_id"] for key in diff["after"]["keys"]] == ["2"]


def test_failures_name_hosts_and_keys(run_module: Any, client: Any) -> None:
    many = [{**LEFT, "object_id": f"vm-{number}"} for number in range(9)]
    fake = client(answering(outcome(left=many, unreachable=["host2"])))
    text = run_module("key_rewrap", fake, cluster="one")["msg"]
    for word in ("host2", "cannot be reached", "9 keys", "vm-4 on host1: key_missing", "..."):
        assert word in text
    assert "vm-5" not in text


def test_incomplete_may_be_a_warning(run_module: Any, client: Any) -> None:
    result = run_module("key_rewrap", client(answering(AWAY)), cluster="one", incomplete="warn")
    assert not result.get("failed") and not result["changed"]
    assert "host2" in str(result["warnings"])


def test_refusals_are_failures(run_module: Any, client: Any) -> None:
    error = ApiError("There is no key provider.", "NOT_FOUND", 404)
    result = run_module("key_rewrap", client(answering(WOULD, error)), cluster="one", target="hr")
    assert (result["failed"], result["msg"], result["status"]) == (True, "There is no key provider.", 404)
    assert run_module("key_rewrap", client({}), cluster="two")["msg"] == "no cluster is named two"
    assert "not understood" in run_module("key_rewrap", client(answering({})), cluster="one")["msg"]


@pytest.mark.parametrize(
    "given, found",
    [
        ({}, ["vm-1", "vm-2"]),
        ({"providers": ["hr"]}, ["vm-2"]),
        ({"objects": ["vm-1"]}, ["vm-1"]),
        ({"objects": ["vm-1"], "providers": ["hr"]}, []),
    ],
)
def test_keys_of_a_host(run_module: Any, client: Any, given: Any, found: list[str]) -> None:
    rows = [KEY, {"host": "host1", "object_id": "vm-2", "provider": "hr"}]
    hosts = {("GET", "/vcenter/host"): [{"host": "host-1", "name": "host1"}]}
    fake = client({**hosts, ("GET", "/trust/hosts/host-1/keys"): rows})
    keys = run_module("host_keys_info", fake, host="host1", **given)["object_keys"]
    assert [key["object_id"] for key in keys] == found
    assert all("primary_key_id" in key for key in keys)
    assert run_module("host_keys_info", client(hosts), host="host9")["object_keys"] == []
