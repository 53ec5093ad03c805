# SPDX-License-Identifier: GPL-3.0-or-later
"""Native key providers: the operations of crypto_manager, and what is said of them."""

from __future__ import annotations

import asyncio
import base64
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from services.manager.harness import Api, Clock
from services.manager.native_calls import (
    HOSTS,
    KEY_ID,
    KEYS,
    OTHER_ID,
    PROVIDERS,
    SECRET,
    backup,
    create,
    error_of,
    fetch,
    maintained,
    offered,
    record,
    seen,
    usable,
)
from services.manager.native_hosts import NativeHosts

from trusted_infrastructure.key_delivery import MAX_PAGE
from trusted_infrastructure.manager import events, host_keys, native_push
from trusted_infrastructure.wrapping import check_value

# ---- refusals first


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({}, "spec.provider"),
        ({"provider": ""}, "spec.provider"),
        ({"provider": "a/b"}, "spec.provider"),
        ({"provider": "branch\u200b"}, "spec.provider"),  # looks like another, and nothing can be wrapped
        ({"provider": "south\u00a0branch"}, "spec.provider"),
        ({"provider": "a", "native_spec": {"key_id": "1"}}, "spec.native_spec.key_id"),
        ({"provider": "a", "native_spec": {"key_id": KEY_ID + "0"}}, "spec.native_spec.key_id"),
        (
            {"provider": "a", "native_spec": {"key_derivation_key": "AAAA"}},
            "spec.native_spec.key_derivation_key",
        ),
        (
            {"provider": "a", "native_spec": {"key_derivation_key": "a secret!"}},
            "spec.native_spec.key_derivation_key",
        ),
        ({"provider": "a", "constraints": {"tpm_required": "yes"}}, "spec.constraints.tpm_required"),
    ],
)
def test_a_bad_provider_names_the_field(manager: Api, spec: dict[str, Any], field: str) -> None:
    response = manager.request("POST", PROVIDERS, json=spec)
    assert error_of(response) == (400, "INVALID_ARGUMENT", field)
    assert "a secret" not in response.text
    assert manager.ok("GET", PROVIDERS) == []


def test_a_name_is_for_one_provider_of_any_kind(manager: Api) -> None:
    create(manager)
    answer = manager.request("POST", PROVIDERS, json={"provider": "branch"})
    assert error_of(answer) == (400, "ALREADY_EXISTS", "already_exists")
    body = {"provider": "finance", "group": "group-1"}
    manager.done("POST", "/trust/trusted-key-providers", json=body)
    answer = manager.request("POST", PROVIDERS, json={"provider": "finance"})
    assert error_of(answer) == (400, "ALREADY_EXISTS", "already_exists")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", f"{PROVIDERS}/nothing", None),
        ("PATCH", f"{PROVIDERS}/nothing", {"native_spec": {"key_id": KEY_ID}}),
        ("DELETE", f"{PROVIDERS}/nothing", None),
        ("POST", f"{PROVIDERS}?action=export", {"provider": "nothing"}),
        ("GET", f"{HOSTS}/host1/kms/providers/nothing", None),
        ("GET", "/trust/native-key-providers/nothing/keys", None),
        ("DELETE", f"/trust/native-key-providers/nothing/keys/{KEY_ID}", None),
    ],
)
def test_unknown_providers_are_404(manager: Api, method: str, path: str, body: Any) -> None:
    assert error_of(manager.request(method, path, json=body)) == (404, "NOT_FOUND", "no_provider")


def test_before_its_backup_no_host_has_it(manager: Api, hosts: NativeHosts) -> None:
    create(manager)
    maintained(manager)
    assert hosts.agent("host1").pushes == []
    info = manager.ok("GET", f"{PROVIDERS}/branch")
    assert (info["health"], info["type"], info["native_info"]) == ("WARNING", "NATIVE", {"key_id": KEY_ID})
    assert [item["id"] for item in info["details"]] == ["trusted.infrastructure.native_not_backed_up"]
    assert "constraints" not in info
    found = manager.ok("GET", f"{HOSTS}/host1/kms/providers")
    assert found == [{"provider": "branch", "type": "NATIVE", "health": "WARNING"}]


# ---- keys


