# SPDX-License-Identifier: GPL-3.0-or-later
"""The workload side: principal, registered services, trusted clusters, assertions, drift, hosts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from services.manager.harness import Api, Clock
from services.manager.material import Issuer

from trusted_infrastructure.manager.maintenance import maintain
from trusted_infrastructure.tokens import Principal, verify_assertion

BASE = "/vcenter/trusted-infrastructure"
CLUSTER = f"{BASE}/trusted-clusters/trusted"
PROVIDERS = "/trust/trusted-key-providers"
EK = "ab" * 32
CA = Issuer("trust authority CA")
SIGNER = Issuer("workload principal", ca=False)
PARTS = ("attestation", "kms")


@pytest.fixture
def make_workload(make_api: Callable[..., Api], tmp_path: Path) -> Callable[[], Api]:
    """Makes a manager with a principal."""

    def make() -> Api:
        (tmp_path / "principal.pem").write_text(SIGNER.pem)
        (tmp_path / "principal.key").write_text(SIGNER.key_pem)
        return make_api(
            "workload",
            principal_certificate=tmp_path / "principal.pem",
            principal_key=tmp_path / "principal.key",
        )

    return make


@pytest.fixture
def workload(make_workload: Callable[[], Api]) -> Api:
    """With the cluster "trusted" of two hosts, which uses nothing yet."""
    api = make_workload()
    api.ok("POST", "/trust/clusters", json={"name": "trusted"})
    for name in ("host1", "host2"):
        body = {"name": name, "ek_digest": EK, "scope": "lab"}
        api.done("POST", "/trust/clusters/trusted/hosts", json=body)
    return api


def spec(hostname: str = "ta1", **changes: Any) -> dict[str, Any]:
    """A service to be registered."""
    return {
        "address": {"hostname": hostname},
        "trusted_CA": {"cert_chain": [CA.pem]},
        "group": "group-1",
        "trust_authority_cluster": "domain-c8",
        **changes,
    }


def register(api: Api, part: str, hostname: str = "ta1", **changes: Any) -> str:
    """Registers a service; its id."""
    return api.ok("POST", f"{BASE}/{part}/services", json=spec(hostname, **changes))


def attach_all(api: Api) -> dict[str, str]:
    """Registers and attaches a service of each kind; ids."""
    ids = {part: register(api, part) for part in PARTS}
    for part in PARTS:
        body = {"type": "CLUSTER", "trust_authority_cluster": "domain-c8"}
        api.done("POST", f"{CLUSTER}/{part}/services", json=body)
    return ids


def claims(api: Api, host: str, clock: Clock) -> Any:
    """Verified claims of a host's assertion."""
    content = api.nodes.content(host, "host_assertion", "assertion")
    principal = Principal("https://manager.example/", [[SIGNER.pem]])
    return verify_assertion(content["assertion"], [principal], "group-1", int(clock()))


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
    assert workload.ok("GET", "/trust/clusters/trusted/status")["health"] == "OK"


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
    document = f"/config/v1/documents/{kind}/stray"
    workload.nodes.answers["GET", document] = lambda _host: stray
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
    workload.done("POST", PROVIDERS, json={"name": "finance"})
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
    assert workload.done("GET", path) == {"health": "OK", "details": []}


def test_a_cluster_that_is_being_changed_is_busy(workload: Api) -> None:
    manager = workload.manager
    with manager.database.transaction() as connection:
        from trusted_infrastructure.manager.inventory import find_cluster

        cluster = find_cluster(connection, "trusted")

    async def both() -> dict[str, Any]:
        async with manager.replication.lock(cluster):
            path = f"{CLUSTER}/services-applied-config?vmw-task=true"
            response = await workload.send("PATCH", path)
            await manager.tasks.idle()
            return (await workload.send("GET", f"/cis/tasks/{response.json()}")).json()

    info = workload.run(both())
    assert (info["status"], info["error"]["error_type"]) == ("FAILED", "RESOURCE_BUSY")


def test_trusted_key_providers_reach_clusters_that_use_key_providers(workload: Api) -> None:
    error = workload.failed("POST", PROVIDERS, json={"name": "finance"})
    assert error["messages"][0]["args"] == ["spec.group"]
    workload.done("POST", PROVIDERS, json={"name": "finance", "group": "group-1"})
    assert workload.nodes.content("host1", "trusted_key_provider", "finance") is None
    attach_all(workload)
    workload.done("POST", PROVIDERS, json={"name": "sales"})
    assert workload.nodes.content("host1", "trusted_key_provider", "finance")["default"] is True
    assert workload.nodes.content("host1", "trusted_key_provider", "sales")["default"] is False
    workload.done("PATCH", f"{PROVIDERS}/sales", json={"default": True})
    assert workload.nodes.content("host2", "trusted_key_provider", "finance")["default"] is False
    assert workload.ok("GET", PROVIDERS) == [
        {"name": "finance", "group": "group-1", "default": False},
        {"name": "sales", "group": "group-1", "default": True},
    ]
    assert workload.failed("POST", PROVIDERS, json={"name": "sales"})["error_type"] == "ALREADY_EXISTS"
    workload.done("DELETE", f"{PROVIDERS}/sales")
    assert workload.nodes.content("host1", "trusted_key_provider", "sales") is None
    assert workload.request("GET", f"{PROVIDERS}/sales").status_code == 404
    workload.nodes.down = {"host2"}
    error = workload.failed("DELETE", f"{PROVIDERS}/finance")
    assert error["error_type"] == "RESOURCE_INACCESSIBLE"
    assert "host2" in error["messages"][0]["default_message"]


