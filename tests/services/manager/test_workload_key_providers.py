# SPDX-License-Identifier: GPL-3.0-or-later
"""Trusted key providers of the workload side."""

from __future__ import annotations

from typing import Any

import pytest
from services.manager.harness import Api
from services.manager.workload import CLUSTER, PROVIDERS, attach_all

from trusted_infrastructure.manager import events


def test_trusted_key_providers_reach_clusters_that_use_key_providers(workload: Api) -> None:
    error = workload.failed("POST", PROVIDERS, json={"provider": "finance"})
    assert error["messages"][0]["args"] == ["spec.group"]
    workload.done("POST", PROVIDERS, json={"provider": "finance", "group": "group-1"})
    assert workload.nodes.content("host1", "trusted_key_provider", "finance") is None
    attach_all(workload)
    workload.done("POST", PROVIDERS, json={"provider": "sales"})
    assert workload.nodes.content("host1", "trusted_key_provider", "finance")["default"] is True
    assert workload.nodes.content("host1", "trusted_key_provider", "sales")["default"] is False
    workload.done("PATCH", f"{PROVIDERS}/sales", json={"default": True})
    assert workload.nodes.content("host2", "trusted_key_provider", "finance")["default"] is False
    assert workload.ok("GET", PROVIDERS) == [
        {"provider": "finance", "group": "group-1", "default": False},
        {"provider": "sales", "group": "group-1", "default": True},
    ]
    assert workload.failed("POST", PROVIDERS, json={"provider": "sales"})["error_type"] == "ALREADY_EXISTS"
    workload.done("DELETE", f"{PROVIDERS}/sales")
    assert workload.nodes.content("host1", "trusted_key_provider", "sales") is None
    assert workload.request("GET", f"{PROVIDERS}/sales").status_code == 404
    workload.nodes.down = {"host2"}
    error = workload.failed("DELETE", f"{PROVIDERS}/finance")
    assert error["error_type"] == "RESOURCE_INACCESSIBLE"
    assert "host2" in error["messages"][0]["default_message"]


def names_of_defaults(api: Api) -> list[str]:
    """The default providers: at most one."""
    return [item["provider"] for item in api.ok("GET", PROVIDERS) if item["default"]]


def test_the_first_is_the_default_whatever_is_asked_for(workload: Api) -> None:
    body = {"provider": "first", "group": "group-1", "default": False}
    workload.done("POST", PROVIDERS, json=body)
    assert workload.ok("GET", f"{PROVIDERS}/first") == {**body, "default": True}


def test_there_is_only_one_default(workload: Api) -> None:
    for name in ("first", "second", "third"):
        body = {"provider": name, "group": "group-1", "default": name == "third"}
        workload.done("POST", PROVIDERS, json=body)
    assert names_of_defaults(workload) == ["third"]
    workload.done("PATCH", f"{PROVIDERS}/first", json={"default": True})
    assert names_of_defaults(workload) == ["first"]
    workload.done("PATCH", f"{PROVIDERS}/second", json={"default": False})
    error = workload.failed("PATCH", f"{PROVIDERS}/first", json={"default": False})
    assert error["error_type"] == "NOT_ALLOWED_IN_CURRENT_STATE"
    assert names_of_defaults(workload) == ["first"]


def test_deleting_the_default_leaves_none_and_the_next_new_one_becomes_it(workload: Api) -> None:
    for name in ("first", "second"):
        workload.done("POST", PROVIDERS, json={"provider": name, "group": "group-1"})
    workload.done("DELETE", f"{PROVIDERS}/first")
    assert names_of_defaults(workload) == []
    workload.done("POST", PROVIDERS, json={"provider": "third", "group": "group-1"})
    assert names_of_defaults(workload) == ["third"]


def test_another_group_reaches_the_hosts(workload: Api) -> None:
    attach_all(workload)
    workload.done("POST", PROVIDERS, json={"provider": "first", "group": "group-1"})
    workload.done("PATCH", f"{PROVIDERS}/first", json={"group": "group-2"})
    content = workload.nodes.content("host1", "trusted_key_provider", "first")
    assert (content["group"], content["default"]) == ("group-2", True)


def test_hosts_forget_providers_with_the_last_key_provider_service(workload: Api) -> None:
    ids = attach_all(workload)
    workload.done("POST", PROVIDERS, json={"provider": "first", "group": "group-1"})
    workload.done("DELETE", f"{CLUSTER}/kms/services/{ids['kms']}")
    assert workload.nodes.content("host1", "trusted_key_provider", "first") is None
    body = {"type": "SERVICE", "service": ids["kms"]}
    workload.done("POST", f"{CLUSTER}/kms/services", json=body)
    assert workload.nodes.content("host1", "trusted_key_provider", "first") is not None