def test_a_new_key_is_pushed_and_wants_a_backup(manager: Api, hosts: NativeHosts) -> None:
    usable(manager)
    before = len(seen(manager, events.NATIVE_NOT_BACKED_UP_AFTER_UPDATE))
    manager.ok("PATCH", f"{PROVIDERS}/branch", json={"native_spec": {"key_id": OTHER_ID.upper()}})
    held = hosts.agent("host1")
    assert list(held.keys["branch"]) == [OTHER_ID, KEY_ID]
    assert held.keys["branch"][OTHER_ID] != SECRET
    info = manager.ok("GET", f"{PROVIDERS}/branch")
    assert (info["health"], info["native_info"]["key_id"]) == ("WARNING", OTHER_ID)
    assert [item["id"] for item in info["details"]] == [
        "trusted.infrastructure.native_not_backed_up_after_update"
    ]
    assert len(seen(manager, events.NATIVE_NOT_BACKED_UP_AFTER_UPDATE)) == before + 1
    backup(manager)
    assert manager.ok("GET", f"{PROVIDERS}/branch")["health"] == "OK"


@pytest.mark.parametrize("spec", [{}, {"native_spec": {}}, {"native_spec": {"key_id": KEY_ID}}])
def test_the_same_key_is_no_change(manager: Api, hosts: NativeHosts, spec: dict[str, Any]) -> None:
    usable(manager)
    assert manager.request("PATCH", f"{PROVIDERS}/branch", json=spec).status_code == 204
    assert len(hosts.agent("host1").pushes) == 1
    assert manager.ok("GET", f"{PROVIDERS}/branch")["health"] == "OK"


def test_a_key_id_is_used_once(manager: Api) -> None:
    create(manager)
    manager.ok("PATCH", f"{PROVIDERS}/branch", json={"native_spec": {"key_id": OTHER_ID}})
    answer = manager.request("PATCH", f"{PROVIDERS}/branch", json={"native_spec": {"key_id": KEY_ID}})
    assert error_of(answer) == (400, "INVALID_ARGUMENT", "spec.native_spec.key_id")


def test_a_previous_key_is_removed_when_nothing_is_under_it(manager: Api, hosts: NativeHosts) -> None:
    usable(manager)
    manager.ok("PATCH", f"{PROVIDERS}/branch", json={"native_spec": {"key_id": OTHER_ID}})
    hosts.agent("host1").records = [record(KEY_ID)]
    assert manager.ok("GET", KEYS)[1] == {
        "key_id": KEY_ID,
        "state": "PREVIOUS",
        "hosts": [{"host": "host1", "keys": 1}, {"host": "host2", "keys": 0}],
        "unknown": [],
    }
    answer = manager.request("DELETE", f"{KEYS}/{KEY_ID}")
    assert error_of(answer) == (400, "NOT_ALLOWED_IN_CURRENT_STATE", "keys_left")
    hosts.agent("host1").records = []
    hosts.down = {"host2"}
    answer = manager.request("DELETE", f"{KEYS}/{KEY_ID}")
    assert error_of(answer) == (400, "NOT_ALLOWED_IN_CURRENT_STATE", "keys_left")
    hosts.down = set()
    hosts.agent("host2").unreadable = 1
    answer = manager.request("DELETE", f"{KEYS}/{KEY_ID}")
    assert error_of(answer) == (400, "NOT_ALLOWED_IN_CURRENT_STATE", "keys_left")
    hosts.agent("host2").unreadable = 0
    answer = manager.request("DELETE", f"{KEYS}/{OTHER_ID}")
    assert error_of(answer) == (400, "NOT_ALLOWED_IN_CURRENT_STATE", "native_key_current")
    manager.ok("DELETE", f"{KEYS}/{KEY_ID}")
    assert list(hosts.agent("host1").keys["branch"]) == [OTHER_ID]
    assert [key["key_id"] for key in manager.ok("GET", KEYS)] == [OTHER_ID]
    assert error_of(manager.request("DELETE", f"{KEYS}/{KEY_ID}"))[:2] == (404, "NOT_FOUND")
    # Its id is not used again: hosts are told that it was removed.
    answer = manager.request("PATCH", f"{PROVIDERS}/branch", json={"native_spec": {"key_id": KEY_ID}})
    assert error_of(answer) == (400, "NOT_ALLOWED_IN_CURRENT_STATE", "native_key_used")


