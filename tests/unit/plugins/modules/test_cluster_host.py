# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts of clusters."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import Call
from ansible_collections.trusted.infrastructure.plugins.modules.cluster_host import plan, wanted_of

BASE = "/trust/clusters/domain-c1/hosts"
HOST = {"host": "host-1", "name": "first", "ek_digest": "ab", "scope": "lab"}
PLAIN = {"host": "host-1", "name": "first", "ek_digest": None, "scope": None}
NEW = {"name": "first", "ek_digest": "ab", "scope": "lab"}
NEW_PLAIN = {"name": "first", "ek_digest": None, "scope": None}


def patch(**changes: str) -> tuple[Call, ...]:
    return (Call("PATCH", f"{BASE}/host-1", changes, task=True),)


@pytest.mark.parametrize(
    "current, wanted, after, calls",
    [
        (None, NEW, NEW, (Call("POST", BASE, NEW, task=True),)),
        (None, NEW_PLAIN, {"name": "first"}, (Call("POST", BASE, {"name": "first"}, task=True),)),
        (HOST, NEW, HOST, ()),
        (PLAIN, NEW_PLAIN, PLAIN, ()),
        # What is not given is left as it is.
        (HOST, NEW_PLAIN, HOST, ()),
        (HOST, {**NEW, "ek_digest": "cd"}, {**HOST, "ek_digest": "cd"}, patch(ek_digest="cd")),
        (HOST, {**NEW, "scope": "other"}, {**HOST, "scope": "other"}, patch(scope="other")),
        (None, None, None, ()),
        (HOST, None, None, (Call("DELETE", f"{BASE}/host-1", task=True),)),
    ],
)
def test_plan(current: Any, wanted: Any, after: Any, calls: Any) -> None:
    planned = plan(BASE, current, wanted)
    assert (planned.before, planned.after, planned.calls) == (current, after, calls)


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, NEW),
        ({"ek_digest": "AB"}, NEW),
        ({"ek_digest": None, "scope": None}, NEW_PLAIN),
        ({"state": "absent"}, None),
    ],
)
def test_wanted(changes: dict[str, Any], expected: Any) -> None:
    assert wanted_of({**NEW, "state": "present", **changes}) == expected


def test_hosts_of_another_name_are_others(run_module: Any, client: Any) -> None:
    fake = client({("GET", BASE): [HOST]})
    result = run_module("cluster_host", fake, cluster="one", name="first2", check=True)
    assert result["changed"] is True
    assert run_module("cluster_host", fake, cluster="one", name="first", check=True)["changed"] is False


@pytest.mark.parametrize("given", [{"ek_digest": "ab"}, {"scope": "lab"}])
def test_both_belong_together(run_module: Any, client: Any, given: dict[str, str]) -> None:
    result = run_module("cluster_host", client({}), cluster="one", name="first", **given)
    assert "ek_digest, scope" in result["msg"]
