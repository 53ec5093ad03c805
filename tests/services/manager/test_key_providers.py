# SPDX-License-Identifier: GPL-3.0-or-later
"""Trusted key providers: their secrets never stay in the clear, and reach exactly the cluster's hosts."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec
import pytest
from services.manager.harness import Api
from services.manager.material import Issuer

from trusted_infrastructure import sealing
from trusted_infrastructure.config import provider_password
from trusted_infrastructure.config.documents import Sealed
from trusted_infrastructure.manager.operations.peer_certificates import unfit

BASE = "/vcenter/trusted-infrastructure/trust-authority-clusters/authority"
PROVIDERS = f"{BASE}/kms/providers"
ONE = f"{PROVIDERS}/finance"
PASSWORD = "a password of the key server"
KMS_CA = Issuer("key server CA")
CLIENT = Issuer("client", ca=False)
REQUESTING = Issuer("client with a request", ca=False)

SPEC = {
    "provider": "finance",
    "master_key_id": "key-1",
    "key_server": {
        "type": "KMIP",
        "description": "for finance",
        "kmip_server": {
            "servers": [
                {"name": "kms1", "address": {"hostname": "kms1.example"}},
                {"name": "kms2", "address": {"hostname": "192.0.2.7", "port": 15696}},
            ],
            "username": "ti",
        },
    },
}


class KeyProviderHosts:
    """The key provider services' part of the simulated hosts: real sealing, made-up certificates."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.keys: dict[str, sealing.SealingKey] = {}
        self.check_value: str | None = "cd" * 32
        answers = api.nodes.answers
        path = "/kms/manage/v1/providers/finance"
        answers["GET", "/kms/manage/v1/sealing-key"] = self.sealing_key
        answers["POST", f"{path}/client-certificate"] = self.made("certificate", CLIENT.pem, CLIENT)
        answers["POST", f"{path}/csr"] = self.made("csr", REQUESTING.request(), REQUESTING)
        answers["POST", f"{path}/reseal"] = self.reseal
        answers["POST", f"{path}/check-value"] = lambda _body: {"check_value": self.check_value}
        answers["GET", f"{path}/peer-certs"] = lambda _host: [
            {"server_name": "kms1", "certificate": KMS_CA.pem},
            {"server_name": "kms2", "error": "kms2: connection refused"},
        ]

    def sealing_key(self, host: str) -> dict[str, Any]:
        key = self.keys.setdefault(host, sealing.SealingKey.generate("X25519"))
        return {"suite": "X25519", "public_key": key.public_bytes()}

    def made(self, name: str, value: str, owner: Issuer) -> Any:
        def answer(body: dict[str, Any]) -> dict[str, Any]:
            return {
                name: value,
                "private_key": self.seal(owner.key_pem.encode(), body, "client_private_key"),
            }

        return answer

    def reseal(self, body: dict[str, Any]) -> dict[str, Any]:
        document = self.api.nodes.content("ta1", "key_provider", "finance")
        fields = {"client_private_key": "client_private_key", "password": "password"}
        answer = {}
        for field, purpose in fields.items():
            if document[field] is not None:
                plain = self.opened("ta1", field, purpose)
                answer[field] = self.seal(plain, body, purpose)
        return answer

    def seal(self, plain: bytes, body: dict[str, Any], purpose: str) -> Any:
        hosts = {name: key.public_key for name, key in body["hosts"].items()}
        return sealing.seal_secret(plain, "X25519", hosts, f"key_provider/finance/{purpose}")

    def opened(self, host: str, field: str, purpose: str) -> bytes:
        """What a host reads from its own document."""
        stored = self.api.nodes.content(host, "key_provider", "finance")[field]
        sealed = msgspec.convert(stored, Sealed)
        value = sealing.SealedSecret(sealed.suite, sealed.digest, sealed.sealed)
        return sealing.open_secret(value, host, self.keys[host], f"key_provider/finance/{purpose}")

    def password(self, host: str) -> str:
        return provider_password.opened(self.opened(host, "password", "password")).password


def with_provider(api: Api) -> Api:
    """With the Trust Authority Cluster "authority" of two hosts, and a provider."""
    api.ok("POST", "/trust/clusters", json={"name": "authority"})
    for name in ("ta1", "ta2"):
        api.done("POST", "/trust/clusters/authority/hosts", json={"name": name})
    api.done("PATCH", BASE, json={"state": "ENABLE"})
    api.done("POST", PROVIDERS, json=SPEC)
    return api


@pytest.fixture
def authority(api: Api) -> Api:
    return with_provider(api)


