# SPDX-License-Identifier: GPL-3.0-or-later
"""Trusted key providers."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import Call
from ansible_collections.trusted.infrastructure.plugins.modules.key_provider import (
    Found,
    plan,
    read,
    specification,
    wanted_of,
)

BASE = "/vcenter/trusted-infrastructure/trust-authority-clusters/domain-c1/kms/providers"
ONE = f"{BASE}/the%20provider"
SERVERS = [{"name": "kms1", "address": {"hostname": "kms1.example", "port": 5696}}]
OTHERS = [*SERVERS, {"name": "kms2", "address": {"hostname": "192.0.2.7", "port": 15696}}]
PROVIDER = {
    "provider": "the provider",
    "master_key_id": "1",
    "servers": SERVERS,
    "description": "",
    "username": None,
    "connection_timeout": 10,
    "proxy_server": None,
    "required_userspace": "none",
}
PARAMETERS = {
    "name": "the provider",
    "primary_key_id": "1",
    "servers": [{"name": "kms1", "address": "kms1.example", "port": 5696}],
    "description": None,
    "kmip_username": None,
    "connection_timeout": None,
    "proxy": None,
    "required_userspace": None,
    "state": "present",
}
KMIP = {"type": "KMIP", "kmip_server": {"servers": SERVERS}}
DELETE = Call("DELETE", ONE, task=True)


def wanted(**changes: Any) -> Any:
    return wanted_of({**PARAMETERS, **changes})


@pytest.mark.parametrize(
    "given, body",
    [
        ({}, {}),
        ({"master_key_id": "2"}, {"master_key_id": "2"}),
        ({"servers": SERVERS}, {"key_server": KMIP}),
        ({"description": ""}, {"key_server": {"type": "KMIP", "description": ""}}),
        ({"username": "ti"}, {"key_server": {"type": "KMIP", "kmip_server": {"username": "ti"}}}),
        ({"connection_timeout": 5}, {"key_server": {"type": "KMIP", "connection_timeout": 5}}),
        ({"required_userspace": "ima"}, {"required_userspace": "ima"}),
        (
            {"proxy_server": {"hostname": "p", "port": 1080}},
            {"key_server": {"type": "KMIP", "proxy_server": {"hostname": "p", "port": 1080}}},
        ),
    ],
)
def test_what_is_sent(given: Any, body: Any) -> None:
    assert specification(given) == body


def test_wanted() -> None:
    assert wanted(state="absent", servers=None) is None
    assert wanted()["servers"] == SERVERS
    assert wanted(proxy={"address": "p", "port": 1080})["proxy_server"] == {"hostname": "p", "port": 1080}


@pytest.mark.parametrize(
    "changes, different",
    [
        ({}, {}),
        ({"description": ""}, {}),
        ({"connection_timeout": 10, "required_userspace": "none"}, {}),
        ({"primary_key_id": "2"}, {"master_key_id": "2"}),
        ({"description": "text"}, {"description": "text"}),
        ({"kmip_username": "ti"}, {"username": "ti"}),
        ({"proxy": {"address": "p", "port": 1}}, {"proxy_server": {"hostname": "p", "port": 1}}),
        (
            {"servers": [*PARAMETERS["servers"], {"name": "kms2", "address": "192.0.2.7", "port": 15696}]},
            {"servers": OTHERS},
        ),
    ],
)
def test_only_what_differs_is_sent(changes: Any, different: Any) -> None:
    planned = plan(Found(BASE, PROVIDER), wanted(**changes), "the provider")
    calls = (Call("PATCH", ONE, specification(different), task=True),) if different else ()
    assert (planned.before, planned.after, planned.calls) == (PROVIDER, {**PROVIDER, **different}, calls)


def test_create_and_delete() -> None:
    created = plan(Found(BASE, None), wanted(kmip_username="ti"), "the provider")
    body = {
        "provider": "the provider",
        "master_key_id": "1",
        "key_server": {"type": "KMIP", "kmip_server": {"servers": SERVERS, "username": "ti"}},
    }
    assert created.calls == (Call("POST", BASE, body, task=True),)
    assert created.after == {
        "provider": "the provider",
        "master_key_id": "1",
        "servers": SERVERS,
        "username": "ti",
    }
    assert plan(Found(BASE, PROVIDER), None, "the provider").calls == (DELETE,)
    assert plan(Found(BASE, None), None, "the provider").calls == ()


@pytest.mark.parametrize(
    ("previous", "changes", "refused"),
    [
        ([], {"primary_key_id": "2"}, False),
        (["0"], {"primary_key_id": "2"}, True),
        (["0"], {"primary_key_id": "2", "description": "text"}, True),
        (["0"], {"description": "text"}, False),
        (["0"], {}, False),
        (["0"], {"state": "absent"}, False),
    ],
)
def test_there_is_one_rotation_at_a_time(previous: list[str], changes: Any, refused: bool) -> None:
    planned = plan(Found(BASE, PROVIDER, previous), wanted(**changes), "the provider")
    assert (planned.hindered is not None) is refused
    assert not refused or "is being rotated from 0" in str(planned.hindered)


def test_a_server_that_leaves_things_out(client: Any) -> None:
    """Port, description and proxy are optional in the API, and vCenter Server has no required_userspace."""
    servers = [{"name": "kms1", "address": {"hostname": "kms1.example"}}]
    found = {"master_key_id": "1", "key_server": {"type": "KMIP", "kmip_server": {"servers": servers}}}
    with client({("GET", ONE): found}) as session:
        found_there = read(session, "one", "the provider")
    assert found_there == Found(BASE, {**PROVIDER, "connection_timeout": None, "required_userspace": None})
    found["key_server"] = {"type": "KMIP", "proxy_server": {"hostname": "p"}}
    with client({("GET", ONE): found}) as session:
        state = read(session, "one", "the provider").current
    assert (state["servers"], state["proxy_server"]) == ([], {"hostname": "p", "port": 1080})


def test_the_user_of_the_key_server_is_not_the_user_of_the_manager(run_module: Any, client: Any) -> None:
    found = {"master_key_id": "1", "key_server": {"kmip_server": {"servers": SERVERS, "username": "ti"}}}
    given = {
        "cluster": "one",
        "name": "the provider",
        "primary_key_id": "1",
        "servers": PARAMETERS["servers"],
    }
    fake = client({("GET", ONE): found})
    assert run_module("key_provider", fake, **given)["changed"] is False
    assert run_module("key_provider", fake, **given, kmip_username="ti")["changed"] is False
    assert run_module("key_provider", fake, **given, kmip_username="x", check=True)["changed"] is True


def test_the_id_of_a_key_is_not_taken_for_a_secret(run_module: Any, client: Any) -> None:
    fake = client({("GET", ONE): {"master_key_id": "key-1", "key_server": {}}})
    given = {"cluster": "one", "name": "the provider", "primary_key_id": "key-2", "servers": []}
    result = run_module("key_provider", fake, **given, check=True)
    assert result["resource"]["master_key_id"] == "key-2"
    assert "warnings" not in result
