# SPDX-License-Identifier: GPL-3.0-or-later
"""Passwords for key servers: sent when there is a reason, shown never."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import ApiError, Call
from ansible_collections.trusted.infrastructure.plugins.modules.key_provider_credential import plan

ONE = "/vcenter/trusted-infrastructure/trust-authority-clusters/domain-c1/kms/providers/p"
SEND = Call("PUT", f"{ONE}/credential", "the-kmip-password", task=True)


@pytest.mark.parametrize(
    "health, known, sent_by",
    [
        ("OK", True, {"always"}),
        ("ERROR", True, {"always", "unhealthy"}),
        ("OK", False, {"always", "unhealthy", "on_create"}),
        ("ERROR", False, {"always", "unhealthy", "on_create"}),
        # vCenter Server does not tell whether there is one.
        ("OK", None, {"always"}),
        ("WARNING", None, {"always", "unhealthy", "on_create"}),
    ],
)
@pytest.mark.parametrize("update", ["always", "unhealthy", "on_create"])
def test_plan(health: str, known: bool | None, sent_by: set[str], update: str) -> None:
    current = {"health": health, "has_credential": known}
    planned = plan(ONE, current, "the-kmip-password", update)
    assert planned.calls == ((SEND,) if update in sent_by else ())
    assert "the-kmip-password" not in f"{planned.before}{planned.after}"
    assert (planned.before != planned.after) is planned.changed


@pytest.mark.parametrize("check", [True, False])
def test_the_password_never_shows(run_module: Any, client: Any, check: bool) -> None:
    found = {"status": {"health": "OK"}, "has_credential": False}
    fake = client({("GET", ONE): found, ("PUT", f"{ONE}/credential"): None})
    given = {"cluster": "one", "provider": "p", "kmip_password": "the-kmip-password"}
    result = run_module("key_provider_credential", fake, **given, check=check)
    assert (result["changed"], fake.changes) == (True, [] if check else [SEND])
    assert "the-kmip-password" not in result.output


def test_nor_when_the_server_quotes_it(run_module: Any, client: Any) -> None:
    error = ApiError("credential: 'the-kmip-password' is too weak")
    fake = client({("GET", ONE): {"status": {"health": "OK"}}, ("PUT", f"{ONE}/credential"): error})
    given = {"cluster": "one", "provider": "p", "kmip_password": "the-kmip-password", "update": "always"}
    result = run_module("key_provider_credential", fake, **given)
    assert result["failed"]
    assert "the-kmip-password" not in result.output