TPM = {
    "tpm": "tpm0",
    "active": True,
    "major_version": 2,
    "minor_version": 0,
    "specification": "1.59",
    "manufacturer": "IBM",
    "model": "SW TPM",
    "firmware_version": "1.2",
    "banks": {"sha1": {"0": "00" * 20}, "sha256": {"0": "ab" * 32}},
}
KEY = {
    "key": EK,
    "type": "ECC_NIST_P_384",
    "identity": True,
    "public_area": "AAAA",
    "ek_digest": EK,
    "name": "AAAA",
    "qualified_name": "AAAA",
    "public_key": CA.public_pem,
    "certificate": CA.pem,
    "manufacturer_certificate_uri": None,
    "manufacturer_certificates": [CA.pem],
}


def test_the_tpm_of_a_host(workload: Api) -> None:
    path = f"{BASE}/hosts/host1/hardware/tpm"
    answers = workload.nodes.answers
    answers["GET", "/agent/manage/v1/tpm"] = lambda _host: TPM
    answers["GET", "/agent/manage/v1/tpm/endorsement-keys"] = lambda _host: {"endorsement_keys": [KEY]}
    answers["GET", "/agent/manage/v1/tpm/event-log"] = lambda _host: {
        "type": "EFI_TCG2_EVENT_LOG_FORMAT_TCG_2",
        "data": "AAAA",
        "truncated": False,
        "banks": TPM["banks"],
    }
    summary = {"tpm": "tpm0", "major_version": 2, "minor_version": 0, "active": True}
    assert workload.ok("GET", path) == [summary]
    assert workload.ok("GET", f"{path}?major_versions=1&active=true") == []
    info = workload.ok("GET", f"{path}/tpm0")
    value = "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s="
    assert info["banks"] == [{"algorithm": "SHA256", "pcrs": {"0": value}}]
    assert workload.ok("GET", f"{path}/tpm0/endorsement-keys") == [{"key": EK, "type": "ECC_NIST_P_384"}]
    assert workload.ok("GET", f"{path}/tpm0/endorsement-keys?types=RSA_2048") == []
    key = workload.ok("GET", f"{path}/tpm0/endorsement-keys/{EK}")
    assert (key["public_key"], key["identity"]) == (CA.public_pem, True)
    assert workload.ok("GET", f"{path}/tpm0/event-log")["data"] == "AAAA"
    for missing in ("tpm1", "tpm0/endorsement-keys/x", "tpm1/event-log"):
        assert workload.request("GET", f"{path}/{missing}").status_code == 404
    assert workload.request("GET", f"{path}/tpm0/endorsement-keys?types=DSA").status_code == 400
    assert workload.request("GET", f"{path}?major_versions=two").status_code == 400
    workload.nodes.down = {"host1"}
    response = workload.request("GET", path)
    assert (response.status_code, response.json()["error_type"]) == (503, "SERVICE_UNAVAILABLE")


STATUS = {
    "host_id": "host1",
    "state": "ATTESTED",
    "reason": None,
    "message": "",
    "base_image": "2026.11",
    "since": "2026-11-21T10:00:00Z",
    "attested_until": "2026-11-21T11:00:00Z",
    "service": None,
    "attestations": [
        {"state": "ATTESTED", "reason": None, "message": "", "service": "x", "address": "ta1:443"}
    ],
    "refused_services": [
        {"kind": "kms_service", "service": "y", "address": "bad:443", "reason": "anchor", "message": "no"}
    ],
    "key_check": {"result": "OK", "message": "", "provider": "finance", "checked": "2026-11-21T10:00:00Z"},
}


def test_how_hosts_stand(workload: Api) -> None:
    workload.nodes.answers["GET", "/agent/manage/v1/status"] = lambda _host: STATUS
    workload.nodes.answers["POST", "/agent/manage/v1/attest"] = lambda _host: {**STATUS, "state": "FAILED"}
    info = workload.ok("GET", "/trust/hosts/host1/attestation")
    assert (info["host"], info["name"], info["state"], info["base_image"]) == (
        "host-1",
        "host1",
        "ATTESTED",
        "2026.11",
    )
    assert info["refused_services"][0]["reason"] == "anchor"
    assert info["key_check"]["result"] == "OK"
    assert workload.ok("POST", "/trust/hosts/host1/attestation?action=attest")["state"] == "FAILED"
    workload.nodes.down = {"host2"}
    listed = workload.ok("GET", "/trust/attestation")
    assert [(item["name"], item["state"], item.get("reason")) for item in listed] == [
        ("host1", "ATTESTED", None),
        ("host2", "UNREACHABLE", "unreachable"),
    ]
    assert len(workload.ok("GET", "/trust/attestation?names=host2")) == 1


def test_a_key_check_gives_ok_or_the_reason(workload: Api) -> None:
    path = "/trust/hosts/host1/key-check"
    key = ("POST", "/agent/manage/v1/key-check")
    workload.nodes.answers[key] = lambda body: {
        "result": "OK" if body["provider"] is None else "provider_denied",
        "message": "",
    }
    assert workload.ok("POST", path)["result"] == "OK"
    assert workload.ok("POST", path, json={"provider": "sales"})["result"] == "provider_denied"
    workload.nodes.down = {"host1"}
    assert workload.ok("POST", path)["result"] == "unreachable"


def test_a_base_image_is_captured(workload: Api) -> None:
    path = "/agent/manage/v1/base-image?image_version=2026.11&display_name=Host+one"
    workload.nodes.answers["GET", path] = lambda _host: {"image_version": "2026.11"}
    found = workload.ok("GET", "/trust/hosts/host1/base-image?version=2026.11&display_name=Host%20one")
    assert found == {"image_version": "2026.11"}
    response = workload.request("GET", "/trust/hosts/host1/base-image")
    assert (response.status_code, response.json()["error_type"]) == (500, "RESOURCE_INACCESSIBLE")
