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


@pytest.mark.parametrize(
    "current, state, after, calls",
    [
        (None, "present", {"name": "one"}, (CREATE,)),
        (ONE, "present", ONE, ()),
        (None, "absent", None, ()),
        (ONE, "absent", None, (DELETE,)),
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