@pytest.fixture
def hosts(authority: Api) -> KeyProviderHosts:
    return KeyProviderHosts(authority)


def report(**changes: Any) -> dict[str, Any]:
    """A Key Provider Service's status."""
    server = {"health": "OK", "details": [], "client_trust_server": True, "server_trust_client": True}
    servers = [{"name": "kms1", **server}, {"name": "kms2", **server}]
    provider = {"health": "OK", "details": [], "servers": servers, **changes}
    return {"health": "OK", "details": [], "providers": {"finance": provider}}


def test_a_provider_is_on_all_hosts(authority: Api, hosts: KeyProviderHosts) -> None:
    authority.nodes.answers["GET", "/kms/manage/v1/status"] = lambda _host: report()
    document = authority.nodes.content("ta2", "key_provider", "finance")
    assert document["servers"][0]["address"] == {"hostname": "kms1.example", "port": 5696}
    info = authority.done("GET", ONE)
    assert info["master_key_id"] == "key-1"
    assert info["key_server"]["kmip_server"]["username"] == "ti"
    assert info["key_server"]["description"] == "for finance"
    assert info["has_credential"] is False
    assert info["status"]["servers"][1]["name"] == "kms2"
    assert authority.failed("POST", PROVIDERS, json=SPEC)["error_type"] == "ALREADY_EXISTS"
    authority.done("DELETE", ONE)
    assert authority.done("GET", PROVIDERS) == []
    assert authority.nodes.content("ta1", "key_provider", "finance") is None


def test_health_is_what_the_hosts_say_and_the_check_value_counts(
    authority: Api, hosts: KeyProviderHosts
) -> None:
    authority.nodes.answers["GET", "/kms/manage/v1/status"] = lambda _host: report()
    assert authority.done("GET", PROVIDERS) == [{"provider": "finance", "health": "WARNING"}]
    details = authority.done("GET", ONE)["status"]["details"]
    assert details[0]["id"] == "trusted.infrastructure.check_value_unknown"
    authority.done("POST", f"{ONE}/client-certificate")
    authority.done("PATCH", f"{ONE}/peer-certs/trusted", json={"certificates": [KMS_CA.pem]})
    assert authority.done("GET", PROVIDERS) == [{"provider": "finance", "health": "OK"}]
    authority.nodes.answers["GET", "/kms/manage/v1/status"] = lambda host: (
        report() if host == "ta1" else report(health="ERROR", details=["key_server_unreachable: kms1"])
    )
    status = authority.done("GET", ONE)["status"]
    assert status["health"] == "ERROR"
    assert status["details"][0]["default_message"] == "ta2: key_server_unreachable: kms1"
    authority.nodes.down = {"ta1", "ta2"}
    status = authority.done("GET", ONE)["status"]
    assert status["health"] == "ERROR"
    assert [server["client_trust_server"] for server in status["servers"]] == [False, False]


def test_patching_keeps_what_is_not_given(authority: Api, hosts: KeyProviderHosts) -> None:
    authority.done("PATCH", ONE, json={"key_server": {"description": "", "connection_timeout": 20}})
    document = authority.nodes.content("ta1", "key_provider", "finance")
    assert (document["description"], document["connection_timeout"]) == ("", 20)
    assert [server["name"] for server in document["servers"]] == ["kms1", "kms2"]
    servers = [{"name": "kms3", "address": {"hostname": "kms3"}}]
    authority.done("PATCH", ONE, json={"key_server": {"kmip_server": {"servers": servers}}})
    document = authority.nodes.content("ta1", "key_provider", "finance")
    assert [server["name"] for server in document["servers"]] == ["kms3"]
    assert document["username"] == "ti"


def test_the_primary_keys_on_each_server_are_shown(authority: Api, hosts: KeyProviderHosts) -> None:
    def report_of(host: str) -> dict[str, Any]:
        found = report()
        server = found["providers"]["finance"]["servers"][0]
        state, code = ("ACTIVE", "") if host == "ta1" else ("", "key_missing")
        server["keys"] = [
            {"primary_key_id": "key-1", "state": "ACTIVE", "code": ""},
            {"primary_key_id": "key-0", "state": state, "code": code},
        ]
        return found

    authority.nodes.answers["GET", "/kms/manage/v1/status"] = report_of
    first, second = authority.done("GET", ONE)["status"]["servers"]
    assert first["keys"] == [
        {"master_key_id": "key-1", "available": True, "state": "ACTIVE", "code": ""},
        {"master_key_id": "key-0", "available": False, "state": "ACTIVE", "code": "key_missing"},
    ]
    assert "keys" not in second  # no host says anything of them


