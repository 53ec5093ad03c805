# SPDX-License-Identifier: GPL-3.0-or-later
"""Clusters, their members, enabling, replication and its failures."""

from __future__ import annotations

import pytest

from trusted_infrastructure.config.documents import Document, Generation

CLUSTERS = "/vcenter/trusted-infrastructure/trust-authority-clusters"


@pytest.fixture
def cluster(api) -> str:
    """A Trust Authority Cluster with two hosts."""
    identifier = api.ok("POST", "/trust/clusters", json={"name": "authority"})
    for name in ("ta1", "ta2"):
        api.done("POST", f"/trust/clusters/{identifier}/hosts", json={"name": name})
    api.done("PATCH", f"{CLUSTERS}/{identifier}", json={"state": "ENABLE"})
    return identifier


def test_names_are_looked_up_as_on_vsphere(api, cluster) -> None:
    assert cluster == "domain-c1"
    assert api.ok("GET", "/vcenter/cluster?names=authority&names=other") == [
        {"cluster": "domain-c1", "name": "authority", "ha_enabled": False, "drs_enabled": False}
    ]
    assert api.ok("GET", "/vcenter/cluster?names=other") == []
    api.nodes.down = {"ta2"}
    hosts = api.ok("GET", "/vcenter/host?clusters=domain-c1")
    assert hosts == [
        {"host": "host-1", "name": "ta1", "connection_state": "CONNECTED", "power_state": "POWERED_ON"},
        {"host": "host-2", "name": "ta2", "connection_state": "NOT_RESPONDING"},
    ]


def test_enabling_gives_the_hosts_their_cluster(api, cluster) -> None:
    assert api.ok("GET", f"{CLUSTERS}/{cluster}") == {"cluster": cluster, "state": "ENABLE"}
    for host in ("ta1", "ta2"):
        content = api.nodes.content(host, "trust_authority_cluster", "cluster")
        assert content["state"] == "ENABLE"
        assert [peer["host"] for peer in content["peers"]] == ["ta1", "ta2"]
        assert api.nodes.content(host, "tpm2_settings", "settings")["require_endorsement_keys"] is True


def test_update_without_state_changes_nothing(api, cluster) -> None:
    before = dict(api.nodes.documents["ta1"])
    api.done("PATCH", f"{CLUSTERS}/{cluster}", json={})
    assert api.nodes.documents["ta1"] == before


def test_enabling_again_sends_nothing(api, cluster) -> None:
    api.nodes.calls.clear()
    api.done("PATCH", f"{CLUSTERS}/{cluster}", json={"state": "ENABLE"})
    assert {method for _host, method, _path in api.nodes.calls} == {"GET"}


def test_list_filters(api, cluster) -> None:
    other = api.ok("POST", "/trust/clusters", json={"name": "plain"})
    listed = api.ok("GET", CLUSTERS)
    assert listed == [{"cluster": cluster, "state": "ENABLE"}, {"cluster": other, "state": "DISABLE"}]
    assert api.ok("GET", f"{CLUSTERS}?state=DISABLE") == listed[1:]
    assert api.ok("GET", f"{CLUSTERS}?cluster={cluster}&cluster=domain-c77") == listed[:1]


def test_a_failing_host_is_named_and_a_repetition_repairs(api, cluster) -> None:
    api.nodes.down = {"ta2"}
    error = api.failed("PATCH", f"{CLUSTERS}/{cluster}", json={"state": "DISABLE"})
    assert error["error_type"] == "RESOURCE_INACCESSIBLE"
    assert "ta2" in error["messages"][0]["default_message"]
    assert "ta1" not in error["messages"][0]["default_message"]
    assert error["messages"][1]["args"] == ["ta2"]
    assert api.ok("GET", f"{CLUSTERS}/{cluster}")["state"] == "DISABLE"
    assert api.nodes.content("ta1", "trust_authority_cluster", "cluster")["state"] == "DISABLE"
    status = api.done("GET", f"/trust/clusters/{cluster}/status")
    assert status["health"] == "ERROR"
    api.nodes.down = set()
    status = api.done("GET", f"/trust/clusters/{cluster}/status")
    assert status["health"] == "ERROR"
    assert "ta2" in status["details"][0]["default_message"]
    api.done("POST", f"/trust/clusters/{cluster}?action=remediate")
    assert api.done("GET", f"/trust/clusters/{cluster}/status") == {"health": "OK", "details": []}
    assert api.nodes.content("ta2", "trust_authority_cluster", "cluster")["state"] == "DISABLE"


