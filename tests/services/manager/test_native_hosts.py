# SPDX-License-Identifier: GPL-3.0-or-later
"""Native key providers on hosts: pushing, repairing, taking away."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sql
from services.manager.harness import Api
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
    maintained,
    record,
    seen,
    usable,
)
from services.manager.native_hosts import NativeHosts

from trusted_infrastructure.key_delivery import KeyRecords
from trusted_infrastructure.manager import events, host_keys, native_push
from trusted_infrastructure.manager.database import (
    native_host_states,
    native_key_providers,
    native_provider_keys,
)
from trusted_infrastructure.manager.inventory import all_clusters
from trusted_infrastructure.manager.nodes import NodeError
from trusted_infrastructure.manager.operations import trust_native_keys
from trusted_infrastructure.messages import pcr_policy_reference


def test_a_host_without_a_tpm_is_a_warning(manager: Api, hosts: NativeHosts) -> None:
    hosts.agent("host2").tpm = False
    usable(manager)
    assert manager.ok("GET", f"{PROVIDERS}/branch")["health"] == "WARNING"
    assert manager.ok("GET", f"{HOSTS}/host1/kms/providers/branch")["health"] == "OK"
    info = manager.ok("GET", f"{HOSTS}/host2/kms/providers/branch")
    assert (info["health"], info["details"][0]["id"]) == ("WARNING", "trusted.infrastructure.tpm_unavailable")


def test_a_provider_that_requires_a_tpm_is_an_error_on_a_host_without(
    manager: Api, hosts: NativeHosts
) -> None:
    hosts.agent("host2").tpm = False
    usable(manager, constraints={"tpm_required": True})
    assert hosts.agent("host2").keys == {}
    info = manager.ok("GET", f"{HOSTS}/host2/kms/providers/branch")
    assert (info["health"], info["details"][0]["id"]) == ("ERROR", "trusted.infrastructure.tpm_required")
    assert manager.ok("GET", f"{PROVIDERS}/branch")["constraints"] == {"tpm_required": True}
    maintained(manager)
    found = seen(manager, events.SEND_KEY_HOST_ERROR)
    assert [(item["host"], item["details"]["code"]) for item in found] == [("host2", "tpm_required")]


def test_a_locked_host_is_an_event_and_is_repaired(manager: Api, hosts: NativeHosts) -> None:
    usable(manager)
    hosts.agent("host1").lock("branch")
    info = manager.ok("GET", f"{HOSTS}/host1/kms/providers/branch")
    assert (info["health"], info["details"][0]["id"]) == (
        "ERROR",
        "trusted.infrastructure.pcr_policy_mismatch",
    )
    maintained(manager)
    assert manager.ok("GET", f"{HOSTS}/host1/kms/providers/branch")["health"] == "OK"
    hosts.agent("host1").refuses = "tpm_busy"
    hosts.agent("host1").lock("branch")
    maintained(manager)
    maintained(manager)
    found = seen(manager, events.HOST_TPM_CONFIG_ENCRYPTION)
    assert [item["host"] for item in found] == ["host1", "host1"]


def test_hosts_that_differ_are_given_it_again(manager: Api, hosts: NativeHosts) -> None:
    usable(manager)
    agent = hosts.agent("host1")
    maintained(manager)
    assert len(agent.pushes) == 1
    agent.forget("branch")
    assert manager.ok("GET", f"{HOSTS}/host1/kms/providers/branch")["health"] == "ERROR"
    maintained(manager)
    assert agent.keys == {"branch": {KEY_ID: SECRET}}
    agent.tpm = False
    agent.restart()
    maintained(manager)
    assert agent.keys == {"branch": {KEY_ID: SECRET}}


def test_an_agent_that_starts_in_between_is_asked_again(
    manager: Api, hosts: NativeHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(manager)
    agent = hosts.agent("host1")
    answers = iter([agent.delivery.target()])
    agent.restart()
    monkeypatch.setattr(agent, "target", lambda: next(answers, None) or agent.delivery.target())
    backup(manager)
    assert agent.keys == {"branch": {KEY_ID: SECRET}}


def test_a_host_that_is_away_gets_it_when_it_is_back(manager: Api, hosts: NativeHosts) -> None:
    hosts.down = {"host2"}
    usable(manager)
    assert manager.ok("GET", f"{PROVIDERS}/branch")["health"] == "ERROR"
    assert manager.ok("GET", f"{HOSTS}/host2/kms/providers/branch")["health"] == "ERROR"
    maintained(manager)
    found = seen(manager, events.SEND_KEY_HOST_ERROR)
    assert [(item["host"], item["details"]["code"]) for item in found] == [("host2", "unreachable")]
    hosts.down = set()
    maintained(manager)
    assert hosts.agent("host2").keys == {"branch": {KEY_ID: SECRET}}
    hosts.down = {"host2"}  # it has what it should: nothing failed
    maintained(manager)
    assert len(seen(manager, events.SEND_KEY_HOST_ERROR)) == 1


def test_removal_reaches_hosts_that_were_away(manager: Api, hosts: NativeHosts) -> None:
    usable(manager)
    hosts.down = {"host2"}
    manager.ok("DELETE", f"{PROVIDERS}/branch")
    assert hosts.agent("host1").keys == {}
    hosts.down = set()
    maintained(manager)
    assert hosts.agent("host2").keys == {}


def test_what_this_manager_did_not_push_is_left_alone(manager: Api, hosts: NativeHosts) -> None:
    usable(manager)
    agent = hosts.agent("host1")
    agent.keys["foreign"] = {}
    agent.states["foreign"] = agent.states["branch"]
    maintained(manager)
    assert "foreign" in agent.keys


def test_a_new_host_is_given_the_provider_at_once(manager: Api, hosts: NativeHosts) -> None:
    usable(manager)
    body = {"name": "host3", "ek_digest": "cd" * 32, "scope": "lab"}
    manager.done("POST", "/trust/clusters/trusted/hosts", json=body)
    assert hosts.agent("host3").keys == {"branch": {KEY_ID: SECRET}}


@pytest.mark.parametrize("down", [set(), {"host2"}])
def test_a_host_that_leaves_burns_the_key(manager: Api, hosts: NativeHosts, down: set[str]) -> None:
    usable(manager)
    hosts.down = down
    manager.done("DELETE", "/trust/clusters/trusted/hosts/host2")
    info = manager.ok("GET", f"{PROVIDERS}/branch")
    key_id = info["native_info"]["key_id"]
    assert key_id != KEY_ID
    assert list(hosts.agent("host1").keys["branch"]) == [key_id, KEY_ID]
    assert bool(hosts.agent("host2").keys) is bool(down)
    assert key_id not in hosts.agent("host2").keys.get("branch", {})
    assert (info["health"], info["details"][0]["id"]) == (
        "WARNING",
        "trusted.infrastructure.native_not_backed_up_after_update",
    )
    assert [item["host"] for item in seen(manager, events.NATIVE_NOT_BACKED_UP_AFTER_UPDATE)] == ["host2"]


@pytest.mark.parametrize("held_up", ["native-providers", "key-delivery"])
def test_a_host_that_holds_its_answer_up_until_it_left_is_not_given_the_new_key(
    manager: Api, hosts: NativeHosts, monkeypatch: pytest.MonkeyPatch, held_up: str
) -> None:
    usable(manager)
    agent, call = hosts.agent("host2"), hosts.call
    agent.lock("branch")

    async def leaving() -> None:
        asked, left = asyncio.Event(), asyncio.Event()

        async def slow(host: str, method: str, path: str, *rest: Any) -> bytes:
            if (host, method) == ("host2", "DELETE"):
                return b"{}"  # it forgets nothing
            if (host, method) == ("host2", "GET") and path.endswith(held_up):
                asked.set()
                await left.wait()
            return await call(host, method, path, *rest)

        monkeypatch.setattr(hosts, "call", slow)
        pushing = asyncio.create_task(native_push.push_all(manager.manager))
        await asyncio.wait_for(asked.wait(), 20)
        await manager.send("DELETE", "/trust/clusters/trusted/hosts/host2?vmw-task=true")
        async with asyncio.timeout(10):
            while len(hosts.agent("host1").pushes) < 2:
                await asyncio.sleep(0.01)
        left.set()
        await pushing
        await manager.manager.tasks.idle()

    manager.run(leaving())
    key_id = manager.ok("GET", f"{PROVIDERS}/branch")["native_info"]["key_id"]
    assert key_id in hosts.agent("host1").keys["branch"]
    assert agent.keys["branch"] == {KEY_ID: SECRET}


def test_a_host_that_never_had_it_burns_nothing(manager: Api, hosts: NativeHosts) -> None:
    hosts.down = {"host2"}
    usable(manager)
    manager.done("DELETE", "/trust/clusters/trusted/hosts/host2")
    assert manager.ok("GET", f"{PROVIDERS}/branch")["native_info"]["key_id"] == KEY_ID


def test_a_key_without_room_for_another_is_said(manager: Api, hosts: NativeHosts, monkeypatch: Any) -> None:
    monkeypatch.setattr("trusted_infrastructure.key_delivery.MAX_PREVIOUS_KEYS", 0)
    usable(manager)
    answer = manager.request("PATCH", f"{PROVIDERS}/branch", json={"native_spec": {"key_id": OTHER_ID}})
    assert error_of(answer) == (400, "NOT_ALLOWED_IN_CURRENT_STATE", "too_many_native_keys")
    manager.done("DELETE", "/trust/clusters/trusted/hosts/host2")
    found = seen(manager, events.NATIVE_NOT_BACKED_UP_AFTER_UPDATE)
    assert [item["details"]["code"] for item in found] == ["too_many_native_keys"]


# ---- a manager whose database is an old backup


def restored(manager: Api) -> str:
    """The provider is usable, and its database is kept; then it gets another key, and the old database."""
    usable(manager)
    database = manager.manager.database
    with database.transaction() as connection:
        keys = [row._asdict() for row in connection.execute(sql.select(native_provider_keys))]
    manager.ok("PATCH", f"{PROVIDERS}/branch", json={"native_spec": {"key_id": OTHER_ID}})
    backup(manager)
    with database.transaction() as connection:
        connection.execute(native_provider_keys.delete())
        connection.execute(native_provider_keys.insert(), keys)
        connection.execute(native_key_providers.update().values(key_id=KEY_ID))
        connection.execute(native_host_states.delete())
    return OTHER_ID


def test_a_restored_manager_takes_no_keys_away_and_says_what_it_lacks(
    manager: Api, hosts: NativeHosts
) -> None:
    lost = restored(manager)
    for name in ("host1", "host2"):
        before = dict(hosts.agent(name).keys["branch"])
        for _round in range(3):
            maintained(manager)
        assert hosts.agent(name).keys["branch"] == before
        assert hosts.agent(name).states["branch"].key_id == KEY_ID
        assert len(hosts.agent(name).pushes) == 3  # one more, and not one each minute
        info = manager.ok("GET", f"{HOSTS}/{name}/kms/providers/branch")
        assert (info["health"], info["details"][0]["id"]) == (
            "WARNING",
            "trusted.infrastructure.native_keys_kept",
        )
        assert lost in info["details"][0]["default_message"]
    assert manager.ok("GET", f"{PROVIDERS}/branch")["health"] == "WARNING"
    # What is worse stays so.
    hosts.agent("host1").lock("branch")
    assert manager.ok("GET", f"{HOSTS}/host1/kms/providers/branch")["health"] == "ERROR"


def test_what_only_hosts_have_is_listed_and_can_be_removed(manager: Api, hosts: NativeHosts) -> None:
    lost = restored(manager)
    maintained(manager)
    hosts.agent("host2").records = [record(lost)]
    assert [(key["key_id"], key["state"]) for key in manager.ok("GET", KEYS)] == [
        (KEY_ID, "CURRENT"),
        (lost, "KEPT"),
    ]
    answer = manager.request("DELETE", f"{KEYS}/{lost}")
    assert error_of(answer) == (400, "NOT_ALLOWED_IN_CURRENT_STATE", "keys_left")
    hosts.agent("host2").records = []
    hosts.down = {"host2"}
    answer = manager.request("DELETE", f"{KEYS}/{lost}")
    assert error_of(answer) == (400, "NOT_ALLOWED_IN_CURRENT_STATE", "keys_left")
    hosts.down = set()
    manager.ok("DELETE", f"{KEYS}/{lost}")
    for name in ("host1", "host2"):
        assert hosts.agent(name).keys["branch"] == {KEY_ID: SECRET}
    assert manager.ok("GET", f"{PROVIDERS}/branch")["health"] == "OK"
    assert [key["state"] for key in manager.ok("GET", KEYS)] == ["CURRENT"]


def test_a_key_that_a_host_wraps_under_still_is_not_removed(manager: Api, hosts: NativeHosts) -> None:
    """The host did not take the new key, and keeps nothing so far: what it wraps later would be lost."""
    usable(manager)
    hosts.agent("host2").refuses = "tpm_busy"
    manager.ok("PATCH", f"{PROVIDERS}/branch", json={"native_spec": {"key_id": OTHER_ID}})
    assert [key["unknown"] for key in manager.ok("GET", KEYS)] == [[], ["host2"]]
    answer = manager.request("DELETE", f"{KEYS}/{KEY_ID}")
    assert error_of(answer) == (400, "NOT_ALLOWED_IN_CURRENT_STATE", "keys_left")
    hosts.agent("host2").refuses = ""
    maintained(manager)
    manager.ok("DELETE", f"{KEYS}/{KEY_ID}")
    assert set(hosts.agent("host2").keys["branch"]) == {OTHER_ID}


def test_a_host_that_does_not_say_under_which_key_it_wraps_may_wrap_under_any(
    manager: Api, hosts: NativeHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It refused the later key, and its agent is away for a moment when it is asked what it has."""
    usable(manager)
    hosts.agent("host2").refuses = "tpm_busy"
    manager.ok("PATCH", f"{PROVIDERS}/branch", json={"native_spec": {"key_id": OTHER_ID}})
    call, away = hosts.call, []

    async def starting(host: str, method: str, path: str, *rest: Any) -> bytes:
        if host == "host2" and method == "GET" and path.endswith("native-providers") and not away:
            away.append(True)
            raise NodeError(host, "service_down", "starting", 502)
        return await call(host, method, path, *rest)

    monkeypatch.setattr(hosts, "call", starting)
    answer = manager.request("DELETE", f"{KEYS}/{KEY_ID}")
    assert error_of(answer) == (400, "NOT_ALLOWED_IN_CURRENT_STATE", "keys_left")
    assert "host2" in answer.text and away


