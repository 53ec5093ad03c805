# SPDX-License-Identifier: GPL-3.0-or-later
"""Enrolled endorsement keys: the identity of a host, which nothing replaces by itself."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import ApiError, Call
from ansible_collections.trusted.infrastructure.plugins.modules.tpm2_endorsement_key import plan, wanted_of

BASE = "/vcenter/trusted-infrastructure/trust-authority-clusters/domain-c1/attestation/tpm2/endorsement-keys"
ENTRY = {"name": "h", "public_key": "key"}
KEY = {"public_key": "key"}
OTHER = {"public_key": "other"}
CERTIFIED = {"public_key": "other", "certificate": "certificate"}
DELETE = Call("DELETE", f"{BASE}/h", task=True)


def create(**body: str) -> Call:
    return Call("POST", BASE, {"name": "h", **body}, task=True)


@pytest.mark.parametrize(
    "current, wanted, replace, after, calls, undo",
    [
        (None, None, False, None, (), ()),
        (ENTRY, None, False, None, (DELETE,), ()),
        (None, KEY, False, ENTRY, (create(public_key="key"),), ()),
        (None, CERTIFIED, False, {"name": "h", **OTHER}, (create(certificate="certificate"),), ()),
        (ENTRY, KEY, False, ENTRY, (), ()),
        (ENTRY, KEY, True, ENTRY, (), ()),
        (ENTRY, {**CERTIFIED, **KEY}, False, ENTRY, (), ()),
        (ENTRY, {**CERTIFIED, **KEY}, True, ENTRY, (), ()),
        (
            ENTRY,
            OTHER,
            True,
            {"name": "h", **OTHER},
            (DELETE, create(public_key="other")),
            (create(public_key="key"),),
        ),
        (
            ENTRY,
            CERTIFIED,
            True,
            {"name": "h", **OTHER},
            (DELETE, create(certificate="certificate")),
            (create(public_key="key"),),
        ),
    ],
)
def test_plan(current: Any, wanted: Any, replace: bool, after: Any, calls: Any, undo: Any) -> None:
    planned = plan(BASE, current, wanted, "h", replace)
    assert (planned.before, planned.after, planned.calls, planned.undo) == (current, after, calls, undo)


@pytest.mark.parametrize("wanted", [OTHER, CERTIFIED])
def test_another_key_is_refused(wanted: Any) -> None:
    with pytest.raises(ApiError, match="another endorsement key is enrolled as h; .* set replace to true"):
        plan(BASE, ENTRY, wanted, "h", False)


def test_wanted() -> None:
    given = {"state": "present", "public_key": " key\n", "certificate": None}
    assert wanted_of(given) == KEY
    assert wanted_of({**given, "state": "absent"}) is None
    with pytest.raises(ValueError, match="^certificate: this is not one certificate"):
        wanted_of({**given, "public_key": None, "certificate": "no certificate"})


def test_another_key_is_refused_in_check_mode_too(run_module: Any, client: Any) -> None:
    fake = client({("GET", f"{BASE}/h"): {"public_key": "key", "health": "OK"}})
    for check in (False, True):
        result = run_module(
            "tpm2_endorsement_key", fake, cluster="one", name="h", public_key="x", check=check
        )
        assert "another endorsement key" in result["msg"]
    assert fake.changes == []


@pytest.mark.parametrize(
    "given, text",
    [
        ({}, "public_key, certificate"),
        ({"public_key": "x", "certificate": "y"}, "mutually exclusive"),
        ({"certificate": "y"}, "certificate: this is not one certificate"),
    ],
)
def test_what_is_given_wrongly(run_module: Any, client: Any, given: dict[str, str], text: str) -> None:
    assert text in run_module("tpm2_endorsement_key", client({}), cluster="one", name="h", **given)["msg"]
