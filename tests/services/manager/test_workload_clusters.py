# SPDX-License-Identifier: GPL-3.0-or-later
"""Trusted clusters: attaching services, and what the manager vouches for."""

from __future__ import annotations

from typing import Any

import pytest
from services.manager.harness import Api, Clock
from services.manager.workload import BASE, CA, CLUSTER, EK, PARTS, attach_all, claims, register

from trusted_infrastructure.manager.maintenance import maintain


def test_attaching_gives_hosts_services_and_assertions(workload: Api, clock: Clock) -> None:
    ids = attach_all(workload)
    for host in ("host1", "host2"):
        content = workload.nodes.content(host, "attestation_service", ids["attestation"])
        assert content["address"] == {"hostname": "ta1", "port": 443}
        assert content["trusted_ca"] == [CA.pem]
        found = claims(workload, host, clock)
        assert (found.sub, found.scope, found.ek_digest) == (host, "lab", EK)
        assert found.exp - found.iat == 30 * 86400
    for part in PARTS:
        listed = workload.ok("POST", f"{CLUSTER}/{part}/services?action=query")
        assert [item["service"] for item in listed] == [ids[part]]
        assert workload.ok("GET", f"{CLUSTER}/{part}/services/{ids[part]}")["group"] == "group-1"
    assert workload.ok("GET", "/trust/clusters/trusted")["trusted"] is True


def test_attaching_refuses_what_makes_no_sense(workload: Api) -> None:
    path = f"{CLUSTER}/attestation/services"
    cluster = {"type": "CLUSTER", "trust_authority_cluster": "domain-c8"}
    assert workload.failed("POST", path, json=cluster)["error_type"] == "NOT_FOUND"
    assert (
        workload.failed("POST", path, json={"type": "SERVICE", "service": "x"})["error_type"] == "NOT_FOUND"
    )
    first = register(workload, "attestation")
    assert workload.done("POST", path, json=cluster) == first
    assert workload.failed("POST", path, json=cluster)["error_type"] == "ALREADY_EXISTS"
    other = register(workload, "kms", "ta9", group="group-9")
    body = {"type": "SERVICE", "service": other}
    error = workload.failed("POST", f"{CLUSTER}/kms/services", json=body)
    assert error["messages"][0]["id"] == "trusted.infrastructure.several_groups"
    second = register(workload, "attestation", "ta2")
    assert workload.done("POST", path, json=cluster) == second


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "spec.type"),
        ({"type": "ALL"}, "spec.type"),
        ({"type": "SERVICE"}, "spec.service"),
        ({"type": "CLUSTER"}, "spec.trust_authority_cluster"),
        ({"type": "CLUSTER", "service": "x", "trust_authority_cluster": "y"}, "spec.service"),
        ({"type": "SERVICE", "service": "x", "trust_authority_cluster": "y"}, "spec.trust_authority_cluster"),
    ],
)
def test_the_union_is_checked(sides, body: dict[str, Any], field: str) -> None:
    path = f"{BASE}/trusted-clusters/one/kms/services?vmw-task=true"
    response = sides["workload"].request("POST", path, json=body)
    assert (response.status_code, response.json()["messages"][0]["args"]) == (400, [field])


def test_a_host_that_joins_is_vouched_for_and_one_that_leaves_is_stripped(
    workload: Api, clock: Clock
) -> None:
    attach_all(workload)
    body = {"name": "host3", "ek_digest": "cd" * 32, "scope": "other"}
    workload.done("POST", "/trust/clusters/trusted/hosts", json=body)
    assert claims(workload, "host3", clock).scope == "other"
    workload.done("PATCH", "/trust/clusters/trusted/hosts/host3", json={"ek_digest": "ef" * 32})
    assert claims(workload, "host3", clock).ek_digest == "ef" * 32
    workload.done("DELETE", "/trust/clusters/trusted/hosts/host3")
    assert all(item.content is None for item in workload.nodes.documents["host3"].values())
    workload.done("POST", "/trust/clusters/trusted/hosts", json=body)
    assert claims(workload, "host3", clock).ek_digest == "cd" * 32
    assert workload.done("GET", "/trust/clusters/trusted/status")["health"] == "OK"


def test_assertions_are_renewed_at_half_life(workload: Api, clock: Clock) -> None:
    attach_all(workload)
    first = claims(workload, "host1", clock)
    clock.now += 14 * 86400
    workload.run(maintain(workload.manager))
    assert claims(workload, "host1", clock).jti == first.jti
    clock.now += 2 * 86400
    workload.nodes.down = {"host2"}
    workload.run(maintain(workload.manager))
    assert claims(workload, "host1", clock).jti != first.jti
    workload.nodes.down = set()
    workload.login()
    assert workload.done("GET", f"{CLUSTER}/services-applied-config")["health"] == "ERROR"
    workload.done("PATCH", f"{CLUSTER}/services-applied-config")
    assert claims(workload, "host2", clock).iat == int(clock())


