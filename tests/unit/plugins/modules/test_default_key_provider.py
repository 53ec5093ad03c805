# SPDX-License-Identifier: GPL-3.0-or-later
"""Defaults of a manager and of its clusters."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import Call
from ansible_collections.trusted.infrastructure.plugins.modules.default_key_provider import Found, plan, read

MANAGER = "/trust/default-key-provider"
CLUSTER = "/trust/clusters/domain-c1/default-key-provider"


def put(place: str, provider: str | None) -> tuple[Call, ...]:
    return (Call("PUT", place, {"provider": provider}, task=True),)


@pytest.mark.parametrize(
    "found, wanted, before, after, calls",
    [
        (Found(MANAGER, None, None), "p", (None, False), ("p", False), put(MANAGER, "p")),
        (Found(MANAGER, "p", "p"), "p", ("p", False), ("p", False), ()),
        (Found(MANAGER, "q", "q"), "p", ("q", False), ("p", False), put(MANAGER, "p")),
        (Found(MANAGER, "p", "p"), None, ("p", False), (None, False), put(MANAGER, None)),
        (Found(MANAGER, None, None), None, (None, False), (None, False), ()),
        # The same one, inherited, is not set: another default of the manager must not change it.
        (Found(CLUSTER, None, "p"), "p", ("p", True), ("p", False), put(CLUSTER, "p")),
        (Found(CLUSTER, "p", "q"), "p", ("p", False), ("p", False), ()),
        (Found(CLUSTER, "p", "q"), None, ("p", False), ("q", True), put(CLUSTER, None)),
        (Found(CLUSTER, "p", None), None, ("p", False), (None, True), put(CLUSTER, None)),
        (Found(CLUSTER, None, "q"), None, ("q", True), ("q", True), ()),
    ],
)
def test_plan(found: Found, wanted: str | None, before: Any, after: Any, calls: Any) -> None:
    planned = plan(found, wanted)
    assert planned.calls == calls
    states = (planned.before, planned.after)
    assert [(state["provider"], state["inherited"]) for state in states] == [before, after]


@pytest.mark.parametrize(
    "managers, own, expected",
    [
        ({}, {"inherited": True}, Found(CLUSTER, None, None)),
        ({"provider": "p"}, {"inherited": True, "provider": "p"}, Found(CLUSTER, None, "p")),
        ({"provider": "p"}, {"inherited": False, "provider": "q"}, Found(CLUSTER, "q", "p")),
    ],
)
def test_read(client: Any, managers: Any, own: Any, expected: Found) -> None:
    with client({("GET", MANAGER): managers, ("GET", CLUSTER): own}) as session:
        assert read(session, "one") == expected
        assert read(session, None) == Found(MANAGER, managers.get("provider"), managers.get("provider"))


def test_a_cluster_that_is_not_there_is_an_error(run_module: Any, client: Any) -> None:
    fake = client({("GET", MANAGER): {}})
    result = run_module("default_key_provider", fake, cluster="two", name="p")
    assert result["failed"] is True and "no cluster is named two" in result["msg"]


def test_a_provider_is_needed(run_module: Any, client: Any) -> None:
    assert run_module("default_key_provider", client({}))["failed"] is True
