# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks: their information, who sees them, how long they are kept."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from services.manager.harness import PASSWORD, Api, Clock, write_users

CLUSTERS = "/vcenter/trusted-infrastructure/trust-authority-clusters"
SERVICE = "com.vmware.vcenter.trusted_infrastructure.trust_authority_clusters"
ENABLE = {"state": "ENABLE"}


@pytest.fixture
def api(api: Api) -> Api:
    """With a cluster and a host."""
    api.ok("POST", "/trust/clusters", json={"name": "authority"})
    api.done("POST", "/trust/clusters/authority/hosts", json={"name": "ta1"})
    return api


def start(api: Api) -> str:
    """A finished task; its id."""
    return api.ok("PATCH", f"{CLUSTERS}/authority?vmw-task=true", json=ENABLE)


def test_a_finished_task_has_what_the_sdk_insists_on(api: Api) -> None:
    task = start(api)
    assert task.endswith(f":{SERVICE}")
    info = api.ok("GET", f"/cis/tasks/{task}")
    assert (info["service"], info["operation"], info["status"]) == (SERVICE, "update$task", "SUCCEEDED")
    assert info["target"] == {"type": "ClusterComputeResource", "id": "domain-c1"}
    assert (info["user"], info["cancelable"]) == ("administrator", False)
    assert info["progress"]["completed"] == info["progress"]["total"] == 100
    assert info["start_time"].endswith("Z") and info["end_time"].endswith("Z")
    assert "error" not in info and "result" not in info
    assert set(info["description"]) == {"id", "default_message", "args"}


def test_a_running_task_has_progress_and_no_end(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def look() -> dict[str, Any]:
        gate = asyncio.Event()
        original = api.nodes.call

        async def held(*arguments: Any) -> bytes:
            await gate.wait()
            return await original(*arguments)

        monkeypatch.setattr(api.nodes, "call", held)
        task = (await api.send("PATCH", f"{CLUSTERS}/authority?vmw-task=true", json=ENABLE)).json()
        info = (await api.send("GET", f"/cis/tasks/{task}")).json()
        gate.set()
        await api.manager.tasks.idle()
        return info

    info = api.run(look())
    assert info["status"] == "RUNNING"
    assert "start_time" in info and "progress" in info
    assert not {"end_time", "error", "result"} & set(info)


def test_a_failed_task_has_its_error(api: Api) -> None:
    api.nodes.down = {"ta1"}
    task = start(api)
    info = api.ok("GET", f"/cis/tasks/{task}")
    assert info["status"] == "FAILED"
    assert info["error"]["error_type"] == "RESOURCE_INACCESSIBLE"
    assert {"start_time", "end_time", "progress"} <= set(info)


def test_changes_are_in_the_audit_log_with_their_end(api: Api, tmp_path: Path) -> None:
    start(api)
    api.nodes.down = {"ta1"}
    task = start(api)
    start_of = len(f"{SERVICE}.")
    records = [msgspec.json.decode(line) for line in (tmp_path / "audit.log").read_bytes().splitlines()]
    told = [
        (item["code"], item["detail"])
        for item in records
        if item["detail"]["operation"].endswith("update$task")
    ]
    assert [code for code, _detail in told] == ["started", "ok", "started", "replication_failed"]
    last = told[-1][1]
    assert (last["user"], last["target"], last["task"]) == ("administrator", "authority", task)
    assert last["operation"][start_of:] == "update$task"


def test_results_can_be_left_out(api: Api) -> None:
    path = f"{CLUSTERS}/authority/attestation/tpm2/settings?vmw-task=true"
    task = api.ok("GET", path)
    assert api.ok("GET", f"/cis/tasks/{task}")["result"]["health"] == "OK"
    assert "result" not in api.ok("GET", f"/cis/tasks/{task}?exclude_result=true&return_all=true")


def test_tasks_are_listed_by_id_or_service(api: Api) -> None:
    first, second = start(api), start(api)
    path = "/cis/tasks?action=list"

    def found(filter_spec: dict[str, Any], **more: Any) -> set[str]:
        return set(api.ok("POST", path, json={"filter_spec": filter_spec, **more}))

    assert found({"tasks": [first, "unknown"]}) == {first}
    assert found({"services": [SERVICE]}) == {first, second}
    assert found({"services": [SERVICE], "status": ["FAILED"]}) == set()
    assert found({"services": [SERVICE], "users": ["administrator"]}) == {first, second}
    assert found({"services": [SERVICE], "operations": ["get"]}) == set()
    target = {"type": "ClusterComputeResource", "id": "domain-c1"}
    assert found({"services": [SERVICE], "targets": [target]}) == {first, second}
    assert found({"tasks": [first]}, result_spec={"exclude_result": True}) == {first}
    for body in ({}, {"filter_spec": {}}, {"filter_spec": {"status": ["FAILED"]}}):
        response = api.request("POST", path, json=body)
        assert (response.status_code, response.json()["messages"][0]["args"]) == (400, ["spec.filter_spec"])


def test_finished_tasks_are_kept_for_a_day(api: Api, clock: Clock) -> None:
    task = start(api)
    clock.now += 86300
    api.login()
    assert api.request("GET", f"/cis/tasks/{task}").status_code == 200
    clock.now += 200
    response = api.request("GET", f"/cis/tasks/{task}")
    assert (response.status_code, response.json()["error_type"]) == (404, "NOT_FOUND")
    api.manager.tasks.forget_finished()


def test_no_task_can_be_cancelled(api: Api) -> None:
    task = start(api)
    response = api.request("POST", f"/cis/tasks/{task}?action=cancel")
    assert (response.status_code, response.json()["error_type"]) == (400, "NOT_ALLOWED_IN_CURRENT_STATE")
    assert api.request("POST", "/cis/tasks/unknown?action=cancel").status_code == 404


def test_users_see_tasks_that_they_could_have_run(api: Api) -> None:
    task = start(api)
    may = ["TrustedAdmin.ManageTrustedHosts"]
    write_users(
        api.manager.settings.users,
        [
            {"name": "same", "privileges": may},
            {"name": "other", "privileges": ["TrustedAdmin.ReadTrustedHosts", "System.View"]},
            {"name": "elsewhere", "privileges": may, "cluster": "another"},
        ],
    )
    for name, status in [("same", 200), ("other", 404), ("elsewhere", 404)]:
        api.login(name, PASSWORD)
        assert api.request("GET", f"/cis/tasks/{task}").status_code == status
        listed = api.ok("POST", "/cis/tasks?action=list", json={"filter_spec": {"tasks": [task]}})
        assert bool(listed) == (status == 200)


def test_an_unexpected_failure_in_a_task_is_an_incident(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: Any) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(api.manager.replication, "lock", fail)
    error = api.failed("PATCH", f"{CLUSTERS}/authority", json=ENABLE)
    assert error["error_type"] == "SERVICE_UNAVAILABLE"
    assert "secret" not in str(error)


def test_tasks_that_a_stop_interrupts_are_failed(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def stop() -> dict[str, Any]:
        async def never(*_arguments: Any) -> bytes:
            await asyncio.Event().wait()
            return b""

        monkeypatch.setattr(api.nodes, "call", never)
        task = (await api.send("PATCH", f"{CLUSTERS}/authority?vmw-task=true", json=ENABLE)).json()
        await asyncio.sleep(0)
        await api.manager.tasks.close(0.01)
        return (await api.send("GET", f"/cis/tasks/{task}")).json()

    info = api.run(stop())
    assert info["status"] == "FAILED"
    assert info["error"]["messages"][0]["id"] == "trusted.infrastructure.task_interrupted"
