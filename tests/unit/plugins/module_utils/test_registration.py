# SPDX-License-Identifier: GPL-3.0-or-later
"""Registrations of services: wanted, read, planned."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import Call
from ansible_collections.trusted.infrastructure.plugins.module_utils.registration import (
    arguments,
    plan,
    read,
    wanted_of,
)

RESOURCE = "/services"
PARAMETERS = {
    "address": "ta1",
    "service_port": 443,
    "trusted_ca": ["a chain"],
    "group": "g",
    "trust_authority_cluster": "domain-c8",
    "state": "present",
}
WANTED = {
    "address": {"hostname": "ta1", "port": 443},
    "trusted_CA": {"cert_chain": ["a chain"]},
    "group": "g",
    "trust_authority_cluster": "domain-c8",
}
OTHER = {**WANTED, "group": "another"}
DELETE = Call("DELETE", "/services/a%2F1")


def test_wanted() -> None:
    assert wanted_of(PARAMETERS) == WANTED
    assert wanted_of({**PARAMETERS, "state": "absent", "trusted_ca": None}) is None
    assert set(arguments()) == set(PARAMETERS)


@pytest.mark.parametrize(
    "current, wanted, calls, undo",
    [
        (None, None, (), ()),
        (WANTED, WANTED, (), ()),
        (None, WANTED, (Call("POST", RESOURCE, WANTED),), ()),
        (WANTED, None, (DELETE,), (Call("POST", RESOURCE, WANTED),)),
        (OTHER, WANTED, (DELETE, Call("POST", RESOURCE, WANTED)), (Call("POST", RESOURCE, OTHER),)),
    ],
)
def test_plan(current: Any, wanted: Any, calls: Any, undo: Any) -> None:
    planned = plan(RESOURCE, "a/1", current, wanted)
    assert (planned.before, planned.after, planned.calls, planned.undo) == (current, wanted, calls, undo)


@pytest.mark.parametrize("address", [{"hostname": "ta1", "port": 443}, {"hostname": "ta1"}])
def test_read_fills_in_the_port_that_a_server_leaves_out(client: Any, address: dict[str, Any]) -> None:
    found = {**WANTED, "address": address}
    fake = client({("POST", RESOURCE): [{"service": "a/1"}], ("GET", "/services/a%2F1"): found})
    with fake as session:
        assert read(session, RESOURCE, "ta1", 443) == ("a/1", WANTED)
    asked = {"address": [{"hostname": "ta1", "port": 443}]}
    assert fake.calls[0] == Call("POST", RESOURCE, asked, query=(("action", "query"),))


def test_read_of_what_is_not_registered(client: Any) -> None:
    with client({("POST", RESOURCE): []}) as session:
        assert read(session, RESOURCE, "ta1", 443) == ("", None)
