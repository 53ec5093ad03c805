# SPDX-License-Identifier: GPL-3.0-or-later
"""Scopes."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import ApiError, Call
from ansible_collections.trusted.infrastructure.plugins.modules.scope import plan

BASE = "/trust/clusters/domain-c1/scopes"
ONE = f"{BASE}/the%20scope"
FIELDS = {"principal": "https://w/", "trusted_cluster": "t", "base_images": ["*"], "providers": ["a", "b"]}
SCOPE = {"scope": "the scope", **FIELDS}
DELETE = Call("DELETE", ONE, task=True)


def patch(**changes: Any) -> tuple[Call, ...]:
    return (Call("PATCH", ONE, changes, task=True),)


@pytest.mark.parametrize(
    "current, wanted, after, calls",
    [
        (None, None, None, ()),
        (SCOPE, None, None, (DELETE,)),
        (None, SCOPE, SCOPE, (Call("POST", BASE, SCOPE, task=True),)),
        (SCOPE, SCOPE, SCOPE, ()),
        # Withdrawing the last one is a change, and an empty list is not "not given".
        (SCOPE, {**SCOPE, "providers": []}, {**SCOPE, "providers": []}, patch(providers=[])),
        (SCOPE, {**SCOPE, "base_images": ["1"]}, {**SCOPE, "base_images": ["1"]}, patch(base_images=["1"])),
    ],
)
def test_plan(current: Any, wanted: Any, after: Any, calls: Any) -> None:
    planned = plan(BASE, current, wanted, "the scope")
    assert (planned.before, planned.after, planned.calls) == (current, after, calls)


def test_a_scope_that_is_not_there_is_absent_already(run_module: Any, client: Any) -> None:
    fake = client({("GET", ONE): ApiError("no", "NOT_FOUND", 404)})
    result = run_module("scope", fake, cluster="one", name="the scope", state="absent")
    assert (result["changed"], fake.changes) == (False, [])


@pytest.mark.parametrize("missing", FIELDS)
def test_nothing_is_allowed_by_leaving_it_out(run_module: Any, client: Any, missing: str) -> None:
    given = {key: value for key, value in FIELDS.items() if key != missing}
    result = run_module("scope", client({}), cluster="one", name="s", **given)
    assert result["msg"].endswith(f"missing: {missing}")
