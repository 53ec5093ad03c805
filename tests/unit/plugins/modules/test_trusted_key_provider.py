# SPDX-License-Identifier: GPL-3.0-or-later
"""Trusted key providers of the workload side, and which one is the default."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import Call
from ansible_collections.trusted.infrastructure.plugins.modules.trusted_key_provider import (
    Found,
    plan,
    read,
)

RESOURCE = "/trust/trusted-key-providers"
ONE = f"{RESOURCE}/p"
PLAIN = {"provider": "p", "group": "g", "default": False}
DEFAULT = {**PLAIN, "default": True}
DELETE = Call("DELETE", ONE, task=True)


def patch(**changes: Any) -> tuple[Call, ...]:
    return (Call("PATCH", ONE, changes, task=True),)


def create(body: Any) -> tuple[Call, ...]:
    return (Call("POST", RESOURCE, body, task=True),)


@pytest.mark.parametrize(
    "current, has_default, group, default, state, after, calls",
    [
        (None, True, "g", False, "present", PLAIN, create(PLAIN)),
        (None, True, "g", True, "present", DEFAULT, create(DEFAULT)),
        # The first one becomes the default by itself.
        (None, False, "g", False, "present", DEFAULT, create(PLAIN)),
        (PLAIN, True, "g", False, "present", PLAIN, ()),
        (PLAIN, True, "g", True, "present", DEFAULT, patch(default=True)),
        (DEFAULT, True, "g", True, "present", DEFAULT, ()),
        # Nothing stops being the default by not being named.
        (DEFAULT, True, "g", False, "present", DEFAULT, ()),
        (DEFAULT, True, "h", False, "present", {**DEFAULT, "group": "h"}, patch(group="h")),
        (PLAIN, True, "h", True, "present", {**DEFAULT, "group": "h"}, patch(group="h", default=True)),
        (None, True, None, False, "absent", None, ()),
        (PLAIN, True, None, False, "absent", None, (DELETE,)),
    ],
)
def test_plan(
    current: Any, has_default: bool, group: Any, default: bool, state: str, after: Any, calls: Any
) -> None:
    planned = plan(Found(current, has_default), "p", group, default, state)
    assert (planned.before, planned.after, planned.calls) == (current, after, calls)


OTHERS = "/trust/key-providers"
DEFAULT_ONE = "/trust/default-key-provider"
NATIVE = {"provider": "q", "type": "NATIVE", "default": True}


@pytest.mark.parametrize("row", [PLAIN, DEFAULT])
def test_one_that_is_there(client: Any, row: Any) -> None:
    with client({("GET", RESOURCE): [{**DEFAULT, "provider": "q"}, row]}) as session:
        assert read(session, "p", "present", True) == Found(row)


@pytest.mark.parametrize("default", [None, "q"])
def test_a_new_one_is_the_default_where_no_kind_has_one(client: Any, default: str | None) -> None:
    """What asks all hosts is asked in check mode only."""
    with client({("GET", RESOURCE): [], ("GET", DEFAULT_ONE): {"provider": default}}) as session:
        assert read(session, "p", "present", False) == Found(None, default is not None)
        assert read(session, "p", "absent", True) == Found(None)


def test_a_name_is_for_one_provider_of_any_kind(run_module: Any, client: Any) -> None:
    answers = {("GET", RESOURCE): [], ("GET", DEFAULT_ONE): {"provider": "q"}}
    fake = client({**answers, ("GET", OTHERS): [{**NATIVE, "provider": "p"}]})
    result = run_module("trusted_key_provider", fake, check=True, name="p", group="g")
    assert (result["changed"], fake.changes) == (True, [])
    assert "has a native key provider" in str(result["warnings"])
    assert run_module("trusted_key_provider", fake, check=True, name="p", state="absent")["changed"] is False
