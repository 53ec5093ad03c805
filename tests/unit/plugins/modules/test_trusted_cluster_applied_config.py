# SPDX-License-Identifier: GPL-3.0-or-later
"""What the hosts of a cluster have."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import Call
from ansible_collections.trusted.infrastructure.plugins.modules.trusted_cluster_applied_config import (
    NOTHING_APPLIED,
    plan,
)

CONFIG = "/vcenter/trusted-infrastructure/trusted-clusters/domain-c1/services-applied-config"
PATCH = Call("PATCH", "/config", task=True)
DELETE = Call("DELETE", "/config", task=True)


@pytest.mark.parametrize(
    "health, applied, state, calls",
    [
        ("OK", True, "remediated", ()),
        ("NONE", False, "remediated", ()),
        ("ERROR", True, "remediated", (PATCH,)),
        ("ERROR", False, "remediated", (PATCH,)),
        ("OK", True, "absent", (DELETE,)),
        ("ERROR", True, "absent", (DELETE,)),
        ("ERROR", False, "absent", ()),
        ("NONE", False, "absent", ()),
    ],
)
def test_plan(health: str, applied: bool, state: str, calls: Any) -> None:
    current = {"health": health, "applied": applied}
    planned = plan("/config", current, state)
    assert (planned.before, planned.calls) == (current, calls)
    assert (planned.after == current) is not planned.changed
    assert planned.after["applied"] is (state == "remediated" if calls else applied)


@pytest.mark.parametrize(
    "health, details, changed",
    [
        ("OK", [], True),
        ("ERROR", ["x"], True),
        ("ERROR", ["x", NOTHING_APPLIED], False),
        ("NONE", ["x"], False),
    ],
)
def test_what_is_there_to_be_taken_off(
    run_module: Any, client: Any, health: str, details: list[str], changed: bool
) -> None:
    answer = {"health": health, "details": [{"id": identifier} for identifier in details]}
    fake = client({("GET", CONFIG): answer})
    result = run_module("trusted_cluster_applied_config", fake, cluster="one", state="absent", check=True)
    assert result["changed"] is changed