def test_a_check_value_that_is_not_known_yet_is_learned_later(
    authority: Api, hosts: KeyProviderHosts
) -> None:
    key = ("POST", "/kms/manage/v1/providers/finance/check-value")
    answer = authority.nodes.answers.pop(key)
    authority.done("POST", f"{ONE}/client-certificate")
    authority.done("PATCH", f"{ONE}/peer-certs/trusted", json={"certificates": [KMS_CA.pem]})
    assert authority.nodes.content("ta1", "key_provider", "finance")["primary_key_check_value"] is None
    authority.nodes.answers[key] = answer
    authority.done("POST", "/trust/clusters/authority?action=remediate")
    assert authority.nodes.content("ta1", "key_provider", "finance")["primary_key_check_value"] == "cd" * 32


def test_the_password_is_sealed_to_each_host_and_nowhere_else(
    authority: Api, hosts: KeyProviderHosts, tmp_path, capfd
) -> None:
    authority.done("PUT", f"{ONE}/credential", json=PASSWORD)
    for host in ("ta1", "ta2"):
        assert hosts.password(host) == PASSWORD
    assert authority.done("GET", ONE)["has_credential"] is True
    for path in tmp_path.iterdir():
        assert PASSWORD.encode() not in path.read_bytes(), path
    assert not any(PASSWORD.encode() in body for body in authority.nodes.bodies)
    output = capfd.readouterr()
    assert PASSWORD not in output.out + output.err


def test_a_password_is_for_the_key_servers_and_certificates_of_its_time(
    authority: Api, hosts: KeyProviderHosts
) -> None:
    """Setting it again after a change is what the module does where `has_credential` is false."""
    authority.done("PATCH", f"{ONE}/peer-certs/trusted", json={"certificates": [KMS_CA.pem]})
    authority.done("PUT", f"{ONE}/credential", json=PASSWORD)
    assert authority.done("GET", ONE)["has_credential"] is True
    authority.done("PATCH", f"{ONE}/peer-certs/trusted", json={"certificates": [KMS_CA.pem, CLIENT.pem]})
    assert authority.done("GET", ONE)["has_credential"] is False
    authority.done("PUT", f"{ONE}/credential", json=PASSWORD)
    assert authority.done("GET", ONE)["has_credential"] is True


@pytest.mark.parametrize("body", [{"credential": "x"}, "", 7, None, ["x"], "x" * 1025])
def test_a_credential_is_a_bare_string(authority: Api, hosts: KeyProviderHosts, body: Any) -> None:
    response = authority.request("PUT", f"{ONE}/credential?vmw-task=true", json=body)
    assert response.status_code == 400
    assert response.json()["messages"][0]["args"][0].startswith("credential")


def test_a_secret_needs_every_host(authority: Api, hosts: KeyProviderHosts) -> None:
    authority.nodes.down = {"ta2"}
    error = authority.failed("PUT", f"{ONE}/credential", json=PASSWORD)
    assert error["error_type"] == "RESOURCE_INACCESSIBLE"
    assert "ta2" in error["messages"][0]["default_message"]
    assert authority.nodes.content("ta1", "key_provider", "finance")["password"] is None


def test_a_self_signed_client_certificate(authority: Api, hosts: KeyProviderHosts) -> None:
    assert authority.failed("GET", f"{ONE}/client-certificate")["error_type"] == "NOT_FOUND"
    authority.done("POST", f"{ONE}/client-certificate")
    assert authority.done("GET", f"{ONE}/client-certificate") == {"certificate": CLIENT.pem}
    for host in ("ta1", "ta2"):
        assert hosts.opened(host, "client_private_key", "client_private_key") == CLIENT.key_pem.encode()


@pytest.mark.parametrize(
    ("names", "hostname", "words"),
    [
        (["kms1.example"], "kms1.example", ""),
        (["KMS1.Example"], "kms1.example.", ""),
        (["*.example"], "kms1.example", ""),
        (["*.example"], "kms1.lab.example", "is not for"),
        (["*.example"], "example", "is not for"),
        (["kms2.example"], "kms1.example", "is not for"),
        (["192.0.2.7"], "192.0.2.7", ""),
        (["192.0.2.8"], "192.0.2.7", "is not for"),
        (["192.0.2.7"], "kms1.example", "is not for"),
        ([], "kms1.example", "is not for"),
    ],
)
def test_what_is_wrong_with_a_presented_certificate_is_said(
    names: list[str], hostname: str, words: str
) -> None:
    now = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC).timestamp()
    pem = Issuer(hostname, names=names).pem
    found = [item.default_message for item in unfit(pem, "kms1", hostname, now)]
    assert found == [] if not words else words in found[0]
    late = datetime.datetime(2040, 1, 1, tzinfo=datetime.UTC).timestamp()
    for moment in (0.0, late):
        assert (
            "valid from 2026-01-01 to 2036-01-01" in unfit(pem, "kms1", hostname, moment)[-1].default_message
        )


