# SPDX-License-Identifier: GPL-3.0-or-later
"""Key providers of all kinds: one name each, defaults of the manager and of clusters, what hosts are told."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import sqlalchemy as sql
from services.manager.harness import Api, write_users
from services.manager.workload import CLUSTER, PROVIDERS, attach_all

from trusted_infrastructure.config.documents import KmipServer, NetworkAddress
from trusted_infrastructure.manager import provider_registry, standard_providers
from trusted_infrastructure.manager.database import native_key_providers
from trusted_infrastructure.manager.inventory import all_clusters
from trusted_infrastructure.manager.maintenance import maintain
from trusted_infrastructure.manager.standard_providers import StandardProvider
from trusted_infrastructure.manager.vapi.errors import AlreadyExists, UnableToAllocateResource

DEFAULT = "/trust/default-key-provider"
CLUSTER_DEFAULT = "/trust/clusters/trusted/default-key-provider"
OVERALL = f"{CLUSTER}/services-applied-config"
EVENTS = "/trust/events?operations=set_default&operations=clear_default"


def add(api: Api, *names: str) -> None:
    """Registers trusted key providers."""
    for name in names:
        api.done("POST", PROVIDERS, json={"provider": name, "group": "group-1"})


def put(connection: sql.Connection, name: str, kind: str) -> None:
    """A row of a kind's table, as its owner writes it."""
    if kind == "STANDARD":
        servers = [KmipServer("kms1", NetworkAddress("kms1", 5696))]
        standard_providers.store(connection, name, StandardProvider(servers))
        return
    values = {"key_id": "1", "tpm_required": False, "usable": False, "backed_up": False, "reminded": 0}
    connection.execute(native_key_providers.insert().values(name=name, **values))


def told(api: Api, host: str = "host1") -> dict[str, Any] | None:
    """What a host knows."""
    content = api.nodes.content(host, "key_providers", "key_providers")
    return content and {key: content.get(key) for key in ("providers", "default")}


def default(api: Api) -> str | None:
    """The manager's default."""
    return api.ok("GET", DEFAULT).get("provider")


def audited(api: Api, operation: str) -> list[dict[str, Any]]:
    """What audit records of an operation that succeeded say."""
    lines = (api.manager.settings.state_directory / "audit.log").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if record.get("code") == "ok"]
    return [record["detail"] for record in records if record["detail"]["operation"] == operation]


# ---- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [DEFAULT, CLUSTER_DEFAULT])
def test_what_does_not_exist_is_no_default(workload: Api, path: str) -> None:
    add(workload, "finance")
    error = workload.failed("PUT", path, json={"provider": "nothing"})
    assert error["error_type"] == "INVALID_ARGUMENT"
    assert error["messages"][0]["args"][0] == "provider"
    assert error["messages"][0]["id"] == "trusted.infrastructure.no_provider"
    assert default(workload) == "finance"
    assert workload.ok("GET", CLUSTER_DEFAULT) == {"inherited": True, "provider": "finance"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "spec.provider"),
        ({"provider": ""}, "spec.provider"),
        ({"provider": 1}, "spec.provider"),
        ({"provider": None, "more": 1}, "spec.more"),
    ],
)
def test_a_bad_default_names_the_field(sides, body: dict[str, Any], field: str) -> None:
    response = sides["workload"].request("PUT", f"{DEFAULT}?vmw-task=true", json=body)
    assert (response.status_code, response.json()["messages"][0]["args"]) == (400, [field])


@pytest.mark.parametrize("kind", ["STANDARD", "NATIVE"])
def test_a_name_is_for_one_provider_of_any_kind(workload: Api, kind: str) -> None:
    with workload.manager.database.transaction() as connection:
        put(connection, "finance", kind)
        with pytest.raises(AlreadyExists, match=kind.lower()):
            provider_registry.check_new(connection, "finance")
    body = {"provider": "finance", "group": "group-1"}
    assert workload.failed("POST", PROVIDERS, json=body)["error_type"] == "ALREADY_EXISTS"
    assert workload.request("GET", f"{PROVIDERS}/finance").status_code == 404


def test_there_are_32_at_most(workload: Api) -> None:
    with workload.manager.database.transaction() as connection:
        for number in range(provider_registry.LIMIT):
            provider_registry.check_new(connection, "another")
            put(connection, f"provider-{number}", "STANDARD" if number % 2 else "NATIVE")
        with pytest.raises(UnableToAllocateResource):
            provider_registry.check_new(connection, "another")
    error = workload.failed("POST", PROVIDERS, json={"provider": "another", "group": "group-1"})
    assert error["messages"][0]["id"] == "trusted.infrastructure.too_many_providers"


def test_a_change_that_fails_changes_nothing(workload: Api) -> None:
    add(workload, "finance")
    assert workload.failed("POST", PROVIDERS, json={"provider": "sales"})["error_type"] == "INVALID_ARGUMENT"
    assert told(workload) == {"providers": {"finance": "TRUSTED"}, "default": "finance"}