@pytest.mark.parametrize("missing", ["ek_digest", "scope"])
def test_a_trusted_host_must_be_enrolled(workload: Api, missing: str) -> None:
    body = {"name": "host9", "ek_digest": EK, "scope": "lab"}
    del body[missing]
    error = workload.failed("POST", "/trust/clusters/trusted/hosts", json=body)
    assert error["messages"][0]["args"] == [f"spec.{missing}"]


@pytest.mark.parametrize("part", PARTS)
def test_unknown_services_are_404(workload: Api, part: str) -> None:
    path = f"{CLUSTER}/{part}/services/nothing"
    response = workload.request("GET", path)
    assert (response.status_code, response.json()["error_type"]) == (404, "NOT_FOUND")
    assert workload.failed("DELETE", path)["error_type"] == "NOT_FOUND"


def test_a_registered_service_of_the_other_kind_cannot_be_attached(workload: Api) -> None:
    body = {"type": "SERVICE", "service": register(workload, "kms")}
    error = workload.failed("POST", f"{CLUSTER}/attestation/services", json=body)
    assert error["error_type"] == "NOT_FOUND"


def test_attached_services_are_filtered(workload: Api) -> None:
    ids = attach_all(workload)
    path = f"{CLUSTER}/kms/services?action=query"
    for wanted, found in [
        ({}, [ids["kms"]]),
        ({"services": [ids["attestation"]]}, []),
        ({"address": [{"hostname": "ta1", "port": 443}], "group": ["group-1"]}, [ids["kms"]]),
        ({"group": ["group-2"]}, []),
        ({"trust_authority_cluster": ["domain-c8"]}, [ids["kms"]]),
    ]:
        assert [item["service"] for item in workload.ok("POST", path, json=wanted)] == found


def test_without_a_principal_nothing_is_attached(make_api) -> None:
    api = make_api("workload")
    api.ok("POST", "/trust/clusters", json={"name": "trusted"})
    api.done("POST", "/trust/clusters/trusted/hosts", json={"name": "host1", "ek_digest": EK, "scope": "lab"})
    body = {"type": "SERVICE", "service": register(api, "attestation")}
    error = api.failed("POST", f"{CLUSTER}/attestation/services", json=body)
    assert error["messages"][0]["id"] == "trusted.infrastructure.no_principal"
    assert api.ok("POST", f"{CLUSTER}/attestation/services?action=query") == []
    assert api.nodes.documents.get("host1", {}) == {}


def test_a_host_that_fails_is_named_and_remediation_completes(workload: Api, clock: Clock) -> None:
    service = register(workload, "attestation")
    body = {"type": "SERVICE", "service": service}
    workload.nodes.refusing = {"host2"}
    error = workload.failed("POST", f"{CLUSTER}/attestation/services", json=body)
    assert (error["error_type"], error["messages"][0]["args"]) == ("RESOURCE_INACCESSIBLE", ["host2"])
    assert claims(workload, "host1", clock).sub == "host1"
    assert workload.nodes.content("host2", "host_assertion", "assertion") is None
    workload.nodes.refusing = set()
    workload.done("PATCH", f"{CLUSTER}/attestation/services-applied-config")
    assert claims(workload, "host2", clock).sub == "host2"


def test_each_host_has_its_own_assertion_only(workload: Api, clock: Clock) -> None:
    attach_all(workload)
    for host in ("host1", "host2"):
        assert workload.nodes.content(host, "host_assertion", "assertion")["host"] == host
    assert claims(workload, "host1", clock).jti != claims(workload, "host2", clock).jti


def test_a_host_that_moves_takes_what_its_new_cluster_gets_later(workload: Api) -> None:
    """It remembers deletions of what the old cluster gave it, which the same of the new one must be above."""
    attach_all(workload)
    workload.done("DELETE", "/trust/clusters/trusted/hosts/host2")
    workload.ok("POST", "/trust/clusters", json={"name": "other"})
    workload.done(
        "POST", "/trust/clusters/other/hosts", json={"name": "host2", "ek_digest": EK, "scope": "lab"}
    )
    cluster = {"type": "CLUSTER", "trust_authority_cluster": "domain-c8"}
    for part in PARTS:
        workload.done("POST", f"{BASE}/trusted-clusters/other/{part}/services", json=cluster)
    assert workload.done("GET", "/trust/clusters/other/status")["health"] == "OK"