def test_a_key_is_in_use_wherever_in_the_list_it_is(manager: Api, hosts: NativeHosts) -> None:
    usable(manager)
    manager.ok("PATCH", f"{PROVIDERS}/branch", json={"native_spec": {"key_id": OTHER_ID}})
    records = [replace(record(OTHER_ID), key_id=f"dek{number:05}") for number in range(2 * MAX_PAGE)]
    last = replace(record(KEY_ID), key_id="dek99999")
    hosts.agent("host1").records = [last, *reversed(records)]
    assert [key["hosts"][0]["keys"] for key in manager.ok("GET", KEYS)] == [2 * MAX_PAGE, 1]
    answer = manager.request("DELETE", f"{KEYS}/{KEY_ID}")
    assert error_of(answer) == (400, "NOT_ALLOWED_IN_CURRENT_STATE", "keys_left")
    hosts.agent("host1").records = records
    manager.ok("DELETE", f"{KEYS}/{KEY_ID}")


def test_a_list_without_end_is_none(
    manager: Api, hosts: NativeHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    usable(manager)
    manager.ok("PATCH", f"{PROVIDERS}/branch", json={"native_spec": {"key_id": OTHER_ID}})
    monkeypatch.setattr(host_keys, "MOST_KEYS", 2 * MAX_PAGE)
    hosts.agent("host1").records = [
        replace(record(OTHER_ID), key_id=f"dek{number:05}") for number in range(2 * MAX_PAGE)
    ]
    assert manager.ok("GET", KEYS)[1]["unknown"] == ["host1"]
    answer = manager.request("DELETE", f"{KEYS}/{KEY_ID}")
    assert error_of(answer) == (400, "NOT_ALLOWED_IN_CURRENT_STATE", "keys_left")


def test_a_removed_key_leaves_a_host_that_was_away(manager: Api, hosts: NativeHosts) -> None:
    usable(manager)
    manager.ok("PATCH", f"{PROVIDERS}/branch", json={"native_spec": {"key_id": OTHER_ID}})
    hosts.down = {"host2"}
    manager.ok("DELETE", f"{KEYS}/{KEY_ID}?force=true")
    assert set(hosts.agent("host2").keys["branch"]) == {KEY_ID, OTHER_ID}
    hosts.down = set()
    info = manager.ok("GET", f"{HOSTS}/host2/kms/providers/branch")
    assert (info["health"], info["details"][0]["id"]) == ("ERROR", "trusted.infrastructure.native_differs")
    maintained(manager)
    assert set(hosts.agent("host2").keys["branch"]) == {OTHER_ID}
    assert hosts.agent("host2").pushes[-1].removed == [KEY_ID]


def test_force_removes_a_key_that_is_in_use(manager: Api, hosts: NativeHosts) -> None:
    usable(manager)
    manager.ok("PATCH", f"{PROVIDERS}/branch", json={"native_spec": {"key_id": OTHER_ID}})
    hosts.agent("host1").records = [record(KEY_ID)]
    manager.ok("DELETE", f"{KEYS}/{KEY_ID}?force=true")
    assert list(hosts.agent("host2").keys["branch"]) == [OTHER_ID]


# ---- lists, events, secrets


def test_filters(manager: Api, hosts: NativeHosts) -> None:
    usable(manager)
    create(manager, "second", native_spec={})
    names = [item["provider"] for item in manager.ok("GET", PROVIDERS)]
    assert names == ["branch", "second"]
    assert [item["provider"] for item in manager.ok("GET", f"{PROVIDERS}?health=OK")] == ["branch"]
    found = manager.ok("GET", f"{PROVIDERS}?providers=second&providers=third")
    assert [item["provider"] for item in found] == ["second"]
    manager.done("POST", "/trust/trusted-key-providers", json={"provider": "finance", "group": "group-1"})
    base = f"{HOSTS}/host1/kms/providers"
    assert [item["provider"] for item in manager.ok("GET", f"{base}?types=NATIVE&health=OK")] == ["branch"]
    assert manager.ok("GET", f"{base}?types=TRUST_AUTHORITY") == []  # no Key Provider Service in use
    answer = manager.request("GET", f"{base}?types=STANDARD")
    assert error_of(answer) == (400, "INVALID_ARGUMENT", "filter.types[0]")


def test_it_is_said_every_day_that_there_is_no_backup(manager: Api, clock: Clock) -> None:
    create(manager)
    maintained(manager)
    assert len(seen(manager, events.NATIVE_NOT_BACKED_UP)) == 1
    clock.now += 86399
    manager.login()
    maintained(manager)
    assert len(seen(manager, events.NATIVE_NOT_BACKED_UP)) == 1
    clock.now += 1
    maintained(manager)
    maintained(manager)
    assert len(seen(manager, events.NATIVE_NOT_BACKED_UP)) == 2


def test_every_step_is_an_event_with_user_key_and_operation(manager: Api) -> None:
    usable(manager)
    manager.ok("DELETE", f"{PROVIDERS}/branch")
    found = [item for item in seen(manager, events.CRYPTO_OPERATION) if "host" not in item]
    operations = [(item["operation"], item["user"], item.get("key_id")) for item in found]
    assert [one for one in operations if one[0] in {"create", "export", "backup", "delete"}] == [
        ("create", "administrator", KEY_ID),
        ("export", "administrator", KEY_ID),
        ("backup", "administrator", KEY_ID),
        ("delete", "administrator", KEY_ID),
    ]


def test_downloads_and_exports_are_audited(manager: Api, tmp_path: Path) -> None:
    usable(manager)
    path, _token = offered(manager)
    fetch(manager, path, "wrong")
    text = (tmp_path / "audit.log").read_text()
    for expected in ("providers.export", "backups.download", "download_token_invalid", '"started"'):
        assert expected in text, expected


def test_no_key_is_in_the_database_the_logs_or_an_answer(
    manager: Api, tmp_path: Path, hosts: NativeHosts, capsys: pytest.CaptureFixture[str]
) -> None:
    create(manager)
    path, token = offered(manager, "the password of the file")
    manager.ok("PATCH", f"{PROVIDERS}/branch", json={"native_spec": {"key_id": OTHER_ID}})
    waiting = (tmp_path / "manager.db").read_bytes() + (tmp_path / "manager.db-wal").read_bytes()
    fetch(manager, path, token)
    backup(manager)
    output = "".join(capsys.readouterr())
    with sqlite3.connect(tmp_path / "manager.db") as database:
        dump = "\n".join(database.iterdump())
    audit = (tmp_path / "audit.log").read_text()
    events_text = str(manager.ok("GET", "/trust/events"))
    secrets = [SECRET, hosts.agent("host1").keys["branch"][OTHER_ID]]
    for secret in secrets:
        encoded = base64.b64encode(secret).decode(), base64.urlsafe_b64encode(secret).decode()
        for form in (secret.hex(), *encoded):
            assert form not in dump + audit + output + events_text
        assert secret not in waiting
    for text in (token, "the password of the file"):
        assert text not in dump + audit + output + events_text
        assert text.encode() not in waiting


def test_check_values_are_those_of_the_keys(manager: Api, hosts: NativeHosts) -> None:
    usable(manager)
    state = hosts.agent("host1").states["branch"]
    assert state.keys == {KEY_ID: check_value(SECRET, KEY_ID)}


def test_other_sides_have_none(api: Api) -> None:
    assert api.ok("GET", PROVIDERS) == []
    answer = api.request("POST", PROVIDERS, json={"provider": "a"})
    assert error_of(answer) == (400, "UNSUPPORTED", "other_side")


def test_a_push_that_is_under_way_does_not_undo_a_later_one(manager: Api, hosts: NativeHosts) -> None:
    """Pushes of one host wait for each other, and each reads what is wanted when it begins."""
    usable(manager)

    async def together() -> None:
        body = {"native_spec": {"key_id": OTHER_ID}}
        await asyncio.gather(
            native_push.push_all(manager.manager),
            manager.send("PATCH", f"{PROVIDERS}/branch", json=body),
            native_push.push_all(manager.manager),
        )

    manager.run(together())
    assert list(hosts.agent("host1").keys["branch"]) == [OTHER_ID, KEY_ID]
