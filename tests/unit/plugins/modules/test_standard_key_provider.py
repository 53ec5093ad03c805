# SPDX-License-Identifier: GPL-3.0-or-later
"""Standard key providers: one task makes all of one, in the order that a password needs; no secret shows."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import ApiError, Call
from ansible_collections.trusted.infrastructure.plugins.modules.key_info import query_of
from ansible_collections.trusted.infrastructure.plugins.modules.standard_key_provider import plan, request_of

BASE = "/trust/standard-key-providers"
ONE = f"{BASE}/the%20provider"
SERVERS = [{"name": "kms1", "address": {"hostname": "kms1.example", "port": 5696}}]
GIVEN = [{"name": "kms1", "address": "kms1.example", "port": 5696}]
PROVIDER = {
    "provider": "the provider",
    "servers": SERVERS,
    "description": "",
    "username": "",
    "connection_timeout": 10,
    "proxy_server": None,
    "has_credential": False,
    "certificate": None,
    "csr": None,
    "trusted_certificates": [],
    "keys": 0,
    "health": "ERROR",
}
COMPLETE = {
    **PROVIDER,
    "certificate": "a certificate",
    "trusted_certificates": ["a CA"],
    "has_credential": True,
    "health": "OK",
}
PARAMETERS = {
    "name": "the provider",
    "servers": GIVEN,
    "description": None,
    "kmip_username": None,
    "kmip_password": None,
    "update_password": "on_create",
    "client_certificate": None,
    "certificate": None,
    "private_key": None,
    "renew_certificate": False,
    "trusted_certificates": None,
    "connection_timeout": None,
    "proxy": None,
    "force": False,
    "state": "present",
}
PASSWORD = "the-kmip-password"
SELF_SIGNED = Call("POST", f"{ONE}/client-certificate")
REQUEST = Call("POST", f"{ONE}/csr")
SEND = Call("PUT", f"{ONE}/credential", PASSWORD)
SIGNED = {"client_certificate": "provided", "certificate": "another"}
REQUESTED = {**COMPLETE, "csr": "a request"}


def install(**body: str) -> Call:
    return Call("PUT", f"{ONE}/client-certificate", body)


def patch(**body: Any) -> Call:
    return Call("PATCH", ONE, body, task=True)


def trust(*certificates: str) -> Call:
    return Call("PATCH", f"{ONE}/peer-certs/trusted", {"certificates": list(certificates)})


def planned(current: Any, **changes: Any) -> Any:
    return plan(current, {**PARAMETERS, **changes})


@pytest.mark.parametrize(
    "current, changes, calls",
    [
        (COMPLETE, {}, ()),
        (COMPLETE, {"description": "", "kmip_username": "", "connection_timeout": 10}, ()),
        (COMPLETE, {"description": "text"}, (patch(description="text"),)),
        (COMPLETE, {"kmip_username": "ti"}, (patch(username="ti"),)),
        ({**COMPLETE, "username": "ti"}, {}, ()),
        ({**COMPLETE, "username": "ti"}, {"kmip_username": ""}, (patch(username=""),)),
        (
            COMPLETE,
            {"proxy": {"address": "p", "port": 1}},
            (patch(proxy_server={"hostname": "p", "port": 1}),),
        ),
        (COMPLETE, {"client_certificate": "self_signed"}, ()),
        (PROVIDER, {"client_certificate": "self_signed"}, (SELF_SIGNED,)),
        (COMPLETE, {"client_certificate": "self_signed", "renew_certificate": True}, (SELF_SIGNED,)),
        (PROVIDER, {"client_certificate": "csr"}, (REQUEST,)),
        (REQUESTED, {"client_certificate": "csr"}, ()),
        (COMPLETE, {"client_certificate": "csr"}, ()),
        (REQUESTED, {"client_certificate": "csr", "renew_certificate": True}, (REQUEST,)),
        (REQUESTED, SIGNED, (install(certificate="another"),)),
        (
            COMPLETE,
            {**SIGNED, "private_key": "key"},
            (install(certificate="another", private_key="key"),),
        ),
        (COMPLETE, {**SIGNED, "certificate": "a certificate"}, ()),
        (COMPLETE, {"trusted_certificates": ["a CA"]}, ()),
        (COMPLETE, {"trusted_certificates": []}, (trust(),)),
        (COMPLETE, {"trusted_certificates": ["b", "a CA"]}, (trust("b", "a CA"),)),
        (COMPLETE, {"kmip_password": PASSWORD}, ()),
        (COMPLETE, {"kmip_password": PASSWORD, "update_password": "unhealthy"}, ()),
        (COMPLETE, {"kmip_password": PASSWORD, "update_password": "always"}, (SEND,)),
        (PROVIDER, {"kmip_password": PASSWORD}, (SEND,)),
        (
            {**COMPLETE, "health": "WARNING"},
            {"kmip_password": PASSWORD, "update_password": "unhealthy"},
            (SEND,),
        ),
        ({**COMPLETE, "health": "WARNING"}, {"kmip_password": PASSWORD}, ()),
        # What it is bound to changes with this task: it is sent after that.
        (
            COMPLETE,
            {"kmip_password": PASSWORD, "trusted_certificates": ["b"]},
            (trust("b"), SEND),
        ),
        (
            COMPLETE,
            {"kmip_password": PASSWORD, "proxy": {"address": "p", "port": 1}},
            (patch(proxy_server={"hostname": "p", "port": 1}), SEND),
        ),
    ],
)
def test_only_what_differs_is_sent(current: Any, changes: Any, calls: Any) -> None:
    found = planned(current, **changes)
    assert found.calls == calls
    assert (found.before != found.after) is bool(calls)
    assert PASSWORD not in f"{found.before}{found.after}"
    assert not {"health", "keys"} & {*found.before, *found.after}


def test_everything_at_once() -> None:
    found = planned(
        None,
        kmip_username="ti",
        kmip_password=PASSWORD,
        client_certificate="self_signed",
        trusted_certificates=["a CA"],
    )
    create = {"provider": "the provider", "servers": SERVERS, "username": "ti"}
    assert found.calls == (
        Call("POST", BASE, create, task=True),
        SELF_SIGNED,
        trust("a CA"),
        SEND,
    )
    assert found.before is None
    assert found.after["has_credential"] is True


def test_absent() -> None:
    assert planned(None, state="absent", servers=None).calls == ()
    assert planned(COMPLETE, state="absent", servers=None).calls == (Call("DELETE", ONE, task=True),)
    forced = planned(COMPLETE, state="absent", servers=None, force=True)
    assert forced.calls == (Call("DELETE", ONE, query=(("force", "true"),), task=True),)
    assert forced.after is None


@pytest.mark.parametrize("given", [{"servers": GIVEN}, {"state": "absent"}])
def test_a_name_of_another_kind(run_module: Any, client: Any, given: Any) -> None:
    others = [{"provider": "the provider", "type": "TRUSTED", "default": True}]
    answers = {("GET", ONE): ApiError("none", "NOT_FOUND", 404), ("GET", "/trust/key-providers"): others}
    fake = client(answers)
    result = run_module("standard_key_provider", fake, check=True, name="the provider", **given)
    assert (result["changed"], fake.changes) == ("servers" in given, [])
    assert ("has a trusted key provider" in str(result.get("warnings"))) is ("servers" in given)


@pytest.mark.parametrize(
    ("keys", "force", "refused"), [(0, False, False), (2, False, True), (2, True, False), (0, True, False)]
)
def test_a_provider_with_known_keys_is_not_deleted(keys: int, force: bool, refused: bool) -> None:
    found = planned({**COMPLETE, "keys": keys}, state="absent", servers=None, force=force)
    assert (bool(found.calls), found.hindered is not None) == (True, refused)
    assert not refused or "2 keys of the provider" in str(found.hindered)
    assert planned({**COMPLETE, "keys": keys}, description="text").hindered is None


def test_the_request_that_is_outstanding() -> None:
    made = planned(PROVIDER, client_certificate="csr")
    assert request_of(made, [{"csr": "made"}]) == {"csr": "made"}
    assert request_of(made, []) == {}
    assert request_of(planned(REQUESTED), []) == {"csr": "a request"}
    assert request_of(planned(REQUESTED, **SIGNED), [None]) == {}


@pytest.mark.parametrize("check", [True, False])
def test_no_secret_shows(run_module: Any, client: Any, check: bool) -> None:
    found = {**PROVIDER, "status": {"health": "ERROR"}}
    none = ApiError("none", "NOT_FOUND", 404)
    fake = client(
        {
            ("GET", ONE): found,
            ("GET", f"{ONE}/client-certificate"): none,
            ("GET", f"{ONE}/csr"): none,
            ("GET", f"{ONE}/peer-certs/trusted"): {"certificates": []},
            ("PUT", f"{ONE}/client-certificate"): None,
            ("PUT", f"{ONE}/credential"): ApiError(f"credential: {PASSWORD!r} is too weak"),
        }
    )
    given = {**SIGNED, "private_key": "the-private-key", "kmip_password": PASSWORD, "servers": GIVEN}
    result = run_module("standard_key_provider", fake, name="the provider", check=check, **given)
    assert result.get("failed", False) is not check
    assert len(fake.changes) == (0 if check else 2)
    for secret in (PASSWORD, "the-private-key"):
        assert secret not in result.output


@pytest.mark.parametrize("name", ["certificate", "private_key"])
@pytest.mark.parametrize("method", [None, "self_signed", "csr"])
def test_what_a_method_does_not_use_is_refused(run_module: Any, client: Any, name: str, method: Any) -> None:
    given = {"name": "p", "servers": GIVEN, name: "x"} | ({"client_certificate": method} if method else {})
    fake = client({})
    result = run_module("standard_key_provider", fake, **given)
    assert result["msg"].startswith(f"{name}: ")
    assert fake.calls == []


def test_present_needs_servers(run_module: Any, client: Any) -> None:
    assert "servers" in run_module("standard_key_provider", client({}), name="p")["msg"]


def test_information(run_module: Any, client: Any) -> None:
    none = ApiError("none", "NOT_FOUND", 404)
    fake = client(
        {
            ("GET", BASE): [{"provider": "a", "health": "OK"}, {"provider": "b", "health": "OK"}],
            ("GET", f"{BASE}/b"): {"provider": "b"},
            ("GET", f"{BASE}/b/client-certificate"): {"certificate": "c"},
            ("GET", f"{BASE}/b/csr"): none,
            ("GET", f"{BASE}/b/peer-certs/trusted"): {"certificates": ["a CA"]},
            ("GET", f"{BASE}/b/peer-certs/current"): [{"server_name": "kms1"}],
        }
    )
    (found,) = run_module("standard_key_provider_info", fake, names=["b"])["standard_key_providers"]
    assert found == {"provider": "b", "certificate": "c", "csr": None, "trusted_certificates": ["a CA"]}
    asked = {"names": ["b"], "present_certificates": True}
    (found,) = run_module("standard_key_provider_info", fake, **asked)["standard_key_providers"]
    assert found["current_certificates"] == [{"server_name": "kms1"}]


NO_FILTER: dict[str, Any] = {"providers": [], "states": [], "clusters": [], "hosts": [], "objects": []}


@pytest.mark.parametrize(
    "given, query",
    [
        ({"in_use": None}, ()),
        ({"in_use": False}, (("in_use", "false"),)),
        (
            {"in_use": True, "providers": ["a", "b"], "objects": ["db1"]},
            (("providers", "a"), ("providers", "b"), ("objects", "db1"), ("in_use", "true")),
        ),
    ],
)
def test_filters_of_keys(given: Any, query: Any) -> None:
    assert query_of({**NO_FILTER, **given}) == query


def test_keys(run_module: Any, client: Any) -> None:
    fake = client({("GET", "/trust/keys"): [{"key_id": "100007", "provider": "finance"}]})
    result = run_module("key_info", fake, providers=["finance"])
    assert result["known_keys"] == [{"key_id": "100007", "provider": "finance"}]
    assert fake.calls[0].query == (("providers", "finance"), ("limit", "1000"))
