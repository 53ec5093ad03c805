# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules that only read: what they ask, and what they make of the answers.

That the calls are those of the manager is tested with a manager, in tests/contract.
"""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.attestation import FIELDS, state_of
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import ApiError, Call

TRUST_AUTHORITY = "/vcenter/trusted-infrastructure/trust-authority-clusters/domain-c1"
LISTS = {
    "base_image_info": ("base_images", "version", f"{TRUST_AUTHORITY}/attestation/os/esx/base-images"),
    "key_provider_info": ("key_providers", "provider", f"{TRUST_AUTHORITY}/kms/providers"),
    "tpm2_ca_certificate_info": (
        "ca_certificates",
        "name",
        f"{TRUST_AUTHORITY}/attestation/tpm2/ca-certificates",
    ),
    "tpm2_endorsement_key_info": (
        "endorsement_keys",
        "name",
        f"{TRUST_AUTHORITY}/attestation/tpm2/endorsement-keys",
    ),
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("asked, found", [([], ["a", "b/c"]), (["b/c"], ["b/c"]), (["x"], [])])
def test_each_one_in_full(
    run_module: Any, client: Any, name: str, asked: list[str], found: list[str]
) -> None:
    key, field, base = LISTS[name]
    rows = [{field: "a", "health": "OK"}, {field: "b/c", "health": "OK"}]
    fake = client(
        {
            ("GET", base): rows,
            ("GET", f"{base}/a"): {"one": 1},
            ("GET", f"{base}/b%2Fc"): {"two": 2},
            # As a vCenter, which has no life cycle of base images.
            ("GET", "/trust/clusters/domain-c1/base-images"): ApiError("no such path", "NOT_FOUND", 404),
        }
    )
    result = run_module(name, fake, cluster="one", names=asked)
    assert result["changed"] is False
    full = {"a": {"one": 1}, "b/c": {"two": 2}}
    assert result[key] == [{field: identifier, **full[identifier]} for identifier in found]
    assert all(call.task for call in fake.calls if call.path != "/vcenter/cluster")


def test_base_images_with_their_life_cycle(run_module: Any, client: Any) -> None:
    base = LISTS["base_image_info"][2]
    own = {"version": "1", "state": "STAGED", "hosts": [{"host": "host1"}], "health": "OLD"}
    fake = client(
        {
            ("GET", base): [{"version": "1", "health": "OK"}],
            ("GET", f"{base}/1"): {"display_name": "One", "health": "OK"},
            ("GET", "/trust/clusters/domain-c1/base-images"): [own],
        }
    )
    (found,) = run_module("base_image_info", fake, cluster="one")["base_images"]
    assert found == {
        "version": "1",
        "display_name": "One",
        "health": "OK",
        "hosts": [{"host": "host1"}],
        "life_cycle": "staged",
    }


@pytest.mark.parametrize("name", LISTS)
def test_of_a_cluster_that_is_not_there(run_module: Any, client: Any, name: str) -> None:
    result = run_module(name, client({}), cluster="two")
    assert (result["changed"], result[LISTS[name][0]]) == (False, [])
    assert "no cluster is named two" in str(result["warnings"])


def test_identities_of_hosts(run_module: Any, client: Any) -> None:
    rows = [{"host": "host1", "service": "a"}, {"host": "host2", "service": "a"}]
    fake = client({("GET", "/trust/clusters/domain-c1/host-identities"): rows})
    assert run_module("host_identity_info", fake, cluster="one")["host_identities"] == rows
    found = run_module("host_identity_info", fake, cluster="one", hosts=["host2"])["host_identities"]
    assert found == rows[1:]


ROW = {"host": "host-1", "name": "first", "state": "FAILED", "reason": "quote_signature", "message": "No."}


@pytest.mark.parametrize(
    "row, expected",
    [
        (ROW, {"name": "first", "attestation": "FAILED", "reason": "quote_signature", "message": "No."}),
        ({**ROW, "state": "ATTESTED", "key_check": {}}, {"name": "first", "attestation": "ATTESTED"}),
        # What the manager does not know is not attested.
        (None, {"name": "x", "attestation": None, "reason": "host_unknown", "message": "no host is named x"}),
    ],
)
def test_state_of_a_host(row: Any, expected: Any) -> None:
    found = state_of("x", row)
    assert set(found) == {"name", "attestation", *FIELDS, "services"}
    assert {key: found[key] for key in expected} == expected


def test_attestation_in_the_order_asked_for(run_module: Any, client: Any) -> None:
    rows = [ROW, {"host": "host-2", "name": "second", "state": "ATTESTED"}]
    fake = client({("GET", "/trust/attestation"): rows})
    found = run_module("attestation_info", fake, hosts=["second", "third", "host-1"])["hosts"]
    assert [row["name"] for row in found] == ["second", "third", "first"]
    assert [row["name"] for row in run_module("attestation_info", fake)["hosts"]] == ["first", "second"]


def test_hosts_of_clusters(run_module: Any, client: Any) -> None:
    fake = client({("GET", "/vcenter/host"): ["row"]})
    assert run_module("host_info", fake, names=["a", "b"], clusters=["one"])["hosts"] == ["row"]
    query = (("names", "a"), ("names", "b"), ("clusters", "domain-c1"))
    assert fake.calls[-1] == Call("GET", "/vcenter/host", query=query)
    # No cluster is not all clusters.
    fake = client({("GET", "/vcenter/host"): ["row"]})
    assert run_module("host_info", fake, clusters=["two"])["hosts"] == []


def test_services_of_trust_authority_hosts(run_module: Any, client: Any) -> None:
    base = "/vcenter/trusted-infrastructure/trust-authority-hosts"
    attestation = [{"host": "host-1", "group": "a"}, {"host": "host-2", "group": "a"}]
    kms = [{"host": "host-2", "group": "k"}, {"host": "host-1", "group": "k"}]
    fake = client({("POST", f"{base}/attestation"): attestation, ("POST", f"{base}/kms"): kms})
    found = run_module("trust_authority_host_info", fake, clusters=["one"])["trust_authority_hosts"]
    assert found == [
        {"host": name, "attestation": {"host": name, "group": "a"}, "kms": {"host": name, "group": "k"}}
        for name in ("host-1", "host-2")
    ]
    assert {call.body["clusters"][0] for call in fake.calls if call.body} == {"domain-c1"}
    assert run_module("trust_authority_host_info", fake, clusters=["two"])["trust_authority_hosts"] == []


def test_no_certificate_is_no_error(run_module: Any, client: Any) -> None:
    base = f"{TRUST_AUTHORITY}/kms/providers/p/client-certificate"
    none = ApiError("none", "NOT_FOUND", 404)
    fake = client({("GET", base): none, ("GET", f"{base}/csr"): {"csr": "a request"}})
    found = run_module("key_provider_client_certificate_info", fake, cluster="one", provider="p")
    assert found["client_certificate"] == {"certificate": None, "csr": "a request"}


@pytest.mark.parametrize("provider, body", [(None, {}), ("p", {"provider": "p"})])
def test_key_check(run_module: Any, client: Any, provider: str | None, body: Any) -> None:
    hosts = {("GET", "/vcenter/host"): [{"host": "host-1", "name": "first"}]}
    fake = client({**hosts, ("POST", "/trust/hosts/host-1/key-check"): {"result": "OK"}})
    given = {"provider": provider} if provider else {}
    assert run_module("key_check_info", fake, host="first", **given)["key_check"] == {"result": "OK"}
    assert fake.calls[-1] == Call("POST", "/trust/hosts/host-1/key-check", body)
    unknown = run_module("key_check_info", client(hosts), host="second")["key_check"]
    assert unknown == {"result": "host_unknown", "message": "no host is named second"}


@pytest.mark.parametrize(
    "gather, parts", [(None, {"endorsement_keys"}), ([], set()), (["event_log"], {"event_log"})]
)
def test_what_of_a_tpm_is_gathered(run_module: Any, client: Any, gather: Any, parts: set[str]) -> None:
    base = "/vcenter/trusted-infrastructure/hosts/host-1/hardware/tpm"
    answers = {
        ("GET", "/vcenter/host"): [{"host": "host-1", "name": "first"}],
        ("GET", base): [{"tpm": "tpm0", "active": True}],
        ("GET", f"{base}/tpm0"): {"banks": []},
        ("GET", f"{base}/tpm0/endorsement-keys"): [{"key": "ab", "type": "RSA_2048"}],
        ("GET", f"{base}/tpm0/endorsement-keys/ab"): {"public_key": "key"},
        ("GET", f"{base}/tpm0/event-log"): {"data": "AAAA"},
    }
    given = {} if gather is None else {"gather": gather}
    (found,) = run_module("host_tpm_info", client(answers), host="first", **given)["tpms"]
    assert set(found) == {"tpm", "active", "banks"} | parts
    if "endorsement_keys" in parts:
        assert found["endorsement_keys"] == [{"key": "ab", "public_key": "key"}]


def test_services_of_nothing_have_no_health(run_module: Any, client: Any) -> None:
    result = run_module("service_status_info", client({}), cluster="two")
    assert result["attestation"] == result["kms"] == {"health": "NONE", "details": []}


@pytest.mark.parametrize("name", [*LISTS, "scope_info", "denied_host_info", "service_status_info"])
def test_a_server_that_refuses_is_a_failure(run_module: Any, client: Any, name: str) -> None:
    error = ApiError("You may not.", "UNAUTHORIZED", 403)
    result = run_module(name, client({("GET", "/vcenter/cluster"): error}), cluster="one")
    assert (result["failed"], result["msg"], result["status"]) == (True, "You may not.", 403)
