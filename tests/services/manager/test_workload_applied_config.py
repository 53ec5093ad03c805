# SPDX-License-Identifier: GPL-3.0-or-later
"""services-applied-config: what is wrong is shown at its address, and what hosts hold is never believed."""

from __future__ import annotations

import msgspec
import pytest
from services.manager.harness import Api, Clock
from services.manager.workload import BASE, CA, CLUSTER, EK, PARTS, PROVIDERS, attach_all, claims

from trusted_infrastructure.config.documents import Document
from trusted_infrastructure.manager.inventory import find_cluster

OVERALL = f"{CLUSTER}/services-applied-config"
NOTHING_APPLIED = "trusted.infrastructure.nothing_applied"


def put(api: Api, host: str, kind: str, identifier: str, **changes: object) -> None:
    """Gives a host a document that its manager did not send: a copy of its service, changed."""
    stored = api.nodes.documents[host]
    own = next(item for (of, _id), item in stored.items() if of == kind and item.content)
    changed = {**own.content, **changes}
    stored[kind, identifier] = Document(kind, identifier, own.generation, changed)


@pytest.mark.parametrize("part", PARTS)
def test_a_second_document_for_an_address_makes_that_address_wrong(workload: Api, part: str) -> None:
    ids = attach_all(workload)
    put(workload, "host2", f"{part}_service", "second", group="other")
    path = f"{CLUSTER}/{part}/services-applied-config"
    listed = workload.done("POST", f"{path}?action=query")
    assert listed == [{"health": "ERROR", "address": {"hostname": "ta1", "port": 443}, "service": ids[part]}]
    info = workload.done("GET", f"{path}?hostname=ta1")
    assert info["groups"] == ["other"]
    assert ["host2" in item["default_message"] for item in info["details"]] == [True]


def test_a_changed_service_is_wrong_where_it_should_be_and_where_it_is(workload: Api) -> None:
    ids = attach_all(workload)
    moved = {"hostname": "elsewhere", "port": 8443}
    put(workload, "host1", "kms_service", ids["kms"], address=moved, trusted_ca=["no certificate"])
    path = f"{CLUSTER}/kms/services-applied-config"
    listed = workload.done("POST", f"{path}?action=query")
    assert [(item["address"]["hostname"], item["health"]) for item in listed] == [
        ("ta1", "ERROR"),
        ("elsewhere", "ERROR"),
    ]
    there = workload.done("GET", f"{path}?hostname=elsewhere&port=8443")
    assert there["trustedc_as"] == [{"cert_chain": ["no certificate"]}]
    assert "service" not in there
    assert workload.done("GET", f"{path}?hostname=ta1")["trustedc_as"] == []
    assert workload.done("GET", OVERALL)["health"] == "ERROR"


def test_a_document_that_cannot_be_read_is_still_an_error(workload: Api) -> None:
    ids = attach_all(workload)
    put(workload, "host1", "attestation_service", ids["attestation"], surprise=1)
    listed = workload.done("POST", f"{CLUSTER}/attestation/services-applied-config?action=query")
    assert [item["health"] for item in listed] == ["ERROR"]


def test_a_host_that_does_not_answer_is_an_error_that_names_it(workload: Api) -> None:
    attach_all(workload)
    workload.nodes.down = {"host2"}
    for path in (OVERALL, f"{CLUSTER}/kms/services-applied-config?hostname=ta1"):
        info = workload.done("GET", path)
        assert info["health"] == "ERROR"
        assert [item["args"] for item in info["details"]] == [["host2"]]
    error = workload.failed("PATCH", OVERALL)
    assert (error["error_type"], error["messages"][0]["args"]) == ("RESOURCE_INACCESSIBLE", ["host2"])


def test_a_missing_assertion_is_an_error_of_the_whole(workload: Api) -> None:
    attach_all(workload)
    del workload.nodes.documents["host1"]["host_assertion", "assertion"]
    info = workload.done("GET", OVERALL)
    assert (info["health"], info["details"][0]["args"]) == ("ERROR", ["host1"])