@pytest.mark.parametrize("slow_with", ["/keys?", "native-providers"])
def test_a_host_that_is_slow_with_each_answer_keeps_nobody(
    manager: Api, hosts: NativeHosts, monkeypatch: pytest.MonkeyPatch, slow_with: str
) -> None:
    usable(manager)
    manager.ok("PATCH", f"{PROVIDERS}/branch", json={"native_spec": {"key_id": OTHER_ID}})
    monkeypatch.setattr(host_keys, "MAX_PAGE", 1)
    monkeypatch.setattr(trust_native_keys, "ANSWER_TIMEOUT", 3.0)
    call, pages = hosts.call, 0

    async def slow(host: str, method: str, path: str, *rest: Any) -> bytes:
        nonlocal pages
        if host == "host2" and method == "GET" and slow_with in path:
            await asyncio.sleep(4 if slow_with == "native-providers" else 1)
        if host == "host2" and slow_with in path and slow_with == "/keys?":
            pages += 1
            later = msgspec.structs.replace(record(OTHER_ID), key_id=f"{pages:08d}")
            return msgspec.json.encode(KeyRecords(keys=[later]))
        return await call(host, method, path, *rest)

    monkeypatch.setattr(hosts, "call", slow)
    assert [key["unknown"] for key in manager.ok("GET", KEYS)] == [["host2"], ["host2"]]
    assert pages <= 3
    answer = manager.request("DELETE", f"{KEYS}/{KEY_ID}")
    assert error_of(answer) == (400, "NOT_ALLOWED_IN_CURRENT_STATE", "keys_left")
    manager.ok("DELETE", f"{KEYS}/{KEY_ID}?force=true")
    assert set(hosts.agent("host1").keys["branch"]) == {OTHER_ID}


