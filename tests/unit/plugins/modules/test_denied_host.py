# SPDX-License-Identifier: GPL-3.0-or-later
"""Denied hosts."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import Call
from ansible_collections.trusted.infrastructure.plugins.modules.denied_host import plan

BASE = "/trust/clusters/domain-c1/denied-hosts"
DENIAL = {"denial": "h:ab", "host": "h", "ek_digest": "ab", "reason": "stolen"}
WANTED = {"host": "h", "ek_digest": "ab", "reason": "stolen"}
DELETE = Call("DELETE", f"{BASE}/h%3Aab", task=True)


@pytest.mark.parametrize(
    "current, wanted, after, calls",
    [
        (None, None, None, ()),
        (DENIAL, None, None, (DELETE,)),
        (None, WANTED, WANTED, (Call("POST", BASE, WANTED, task=True),)),
        (DENIAL, WANTED, DENIAL, ()),
        (DENIAL, {**WANTED, "reason": "another"}, DENIAL, ()),
    ],
)
def test_plan(current: Any, wanted: Any, after: Any, calls: Any) -> None:
    planned = plan(BASE, current, wanted)
    assert (planned.before, planned.after, planned.calls) == (current, after, calls)


@pytest.mark.parametrize(
    "host, ek_digest, changed", [("h", "ab", False), ("h", "AB", False), ("h", "cd", True), ("g", "ab", True)]
)
def test_the_same_host_with_another_tpm_is_another(
    run_module: Any, client: Any, host: str, ek_digest: str, changed: bool
) -> None:
    fake = client({("GET", BASE): [{**DENIAL, "health": "OK"}]})
    result = run_module("denied_host", fake, cluster="one", host=host, ek_digest=ek_digest, check=True)
    assert result["changed"] is changed
