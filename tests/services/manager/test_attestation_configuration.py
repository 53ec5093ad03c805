# SPDX-License-Identifier: GPL-3.0-or-later
"""Principals, CAs, endorsement keys, settings, base images, scopes and denied hosts of a Trust Authority."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import pytest
from services.manager.harness import Api
from services.manager.material import Issuer

BASE = "/vcenter/trusted-infrastructure/trust-authority-clusters/authority"
TPM2 = f"{BASE}/attestation/tpm2"
IMAGES = f"{BASE}/attestation/os/esx/base-images"
IMPORT = f"{IMAGES}?action=import-from-imgdb"
PRINCIPALS = f"{BASE}/consumer-principals"
SCOPES = "/trust/clusters/authority/scopes"
DENIED = "/trust/clusters/authority/denied-hosts"

ROOT = Issuer("vendor root")
INTERMEDIATE = Issuer("vendor issuing", ROOT)
EK = Issuer("tpm", INTERMEDIATE, ca=False)
OTHER = Issuer("another root")


def image(**changes: object) -> dict[str, object]:
    """A base image document."""
    document = {
        "image_version": "2026.11",
        "display_name": "Host 2026.11",
        "bank": "sha256",
        "pcrs": {"0": {"value": "ab" * 32}, "4": {"events": [{"type": "EV_X", "digest": "cd" * 32}]}},
    }
    return {**document, **changes}


def blob(document: object) -> str:
    """As an import carries it."""
    return base64.b64encode(json.dumps(document).encode()).decode()


def principal(**changes: object) -> dict[str, object]:
    """A consumer principal."""
    return {
        "certificates": [{"cert_chain": [ROOT.pem]}],
        "issuer_alias": "workload",
        "issuer": "https://workload-manager/",
        "principal": {"id": {"name": "machine", "domain": "lab"}, "type": "STS_USER"},
        **changes,
    }


@pytest.fixture
def authority(api: Api) -> Api:
    """With the Trust Authority Cluster "authority" of two hosts."""
    api.ok("POST", "/trust/clusters", json={"name": "authority"})
    for name in ("ta1", "ta2"):
        api.done("POST", "/trust/clusters/authority/hosts", json={"name": name})
    api.done("PATCH", BASE, json={"state": "ENABLE"})
    return api


CREATIONS = {
    "ca_certificate": (
        f"{TPM2}/ca-certificates",
        {"name": "vendor", "cert_chain": {"cert_chain": [ROOT.pem, INTERMEDIATE.pem]}},
        f"{TPM2}/ca-certificates/vendor",
    ),
    "endorsement_key": (
        f"{TPM2}/endorsement-keys",
        {"name": "host1", "public_key": EK.public_pem},
        f"{TPM2}/endorsement-keys/host1",
    ),
    "base_image": (IMPORT, blob(image()), f"{IMAGES}/2026.11"),
    "scope": (
        SCOPES,
        {
            "scope": "lab",
            "principal": "https://workload-manager/",
            "trusted_cluster": "trusted",
            "base_images": ["*"],
            "providers": ["*"],
        },
        f"{SCOPES}/lab",
    ),
}


def prepared_creation(authority: Api, kind: str) -> tuple[str, object, str]:
    """Path and body that make an object, and its own path; what it names is there."""
    if kind == "scope":
        authority.done("POST", PRINCIPALS, json=principal())
    return CREATIONS[kind]


@pytest.mark.parametrize("kind", CREATIONS)
def test_an_object_is_on_all_hosts_and_goes_again(authority: Api, kind: str) -> None:
    path, body, one = prepared_creation(authority, kind)
    authority.done("POST", path, json=body)
    listed = authority.done("GET", path.split("?")[0])
    assert [item["health"] for item in listed] == ["OK"]
    info = authority.done("GET", one)
    assert (info["health"], info["details"]) == ("OK", [])
    identifier = one.rsplit("/", 1)[1]
    assert authority.nodes.content("ta1", kind, identifier) == authority.nodes.content(
        "ta2", kind, identifier
    )
    error = authority.failed("POST", path, json=body)
    assert error["error_type"] == "ALREADY_EXISTS"
    authority.done("DELETE", one)
    assert authority.nodes.content("ta2", kind, identifier) is None
    assert authority.failed("GET", one)["error_type"] == "NOT_FOUND"
    assert authority.failed("DELETE", one)["error_type"] == "NOT_FOUND"
    assert authority.done("GET", path.split("?")[0]) == []


@pytest.mark.parametrize("kind", CREATIONS)
def test_health_is_error_where_a_host_differs(authority: Api, kind: str) -> None:
    path, body, one = prepared_creation(authority, kind)
    authority.nodes.down = {"ta2"}
    error = authority.failed("POST", path, json=body)
    assert error["messages"][0]["args"] == ["ta2"]
    info = authority.done("GET", one)
    assert info["health"] == "ERROR"
    assert info["details"][0]["args"] == ["ta2"]
    authority.nodes.down = set()
    assert authority.done("GET", path.split("?")[0])[0]["health"] == "ERROR"
    authority.done("PATCH", BASE, json={"state": "ENABLE"})
    authority.done("POST", "/trust/clusters/authority?action=remediate")
    assert authority.done("GET", one)["health"] == "OK"


def test_configuration_needs_an_enabled_cluster(authority: Api) -> None:
    authority.done("PATCH", BASE, json={"state": "DISABLE"})
    path, body, _one = CREATIONS["ca_certificate"]
    error = authority.failed("POST", path, json=body)
    assert error["error_type"] == "NOT_ALLOWED_IN_CURRENT_STATE"


CHAIN = {"cert_chain": [ROOT.pem]}
BAD_INPUT = [
    (f"{TPM2}/ca-certificates", {"name": "x"}, "spec.cert_chain"),
    (
        f"{TPM2}/ca-certificates",
        {"name": "x", "cert_chain": {"cert_chain": []}},
        "spec.cert_chain.cert_chain",
    ),
    (
        f"{TPM2}/ca-certificates",
        {"name": "x", "cert_chain": {"cert_chain": [ROOT.pem, "no"]}},
        "spec.cert_chain.cert_chain[1]",
    ),
    (
        f"{TPM2}/ca-certificates",
        {"name": "x", "cert_chain": {"cert_chain": [EK.pem]}},
        "spec.cert_chain.cert_chain[0]",
    ),
    (
        f"{TPM2}/ca-certificates",
        {"name": "x", "cert_chain": {"cert_chain": [INTERMEDIATE.pem, ROOT.pem]}},
        "spec.cert_chain.cert_chain[1]",
    ),
    (f"{TPM2}/ca-certificates", {"name": "../x", "cert_chain": CHAIN}, "spec.name"),
    (f"{TPM2}/endorsement-keys", {"name": "x"}, "spec.public_key"),
    (f"{TPM2}/endorsement-keys", {"name": "x", "public_key": "no"}, "spec.public_key"),
    (f"{TPM2}/endorsement-keys", {"name": "x", "certificate": "no"}, "spec.certificate"),
    (
        f"{TPM2}/endorsement-keys",
        {"name": "x", "certificate": EK.pem, "public_key": ROOT.public_pem},
        "spec.public_key",
    ),
    (IMPORT, "not base64!", "imgdb"),
    (IMPORT, base64.b64encode(b"\x1f\x8b").decode(), "imgdb"),
    (IMPORT, blob({"image_version": "1"}), "imgdb.display_name"),
    (IMPORT, blob(image(image_version="../x")), "imgdb.image_version"),
    (IMPORT, blob(image(pcrs={})), "imgdb.pcrs"),
    (IMPORT, blob(image(pcrs={"0": {}})), "imgdb.pcrs.0"),
    (IMPORT, blob(image(pcrs={"0": {"value": "ab" * 32, "events": []}})), "imgdb.pcrs.0"),
    (IMPORT, blob(image(pcrs={"0": {"value": "ab"}})), "imgdb.pcrs.0.value"),
    (IMPORT, blob(image(bank="sha1")), "imgdb.bank"),
    (
        IMPORT,
        blob(image(pcrs={"4": {"events": [{"type": "X", "digest": "zz"}]}})),
        "imgdb.pcrs.4.events[0].digest",
    ),
    (PRINCIPALS, principal(certificates=[]), "spec.certificates"),
    (PRINCIPALS, principal(certificates=[{"cert_chain": ["x"]}]), "spec.certificates[0].cert_chain[0]"),
    (PRINCIPALS, principal(principal={"id": {"name": "x"}, "type": "STS_USER"}), "spec.principal.id.domain"),
    (PRINCIPALS, principal(issuer=""), "spec.issuer"),
    (SCOPES, {**CREATIONS["scope"][1], "providers": ["*", "x"]}, "spec.providers"),
    (DENIED, {"host": "host1", "ek_digest": "zz"}, "spec.ek_digest"),
]


@pytest.mark.parametrize(("path", "body", "field"), BAD_INPUT)
def test_bad_input_is_400_and_names_the_field(sides, path: str, body: object, field: str) -> None:
    path = path.replace("authority/", "one/").replace("clusters/authority", "clusters/one")
    response = sides["trust_authority"].request(
        "POST", f"{path}{'&' if '?' in path else '?'}vmw-task=true", json=body
    )
    assert response.status_code == 400, response.text
    assert response.json()["error_type"] == "INVALID_ARGUMENT"
    first = response.json()["messages"][0]
    assert first["args"][0] == field, first
    assert first["default_message"].startswith(f"{first['args'][0]}: ")


def test_an_ek_certificate_must_come_from_a_registered_ca(authority: Api) -> None:
    body = {"name": "host1", "certificate": EK.pem}
    error = authority.failed("POST", f"{TPM2}/endorsement-keys", json=body)
    assert error["error_type"] == "INVALID_ARGUMENT"
    assert error["messages"][0]["args"] == ["spec.certificate"]
    assert error["messages"][0]["id"] == "trusted.infrastructure.ek_certificate_invalid"
    authority.done("POST", CREATIONS["ca_certificate"][0], json=CREATIONS["ca_certificate"][1])
    authority.done("POST", f"{TPM2}/endorsement-keys", json=body)
    content = authority.nodes.content("ta2", "endorsement_key", "host1")
    assert content["public_key"] == EK.public_pem
    assert content["certificate"] == EK.pem
    assert authority.done("GET", f"{TPM2}/endorsement-keys/host1")["public_key"] == EK.public_pem


def test_certificates_may_be_base64_of_der(authority: Api) -> None:
    text = "".join(ROOT.pem.splitlines()[1:-1])
    body = {"name": "vendor", "cert_chain": {"cert_chain": [text]}}
    authority.done("POST", f"{TPM2}/ca-certificates", json=body)
    info = authority.done("GET", f"{TPM2}/ca-certificates/vendor")
    assert info["cert_chain"]["cert_chain"] == [ROOT.pem]


def test_settings_are_patched_and_no_policy_is_a_warning(authority: Api) -> None:
    path = f"{TPM2}/settings"
    both = {"require_endorsement_keys": True, "require_certificate_validation": True}
    assert authority.done("GET", path) == {**both, "health": "OK", "details": []}
    authority.done("PATCH", path, json={"require_certificate_validation": False})
    assert authority.done("GET", path)["require_endorsement_keys"] is True
    authority.done("PATCH", path, json={"require_endorsement_keys": False})
    info = authority.done("GET", path)
    assert info["health"] == "WARNING"
    assert info["details"][0]["id"] == "trusted.infrastructure.ek_policy_none"


def test_principals_are_found_by_filter_and_not_twice(authority: Api) -> None:
    profile = authority.done("POST", PRINCIPALS, json=principal())
    error = authority.failed("POST", PRINCIPALS, json=principal(issuer_alias="again"))
    assert error["error_type"] == "ALREADY_EXISTS"
    info = authority.done("GET", f"{PRINCIPALS}/{profile}")
    assert info["certificates"] == [{"cert_chain": [ROOT.pem]}]
    assert (info["id"], info["health"]) == (profile, "OK")
    assert "message" not in info
    query = f"{PRINCIPALS}?action=query"
    assert [item["id"] for item in authority.done("POST", query)] == [profile]
    assert authority.done("POST", query, json={"issuer": ["other"]}) == []
    wanted = {"principals": [{"id": {"name": "machine", "domain": "lab"}, "type": "STS_USER"}]}
    assert len(authority.done("POST", query, json=wanted)) == 1
    authority.done("DELETE", f"{PRINCIPALS}/{profile}")
    assert authority.failed("GET", f"{PRINCIPALS}/{profile}")["error_type"] == "NOT_FOUND"


def test_base_images_are_filtered_and_know_their_last_attestation(authority: Api) -> None:
    authority.done("POST", IMPORT, json=blob(image()))
    authority.done("POST", IMPORT, json=blob(image(image_version="2", display_name="Two")))
    assert [item["version"] for item in authority.done("GET", f"{IMAGES}?version=2&version=3")] == ["2"]
    assert authority.done("GET", f"{IMAGES}?display_name=Two&health=ERROR") == []
    assert "last_attested_time" not in authority.done("GET", f"{IMAGES}/2")
    result = {"principal": "p", "host": "host1", "state": "ATTESTED", "since": 1, "last": 1_800_000_000}
    result |= {"base_image": "2", "reason": ""}
    authority.nodes.answers["GET", "/attestation/manage/v1/hosts"] = lambda _host: {"hosts": [result]}
    assert authority.done("GET", f"{IMAGES}/2")["last_attested_time"] == "2027-01-15T08:00:00.000Z"


def test_scopes_are_changed(authority: Api) -> None:
    path, body, one = prepared_creation(authority, "scope")
    authority.done("POST", path, json=body)
    authority.done("PATCH", one, json={"providers": []})
    info = authority.done("GET", one)
    assert (info["providers"], info["base_images"]) == ([], ["*"])
    assert authority.failed("PATCH", f"{SCOPES}/none", json={})["error_type"] == "NOT_FOUND"


def test_hosts_are_denied_and_let_in_again(authority: Api) -> None:
    body = {"host": "host1", "ek_digest": "ab" * 32, "reason": "sold"}
    denial = authority.done("POST", DENIED, json=body)
    assert authority.nodes.content("ta1", "denied_host", denial)["ek_digest"] == "ab" * 32
    listed = authority.done("GET", DENIED)
    assert [(item["denial"], item["reason"], item["health"]) for item in listed] == [(denial, "sold", "OK")]
    assert authority.failed("POST", DENIED, json=body)["error_type"] == "ALREADY_EXISTS"
    authority.done("DELETE", f"{DENIED}/{denial}")
    assert authority.done("GET", DENIED) == []


def test_cluster_settings(authority: Api) -> None:
    path = "/trust/clusters/authority/settings"
    assert authority.done("GET", path)["token_lifetime"] == 3600
    authority.done("PATCH", path, json={"token_lifetime": 600, "hpke_suite": "X25519"})
    info = authority.done("GET", path)
    assert (info["token_lifetime"], info["grace_period"], info["hpke_suite"]) == (600, 60, "X25519")
    for body, field in [
        ({"token_lifetime": 5}, "spec.token_lifetime"),
        ({"hpke_suite": "ROT13"}, "spec.hpke_suite"),
    ]:
        response = authority.request("PATCH", f"{path}?vmw-task=true", json=body)
        assert response.status_code == 400
        assert response.json()["messages"][0]["args"] == [field]


def test_service_status_is_the_worst_of_the_hosts(authority: Api) -> None:
    path = f"{BASE}/attestation/service-status"
    key = ("GET", "/attestation/manage/v1/status")
    authority.nodes.answers[key] = lambda _host: {"health": "OK", "details": [], "certificates": []}
    assert authority.done("GET", path) == {"health": "OK", "details": []}
    authority.nodes.answers[key] = lambda host: {
        "health": "OK" if host == "ta1" else "WARNING",
        "details": [] if host == "ta1" else ["certificate_expired: soon"],
    }
    info = authority.done("GET", path)
    assert info["health"] == "WARNING"
    assert info["details"][0]["default_message"] == "ta2: certificate_expired: soon"
    authority.nodes.down = {"ta2"}
    info = authority.done("GET", path)
    assert info["health"] == "ERROR"
    assert "ta2" in info["details"][0]["default_message"]


def test_a_cleared_tpm_is_accepted_on_all_hosts(authority: Api) -> None:
    digest = "ab" * 32
    path = f"/trust/clusters/authority/tpm-clocks/{digest}?action=accept"
    node = f"/attestation/manage/v1/endorsement-keys/{digest}/accept-clock"
    authority.nodes.answers["POST", node] = lambda host: {"changed": host == "ta1"}
    assert authority.done("POST", path) is True
    authority.nodes.down = {"ta2"}
    assert "ta2" in authority.failed("POST", path)["messages"][0]["default_message"]


IDENTITY_LIST = "/trust/clusters/authority/host-identities"
IDENTITIES = "/attestation/manage/v1/identities"
ISSUER = "https://workload-manager/"


def seen(service: str, host: str = "host1") -> dict[str, object]:
    """What an Attestation Service says of hosts."""
    one = {"principal": ISSUER, "host": host, "ek_digest": "ab" * 32, "key_digest": "cd" * 32, "since": 7}
    return {"service": f"attestation@{service}", "identities": [one]}


def test_identities_of_all_services(authority: Api) -> None:
    authority.nodes.answers["GET", IDENTITIES] = seen
    found = authority.done("GET", IDENTITY_LIST)
    assert [(one["service"], one["host"], one["since"]) for one in found] == [
        ("attestation@ta1", "host1", 7),
        ("attestation@ta2", "host1", 7),
    ]
    authority.nodes.answers["GET", f"{IDENTITIES}?host=host2"] = lambda host: seen(host, "host2")
    assert {one["host"] for one in authority.done("GET", f"{IDENTITY_LIST}?host=host2")} == {"host2"}
    authority.nodes.down = {"ta2"}
    assert "ta2" in authority.failed("GET", IDENTITY_LIST)["messages"][0]["default_message"]
    response = authority.request("GET", f"{IDENTITY_LIST}?host=a%2Fb&vmw-task=true")
    assert (response.status_code, response.json()["messages"][0]["args"]) == (400, ["filter.host"])


def test_a_replaced_tpm_is_released_on_all_hosts(authority: Api) -> None:
    path = f"{IDENTITY_LIST}/host1?action=release"
    node = "/attestation/manage/v1/hosts/host1/release?principal=https%3A%2F%2Fworkload-manager%2F"
    authority.nodes.answers["POST", node] = lambda host: {"changed": host == "ta1"}
    message = authority.failed("POST", path)["messages"][0]["default_message"]
    assert "spec.principal" in message and "(none)" in message
    authority.done("POST", PRINCIPALS, json=principal())
    assert authority.done("POST", path) is True
    asked = {host for host, method, called in authority.nodes.calls if (method, called) == ("POST", node)}
    assert asked == {"ta1", "ta2"}
    authority.nodes.answers["POST", node] = lambda _host: {"changed": False}
    assert authority.done("POST", path, json={"principal": ISSUER}) is False
    authority.nodes.down = {"ta2"}
    failure = authority.failed("POST", path)
    assert "Not released by: ta2" in failure["messages"][0]["default_message"]
    response = authority.request("POST", f"{IDENTITY_LIST}/a%2Fb?action=release&vmw-task=true")
    assert response.status_code in (400, 404)


def test_certificate_revocation_lists(authority: Api) -> None:
    chain = {"cert_chain": [ROOT.pem, INTERMEDIATE.pem]}
    body = {"name": "vendor", "cert_chain": chain, "crls": [ROOT.crl(), INTERMEDIATE.crl(5)]}
    authority.done("POST", f"{TPM2}/ca-certificates", json=body)
    assert authority.done("GET", f"{TPM2}/ca-certificates/vendor")["crls"] == body["crls"]
    enrolment = {"name": "host1", "certificate": EK.pem}
    lists = "/trust/clusters/authority/ca-certificates/vendor"
    revoked = INTERMEDIATE.crl(EK.certificate.serial_number)
    authority.done("PATCH", lists, json={"crls": [revoked]})
    failure = authority.failed("POST", f"{TPM2}/endorsement-keys", json=enrolment)
    assert "was revoked by 'CN=vendor issuing'" in failure["messages"][0]["default_message"]
    authority.done("PATCH", lists, json={})
    assert authority.done("GET", f"{TPM2}/ca-certificates/vendor")["crls"] == [revoked]
    authority.done("PATCH", lists, json={"crls": []})
    assert "crls" not in authority.done("GET", f"{TPM2}/ca-certificates/vendor")
    authority.done("POST", f"{TPM2}/endorsement-keys", json=enrolment)


@pytest.mark.parametrize(
    ("crl", "words"),
    [
        ("text", "malformed CRL"),
        (OTHER.crl(), "is by 'CN=another root', which is no CA of this entry"),
        (ROOT.crl(end=datetime(2026, 1, 2, tzinfo=UTC)), "2026-01-01 to 2026-01-02, and today is"),
        (ROOT.crl(start=datetime(2035, 1, 2, tzinfo=UTC)), "for 2035-01-02 to 2036-01-01"),
    ],
)
def test_certificate_revocation_list_that_is_refused(authority: Api, crl: str, words: str) -> None:
    body: dict[str, object] = {"name": "vendor", "cert_chain": {"cert_chain": [ROOT.pem]}}
    path = f"{TPM2}/ca-certificates"
    response = authority.request("POST", f"{path}?vmw-task=true", json={**body, "crls": [crl]})
    if response.status_code == 202:
        text = authority.failed("POST", path, json={**body, "crls": [crl]})["messages"][0]
    else:
        assert response.status_code == 400
        text = response.json()["messages"][0]
    assert words in text["default_message"] and "spec.crls[0]" in text["default_message"]
    authority.done("POST", path, json=body)
    lists = "/trust/clusters/authority/ca-certificates/vendor"
    failure = authority.failed("PATCH", lists, json={"crls": [crl]})
    assert words in failure["messages"][0]["default_message"]
    assert "crls" not in authority.done("GET", f"{path}/vendor")


def test_where_services_answer(authority: Api, tmp_path) -> None:
    (tmp_path / "ca.pem").write_text(ROOT.pem)
    hosts = "/vcenter/trusted-infrastructure/trust-authority-hosts"
    group = authority.ok("GET", "/trust/clusters/authority")["group"]
    normal = {
        "summary_type": "NORMAL",
        "host": "host-1",
        "address": {"hostname": "ta1", "port": 443},
        "group": group,
        "cluster": "domain-c1",
    }
    assert authority.ok("POST", f"{hosts}/attestation")[0] == normal
    assert authority.ok("POST", f"{hosts}/kms?action=query")[0] == normal
    full = authority.ok("POST", f"{hosts}/kms?action=query&projection=FULL", json={"hosts": ["host-2"]})
    assert [item["trusted_CA"] for item in full] == [{"cert_chain": [ROOT.pem]}]
    brief = authority.ok("POST", f"{hosts}/attestation?projection=BRIEF", json={"groups": ["none"]})
    assert brief == []
    by_address = {"address": [{"hostname": "ta2"}]}
    assert len(authority.ok("POST", f"{hosts}/attestation", json=by_address)) == 1
    for slash in ("", "/"):
        info = authority.ok("GET", f"{hosts}/host-1/attestation{slash}")
        assert info["trusted_CA"] == {"cert_chain": [ROOT.pem]}
    response = authority.request("POST", f"{hosts}/kms?action=query&projection=MORE")
    assert (response.status_code, response.json()["messages"][0]["args"]) == (400, ["projection"])
    authority.nodes.down = {"ta1"}
    response = authority.request("GET", f"{hosts}/ta1/kms/")
    assert (response.status_code, response.json()["error_type"]) == (500, "RESOURCE_INACCESSIBLE")
