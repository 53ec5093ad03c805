# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of native key providers: export, download, import."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from services.manager.harness import Api, Clock
from services.manager.native_calls import (
    HOSTS,
    KEY_ID,
    OTHER_ID,
    PROVIDERS,
    SECRET,
    backup,
    create,
    error_of,
    fetch,
    maintained,
    offered,
    seen,
    usable,
)
from services.manager.native_hosts import NativeHosts

from trusted_infrastructure.manager import events
from trusted_infrastructure.manager.service import application

# ---- refusals first


def test_an_export_that_nobody_fetched_is_no_backup(manager: Api, hosts: NativeHosts) -> None:
    create(manager)
    offered(manager)
    maintained(manager)
    assert hosts.agent("host1").pushes == []
    assert seen(manager, events.NATIVE_ALL_BACKED_UP) == []


def test_a_token_is_of_one_use_and_of_one_backup(manager: Api, clock: Clock) -> None:
    create(manager)
    path, token = offered(manager)
    other_path, other_token = offered(manager)
    refused = (401, "UNAUTHENTICATED", "download_token_invalid")
    for wrong in ("", "wrong", other_token, token[:-1], token.upper()):
        assert error_of(fetch(manager, path, wrong)) == refused
    answer = manager.request("GET", path)
    assert error_of(answer) == refused
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert error_of(fetch(manager, f"{path[:-1]}x", token)) == refused
    assert fetch(manager, path, token).status_code == 200
    assert error_of(fetch(manager, path, token)) == refused
    clock.now += 600
    assert error_of(fetch(manager, other_path, other_token)) == refused


def test_guessing_tokens_fills_no_audit_log_and_keeps_nobody_out(manager: Api, tmp_path: Path) -> None:
    create(manager)
    path, token = offered(manager)
    for number in range(40):
        assert fetch(manager, path, f"wrong {number}").status_code == 401
    assert 1 <= (tmp_path / "audit.log").read_text().count("download_token_invalid") <= 5
    assert fetch(manager, path, token).status_code == 200


def test_a_session_does_not_replace_the_token(manager: Api) -> None:
    create(manager)
    path, _token = offered(manager)
    assert manager.session
    assert manager.request("GET", path).status_code == 401


def test_a_backup_of_an_earlier_key_does_not_count(manager: Api) -> None:
    create(manager)
    path, token = offered(manager)
    manager.ok("PATCH", f"{PROVIDERS}/branch", json={"native_spec": {"key_id": OTHER_ID}})
    assert fetch(manager, path, token).status_code == 200
    info = manager.ok("GET", f"{PROVIDERS}/branch")
    assert [item["id"] for item in info["details"]] == ["trusted.infrastructure.native_not_backed_up"]


def test_nothing_waits_for_a_provider_that_was_removed(manager: Api) -> None:
    create(manager)
    path, token = offered(manager)
    manager.ok("DELETE", f"{PROVIDERS}/branch")
    assert fetch(manager, path, token).status_code == 401


def test_a_client_that_goes_away_gets_no_backup_counted(manager: Api) -> None:
    create(manager)
    path, token = offered(manager)

    async def broken() -> None:
        messages = iter([{"type": "http.request", "body": b"", "more_body": False}])

        async def receive() -> dict[str, Any]:
            return next(messages, {"type": "http.disconnect"})

        async def send(_message: Any) -> None:
            """As a server does when the client is gone."""

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "method": "GET",
            "path": f"/api{path}",
            "raw_path": f"/api{path}".encode(),
            "query_string": b"",
            "headers": [(b"authorization", f"Bearer {token}".encode())],
        }
        await application(manager.manager)(scope, receive, send)

    manager.run(broken())
    assert manager.ok("GET", f"{PROVIDERS}/branch")["details"][0]["id"].endswith("native_not_backed_up")


# ---- backups


