# SPDX-License-Identifier: GPL-3.0-or-later
"""CAs of TPM vendors."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import Call
from ansible_collections.trusted.infrastructure.plugins.modules.tpm2_ca_certificate import (
    plan,
    specification,
    wanted_of,
)

BASE = "/vcenter/trusted-infrastructure/trust-authority-clusters/domain-c1/attestation/tpm2/ca-certificates"
ENTRY = {"name": "vendor", "cert_chain": ["root", "issuing"], "eku_exception": False, "crls": []}
EXCEPTION = {**ENTRY, "eku_exception": True}
LISTED = {**ENTRY, "crls": ["list"]}
DELETE = Call("DELETE", f"{BASE}/vendor", task=True)


def wanted(**changes: Any) -> dict[str, Any]:
    return {**ENTRY, "eku_exception": None, "crls": None, **changes}


def create(entry: Any) -> Call:
    return Call("POST", BASE, specification(entry), task=True)


def set_lists(lists: list[str]) -> Call:
    return Call("PATCH", "/trust/clusters/domain-c1/ca-certificates/vendor", {"crls": lists}, task=True)


def test_what_is_sent() -> None:
    plain = {"name": "vendor", "cert_chain": {"cert_chain": ["root", "issuing"]}}
    assert specification(ENTRY) == plain
    assert specification(EXCEPTION) == {**plain, "eku_exception": True}
    assert specification(LISTED) == {**plain, "crls": ["list"]}


@pytest.mark.parametrize(
    "current, given, after, calls, undo",
    [
        (None, None, None, (), ()),
        (ENTRY, None, None, (DELETE,), (create(ENTRY),)),
        (None, wanted(), ENTRY, (create(ENTRY),), ()),
        (None, wanted(eku_exception=True), EXCEPTION, (create(EXCEPTION),), ()),
        (ENTRY, wanted(), ENTRY, (), ()),
        (ENTRY, wanted(eku_exception=False), ENTRY, (), ()),
        (EXCEPTION, wanted(), EXCEPTION, (), ()),
        (ENTRY, wanted(crls=["list"]), LISTED, (set_lists(["list"]),), ()),
        (None, wanted(crls=["list"]), LISTED, (create(LISTED),), ()),
        (LISTED, wanted(), LISTED, (), ()),
        (LISTED, wanted(crls=["list"]), LISTED, (), ()),
        (LISTED, wanted(crls=[]), ENTRY, (set_lists([]),), ()),
        (
            LISTED,
            wanted(eku_exception=True, crls=[]),
            EXCEPTION,
            (DELETE, create(EXCEPTION)),
            (create(LISTED),),
        ),
        (ENTRY, wanted(eku_exception=True), EXCEPTION, (DELETE, create(EXCEPTION)), (create(ENTRY),)),
        (
            EXCEPTION,
            wanted(cert_chain=["root"]),
            {**EXCEPTION, "cert_chain": ["root"]},
            (DELETE, create({**EXCEPTION, "cert_chain": ["root"]})),
            (create(EXCEPTION),),
        ),
        (
            ENTRY,
            wanted(cert_chain=["issuing", "root"]),
            {**ENTRY, "cert_chain": ["issuing", "root"]},
            (DELETE, create({**ENTRY, "cert_chain": ["issuing", "root"]})),
            (create(ENTRY),),
        ),
    ],
)
def test_plan(current: Any, given: Any, after: Any, calls: Any, undo: Any) -> None:
    planned = plan(BASE, current, given, "vendor")
    assert (planned.before, planned.after, planned.calls, planned.undo) == (current, after, calls, undo)


def test_wanted() -> None:
    entry = {"name": "vendor", "cert_chain": ["root"], "eku_exception": None, "crls": None}
    parameters = {**entry, "state": "present"}
    assert wanted_of(parameters) == entry
    assert wanted_of({**parameters, "crls": []}) == {**entry, "crls": []}
    assert wanted_of({**parameters, "state": "absent", "cert_chain": None}) is None


def test_a_server_that_knows_no_exceptions(run_module: Any, client: Any) -> None:
    found = {"cert_chain": {"cert_chain": ["root"]}, "health": "OK", "details": []}
    fake = client({("GET", f"{BASE}/vendor"): found})
    given = {"cluster": "one", "name": "vendor", "cert_chain": ["root"]}
    assert run_module("tpm2_ca_certificate", fake, **given)["changed"] is False
    assert run_module("tpm2_ca_certificate", fake, **given, eku_exception=False)["changed"] is False
