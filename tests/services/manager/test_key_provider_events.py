# SPDX-License-Identifier: GPL-3.0-or-later
"""Encryption events of changes of trusted and standard key providers: one for each thing that was done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from services.manager.harness import Api
from services.manager.material import Issuer

from trusted_infrastructure import sealing
from trusted_infrastructure.config.documents import (
    KeyProvider,
    KmipServer,
    NetworkAddress,
    PreviousPrimaryKey,
    Sealed,
)
from trusted_infrastructure.manager.key_provider_events import SETTINGS, differences
from trusted_infrastructure.manager.standard_providers import StandardProvider

BASE = "/vcenter/trusted-infrastructure/trust-authority-clusters/authority"
PROVIDERS = f"{BASE}/kms/providers"
ONE = f"{PROVIDERS}/finance"
SERVERS = [KmipServer("kms1", NetworkAddress("kms1", 5696))]
PROVIDER = KeyProvider(master_key_id="k1", servers=SERVERS)
SECRET = Sealed("X25519", "salt:digest", {"ta1": b"1"})
DIGEST = "ab" * 32
CERTIFICATE = Issuer("key server CA").pem


def changed(before: KeyProvider = PROVIDER, **values: Any) -> KeyProvider:
    """A provider with other values."""
    return msgspec.structs.replace(before, **values)


def previous(key_id: str = "k1", **values: Any) -> PreviousPrimaryKey:
    """A primary key that was rotated from."""
    return PreviousPrimaryKey(key_id, DIGEST, 1, **values)


ROTATED = changed(master_key_id="k2", previous_keys=[previous()])


@pytest.mark.parametrize(
    ("before", "after", "operations"),
    [
        (None, None, []),
        (PROVIDER, PROVIDER, []),
        (None, PROVIDER, [("create_provider", "k1")]),
        (PROVIDER, None, [("delete_provider", "k1")]),
        (PROVIDER, changed(primary_key_check_value=DIGEST), []),
        (PROVIDER, changed(master_key_id="k2"), [("set_primary_key", "k2")]),
        (PROVIDER, ROTATED, [("rotate", "k2")]),
        (ROTATED, changed(ROTATED, previous_keys=[]), [("disable", "k1")]),
        (ROTATED, changed(ROTATED, previous_keys=[previous(compromised=True)]), [("compromise", "k1")]),
        (
            PROVIDER,
            changed(master_key_id="k2", previous_keys=[previous(compromised=True)]),
            [("rotate", "k2"), ("compromise", "k1")],
        ),
        (PROVIDER, changed(client_certificate="pem"), [("set_client_certificate", "k1")]),
        (PROVIDER, changed(csr="pem"), [("request_client_certificate", "k1")]),
        (
            changed(csr="pem"),
            changed(csr=None, client_certificate="pem"),
            [("set_client_certificate", "k1")],
        ),
        (PROVIDER, changed(password=SECRET), [("set_credential", "k1")]),
        (
            changed(password=SECRET),
            changed(password=msgspec.structs.replace(SECRET, sealed={"ta1": b"1", "ta2": b"2"})),
            [],
        ),
        (PROVIDER, changed(trusted_certificates=["pem"]), [("trust_server_certificates", "k1")]),
        (PROVIDER, changed(username="u", description="d"), [("update_provider", "k1")]),
    ],
)
def test_each_thing_that_was_done(
    before: KeyProvider | None, after: KeyProvider | None, operations: list[tuple[str, str]]
) -> None:
    assert [(done.operation, done.key_id) for done in differences(before, after)] == operations


STANDARD = StandardProvider(servers=SERVERS)


@pytest.mark.parametrize(
    ("before", "after", "operations"),
    [
        (STANDARD, {}, []),
        (None, {}, ["create_provider"]),
        (STANDARD, None, ["delete_provider"]),
        (STANDARD, {"client_certificate": "pem", "client_private_key": "key"}, ["set_client_certificate"]),
        (STANDARD, {"csr": "pem", "csr_private_key": "key"}, ["request_client_certificate"]),
        (STANDARD, {"password": "encrypted"}, ["set_credential"]),
        (STANDARD, {"trusted_certificates": ["pem"]}, ["trust_server_certificates"]),
        (STANDARD, {"servers": [*SERVERS, KmipServer("kms2", NetworkAddress("kms2"))]}, ["update_provider"]),
        (STANDARD, {"proxy_server": NetworkAddress("proxy", 1080)}, ["update_provider"]),
        (STANDARD, {"username": "u", "description": "d", "connection_timeout": 3}, ["update_provider"]),
    ],
)
def test_each_thing_that_was_done_to_a_standard_provider(
    before: StandardProvider | None, after: dict[str, Any] | None, operations: list[str]
) -> None:
    now = None if after is None else msgspec.structs.replace(STANDARD, **after)
    assert [(done.operation, done.key_id) for done in differences(before, now)] == [
        (operation, "") for operation in operations
    ]


def test_no_field_of_a_provider_is_forgotten() -> None:
    """Else a change of it would be no event. A check value is learned; secrets go with what is public."""
    noted = {*SETTINGS, "client_certificate", "csr", "password", "trusted_certificates"}
    noted |= {"master_key_id", "previous_keys"}
    silent = {
        "client_private_key",
        "csr_private_key",
        "password_binding",
        "primary_key_check_value",
        "version",
    }
    assert {*KeyProvider.__struct_fields__, *StandardProvider.__struct_fields__} == noted | silent


def test_nothing_secret_is_said() -> None:
    after = changed(password=SECRET, username="somebody", client_certificate="PEM")
    said = " ".join(done.said for done in differences(PROVIDER, after))
    assert "digest" not in said and "somebody" not in said


SPEC = {
    "provider": "finance",
    "master_key_id": "key-1",
    "key_server": {
        "type": "KMIP",
        "description": "",
        "kmip_server": {"servers": [{"name": "kms1", "address": {"hostname": "kms1.example"}}]},
    },
}


@pytest.fixture
def authority(api: Api) -> Api:
    """An enabled Trust Authority Cluster of two hosts."""
    api.ok("POST", "/trust/clusters", json={"name": "authority"})
    for name in ("ta1", "ta2"):
        api.done("POST", "/trust/clusters/authority/hosts", json={"name": name})
    api.done("PATCH", BASE, json={"state": "ENABLE"})
    key = sealing.SealingKey.generate("X25519")
    answer = {"suite": "X25519", "public_key": key.public_bytes()}
    api.nodes.answers["GET", "/kms/manage/v1/sealing-key"] = lambda _host: answer
    return api


def happened(api: Api) -> list[tuple[str, str]]:
    """(operation, key id) of encryption events about the provider, all by the administrator."""
    found = api.ok("GET", "/trust/events?types=com.vmware.vc.crypto.Operation&objects=finance")
    assert {event["user"] for event in found} <= {"administrator"}
    assert all(event["details"] == {"provider": "finance"} for event in found)
    return [(event["operation"], event.get("key_id", "")) for event in found]


def test_what_failed_is_no_event(authority: Api) -> None:
    authority.failed("PATCH", ONE, json={"master_key_id": "key-2"})
    authority.failed("DELETE", ONE)
    assert happened(authority) == []
    authority.done("POST", PROVIDERS, json=SPEC)
    authority.failed("POST", PROVIDERS, json=SPEC)
    assert happened(authority) == [("create_provider", "key-1")]


def test_the_life_of_a_provider(authority: Api) -> None:
    authority.done("POST", PROVIDERS, json=SPEC)
    authority.done("PUT", f"{ONE}/credential", json="secret words")
    authority.done("PATCH", f"{ONE}/peer-certs/trusted", json={"certificates": [CERTIFICATE]})
    authority.done("PATCH", ONE, json={"key_server": {"description": "for finance"}})
    authority.done("DELETE", ONE)
    assert happened(authority) == [
        ("create_provider", "key-1"),
        ("set_credential", "key-1"),
        ("trust_server_certificates", "key-1"),
        ("update_provider", "key-1"),
        ("delete_provider", "key-1"),
    ]
    assert "secret words" not in str(authority.ok("GET", "/trust/events?limit=1000"))


def test_what_not_all_hosts_took_is_an_event(authority: Api) -> None:
    authority.nodes.down = {"ta2"}
    assert authority.failed("POST", PROVIDERS, json=SPEC)["error_type"] == "RESOURCE_INACCESSIBLE"
    assert happened(authority) == [("create_provider", "key-1")]


# ---- standard providers


WAYS = "/trust/standard-key-providers"
WAY = f"{WAYS}/finance"
ADDRESSES = [{"name": "kms1", "address": {"hostname": "127.0.0.1", "port": 1}}]
STANDARD_SPEC = {"provider": "finance", "servers": ADDRESSES, "connection_timeout": 1}


@pytest.fixture
def workload(make_api: Callable[..., Api]) -> Api:
    """A workload manager."""
    return make_api("workload")


def test_what_failed_with_a_standard_provider_is_no_event(workload: Api) -> None:
    client = Issuer("client", ca=False)
    workload.failed("PATCH", WAY, json={"description": "d"})
    workload.failed("DELETE", WAY)
    for method, path, body in (
        ("POST", "client-certificate", None),
        ("POST", "csr", None),
        ("PUT", "credential", "secret words"),
        ("PATCH", "peer-certs/trusted", {"certificates": [CERTIFICATE]}),
    ):
        assert workload.request(method, f"{WAY}/{path}", json=body).status_code == 404
    assert happened(workload) == []
    workload.done("POST", WAYS, json=STANDARD_SPEC)
    workload.failed("POST", WAYS, json=STANDARD_SPEC)
    body = {"certificate": client.pem}
    assert workload.request("PUT", f"{WAY}/client-certificate", json=body).status_code == 400
    workload.done("PATCH", WAY, json={"connection_timeout": 1})
    workload.ok("PATCH", f"{WAY}/peer-certs/trusted", json={})
    assert happened(workload) == [("create_provider", "")]


def test_the_life_of_a_standard_provider(workload: Api) -> None:
    client = Issuer("client", ca=False)
    workload.done("POST", WAYS, json=STANDARD_SPEC)
    workload.ok("POST", f"{WAY}/client-certificate")
    workload.ok("POST", f"{WAY}/csr")
    given = {"certificate": client.pem, "private_key": client.key_pem}
    workload.ok("PUT", f"{WAY}/client-certificate", json=given)
    workload.ok("PUT", f"{WAY}/credential", json="secret words")
    workload.ok("PATCH", f"{WAY}/peer-certs/trusted", json={"certificates": [CERTIFICATE]})
    workload.done("PATCH", WAY, json={"description": "for finance"})
    workload.done("DELETE", WAY)
    assert happened(workload) == [
        ("create_provider", ""),
        ("set_client_certificate", ""),
        ("request_client_certificate", ""),
        ("set_client_certificate", ""),
        ("set_credential", ""),
        ("trust_server_certificates", ""),
        ("update_provider", ""),
        ("delete_provider", ""),
        ("clear_default", ""),
    ]
    told = str(workload.ok("GET", "/trust/events?limit=1000"))
    assert "secret words" not in told and "PRIVATE KEY" not in told


def test_an_update_of_a_standard_provider_that_fails_leaves_no_event(
    workload: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Change and event are one transaction."""
    workload.done("POST", WAYS, json=STANDARD_SPEC)

    def full(*_arguments: Any, **_values: Any) -> None:
        raise RuntimeError("no space")

    with monkeypatch.context() as patch:
        patch.setattr("trusted_infrastructure.manager.crypto_events.record", full)
        workload.failed("PATCH", WAY, json={"description": "for finance"})
    assert workload.ok("GET", WAY)["description"] == ""
    assert happened(workload) == [("create_provider", "")]