def test_the_next_change_also_brings_what_a_host_missed(api, cluster) -> None:
    api.nodes.down = {"ta2"}
    api.failed("PATCH", f"{CLUSTERS}/{cluster}", json={"state": "DISABLE"})
    api.nodes.down = set()
    api.done("PATCH", f"{CLUSTERS}/{cluster}", json={"state": "ENABLE"})
    assert api.nodes.documents["ta1"] == api.nodes.documents["ta2"]


def test_a_host_that_refuses_fails_the_task(api, cluster) -> None:
    api.nodes.refusing = {"ta1"}
    error = api.failed("PATCH", f"{CLUSTERS}/{cluster}", json={"state": "DISABLE"})
    assert error["messages"][1]["default_message"] == "ta1: documents[0]: refused"


def test_what_a_host_should_not_have_is_an_error_and_is_removed(api, cluster) -> None:
    stray = next(iter(api.nodes.documents["ta1"].values()))
    other = type(stray)("scope", "stray", stray.generation, {"principal": "x"})
    api.nodes.documents["ta1"]["scope", "stray"] = other
    assert api.done("GET", f"/trust/clusters/{cluster}/status")["health"] == "ERROR"
    api.done("POST", f"/trust/clusters/{cluster}?action=remediate")
    assert api.nodes.content("ta1", "scope", "stray") is None


def test_a_removed_host_loses_its_configuration_and_can_come_back(api, cluster) -> None:
    api.done("DELETE", f"/trust/clusters/{cluster}/hosts/ta2")
    assert all(document.content is None for document in api.nodes.documents["ta2"].values())
    peers = api.nodes.content("ta1", "trust_authority_cluster", "cluster")["peers"]
    assert [peer["host"] for peer in peers] == ["ta1"]
    host = api.done("POST", f"/trust/clusters/{cluster}/hosts", json={"name": "ta2", "hostname": "192.0.2.9"})
    assert host == "host-3"
    content = api.nodes.content("ta2", "trust_authority_cluster", "cluster")
    assert [peer["public_name"] for peer in content["peers"]] == ["ta1", "192.0.2.9"]
    assert api.done("GET", f"/trust/clusters/{cluster}/status")["health"] == "OK"


def test_a_dead_host_can_be_removed(api, cluster) -> None:
    api.nodes.down = {"ta2"}
    info = api.task("DELETE", f"/trust/clusters/{cluster}/hosts/host-2")
    assert info["status"] == "SUCCEEDED"
    assert "ta2" in info["progress"]["message"]["default_message"]
    assert [host["name"] for host in api.ok("GET", f"/trust/clusters/{cluster}/hosts")] == ["ta1"]


def test_a_silent_host_is_not_added(api, cluster) -> None:
    api.nodes.down = {"ta3"}
    error = api.failed("POST", f"/trust/clusters/{cluster}/hosts", json={"name": "ta3"})
    assert error["error_type"] == "RESOURCE_INACCESSIBLE"
    assert "ta3" in error["messages"][0]["default_message"]
    assert len(api.ok("GET", "/vcenter/host")) == 2


def test_security_generations_are_levelled(api, cluster) -> None:
    api.nodes.generations = {"ta1": 7, "ta2": 3}
    api.done("POST", f"/trust/clusters/{cluster}?action=remediate")
    assert api.nodes.generations == {"ta1": 7, "ta2": 7}
    api.done("POST", f"/trust/clusters/{cluster}/hosts", json={"name": "ta3"})
    assert api.nodes.generations["ta3"] == 7


