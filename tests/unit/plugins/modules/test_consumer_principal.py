# SPDX-License-Identifier: GPL-3.0-or-later
"""Principals of workload managers."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import Call
from ansible_collections.trusted.infrastructure.plugins.modules.consumer_principal import plan, wanted_of

BASE = "/vcenter/trusted-infrastructure/trust-authority-clusters/domain-c1/consumer-principals"
PARAMETERS = {
    "issuer": "https://w/",
    "issuer_alias": "w",
    "principal_name": "machine",
    "principal_domain": "lab",
    "principal_type": "STS_USER",
    "certificates": [["a chain"]],
    "state": "present",
}
WANTED = {
    "issuer": "https://w/",
    "issuer_alias": "w",
    "principal": {"id": {"name": "machine", "domain": "lab"}, "type": "STS_USER"},
    "certificates": [{"cert_chain": ["a chain"]}],
}
OTHER = {**WANTED, "certificates": [{"cert_chain": ["another chain"]}]}
DELETE = Call("DELETE", f"{BASE}/the%2Fid", task=True)


def create(body: Any) -> Call:
    return Call("POST", BASE, body, task=True)


def test_wanted() -> None:
    assert wanted_of(PARAMETERS) == WANTED
    assert wanted_of({**PARAMETERS, "state": "absent", "certificates": None}) is None


@pytest.mark.parametrize(
    "current, wanted, calls, undo",
    [
        (None, None, (), ()),
        (WANTED, WANTED, (), ()),
        (None, WANTED, (create(WANTED),), ()),
        (WANTED, None, (DELETE,), (create(WANTED),)),
        (OTHER, WANTED, (DELETE, create(WANTED)), (create(OTHER),)),
    ],
)
def test_plan(current: Any, wanted: Any, calls: Any, undo: Any) -> None:
    planned = plan(BASE, "the/id", current, wanted)
    assert (planned.before, planned.after, planned.calls, planned.undo) == (current, wanted, calls, undo)


def test_only_what_can_be_set_is_compared(run_module: Any, client: Any) -> None:
    found = {**WANTED, "id": "1", "health": "ERROR", "message": {}}
    fake = client({("POST", BASE): [{"id": "1"}], ("GET", f"{BASE}/1"): found})
    result = run_module("consumer_principal", fake, cluster="one", **PARAMETERS)
    assert (result["changed"], fake.changes) == (False, [])


def test_what_is_needed_is_named(run_module: Any, client: Any) -> None:
    result = run_module("consumer_principal", client({}), cluster="one", issuer="x")
    assert "issuer_alias, principal_name, principal_domain, certificates" in result["msg"]