def test_it_says_when_no_host_has_anything(workload: Api) -> None:
    attach_all(workload)
    assert workload.done("GET", OVERALL) == {"health": "OK", "details": []}
    workload.done("DELETE", f"{CLUSTER}/kms/services-applied-config")
    assert NOTHING_APPLIED not in [item["id"] for item in workload.done("GET", OVERALL)["details"]]
    workload.done("DELETE", OVERALL)
    info = workload.done("GET", OVERALL)
    assert (info["health"], info["details"][0]["id"]) == ("ERROR", NOTHING_APPLIED)
    workload.nodes.down = {"host1"}
    assert NOTHING_APPLIED not in [item["id"] for item in workload.done("GET", OVERALL)["details"]]


def test_a_cluster_without_hosts_has_no_health(workload: Api) -> None:
    workload.ok("POST", "/trust/clusters", json={"name": "empty"})
    path = "/vcenter/trusted-infrastructure/trusted-clusters/empty/services-applied-config"
    assert workload.done("GET", path)["health"] == "NONE"
    workload.done("PATCH", path)
    workload.done("DELETE", path)


def test_stripping_is_repeatable_and_a_change_brings_everything_back(workload: Api) -> None:
    ids = attach_all(workload)
    for _again in range(3):
        workload.done("DELETE", OVERALL)
    workload.done("DELETE", f"{CLUSTER}/kms/services/{ids['kms']}")
    assert workload.nodes.content("host1", "attestation_service", ids["attestation"]) is not None
    assert workload.nodes.content("host1", "kms_service", ids["kms"]) is None
    assert workload.done("GET", OVERALL) == {"health": "OK", "details": []}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "address.hostname"),
        ("&port=443", "address.hostname"),
        ("&hostname=a/b", "address.hostname"),
        ("&hostname=ta1&port=0", "address.port"),
        ("&hostname=ta1&port=x", "port"),
        ("&hostname=ta1&hostname=ta2", "hostname"),
    ],
)
@pytest.mark.parametrize("part", PARTS)
def test_a_bad_address_names_the_field(sides, part: str, query: str, field: str) -> None:
    path = f"/vcenter/trusted-infrastructure/trusted-clusters/one/{part}/services-applied-config"
    response = sides["workload"].request("GET", f"{path}?vmw-task=true{query}")
    assert (response.status_code, response.json()["error_type"]) == (400, "INVALID_ARGUMENT")
    assert response.json()["messages"][0]["args"] == [field]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"health": ["WARNING"]}, "spec.health[0]"),
        ({"health": "OK"}, "spec.health"),
        ({"address": [{"hostname": "ta1", "port": 65536}]}, "spec.address[0].port"),
        ({"services": []}, "spec.services"),
    ],
)
def test_a_bad_filter_names_the_field(sides, body: dict[str, object], field: str) -> None:
    path = "/vcenter/trusted-infrastructure/trusted-clusters/one/kms/services-applied-config"
    response = sides["workload"].request("POST", f"{path}?action=query&vmw-task=true", json=body)
    assert response.status_code == 400, response.text
    found = response.json()["messages"][0]["args"][0]
    assert found in {field, field.replace("[0]", "")}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", OVERALL),
        ("PATCH", OVERALL),
        ("DELETE", OVERALL),
        ("PATCH", f"{CLUSTER}/attestation/services-applied-config"),
        ("DELETE", f"{CLUSTER}/kms/services-applied-config"),
        ("POST", f"{CLUSTER}/kms/services-applied-config?action=query"),
        ("GET", f"{CLUSTER}/kms/services-applied-config?hostname=ta1"),
    ],
)
def test_a_change_under_way_is_resource_busy(workload: Api, method: str, path: str) -> None:
    attach_all(workload)
    manager = workload.manager
    with manager.database.transaction() as connection:
        cluster = find_cluster(connection, "trusted")
    before = msgspec.json.encode([*workload.nodes.documents["host1"].values()])

    async def during_a_change() -> dict[str, object]:
        async with manager.replication.lock(cluster):
            separator = "&" if "?" in path else "?"
            response = await workload.send(method, f"{path}{separator}vmw-task=true")
            await manager.tasks.idle()
            info: dict[str, object] = (await workload.send("GET", f"/cis/tasks/{response.json()}")).json()
            return info

    info = workload.run(during_a_change())
    assert (info["status"], info["error"]["error_type"]) == ("FAILED", "RESOURCE_BUSY")
    assert msgspec.json.encode([*workload.nodes.documents["host1"].values()]) == before