# ---- defaults ----------------------------------------------------------------------------------------------


def test_the_first_of_any_kind_is_the_default(workload: Api) -> None:
    with workload.manager.database.transaction() as connection:
        put(connection, "own", "NATIVE")
        provider_registry.added(connection, "own")
        put(connection, "hsm", "STANDARD")
        provider_registry.added(connection, "hsm")
    workload.run(provider_registry.publish(workload.manager))
    add(workload, "finance")
    assert default(workload) == "own"
    assert told(workload) == {
        "providers": {"finance": "TRUSTED", "hsm": "STANDARD", "own": "NATIVE"},
        "default": "own",
    }
    assert [
        (row["provider"], row["type"], row["default"]) for row in workload.ok("GET", "/trust/key-providers")
    ] == [
        ("finance", "TRUSTED", False),
        ("hsm", "STANDARD", False),
        ("own", "NATIVE", True),
    ]


def test_a_cluster_has_its_own_or_the_managers(workload: Api) -> None:
    add(workload, "finance", "sales")
    workload.ok("POST", "/trust/clusters", json={"name": "second"})
    workload.done("PUT", CLUSTER_DEFAULT, json={"provider": "sales"})
    assert workload.ok("GET", CLUSTER_DEFAULT) == {"inherited": False, "provider": "sales"}
    second = "/trust/clusters/second/default-key-provider"
    assert workload.ok("GET", second) == {"inherited": True, "provider": "finance"}
    assert told(workload)["default"] == "sales"
    listed = {row["provider"]: row for row in workload.ok("GET", "/trust/key-providers")}
    assert (listed["finance"]["default"], listed["finance"]["default_of"]) == (True, [])
    assert (listed["sales"]["default"], listed["sales"]["default_of"]) == (False, ["trusted"])
    workload.done("PUT", CLUSTER_DEFAULT, json={"provider": None})
    assert workload.ok("GET", CLUSTER_DEFAULT) == {"inherited": True, "provider": "finance"}
    assert told(workload)["default"] == "finance"
    workload.done("PUT", DEFAULT, json={"provider": None})
    assert workload.ok("GET", CLUSTER_DEFAULT) == {"inherited": True}
    assert told(workload)["default"] is None


def test_the_flag_of_trusted_providers_is_the_managers_default_and_hosts_get_their_clusters(
    workload: Api,
) -> None:
    attach_all(workload)
    add(workload, "finance", "sales")
    workload.done("PUT", CLUSTER_DEFAULT, json={"provider": "sales"})
    assert [row["default"] for row in workload.ok("GET", PROVIDERS)] == [True, False]
    assert workload.nodes.content("host1", "trusted_key_provider", "sales")["default"] is True
    assert workload.nodes.content("host1", "trusted_key_provider", "finance")["default"] is False
    workload.done("PATCH", f"{PROVIDERS}/sales", json={"default": True})
    assert default(workload) == "sales"


def test_removing_a_default_leaves_none_and_says_so(workload: Api) -> None:
    add(workload, "finance", "sales")
    workload.done("PUT", CLUSTER_DEFAULT, json={"provider": "finance"})
    workload.done("DELETE", f"{PROVIDERS}/finance")
    assert default(workload) is None
    assert workload.ok("GET", CLUSTER_DEFAULT) == {"inherited": True}
    assert told(workload) == {"providers": {"sales": "TRUSTED"}, "default": None}
    (detail,) = audited(workload, "trusted.infrastructure.trusted_key_providers.delete$task")
    assert detail["default_cleared"] == "finance: the manager, the cluster 'trusted'"
    last = workload.ok("GET", EVENTS)[-1]
    assert (last["operation"], last["user"], last["object"]) == ("clear_default", "administrator", "finance")
    assert "no other has taken its place" in last["message"]
    workload.done("DELETE", f"{PROVIDERS}/sales")
    assert len(workload.ok("GET", f"{EVENTS}&objects=sales")) == 0


def test_setting_a_default_is_audited_and_an_event_once(workload: Api) -> None:
    add(workload, "finance", "sales")
    for _again in range(2):
        workload.done("PUT", CLUSTER_DEFAULT, json={"provider": "sales"})
    (event,) = workload.ok("GET", EVENTS)
    assert (event["type"], event["user"], event["details"]) == (
        "com.vmware.vc.crypto.Operation",
        "administrator",
        {"provider": "sales"},
    )
    details = audited(workload, "trusted.infrastructure.clusters.default_key_provider.set$task")
    assert [detail.get("default") for detail in details] == ["none -> sales", None]


def test_the_flag_of_trusted_providers_is_an_event_too(workload: Api) -> None:
    add(workload, "finance")
    workload.done("POST", PROVIDERS, json={"provider": "sales", "group": "group-1", "default": True})
    workload.done("PATCH", f"{PROVIDERS}/finance", json={"default": True})
    found = workload.ok("GET", EVENTS)
    assert [(event["operation"], event["object"]) for event in found] == [
        ("set_default", "sales"),
        ("set_default", "finance"),
    ]


