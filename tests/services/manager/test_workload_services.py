# SPDX-License-Identifier: GPL-3.0-or-later
"""The workload side: its principal, and the services of Trust Authorities that are registered with it."""

from __future__ import annotations

from typing import Any

import pytest
from services.manager.harness import Api
from services.manager.workload import BASE, CA, CLUSTER, PARTS, SIGNER, attach_all, register, spec


def test_the_principal_is_what_the_other_side_imports(workload: Api) -> None:
    info = workload.ok("GET", f"{BASE}/principal")
    assert info["certificates"] == [{"cert_chain": [SIGNER.pem]}]
    assert info["issuer"] == "https://manager.example/"
    assert info["principal"] == {"id": {"name": "manager", "domain": "manager.example"}, "type": "STS_USER"}


def test_a_manager_without_principal_says_so(sides) -> None:
    for api in sides.values():
        response = api.request("GET", f"{BASE}/principal")
        assert (response.status_code, response.json()["error_type"]) == (400, "UNSUPPORTED")


@pytest.mark.parametrize("part", PARTS)
def test_services_are_registered_once_and_found(workload: Api, part: str) -> None:
    path = f"{BASE}/{part}/services"
    first, second = register(workload, part), register(workload, part, "ta2", group="group-2")
    again = workload.request("POST", path, json=spec(address={"hostname": "ta1", "port": 443}))
    assert (again.status_code, again.json()["error_type"]) == (400, "ALREADY_EXISTS")
    info = workload.ok("GET", f"{path}/{first}")
    assert info["address"] == {"hostname": "ta1", "port": 443}
    assert info["trusted_CA"] == {"cert_chain": [CA.pem]}
    query = f"{path}?action=query"
    assert {item["service"] for item in workload.ok("POST", query)} == {first, second}
    for wanted, found in [
        ({"services": [second]}, [second]),
        ({"address": [{"hostname": "ta1"}]}, [first]),
        ({"address": [{"hostname": "ta1", "port": 444}]}, []),
        ({"group": ["group-2"]}, [second]),
        ({"trust_authority_cluster": ["domain-c9"]}, []),
    ]:
        assert [item["service"] for item in workload.ok("POST", query, json=wanted)] == found
    assert workload.request("DELETE", f"{path}/{first}").status_code == 204
    assert workload.request("GET", f"{path}/{first}").status_code == 404
    assert workload.request("DELETE", f"{path}/{first}").status_code == 404


@pytest.mark.parametrize("spelling", ["trusted_CA", "trusted_ca"])
def test_both_spellings_of_trusted_ca_are_taken(workload: Api, spelling: str) -> None:
    body = spec()
    body[spelling] = body.pop("trusted_CA")
    assert workload.request("POST", f"{BASE}/kms/services", json=body).status_code == 201
    both = {**spec("ta2"), "trusted_ca": {"cert_chain": [CA.pem]}}
    response = workload.request("POST", f"{BASE}/kms/services", json=both)
    assert (response.status_code, response.json()["messages"][0]["args"]) == (400, ["spec.trusted_CA"])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"address": {}}, "spec.address.hostname"),
        ({"address": {"hostname": "ta1", "port": 70000}}, "spec.address.port"),
        ({"trusted_CA": {"cert_chain": ["x"]}}, "spec.trusted_CA.cert_chain[0]"),
        ({"group": ""}, "spec.group"),
        ({"more": 1}, "spec.more"),
    ],
)
def test_bad_registrations_name_the_field(sides, change: dict[str, Any], field: str) -> None:
    response = sides["workload"].request("POST", f"{BASE}/attestation/services", json=spec(**change))
    assert (response.status_code, response.json()["messages"][0]["args"]) == (400, [field])


def test_registered_services_in_use_are_busy_until_they_are_detached(workload: Api) -> None:
    ids = attach_all(workload)
    path = f"{BASE}/attestation/services/{ids['attestation']}"
    response = workload.request("DELETE", path)
    assert (response.status_code, response.json()["error_type"]) == (500, "RESOURCE_BUSY")
    attached = f"{CLUSTER}/attestation/services/{ids['attestation']}"
    workload.done("DELETE", attached)
    assert workload.nodes.content("host1", "attestation_service", ids["attestation"]) is None
    assert workload.nodes.content("host1", "host_assertion", "assertion") is None
    assert workload.failed("DELETE", attached)["error_type"] == "NOT_FOUND"
    assert workload.request("GET", attached).status_code == 404
    assert workload.request("DELETE", path).status_code == 204
