# SPDX-License-Identifier: GPL-3.0-or-later
"""Client certificates of providers: keys are made once, and never show."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import ApiError, Call
from ansible_collections.trusted.infrastructure.plugins.modules.key_provider_client_certificate import (
    plan,
    request_of,
)

BASE = "/vcenter/trusted-infrastructure/trust-authority-clusters/domain-c1/kms/providers/p/client-certificate"
NOTHING = {"certificate": None, "csr": None}
CERTIFIED = {"certificate": "a certificate", "csr": None}
REQUESTED = {"certificate": None, "csr": "a request"}
BOTH = {"certificate": "a certificate", "csr": "a request"}
MAKE = Call("POST", BASE, task=True)
REQUEST = Call("POST", f"{BASE}/csr", task=True)


def install(**body: str) -> Call:
    return Call("PATCH", BASE, body, task=True)


def parameters(method: str, **changes: Any) -> dict[str, Any]:
    return {"method": method, "certificate": None, "private_key": None, "force": False, **changes}


@pytest.mark.parametrize(
    "current, given, after, calls",
    [
        (NOTHING, parameters("self_signed"), {**NOTHING, "certificate": "<new>"}, (MAKE,)),
        (REQUESTED, parameters("self_signed"), {**REQUESTED, "certificate": "<new>"}, (MAKE,)),
        (CERTIFIED, parameters("self_signed"), CERTIFIED, ()),
        (CERTIFIED, parameters("self_signed", force=True), {**CERTIFIED, "certificate": "<new>"}, (MAKE,)),
        (NOTHING, parameters("csr"), {**NOTHING, "csr": "<new>"}, (REQUEST,)),
        (REQUESTED, parameters("csr"), REQUESTED, ()),
        (CERTIFIED, parameters("csr"), CERTIFIED, ()),
        (BOTH, parameters("csr"), BOTH, ()),
        (BOTH, parameters("csr", force=True), {**BOTH, "csr": "<new>"}, (REQUEST,)),
        (
            REQUESTED,
            parameters("signed", certificate="a certificate"),
            CERTIFIED,
            (install(certificate="a certificate"),),
        ),
        (BOTH, parameters("signed", certificate="a certificate"), BOTH, ()),
        (
            BOTH,
            parameters("signed", certificate="a certificate", force=True),
            CERTIFIED,
            (install(certificate="a certificate"),),
        ),
        (
            BOTH,
            parameters("signed", certificate="another", private_key="key"),
            {"certificate": "another", "csr": "a request"},
            (install(certificate="another", private_key="key"),),
        ),
    ],
)
def test_plan(current: Any, given: Any, after: Any, calls: Any) -> None:
    planned = plan(BASE, current, given)
    assert (planned.before, planned.after, planned.calls) == (current, after, calls)


@pytest.mark.parametrize(
    "current, given, answers, expected",
    [
        (NOTHING, parameters("csr"), [{"csr": "made"}], {"csr": "made"}),
        (NOTHING, parameters("csr"), [], {}),
        (REQUESTED, parameters("csr"), [], {"csr": "a request"}),
        (CERTIFIED, parameters("csr"), [], {}),
        (NOTHING, parameters("self_signed"), [None], {}),
        (REQUESTED, parameters("signed", certificate="c"), [None], {}),
    ],
)
def test_the_request_that_is_outstanding(current: Any, given: Any, answers: list[Any], expected: Any) -> None:
    assert request_of(plan(BASE, current, given), answers) == expected


def test_a_private_key_never_shows(run_module: Any, client: Any) -> None:
    none = ApiError("none", "NOT_FOUND", 404)
    fake = client({("GET", BASE): none, ("GET", f"{BASE}/csr"): none, ("PATCH", BASE): None})
    given = {"cluster": "one", "provider": "p", "method": "signed", "certificate": "a certificate"}
    result = run_module("key_provider_client_certificate", fake, **given, private_key="the-private-key")
    assert result["changed"] is True
    assert fake.changes == [install(certificate="a certificate", private_key="the-private-key")]
    assert "the-private-key" not in result.output


def test_signed_needs_a_certificate(run_module: Any, client: Any) -> None:
    result = run_module(
        "key_provider_client_certificate", client({}), cluster="one", provider="p", method="signed"
    )
    assert result["msg"].endswith("missing: certificate")


@pytest.mark.parametrize("method", ["self_signed", "csr"])
@pytest.mark.parametrize("name", ["certificate", "private_key"])
def test_what_a_method_does_not_use_is_refused(run_module: Any, client: Any, method: str, name: str) -> None:
    fake = client({})
    given = {"cluster": "one", "provider": "p", "method": method, name: "x"}
    result = run_module("key_provider_client_certificate", fake, **given)
    assert result["failed"] is True
    assert result["msg"].startswith(f"{name}: ")
    assert fake.calls == []
