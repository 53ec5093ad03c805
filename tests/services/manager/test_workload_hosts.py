# SPDX-License-Identifier: GPL-3.0-or-later
"""Trusted hosts as their agents describe them: TPM, attestation, key check, base image."""

from __future__ import annotations

from typing import Any

import pytest
from services.manager.harness import Api
from services.manager.workload import BASE, CA, EK

from trusted_infrastructure.manager.nodes import NodeError
from trusted_infrastructure.manager.operations.base_images import IMAGE_LIMIT

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
    found = workload.ok("GET", "/trust/hosts/host1/base-image?image_version=2026.11&display_name=Host%20one")
    assert found == {"image_version": "2026.11"}
    response = workload.request("GET", "/trust/hosts/host1/base-image")
    assert (response.status_code, response.json()["error_type"]) == (503, "SERVICE_UNAVAILABLE")
    bad = workload.request("GET", "/trust/hosts/host1/base-image?image_version=-a")
    assert (bad.status_code, bad.json()["messages"][0]["args"]) == (400, ["image_version"])


def test_a_base_image_that_no_manager_takes_is_not_decoded(workload: Api) -> None:
    text = "x" * (IMAGE_LIMIT - len('{"a":""}'))
    for more, status in (("", 200), ("x", 503)):
        workload.nodes.answers["GET", "/agent/manage/v1/base-image"] = lambda _host, more=more: {
            "a": text + more
        }
        response = workload.request("GET", "/trust/hosts/host1/base-image")
        assert response.status_code == status
    assert f"more than {IMAGE_LIMIT} bytes" in response.text


def refuse(code: str, status: int) -> Any:
    """An answer of an agent that says no."""

    def answer(host: str) -> None:
        raise NodeError(host, code, "said no", status)

    return answer


@pytest.mark.parametrize("what", ["", "/tpm0", "/tpm0/endorsement-keys", "/tpm0/event-log"])
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (refuse("tpm_busy", 503), "tpm_busy"),
        (refuse("service_down", 502), "service_down"),
        (refuse("event_log_malformed", 400), "event_log_malformed"),
        (lambda _host: {"endorsement_keys": 7}, "unexpected_answer"),
        (lambda _host: [], "unexpected_answer"),
    ],
)
def test_an_agent_that_cannot_answer_about_its_tpm_is_503_with_the_reason(
    workload: Api, what: str, answer: Any, reason: str
) -> None:
    for path in ("tpm", "tpm/endorsement-keys", "tpm/event-log"):
        workload.nodes.answers["GET", f"/agent/manage/v1/{path}"] = answer
    response = workload.request("GET", f"{BASE}/hosts/host1/hardware/tpm{what}")
    assert (response.status_code, response.json()["error_type"]) == (503, "SERVICE_UNAVAILABLE")
    assert response.json()["messages"][0]["id"] == f"trusted.infrastructure.{reason}"
    assert response.json()["messages"][0]["args"] == ["host1"]


def test_values_that_are_not_hexadecimal_are_503(workload: Api) -> None:
    workload.nodes.answers["GET", "/agent/manage/v1/tpm"] = lambda _host: {
        **TPM,
        "banks": {"sha256": {"0": "zz"}},
    }
    assert workload.request("GET", f"{BASE}/hosts/host1/hardware/tpm/tpm0").status_code == 503


def test_a_vendor_chain_is_shown_even_if_nobody_can_read_it(workload: Api) -> None:
    workload.nodes.answers["GET", "/agent/manage/v1/tpm/endorsement-keys"] = lambda _host: {
        "endorsement_keys": [{**KEY, "manufacturer_certificates": ["unreadable"], "certificate": None}]
    }
    key = workload.ok("GET", f"{BASE}/hosts/host1/hardware/tpm/tpm0/endorsement-keys/{EK}")
    assert key["manufacturer_certificates"] == {"cert_chain": ["unreadable"]}
    assert "certificate" not in key


@pytest.mark.parametrize("kind", ["RSA_2048", "RSA_3072", "ECC_NIST_P_256", "ECC_NIST_P_384"])
def test_every_type_of_endorsement_key_is_listed(workload: Api, kind: str) -> None:
    workload.nodes.answers["GET", "/agent/manage/v1/tpm/endorsement-keys"] = lambda _host: {
        "endorsement_keys": [{**KEY, "type": kind}]
    }
    path = f"{BASE}/hosts/host1/hardware/tpm/tpm0/endorsement-keys"
    assert workload.ok("GET", f"{path}?types={kind}") == [{"key": EK, "type": kind}]


def test_unseal_is_not_offered(workload: Api) -> None:
    path = f"{BASE}/hosts/host1/hardware/tpm/tpm0/endorsement-keys/{EK}?action=unseal"
    assert workload.request("POST", path, json={}).status_code == 404


@pytest.mark.parametrize("state", ["ATTESTED", "FAILED", "EXPIRED", "UNREACHABLE"])
def test_the_state_of_the_agent_is_the_state(workload: Api, state: str) -> None:
    workload.nodes.answers["GET", "/agent/manage/v1/status"] = lambda _host: {
        **STATUS,
        "state": state,
        "reason": "quote_pcr_digest",
        "message": "PCR 4",
        "service": "x",
    }
    info = workload.ok("GET", "/trust/hosts/host1/attestation")
    assert (info["state"], info["reason"], info["message"], info["service"]) == (
        state,
        "quote_pcr_digest",
        "PCR 4",
        "x",
    )
    assert info["attested_until"] == STATUS["attested_until"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (refuse("service_down", 502), "service_down"),
        (refuse("certificate_expired", 403), "certificate_expired"),
        (refuse("unreachable", 0), "unreachable"),
        (lambda _host: {**STATUS, "state": "TRUSTED"}, "unexpected_answer"),
        (lambda _host: {}, "unexpected_answer"),
    ],
)
def test_whatever_an_agent_says_else_is_unreachable_with_the_reason(
    workload: Api, answer: Any, reason: str
) -> None:
    workload.nodes.answers["GET", "/agent/manage/v1/status"] = answer
    info = workload.ok("GET", "/trust/hosts/host1/attestation")
    assert (info["host"], info["name"], info["state"], info["reason"]) == (
        "host-1",
        "host1",
        "UNREACHABLE",
        reason,
    )
    assert info["message"]
    assert "attested_until" not in info


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"provider": ""}, "spec.provider"),
        ({"provider": 7}, "spec.provider"),
        ({"providers": "x"}, "spec.providers"),
    ],
)
def test_a_bad_key_check_names_the_field(sides, body: dict[str, Any], field: str) -> None:
    response = sides["workload"].request("POST", "/trust/hosts/host-1/key-check", json=body)
    assert (response.status_code, response.json()["messages"][0]["args"]) == (400, [field])


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("image_version=", "image_version"),
        ("image_version=a/b", "image_version"),
        ("image_version=" + "a" * 129, "image_version"),
        ("display_name=", "display_name"),
        ("version=1", "version"),
        ("image_version=1&image_version=2", "image_version"),
    ],
)
def test_a_bad_base_image_request_names_the_field(sides, query: str, field: str) -> None:
    response = sides["workload"].request("GET", f"/trust/hosts/host-1/base-image?{query}")
    assert (response.status_code, response.json()["messages"][0]["args"]) == (400, [field])