def test_the_first_download_makes_it_usable_and_pushes_it(manager: Api, hosts: NativeHosts) -> None:
    usable(manager)
    for name in ("host1", "host2"):
        assert hosts.agent(name).keys == {"branch": {KEY_ID: SECRET}}
        assert hosts.agent(name).pushes[0].policy_public_key.startswith("-----BEGIN PUBLIC KEY-----")
    assert manager.ok("GET", PROVIDERS) == [{"provider": "branch", "type": "NATIVE", "health": "OK"}]
    info = manager.ok("GET", f"{HOSTS}/host1/kms/providers/branch")
    assert info == {"health": "OK", "details": [], "type": "NATIVE", "native_info": {"key_id": KEY_ID}}
    assert len(seen(manager, events.NATIVE_ALL_BACKED_UP)) == 1
    content = hosts.content("host1", "key_providers", "key_providers")
    assert content == {"version": 1, "providers": {"branch": "NATIVE"}, "default": "branch"}


@pytest.mark.parametrize("password", [None, "", "correct horse battery staple"])
def test_what_was_exported_can_be_imported(manager: Api, hosts: NativeHosts, password: str | None) -> None:
    create(manager, constraints={"tpm_required": True})
    manager.ok("PATCH", f"{PROVIDERS}/branch", json={"native_spec": {"key_id": OTHER_ID}})
    content = base64.b64encode(backup(manager, password)).decode()
    given = dict(hosts.agent("host1").keys["branch"])
    manager.ok("DELETE", f"{PROVIDERS}/branch")
    assert hosts.agent("host1").keys == {}
    spec = {"config": content} | ({"password": password} if password else {})
    expected = {
        "provider": "branch",
        "type": "NATIVE",
        "native_info": {"key_id": OTHER_ID},
        "export_time": "2027-01-15T08:00:00.000Z",
        "constraints": {"tpm_required": True},
    }
    assert manager.ok("POST", f"{PROVIDERS}?action=import", json={**spec, "dry_run": True}) == expected
    assert manager.ok("GET", PROVIDERS) == []
    assert manager.ok("POST", f"{PROVIDERS}?action=import", json=spec) == expected
    assert hosts.agent("host2").keys == {"branch": given}
    assert given[KEY_ID] == SECRET
    assert manager.ok("GET", f"{PROVIDERS}/branch")["health"] == "OK"
    answer = manager.request("POST", f"{PROVIDERS}?action=import", json=spec)
    assert error_of(answer) == (400, "ALREADY_EXISTS", "already_exists")
    assert manager.ok("POST", f"{PROVIDERS}?action=import", json={**spec, "dry_run": True}) == expected


def test_an_import_may_change_the_constraints(manager: Api) -> None:
    content = base64.b64encode(usable(manager, constraints={"tpm_required": True})).decode()
    manager.ok("DELETE", f"{PROVIDERS}/branch")
    spec = {"config": content, "constraints": {"tpm_required": False}}
    assert "constraints" not in manager.ok("POST", f"{PROVIDERS}?action=import", json=spec)
    assert "constraints" not in manager.ok("GET", f"{PROVIDERS}/branch")


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({}, "spec.config"),
        ({"config": "!"}, "spec.config"),
        ({"config": ""}, "spec.config"),
        ({"config": base64.b64encode(b"\x30\x03\x02\x01\x03").decode()}, "spec.config"),
        ({"config": base64.b64encode(bytes(65537)).decode()}, "spec.config"),
    ],
)
def test_what_is_no_backup_is_refused(manager: Api, spec: dict[str, Any], field: str) -> None:
    answer = manager.request("POST", f"{PROVIDERS}?action=import", json=spec)
    assert error_of(answer) == (400, "INVALID_ARGUMENT", field)


def test_a_wrong_password_names_the_password(manager: Api) -> None:
    create(manager)
    content = base64.b64encode(backup(manager, "right")).decode()
    for password in ({}, {"password": "wrong"}):
        answer = manager.request("POST", f"{PROVIDERS}?action=import", json={"config": content, **password})
        assert error_of(answer) == (400, "INVALID_ARGUMENT", "spec.password")