def test_what_the_ca_of_hosts_is_worth_is_shown_as_it_is(workload: Api) -> None:
    ids = attach_all(workload)
    put(workload, "host1", "attestation_service", ids["attestation"], group="stolen")
    info = workload.done("GET", f"{CLUSTER}/attestation/services-applied-config?hostname=ta1")
    assert (info["groups"], info["trustedc_as"]) == (["stolen"], [{"cert_chain": [CA.pem]}])
    assert info["service"] == ids["attestation"]


@pytest.mark.parametrize("part", PARTS)
def test_drift_is_shown_and_remediated(workload: Api, part: str) -> None:
    ids = attach_all(workload)
    kind = f"{part}_service"
    path = f"{CLUSTER}/{part}/services-applied-config"
    query = f"{path}?action=query"
    healthy = {"health": "OK", "address": {"hostname": "ta1", "port": 443}, "service": ids[part]}
    assert workload.done("POST", query) == [healthy]
    assert workload.done("GET", f"{CLUSTER}/services-applied-config") == {"health": "OK", "details": []}
    stored = workload.nodes.documents["host1"]
    own = stored.pop((kind, ids[part]))
    stray = type(own)(
        kind, "stray", own.generation, {**own.content, "address": {"hostname": "bad", "port": 1}}
    )
    stored[kind, "stray"] = stray
    found = workload.done("POST", query)
    assert [(item["health"], item["address"]["hostname"], item.get("service")) for item in found] == [
        ("ERROR", "ta1", ids[part]),
        ("ERROR", "bad", None),
    ]
    assert workload.done("POST", query, json={"address": [{"hostname": "ta1"}], "health": ["OK"]}) == []
    info = workload.done("GET", f"{path}?hostname=bad&port=1")
    assert (info["groups"], info["trustedc_as"]) == (["group-1"], [{"cert_chain": [CA.pem]}])
    assert "host1" in info["details"][0]["default_message"]
    assert workload.failed("GET", f"{path}?hostname=nobody")["error_type"] == "NOT_FOUND"
    workload.done("PATCH", path)
    assert workload.done("POST", query) == [healthy]


@pytest.mark.parametrize("part", [*PARTS, ""])
def test_applied_configuration_is_taken_off_and_brought_back(workload: Api, part: str, clock: Clock) -> None:
    ids = attach_all(workload)
    workload.done("POST", PROVIDERS, json={"provider": "finance"})
    path = f"{CLUSTER}/{part}/services-applied-config".replace("//", "/")
    workload.done("DELETE", path)
    kinds = {"attestation": ["attestation"], "kms": ["kms"], "": list(PARTS)}[part]
    for other in PARTS:
        content = workload.nodes.content("host2", f"{other}_service", ids[other])
        assert (content is None) == (other in kinds)
    assert workload.done("GET", f"{CLUSTER}/services-applied-config")["health"] == "ERROR"
    for other in PARTS:
        listed = workload.ok("POST", f"{CLUSTER}/{other}/services?action=query")
        assert [item["service"] for item in listed] == [ids[other]]
    workload.done("PATCH", path)
    assert workload.done("GET", f"{CLUSTER}/services-applied-config") == {"health": "OK", "details": []}
    assert claims(workload, "host1", clock).sub == "host1"
    workload.nodes.down = {"host1"}
    assert workload.failed("DELETE", path)["messages"][0]["args"] == ["host1"]


def test_remediation_takes_trust_off_a_plain_cluster(workload: Api) -> None:
    ids = attach_all(workload)
    moved = dict(workload.nodes.documents["host1"])
    workload.ok("POST", "/trust/clusters", json={"name": "plain"})
    workload.nodes.documents["host7"] = {}
    body = {"name": "host7", "ek_digest": EK, "scope": "lab"}
    workload.done("POST", "/trust/clusters/plain/hosts", json=body)
    workload.nodes.documents["host7"] = moved
    path = f"{BASE}/trusted-clusters/plain/services-applied-config"
    assert workload.done("GET", path)["health"] == "ERROR"
    workload.done("PATCH", path)
    assert workload.nodes.content("host7", "attestation_service", ids["attestation"]) is None
    status = workload.done("GET", path)
    assert status["health"] == "OK"
    assert [item["id"] for item in status["details"]] == ["trusted.infrastructure.nothing_applied"]