def test_a_key_that_was_current_when_it_was_counted_is_not_removed(
    manager: Api, hosts: NativeHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody gives the provider another key meanwhile: it is a previous one by then, with keys left."""
    usable(manager)
    hosts.agent("host1").records = [record(KEY_ID)]
    call = hosts.call

    async def both() -> Any:
        counted, go_on = asyncio.Event(), asyncio.Event()

        async def slow(host: str, method: str, path: str, *rest: Any) -> bytes:
            answer = await call(host, method, path, *rest)
            if "/keys?" in path:
                counted.set()
                await go_on.wait()
            return answer

        monkeypatch.setattr(hosts, "call", slow)
        deleting = asyncio.create_task(manager.send("DELETE", f"{KEYS}/{KEY_ID}"))
        await asyncio.wait_for(counted.wait(), 20)
        await manager.send("PATCH", f"{PROVIDERS}/branch", json={"native_spec": {"key_id": OTHER_ID}})
        go_on.set()
        return await deleting

    answer = manager.run(both())
    assert error_of(answer) == (400, "NOT_ALLOWED_IN_CURRENT_STATE", "native_key_current")
    assert set(hosts.agent("host1").keys["branch"]) == {KEY_ID, OTHER_ID}


def test_a_provider_of_the_same_name_takes_no_deleted_keys_over(manager: Api, hosts: NativeHosts) -> None:
    usable(manager)
    manager.ok("PATCH", f"{PROVIDERS}/branch", json={"native_spec": {"key_id": OTHER_ID}})
    hosts.down = {"host2"}
    assert manager.request("DELETE", f"{PROVIDERS}/branch").status_code == 204
    create(manager, native_spec={})
    backup(manager)
    hosts.down = set()
    assert set(hosts.agent("host2").keys["branch"]) == {KEY_ID, OTHER_ID}
    maintained(manager)
    current = manager.ok("GET", KEYS)[0]["key_id"]
    assert current not in {KEY_ID, OTHER_ID}
    for name in ("host1", "host2"):
        assert set(hosts.agent(name).keys["branch"]) == {current}
    assert set(hosts.agent("host2").pushes[-1].removed) == {KEY_ID, OTHER_ID}
    assert manager.ok("GET", f"{PROVIDERS}/branch")["health"] == "OK"


def test_a_new_key_has_no_id_that_a_deleted_provider_of_the_name_had(manager: Api) -> None:
    """Hosts that were off have another key of that id; the same key may come back."""
    usable(manager)
    assert manager.request("DELETE", f"{PROVIDERS}/branch").status_code == 204
    body = {"provider": "branch", "native_spec": {"key_id": KEY_ID}}
    answer = manager.request("POST", PROVIDERS, json=body)
    assert error_of(answer) == (400, "NOT_ALLOWED_IN_CURRENT_STATE", "native_key_used")
    assert manager.ok("GET", PROVIDERS) == []
    create(manager)


def test_a_backup_brings_the_keys_of_a_deleted_provider_back(manager: Api, hosts: NativeHosts) -> None:
    content = usable(manager)
    hosts.down = {"host2"}
    assert manager.request("DELETE", f"{PROVIDERS}/branch").status_code == 204
    body = {"config": base64.b64encode(content).decode()}
    manager.ok("POST", f"{PROVIDERS}?action=import", json=body)
    hosts.down = set()
    maintained(manager)
    for name in ("host1", "host2"):
        assert hosts.agent(name).keys["branch"] == {KEY_ID: SECRET}
        assert hosts.agent(name).pushes[-1].removed == []


# ---- PCR policies


def test_hosts_of_another_cluster_are_given_another_reference(manager: Api, hosts: NativeHosts) -> None:
    usable(manager)
    manager.ok("POST", "/trust/clusters", json={"name": "other"})
    body = {"name": "host3", "ek_digest": "cd" * 32, "scope": "lab"}
    manager.done("POST", "/trust/clusters/other/hosts", json=body)
    references = [hosts.agent(f"host{number}").pushes[-1].policy_reference for number in (1, 2, 3)]
    assert references[0] == references[1] != references[2]
    with manager.manager.database.transaction() as connection:
        groups = {one.name: one.group for one in all_clusters(connection)}
    assert references[2] == pcr_policy_reference(groups["other"])


def test_a_host_that_moves_is_pushed_for_its_new_cluster(manager: Api, hosts: NativeHosts) -> None:
    """Also where it did not hear that it left, and holds what it was given before."""
    usable(manager)
    manager.ok("POST", "/trust/clusters", json={"name": "other"})
    before = hosts.agent("host2").pushes[-1]
    hosts.down = {"host2"}
    manager.done("DELETE", "/trust/clusters/trusted/hosts/host2")
    hosts.down = set()
    body = {"name": "host2", "ek_digest": "ab" * 32, "scope": "lab"}
    manager.done("POST", "/trust/clusters/other/hosts", json=body)
    after = hosts.agent("host2").pushes[-1]
    assert after.policy_public_key == before.policy_public_key
    assert after.policy_reference != before.policy_reference
    assert hosts.agent("host1").pushes[-1].policy_reference == before.policy_reference


def test_a_policy_key_that_cannot_be_used_stops_pushes_and_nothing_else(
    manager: Api, hosts: NativeHosts, tmp_path: Path
) -> None:
    usable(manager)
    (tmp_path / "pcr-policy.key").write_bytes(b"no key")
    assert manager.request("DELETE", f"{PROVIDERS}/branch").status_code == 204
    create(manager)
    backup(manager)
    maintained(manager)
    assert len(hosts.agent("host1").pushes) == 1
    (tmp_path / "pcr-policy.key").unlink()
    maintained(manager)
    assert len(hosts.agent("host1").pushes) == 2


def test_another_policy_key_is_pushed(manager: Api, hosts: NativeHosts, tmp_path: Path) -> None:
    usable(manager)
    (tmp_path / "pcr-policy.key").unlink()
    maintained(manager)
    keys = {push.policy_public_key for push in hosts.agent("host1").pushes}
    assert len(keys) == 2
