# SPDX-License-Identifier: GPL-3.0-or-later
"""Encryption events of the Trust Authority side: one for each thing that was done to a provider."""

from __future__ import annotations

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
from trusted_infrastructure.manager.key_provider_events import differences

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
    return [(event["operation"], event["key_id"]) for event in found]


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