def test_peer_certificates_are_reviewed_and_then_trusted(authority: Api, hosts: KeyProviderHosts) -> None:
    current = f"{ONE}/peer-certs/current"
    shown = authority.done("GET", current)
    assert [(item["server_name"], item["trusted"]) for item in shown] == [("kms1", False), ("kms2", False)]
    assert "certificate" not in shown[1]
    assert shown[1]["error_messages"][0]["default_message"] == "kms2: connection refused"
    trusted = f"{ONE}/peer-certs/trusted"
    authority.done("PATCH", trusted, json={"certificates": [KMS_CA.pem]})
    assert authority.done("GET", trusted) == {"certificates": [KMS_CA.pem]}
    shown = authority.done("GET", f"{current}?trusted=true&server_names=kms1&server_names=kms2")
    assert [item["server_name"] for item in shown] == ["kms1"]
    authority.done("PATCH", trusted, json={})
    assert len(authority.done("GET", trusted)["certificates"]) == 1
    authority.done("PATCH", trusted, json={"certificates": []})
    assert authority.done("GET", trusted) == {"certificates": []}


def test_a_host_that_joins_gets_the_secrets_and_one_that_left_has_no_part(
    authority: Api, hosts: KeyProviderHosts
) -> None:
    authority.done("POST", f"{ONE}/client-certificate")
    authority.done("PUT", f"{ONE}/credential", json=PASSWORD)
    digest = authority.nodes.content("ta1", "key_provider", "finance")["password"]["digest"]
    authority.done("POST", "/trust/clusters/authority/hosts", json={"name": "ta3"})
    assert hosts.password("ta3") == PASSWORD
    assert hosts.opened("ta3", "client_private_key", "client_private_key") == CLIENT.key_pem.encode()
    assert hosts.password("ta1") == PASSWORD
    assert authority.nodes.content("ta3", "key_provider", "finance")["password"]["digest"] == digest
    authority.done("DELETE", "/trust/clusters/authority/hosts/ta3")
    document = authority.nodes.content("ta1", "key_provider", "finance")
    assert sorted(document["password"]["sealed"]) == ["ta1", "ta2"]


def test_resealing_that_failed_is_made_up_for_by_a_remediation(
    authority: Api, hosts: KeyProviderHosts
) -> None:
    authority.done("PUT", f"{ONE}/credential", json=PASSWORD)
    key = ("POST", "/kms/manage/v1/providers/finance/reseal")
    answer = authority.nodes.answers.pop(key)
    error = authority.failed("POST", "/trust/clusters/authority/hosts", json={"name": "ta3"})
    assert "ta3" in error["messages"][0]["default_message"]
    authority.nodes.answers[key] = answer
    authority.done("POST", "/trust/clusters/authority?action=remediate")
    assert hosts.password("ta3") == PASSWORD


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"provider": ""}, "spec.provider"),
        ({"provider": "a/b"}, "spec.provider"),
        ({"master_key_id": None}, "spec.master_key_id"),
        ({"key_server": {"type": "KMIP"}}, "spec.key_server.kmip_server"),
        ({"key_server": {"type": "PKCS"}}, "spec.key_server.type"),
        (
            {"key_server": {"type": "KMIP", "kmip_server": {"servers": []}}},
            "spec.key_server.kmip_server.servers",
        ),
        (
            {"key_server": {"type": "KMIP", "kmip_server": {"servers": [{"name": "x"}]}}},
            "spec.key_server.kmip_server.servers[0].address",
        ),
        (
            {
                "key_server": {
                    "type": "KMIP",
                    "kmip_server": {"servers": [{"name": "x", "address": {"hostname": "a b"}}]},
                }
            },
            "spec.key_server.kmip_server.servers[0].address.hostname",
        ),
        (
            {"key_server": {**SPEC["key_server"], "connection_timeout": 0}},
            "spec.key_server.connection_timeout",
        ),
    ],
)
def test_bad_specs_name_the_field(sides, change: dict[str, Any], field: str) -> None:
    path = PROVIDERS.replace("authority/kms", "one/kms")
    response = sides["trust_authority"].request("POST", f"{path}?vmw-task=true", json={**SPEC, **change})
    assert response.status_code == 400, response.text
    assert response.json()["messages"][0]["args"][0] == field
