# SPDX-License-Identifier: GPL-3.0-or-later
"""Clusters."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import Call
from ansible_collections.trusted.infrastructure.plugins.modules.cluster import plan

ONE = {"name": "one", "cluster": "domain-c1"}
CREATE = Call("POST", "/trust/clusters", {"name": "one"})
DELETE = Call("DELETE", "/trust/clusters/domain-c1")
REMEDIATE = Call("POST", "/trust/clusters/domain-c1", query=(("action", "remediate"),), task=True)


def of_health(health: str) -> dict[str, str]:
    return {**ONE, "health": health}


REMEDIATE = Call("POST", "/trust/clusters/domain-c1", query=(("action", "remediate"),), task=True)
HEALTHY, AWAY, EMPTY = ({**ONE, "health": health} for health in ("OK", "ERROR", "NONE"))


@pytest.mark.parametrize(
    "current, state, after, calls",
    [
        (None, "present", {"name": "one"}, (CREATE,)),
        (ONE, "present", ONE, ()),
        (None, "remediated", {"name": "one"}, (CREATE,)),
        (of_health("OK"), "remediated", of_health("OK"), ()),
        (of_health("NONE"), "remediated", of_health("NONE"), ()),
        (of_health("ERROR"), "remediated", of_health("OK"), (REMEDIATE,)),
        (None, "absent", None, ()),
        (ONE, "absent", None, (DELETE,)),
        (None, "remediated", {"name": "one"}, (CREATE,)),
        (HEALTHY, "remediated", HEALTHY, ()),
        (EMPTY, "remediated", EMPTY, ()),
        (AWAY, "remediated", HEALTHY, (REMEDIATE,)),
    ],
)
def test_plan(current: Any, state: str, after: Any, calls: Any) -> None:
    planned = plan(current, "one", state)
    assert (planned.before, planned.after, planned.calls) == (current, after, calls)


def test_the_server_filters_by_name(run_module: Any, client: Any) -> None:
    fake = client({("GET", "/vcenter/cluster"): [ONE]})
    result = run_module("cluster", fake, name="one")
    assert (result["changed"], result["resource"]) == (False, ONE)
    assert fake.calls == [Call("GET", "/vcenter/cluster", query=(("names", "one"),))]


def test_the_health_is_asked_for_where_it_matters(run_module: Any, client: Any) -> None:
    answers = {
        ("GET", "/vcenter/cluster"): [ONE],
        ("GET", "/trust/clusters/domain-c1/status"): {"health": "ERROR", "details": []},
        ("POST", "/trust/clusters/domain-c1"): None,
    }
    fake = client(answers)
    result = run_module("cluster", fake, name="one", state="remediated")
    assert (result["changed"], result["resource"]) == (True, HEALTHY)
    assert fake.calls[-1] == REMEDIATE