def test_a_cluster_that_is_removed_takes_its_default_along(workload: Api) -> None:
    add(workload, "finance")
    workload.ok("POST", "/trust/clusters", json={"name": "second"})
    workload.done("PUT", "/trust/clusters/second/default-key-provider", json={"provider": "finance"})
    workload.ok("DELETE", "/trust/clusters/second")
    workload.done("DELETE", f"{PROVIDERS}/finance")
    (detail,) = audited(workload, "trusted.infrastructure.trusted_key_providers.delete$task")
    assert detail["default_cleared"] == "finance: the manager"


# ---- what hosts are told -----------------------------------------------------------------------------------


def test_hosts_without_a_trusted_service_are_told_too(workload: Api) -> None:
    assert told(workload) is None
    add(workload, "finance")
    assert told(workload, "host2") == {"providers": {"finance": "TRUSTED"}, "default": "finance"}
    assert workload.nodes.content("host1", "trusted_key_provider", "finance") is None


def test_a_host_that_joins_is_told_also_in_a_new_cluster(workload: Api) -> None:
    add(workload, "finance")
    workload.ok("POST", "/trust/clusters", json={"name": "second"})
    body = {"name": "host7", "ek_digest": "cd" * 32, "scope": "other"}
    workload.done("POST", "/trust/clusters/second/hosts", json=body)
    assert told(workload, "host7") == {"providers": {"finance": "TRUSTED"}, "default": "finance"}


def test_a_slow_change_of_a_cluster_does_not_keep_a_round_waiting(workload: Api) -> None:
    add(workload, "finance")

    async def meanwhile() -> None:
        with workload.manager.database.transaction() as connection:
            cluster = all_clusters(connection)[0]
        async with workload.manager.replication.lock(cluster), asyncio.timeout(5):
            await provider_registry.publish(workload.manager)

    workload.run(meanwhile())


def test_what_was_not_published_is_with_the_next_round(workload: Api) -> None:
    with workload.manager.database.transaction() as connection:
        put(connection, "own", "NATIVE")
        provider_registry.added(connection, "own")
    assert told(workload) is None
    workload.run(maintain(workload.manager))
    assert told(workload) == {"providers": {"own": "NATIVE"}, "default": "own"}
    workload.nodes.calls.clear()
    workload.run(maintain(workload.manager))
    assert {call[1] for call in workload.nodes.calls} <= {"GET"}


def test_a_host_that_was_away_is_told_when_it_is_back(workload: Api) -> None:
    workload.nodes.down = {"host2"}
    workload.failed("POST", PROVIDERS, json={"provider": "finance", "group": "group-1"})
    workload.run(maintain(workload.manager))
    assert told(workload, "host2") is None
    workload.nodes.down = set()
    workload.run(maintain(workload.manager))
    assert told(workload, "host2") == {"providers": {"finance": "TRUSTED"}, "default": "finance"}


def test_what_was_taken_off_hosts_on_purpose_stays_off(workload: Api) -> None:
    attach_all(workload)
    add(workload, "finance")
    workload.done("DELETE", OVERALL)
    workload.done("PUT", DEFAULT, json={"provider": None})
    workload.done("DELETE", OVERALL)
    del workload.nodes.documents["host1"]["key_providers", "key_providers"]
    workload.run(maintain(workload.manager))
    assert told(workload) == {"providers": {"finance": "TRUSTED"}, "default": None}
    assert workload.nodes.content("host1", "trusted_key_provider", "finance") is None
    info = workload.done("GET", OVERALL)
    assert info["details"][0]["id"] == "trusted.infrastructure.nothing_applied"


def test_hosts_that_miss_it_are_named_and_what_is_desired_is_kept(workload: Api) -> None:
    workload.nodes.down = {"host2"}
    error = workload.failed("POST", PROVIDERS, json={"provider": "finance", "group": "group-1"})
    assert (error["error_type"], error["messages"][1]["args"]) == ("RESOURCE_INACCESSIBLE", ["host2"])
    assert told(workload) == {"providers": {"finance": "TRUSTED"}, "default": "finance"}
    assert default(workload) == "finance"


def test_a_user_of_one_cluster_sees_its_default_alone(workload: Api) -> None:
    add(workload, "finance")
    workload.ok("POST", "/trust/clusters", json={"name": "second"})
    for name in ("trusted", "second"):
        body = {"provider": "finance"}
        workload.done("PUT", f"/trust/clusters/{name}/default-key-provider", json=body)
    privileges = ["Cryptographer.ReadKeyServersInfo", "System.View"]
    entry = {"name": "reader", "privileges": privileges, "cluster": "second"}
    write_users(workload.manager.settings.users, [entry])
    workload.login("reader")
    (listed,) = workload.ok("GET", "/trust/key-providers")
    assert listed["default_of"] == ["second"]
    assert workload.request("GET", CLUSTER_DEFAULT).status_code == 403