def test_plain_clusters_are_told_names_alone(workload: Api) -> None:
    attach_all(workload)
    workload.ok("POST", "/trust/clusters", json={"name": "plain"})
    body = {"name": "host7", "ek_digest": "cd" * 32, "scope": "other"}
    workload.done("POST", "/trust/clusters/plain/hosts", json=body)
    workload.done("POST", PROVIDERS, json={"provider": "first", "group": "group-1"})
    assert list(workload.nodes.documents["host7"]) == [("key_providers", "key_providers")]


def test_what_a_host_missed_is_kept_and_remediation_completes_it(workload: Api) -> None:
    attach_all(workload)
    workload.nodes.down = {"host2"}
    body = {"provider": "first", "group": "group-1"}
    error = workload.failed("POST", PROVIDERS, json=body)
    assert error["error_type"] == "RESOURCE_INACCESSIBLE"
    assert error["messages"][1]["args"] == ["host2"]
    workload.nodes.down = set()
    assert workload.ok("GET", f"{PROVIDERS}/first")["default"] is True
    workload.done("PATCH", f"{CLUSTER}/services-applied-config")
    assert workload.nodes.content("host2", "trusted_key_provider", "first") is not None


def test_a_manager_that_dies_after_the_commit_has_recorded_everything(
    workload: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach_all(workload)

    async def die(*_arguments: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(workload.manager.replication, "remediate", die)
        workload.failed("POST", PROVIDERS, json={"provider": "first", "group": "group-1"})
    assert workload.done("GET", f"{CLUSTER}/services-applied-config")["health"] == "ERROR"
    workload.done("PATCH", f"{CLUSTER}/services-applied-config")
    assert workload.nodes.content("host1", "trusted_key_provider", "first") is not None


def test_unknown_providers_are_404(workload: Api) -> None:
    assert workload.request("GET", f"{PROVIDERS}/nothing").status_code == 404
    for method, body in (("PATCH", {"default": True}), ("DELETE", None)):
        error = workload.failed(method, f"{PROVIDERS}/nothing", json=body)
        assert error["error_type"] == "NOT_FOUND"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"group": "g"}, "spec.provider"),
        ({"provider": "", "group": "g"}, "spec.provider"),
        ({"provider": "a/b", "group": "g"}, "spec.provider"),
        ({"provider": "a", "group": ""}, "spec.group"),
        ({"provider": "a", "group": "g", "default": "yes"}, "spec.default"),
        ({"provider": "a", "group": "g", "name": "b"}, "spec.name"),
    ],
)
def test_bad_providers_name_the_field(sides, body: dict[str, Any], field: str) -> None:
    response = sides["workload"].request("POST", f"{PROVIDERS}?vmw-task=true", json=body)
    assert (response.status_code, response.json()["error_type"]) == (400, "INVALID_ARGUMENT")
    assert response.json()["messages"][0]["args"] == [field]


def told(api: Api) -> list[tuple[str, str, str]]:
    """(operation, provider, user) of the events of providers."""
    operations = "operations=create_provider&operations=update_provider&operations=delete_provider"
    found = api.ok("GET", f"/trust/events?{operations}")
    assert {event["type"] for event in found} <= {events.CRYPTO_OPERATION}
    return [(event["operation"], event["object"], event["user"]) for event in found]


def test_what_is_done_to_a_provider_is_an_event(workload: Api) -> None:
    spec = {"provider": "first", "group": "group-1"}
    workload.failed("POST", PROVIDERS, json={"provider": "first"})
    workload.failed("PATCH", f"{PROVIDERS}/first", json={"group": "group-2"})
    workload.failed("DELETE", f"{PROVIDERS}/first")
    assert told(workload) == []
    workload.done("POST", PROVIDERS, json=spec)
    workload.failed("POST", PROVIDERS, json=spec)
    workload.done("PATCH", f"{PROVIDERS}/first", json={"group": "group-1", "default": True})
    assert told(workload) == [("create_provider", "first", "administrator")]
    workload.done("PATCH", f"{PROVIDERS}/first", json={"group": "group-2"})
    workload.done("DELETE", f"{PROVIDERS}/first")
    steps = [operation for operation, _provider, _user in told(workload)]
    assert steps == ["create_provider", "update_provider", "delete_provider"]
    messages = [event["message"] for event in workload.ok("GET", "/trust/events?operations=update_provider")]
    assert messages == ["The trusted key provider first is of group group-2 now, not of group-1."]