def test_a_withdrawal_counts_above_what_any_host_had_reached(api, cluster) -> None:
    """Otherwise a host that counted less reaches the number under which its peer judged tokens before."""
    denial = f"/trust/clusters/{cluster}/denied-hosts"
    body = {"host": "host1", "ek_digest": "ab" * 32}
    api.nodes.generations = {"ta1": 3, "ta2": 7}
    api.done("POST", f"/trust/clusters/{cluster}?action=remediate")
    # The peer goes on counting where the other does not see it, and then does not answer.
    api.nodes.generations = {"ta1": 7, "ta2": 7}
    api.nodes.down = {"ta2"}
    api.failed("POST", denial, json=body)
    assert api.nodes.generations["ta1"] == 8
    api.nodes.down.clear()
    api.done("POST", f"/trust/clusters/{cluster}?action=remediate")
    assert api.nodes.generations == {"ta1": 8, "ta2": 8}, "and once: coming back is no withdrawal"
    api.done("POST", f"/trust/clusters/{cluster}/hosts", json={"name": "ta3"})
    assert set(api.nodes.generations.values()) == {8}


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("", {}, "spec.name"),
        ("", {"name": ""}, "spec.name"),
        ("", {"name": "a/b"}, "spec.name"),
        ("", {"name": 7}, "spec.name"),
        ("", {"name": "x", "more": 1}, "spec.more"),
        ("", [], "spec"),
        ("/domain-c1/hosts?vmw-task=true", {"name": "no/host"}, "spec.name"),
        ("/domain-c1/hosts?vmw-task=true", {"name": "ta9", "port": 0}, "spec.port"),
        ("/domain-c1/hosts?vmw-task=true", {"name": "ta9", "ek_digest": "AB"}, "spec.ek_digest"),
    ],
)
def test_bad_input_names_the_field(api, cluster, path, body, field) -> None:
    response = api.request("POST", f"/trust/clusters{path}", json=body)
    assert response.status_code == 400, response.text
    assert response.json()["error_type"] == "INVALID_ARGUMENT"
    assert response.json()["messages"][0]["args"][0] == field
    assert response.json()["messages"][0]["default_message"].startswith(f"{field}: ")


def test_existing_names_are_refused(api, cluster) -> None:
    response = api.request("POST", "/trust/clusters", json={"name": "authority"})
    assert (response.status_code, response.json()["error_type"]) == (400, "ALREADY_EXISTS")
    error = api.failed("POST", f"/trust/clusters/{cluster}/hosts", json={"name": "ta1"})
    assert error["error_type"] == "ALREADY_EXISTS"


def test_a_cluster_with_hosts_is_not_removed(api, cluster) -> None:
    response = api.request("DELETE", f"/trust/clusters/{cluster}")
    assert (response.status_code, response.json()["error_type"]) == (500, "RESOURCE_BUSY")
    for host in ("ta1", "ta2"):
        api.done("DELETE", f"/trust/clusters/{cluster}/hosts/{host}")
    assert api.request("DELETE", f"/trust/clusters/{cluster}").status_code == 204
    assert api.request("GET", f"/trust/clusters/{cluster}").status_code == 404


@pytest.mark.parametrize("name", ["ta9:8443", "ta9/x", "user@ta9", "ta9 ", "a..b", "-x", "x" * 250, "[::1]"])
def test_a_host_name_leads_nowhere_else(sides, name: str) -> None:
    path = "/trust/clusters/one/hosts?vmw-task=true"
    response = sides["trust_authority"].request("POST", path, json={"name": name})
    assert (response.status_code, response.json()["messages"][0]["args"]) == (400, ["spec.name"])


def test_a_host_that_was_ahead_comes_back(api, cluster) -> None:
    """Its documents are newer than the cluster's, with the same and with another content."""
    api.nodes.down = {"ta2"}
    api.done("DELETE", f"/trust/clusters/{cluster}/hosts/ta2")
    api.nodes.down = set()
    for key, document in api.nodes.documents["ta2"].items():
        newer = Generation(document.generation.epoch, document.generation.counter + 50)
        api.nodes.documents["ta2"][key] = Document(document.kind, document.id, newer, document.content)
    api.done("POST", f"/trust/clusters/{cluster}/hosts", json={"name": "ta2"})
    assert api.done("GET", f"/trust/clusters/{cluster}/status") == {"health": "OK", "details": []}


def test_a_newer_document_on_a_member_is_not_overwritten(api, cluster) -> None:
    """A manager that was restored from an old copy must not take back what a newer one decided."""
    key = ("tpm2_settings", "settings")
    document = api.nodes.documents["ta1"][key]
    newer = Generation(document.generation.epoch, document.generation.counter + 5)
    other = {**document.content, "require_endorsement_keys": False}
    api.nodes.documents["ta1"][key] = Document(document.kind, document.id, newer, other)
    error = api.failed("POST", f"/trust/clusters/{cluster}?action=remediate")
    assert error["messages"][1]["id"] == "trusted.infrastructure.stale_generation"
    assert api.nodes.documents["ta1"][key].content == other
    details = api.done("GET", f"/trust/clusters/{cluster}/status")["details"]
    assert "newer on the host" in details[0]["default_message"]
