# SPDX-License-Identifier: GPL-3.0-or-later
"""A standard provider from end to end: the manager, real key servers, and hosts with simulated agents."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import argon2
import httpx
import pytest
from integration.software_key_server import SoftwareKeyServer, replicate, settle
from services.hostile_key_server import make_pair
from services.manager.harness import Api, Clock, open_api
from services.manager.simulated_agents import Agent, AgentNodes
from starlette.applications import Starlette
from starlette.responses import JSONResponse

from trusted_infrastructure.host.delivery import DeliveryKey
from trusted_infrastructure.host.key_encryption_keys import ObjectOfKey
from trusted_infrastructure.host.key_management import key_routes
from trusted_infrastructure.host.key_queue import KeyQueue
from trusted_infrastructure.host.standard_keys import StandardKeys
from trusted_infrastructure.kmip import key_making
from trusted_infrastructure.kmip.servers import KeyServerGroup
from trusted_infrastructure.manager import (
    events,
    key_delivery,
    known_keys,
    standard_keys,
    standard_provider_health,
    standard_providers,
    users,
)
from trusted_infrastructure.manager.inventory import all_clusters, find_host, remove_host
from trusted_infrastructure.manager.known_keys import Asker, Use
from trusted_infrastructure.manager.nodes import HttpNodes, NodeError
from trusted_infrastructure.manager.standard_key_servers import MAX_CALLS
from trusted_infrastructure.refusal import Refusal

PROVIDERS = "/trust/standard-key-providers"
ONE = f"{PROVIDERS}/finance"
PASSWORD = "a password of the key servers"
USE = {"component": "Virtual Machine", "name": "db1", "identifier": "52d3-77"}
OTHER_USE = {"component": "Host", "name": "", "identifier": "52d3-78"}


@pytest.fixture(autouse=True, scope="module")
def fast_hashes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(users, "HASH", argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
        yield


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[SoftwareKeyServer]]:
    folder = tmp_path_factory.mktemp("pair")
    made = [SoftwareKeyServer(folder / name, name, authority=folder / "ca") for name in ("kms1", "kms2")]
    replicate(*made)
    for one in made:
        one.start()
    settle(*made)
    yield made
    for one in made:
        one.stop()


@pytest.fixture
def nodes() -> AgentNodes:
    return AgentNodes()


@pytest.fixture
def api(tmp_path: Path, nodes: AgentNodes) -> Iterator[Api]:
    """A workload manager with the clusters "one" (host1, host2) and "two" (host3)."""
    clock = Clock()
    clock.now = time.time()
    with open_api(tmp_path, "workload", nodes, clock) as made:
        for cluster, hosts in (("one", ["host1", "host2"]), ("two", ["host3"])):
            made.ok("POST", "/trust/clusters", json={"name": cluster})
            for host in hosts:
                body = {"name": host, "ek_digest": "ab" * 32, "scope": "lab"}
                made.done("POST", f"/trust/clusters/{cluster}/hosts", json=body)
        yield made


def addresses(servers: list[SoftwareKeyServer]) -> list[dict[str, Any]]:
    return [{"name": one.name, "address": {"hostname": one.address, "port": one.port}} for one in servers]


@pytest.fixture
def provider(api: Api, servers: list[SoftwareKeyServer]) -> Api:
    """With the provider "finance", which both sides trust."""
    spec = {"provider": "finance", "servers": addresses(servers), "connection_timeout": 20}
    api.done("POST", PROVIDERS, json=spec)
    api.ok("POST", f"{ONE}/client-certificate")
    certificate = api.ok("GET", f"{ONE}/client-certificate")["certificate"]
    for one in servers:
        one.trust("manager", certificate)
    presented = api.ok("GET", f"{ONE}/peer-certs/current")
    assert [(row["server_name"], row["trusted"]) for row in presented] == [("kms1", False), ("kms2", False)]
    api.ok("PATCH", f"{ONE}/peer-certs/trusted", json={"certificates": [one.certificate for one in servers]})
    return api


def served(api: Api, done: Callable[[], bool], seconds: float = 30) -> None:
    """Run the serving of key requests until something is done."""

    async def drive() -> None:
        task = asyncio.create_task(key_delivery.serve_key_requests(api.manager, 0.1))
        try:
            async with asyncio.timeout(seconds):
                while not done():
                    assert not task.done()
                    await asyncio.sleep(0.02)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    api.run(drive())


def answered(api: Api, agent: Agent, **request: Any) -> Any:
    """A host asks, and gets its answer."""
    identifier = agent.ask(**request)
    served(api, lambda: identifier in agent.answers)
    return agent.answers[identifier]


def told(api: Api, *types: str) -> list[dict[str, Any]]:
    """Events of these types."""
    return [row for row in api.ok("GET", "/trust/events?limit=1000") if row["type"] in types]


# ---- refusals ----------------------------------------------------------------------------------------------


def test_nothing_is_sent_to_servers_that_are_not_trusted(api: Api, servers: list[SoftwareKeyServer]) -> None:
    api.done("POST", PROVIDERS, json={"provider": "finance", "servers": addresses(servers)})
    assert api.ok("GET", ONE)["status"]["health"] == "ERROR"
    api.ok("POST", f"{ONE}/client-certificate")
    stranger = make_pair("kms1")
    for trusted in ([], [stranger.certificate]):
        api.ok("PATCH", f"{ONE}/peer-certs/trusted", json={"certificates": trusted})
        found = api.ok("GET", ONE)["status"]
        assert found["health"] == "ERROR"
        assert not any(one["client_trust_server"] for one in found["servers"])
        error = api.request("POST", "/trust/keys", json={"cluster": "one"})
        assert error.status_code in (400, 503), error.text
    assert api.ok("GET", "/trust/keys") == []
    assert told(api, events.KMS_VENDOR) == []


def test_a_password_goes_to_no_server_that_came_later(
    provider: Api, servers: list[SoftwareKeyServer]
) -> None:
    provider.done("PATCH", ONE, json={"username": "ti", "servers": addresses(servers[:1])})
    provider.ok("PUT", f"{ONE}/credential", json=PASSWORD)
    assert provider.ok("GET", ONE)["has_credential"]
    provider.done("PATCH", ONE, json={"servers": addresses(servers)})
    found = provider.ok("GET", ONE)
    assert not found["has_credential"]
    assert [one["health"] for one in found["status"]["servers"]] == ["OK", "ERROR"]
    assert "password" in found["status"]["servers"][1]["details"][0]["default_message"]
    provider.ok("PUT", f"{ONE}/credential", json=PASSWORD)
    assert provider.ok("GET", ONE)["status"]["health"] == "OK"
    # Another trusted certificate vouches for nobody who gets the password.
    more = [make_pair("other").certificate]
    provider.ok("PATCH", f"{ONE}/peer-certs/trusted", json={"certificates": more})
    found = provider.ok("GET", ONE)["status"]
    assert found["details"][0]["id"] == "trusted.infrastructure.credential_not_bound"


def test_hosts_get_keys_of_their_own_cluster_only(provider: Api, nodes: AgentNodes) -> None:
    made = answered(provider, nodes.agent("host1"), action="create", provider="finance", **USE)
    for host, key_id in (("host3", made.key_id), ("host1", "999999"), ("host1", "")):
        asked = {"action": "get", "provider": "finance", "key_id": key_id or None}
        answer = answered(provider, nodes.agent(host), **asked)
        assert answer.key_id is None
        assert answer.code == ("key_unknown" if key_id else "malformed_request")
    assert nodes.agent("host3").held == {}
    assert (
        answered(provider, nodes.agent("host1"), action="create", provider="other").code == "provider_unknown"
    )


def test_a_key_that_is_gone_is_one_event_and_no_key(provider: Api, nodes: AgentNodes, servers) -> None:
    agent = nodes.agent("host1")
    made = [
        answered(provider, agent, action="create", provider="finance", **USE).key_id for _each in range(2)
    ]
    with key_owner(provider) as owner:
        for key_id in made:
            owner(key_id)
    agent.restart()
    for _again in range(3):
        for key_id in made:
            answer = answered(provider, agent, action="get", provider="finance", key_id=key_id)
            assert (answer.key_id, answer.code) == (None, "key_destroyed")
    told_of = told(provider, events.SEND_KEY_MISSING_ON_KMS)
    assert [event["key_id"] for event in told_of] == made
    assert {(event["user"], event["host"]) for event in told_of} == {("host:host1", "host1")}
    assert [row["key_id"] for row in provider.ok("GET", "/trust/keys?states=DESTROYED")] == sorted(made)


@contextlib.contextmanager
def server_session(api: Api) -> Iterator[Callable[[Callable[[Any], Any]], Any]]:
    """Calls with a session at the first key server, as the provider's own client."""
    with api.manager.database.transaction() as connection:
        content = standard_providers.find(connection, "finance")
    group = standard_providers.connected(api.manager.secrets, "finance", content)
    try:
        yield group._members[0].visit
    finally:
        group.close()


@contextlib.contextmanager
def key_owner(api: Api) -> Iterator[Callable[[str], None]]:
    """Destroys keys."""
    with server_session(api) as visit:
        yield lambda key_id: visit(lambda session: key_making.discard(session, key_id))


def test_no_key_server(provider: Api, nodes: AgentNodes, servers: list[SoftwareKeyServer]) -> None:
    agent = nodes.agent("host1")
    made = answered(provider, agent, action="create", provider="finance", **USE)
    for one in servers:
        one.stop()
    try:
        agent.restart()
        for _again in range(2):
            found = answered(provider, agent, action="get", provider="finance", key_id=made.key_id)
            assert found.code == "key_server_unreachable"
            assert answered(provider, agent, action="create", provider="finance").code == found.code
        assert provider.ok("GET", ONE)["status"]["health"] == "ERROR"
    finally:
        for one in servers:
            one.start()
        settle(*servers)
    assert len(told(provider, events.SEND_KEY_KMS_CLUSTER_ERROR)) == 1
    assert len(told(provider, events.KMS_UNREACHABLE)) == 1
    assert told(provider, events.KEY_GENERATE_FAIL) == []
    assert provider.ok("GET", "/trust/keys")[0]["state"] == "ACTIVE"


def test_key_servers_that_hang_keep_no_other_provider_waiting(provider: Api, nodes: AgentNodes) -> None:
    agent = nodes.agent("host1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = {"hostname": "127.0.0.1", "port": silent.getsockname()[1]}
        spec = {
            "provider": "hung",
            "servers": [{"name": "silent", "address": address}],
            "connection_timeout": 60,
        }
        provider.done("POST", PROVIDERS, json=spec)
        provider.ok("POST", f"{PROVIDERS}/hung/client-certificate")
        trusted = {"certificates": [make_pair("silent").certificate]}
        provider.ok("PATCH", f"{PROVIDERS}/hung/peer-certs/trusted", json=trusted)
        # More than there are threads.
        hung = [agent.ask(action="create", provider="hung", **USE) for _each in range(MAX_CALLS + 4)]
        first = agent.ask(action="create", provider="finance", **USE)
        later: list[str] = []

        def done() -> bool:
            if first in agent.answers and not later:
                later.append(agent.ask(action="create", provider="finance", **OTHER_USE))
            return bool(later) and later[0] in agent.answers

        served(provider, done, seconds=50)
        assert not agent.answers.keys() & set(hung)
    assert agent.answers[first].key_id != agent.answers[later[0]].key_id
    assert len(agent.held) == 2


def test_another_key_under_the_same_id_goes_to_nobody(provider: Api, nodes: AgentNodes) -> None:
    agent = nodes.agent("host1")
    made = answered(provider, agent, action="create", provider="finance", **USE)
    known_keys.change(provider.manager, "finance", made.key_id, check_value="0" * 64)
    agent.restart()
    answer = answered(provider, agent, action="get", provider="finance", key_id=made.key_id)
    assert (answer.code, agent.held) == ("key_mismatch", {})


def test_an_id_that_is_known_is_no_new_key(provider: Api, nodes: AgentNodes, monkeypatch: Any) -> None:
    """Else a key server could give a key of one cluster to another."""
    made = answered(provider, nodes.agent("host1"), action="create", provider="finance", **USE)
    monkeypatch.setattr(KeyServerGroup, "create", lambda group, _vendor, _use: group.get(made.key_id))
    answer = answered(provider, nodes.agent("host3"), action="create", provider="finance")
    assert (answer.code, nodes.agent("host3").held) == ("key_mismatch", {})
    (event,) = told(provider, events.KEY_GENERATE_FAIL)
    assert (event["host"], event["details"]["code"]) == ("host3", "key_mismatch")
    (row,) = provider.ok("GET", "/trust/keys")
    assert (row["identifier"], row["hosts"]) == (USE["identifier"], ["host1"])


# ---- what it is for ----------------------------------------------------------------------------------------


def test_a_key_for_an_object(provider: Api, nodes: AgentNodes) -> None:
    agent = nodes.agent("host1")
    made = answered(provider, agent, action="create", provider="finance", **USE)
    assert made.code == ""
    key = agent.held["finance", made.key_id]
    assert len(key) == 32
    assert nodes.agent("host2").held == {}
    (row,) = provider.ok("GET", "/trust/keys")
    assert {name: row[name] for name in USE} == USE
    assert (row["state"], row["hosts"], row["provider"]) == ("ACTIVE", ["host1"], "finance")
    for query, count in (
        ("providers=finance&in_use=true&hosts=host1&clusters=one&objects=db1&states=ACTIVE", 1),
        ("objects=52d3-77", 1),
        ("in_use=false", 0),
        ("hosts=host2", 0),
        ("clusters=two", 0),
        ("providers=other", 0),
    ):
        assert len(provider.ok("GET", f"/trust/keys?{query}")) == count, query
    # Another host of the cluster, and the first after a reboot, are given the same key.
    other = nodes.agent("host2")
    agent.restart()
    for one in (agent, other):
        got = answered(provider, one, action="get", provider="finance", key_id=made.key_id)
        assert (got.key_id, one.held["finance", made.key_id]) == (made.key_id, key)
    assert provider.ok("GET", "/trust/keys")[0]["hosts"] == ["host1", "host2"]
    operations = [row["operation"] for row in told(provider, events.CRYPTO_OPERATION) if row.get("key_id")]
    assert operations == ["create", "send", "get", "send", "get", "send"]
    # A host that got the object from another one does not know its name; for another object all is new.
    for use, expected in (({**USE, "name": ""}, USE), (OTHER_USE, OTHER_USE)):
        assert (
            answered(provider, other, action="get", provider="finance", key_id=made.key_id, **use).code == ""
        )
        assert {name: provider.ok("GET", "/trust/keys")[0][name] for name in USE} == expected


@pytest.mark.parametrize("name", ["12345678", "n" * 24, "B\u00fcro 1 \u6771\u4eac", "\u00fc" * 255])
def test_any_name_of_an_object(provider: Api, nodes: AgentNodes, name: str) -> None:
    agent = nodes.agent("host1")
    made = answered(provider, agent, action="create", provider="finance", **{**USE, "name": name})
    other = {**USE, "name": f"{name[:254]}2"}
    got = answered(provider, agent, action="get", provider="finance", key_id=made.key_id, **other)
    assert (made.code, got.code) == ("", "")
    with server_session(provider) as visit:
        found = visit(lambda session: session.attributes(made.key_id, ("x-Name", "x-Identifier")).vendor)
    assert found == {"x-Name": other["name"], "x-Identifier": USE["identifier"]}


def test_a_lost_answer_makes_no_second_key(provider: Api, nodes: AgentNodes) -> None:
    """Neither in the same loop, nor after a restart of the manager."""
    agent = nodes.agent("host1")
    nodes.deaf.add("host1")
    identifier = agent.ask(action="create", provider="finance", **USE)
    served(provider, lambda: recorded(provider, events.SEND_KEY_HOST_ERROR))
    served(provider, lambda: nodes.calls.count(("host1", "POST", "/agent/manage/v1/standard-keys")) > 2)
    assert len(told(provider, events.SEND_KEY_HOST_ERROR)) == 1
    nodes.deaf.clear()
    served(provider, lambda: identifier in agent.answers)
    (row,) = provider.ok("GET", "/trust/keys")
    assert row["key_id"] == agent.answers[identifier].key_id
    assert len(agent.held["finance", row["key_id"]]) == 32


def recorded(api: Api, kind: str) -> bool:
    """Whether there is such an event; also while the manager's loop runs."""
    with api.manager.database.transaction() as connection:
        return bool(events.find(connection, events.Wanted(types=[kind])))


def test_a_key_for_a_cluster(provider: Api, nodes: AgentNodes) -> None:
    nodes.down.add("host2")
    made = provider.ok("POST", "/trust/keys", json={"cluster": "one", **USE})
    assert made["provider"] == "finance"  # the first provider is the default
    assert [row["args"] for row in made["unreachable"]] == [["host2"]]
    key = nodes.agent("host1").held["finance", made["key_id"]]
    (event,) = told(provider, events.SEND_KEY_HOST_ERROR)
    assert (event["host"], event["user"]) == ("host2", "administrator")
    nodes.down.clear()
    got = answered(provider, nodes.agent("host2"), action="get", provider="finance", key_id=made["key_id"])
    assert nodes.agent("host2").held["finance", got.key_id] == key
    # Forgotten here and on hosts; the key servers keep it, and it can be known again.
    assert "52d3-77" in provider.request("DELETE", f"/trust/keys/{made['key_id']}").text
    provider.ok("DELETE", f"/trust/keys/{made['key_id']}?provider=finance&force=true")
    assert nodes.agent("host1").held == nodes.agent("host2").held == {}
    assert provider.ok("GET", "/trust/keys") == []
    assert provider.request("DELETE", f"/trust/keys/{made['key_id']}").status_code == 404
    again = {"cluster": "one", "provider": "finance", "key_id": made["key_id"]}
    assert provider.ok("POST", "/trust/keys", json=again)["key_id"] == made["key_id"]
    assert nodes.agent("host1").held["finance", made["key_id"]] == key
    assert provider.request("POST", "/trust/keys", json=again).json()["error_type"] == "ALREADY_EXISTS"


def test_a_key_is_taken_for_one_cluster_by_whoever_is_first(provider: Api, nodes: AgentNodes) -> None:
    manager = provider.manager
    key_id = provider.ok("POST", "/trust/keys", json={"cluster": "one"})["key_id"]
    provider.ok("DELETE", f"/trust/keys/{key_id}")

    async def both() -> list[Any]:
        with manager.database.transaction() as connection:
            askers = [Asker(cluster.number, "administrator") for cluster in all_clusters(connection)]
        taking = [standard_keys.take(manager, asker, "finance", key_id, Use()) for asker in askers]
        return await asyncio.gather(*taking, return_exceptions=True)

    assert [type(one).__name__ for one in provider.run(both())].count("AlreadyExists") == 1
    assert len(provider.ok("GET", "/trust/keys")) == 1


def test_a_host_that_leaves_its_cluster_has_no_keys_of_it(provider: Api, nodes: AgentNodes) -> None:
    agent = nodes.agent("host1")
    made = answered(provider, agent, action="create", provider="finance", **USE)
    provider.done("DELETE", "/trust/clusters/one/hosts/host1")
    assert agent.held == {}
    body = {"name": "host1", "ek_digest": "ab" * 32, "scope": "lab"}
    provider.done("POST", "/trust/clusters/two/hosts", json=body)
    answer = answered(provider, agent, action="get", provider="finance", key_id=made.key_id)
    assert (answer.code, agent.held) == ("key_unknown", {})
    (event,) = [one for one in told(provider, events.CRYPTO_OPERATION) if "code" in one["details"]]
    assert (event["operation"], event["details"]["code"]) == ("get", "key_unknown")
    assert (event["user"], event["key_id"]) == ("host:host1", made.key_id)
    assert told(provider, events.SEND_KEY_KMS_CLUSTER_ERROR) == []
    assert provider.ok("GET", "/trust/keys")[0]["hosts"] == []


def test_a_host_that_leaves_while_its_key_is_made_is_passed_nothing(
    provider: Api, nodes: AgentNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, left = standard_keys.create, []

    async def slow(*arguments: Any) -> Any:
        made = await create(*arguments)
        with provider.manager.database.transaction() as connection:
            remove_host(connection, find_host(connection, "host1"))
        left.append(made.key_id)
        return made

    monkeypatch.setattr(standard_keys, "create", slow)
    nodes.agent("host1").ask(action="create", provider="finance", **USE)
    served(provider, lambda: bool(left))
    assert nodes.agent("host1").held == {}
    assert ("host1", "POST", "/agent/manage/v1/standard-keys") not in nodes.calls


def test_failover_between_key_servers(provider: Api, nodes: AgentNodes, servers) -> None:
    agent = nodes.agent("host1")
    made = answered(provider, agent, action="create", provider="finance", **USE)
    key = agent.held["finance", made.key_id]
    servers[0].stop()
    try:
        agent.restart()
        got = answered(provider, agent, action="get", provider="finance", key_id=made.key_id)
        assert agent.held["finance", got.key_id] == key
        found = provider.ok("GET", ONE)["status"]
        assert (found["health"], [one["health"] for one in found["servers"]]) == ("WARNING", ["ERROR", "OK"])
    finally:
        servers[0].start()
        settle(*servers)
    assert provider.ok("GET", ONE)["status"]["health"] == "OK"


def test_a_provider_goes_when_no_key_of_it_is_left(provider: Api, nodes: AgentNodes) -> None:
    answered(provider, nodes.agent("host1"), action="create", provider="finance", **USE)
    error = provider.failed("DELETE", ONE)
    assert error["messages"][0]["id"] == "trusted.infrastructure.provider_in_use"
    provider.done("DELETE", f"{ONE}?force=true")
    assert provider.ok("GET", PROVIDERS) == []
    assert provider.ok("GET", "/trust/keys") == []
    assert provider.ok("GET", "/trust/default-key-provider") == {}
    assert nodes.content("host1", "key_providers", "key_providers")["providers"] == {}


def test_whose_key_servers_they_are(provider: Api) -> None:
    """By a look of the manager's own, and once; not again when somebody asks."""
    provider.run(standard_provider_health.upkeep(provider.manager))
    for _again in range(2):
        assert provider.ok("GET", ONE)["status"]["health"] == "OK"
    found = told(provider, events.KMS_VENDOR)
    assert [event["details"]["server"] for event in found] == ["kms1", "kms2"]
    assert {event["object"] for event in found} == {"finance"}
    for event in found:
        assert event["details"]["vendor"].startswith("PyKMIP ")
        assert event["message"].endswith(f" says that it is: {event['details']['vendor']}.")


def test_certificates_that_end_are_told_once_a_day(provider: Api) -> None:
    clock: Clock = provider.manager.clock
    # A day is one of UTC: the second moment is in the same as the first, at any hour that this runs.
    midnight = time.time() // 86400 * 86400
    for days, count in ((0, 0), (1800.1, 1), (1800.4, 1), (1801.1, 2)):
        now, clock.now = clock.now, midnight + days * 86400 if days else time.time()
        provider.run(standard_provider_health.upkeep(provider.manager))
        provider.login()
        assert len(told(provider, events.KMS_CLIENT_CERTIFICATE_EXPIRES)) == count, days
        if days:
            health = provider.ok("GET", ONE)["status"]
            assert health["health"] == "WARNING"
            assert "client certificate ends" in json.dumps(health)
    # Key servers' certificates of the lab end before, in the manager's eyes.
    assert told(provider, events.KMS_SERVER_CERTIFICATE_EXPIRES)
    clock.now = now


def test_states_of_keys_are_learned(provider: Api, nodes: AgentNodes) -> None:
    made = answered(provider, nodes.agent("host1"), action="create", provider="finance", **USE)
    with key_owner(provider) as destroy:
        destroy(made.key_id)
    assert provider.ok("GET", "/trust/keys")[0]["state"] == "ACTIVE"
    provider.manager.key_servers.looked.clear()
    provider.run(standard_provider_health.upkeep(provider.manager))
    assert provider.ok("GET", "/trust/keys")[0]["state"] == "DESTROYED"


def test_no_secret_in_database_log_or_answer(
    provider: Api, nodes: AgentNodes, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    for name in ("", "kmip", "sqlalchemy.engine"):
        caplog.set_level(logging.DEBUG, logger=name)
    provider.done("PATCH", ONE, json={"username": "ti"})
    provider.ok("PUT", f"{ONE}/credential", json=PASSWORD)
    agent = nodes.agent("host1")
    made = answered(provider, agent, action="create", provider="finance", **USE)
    key = agent.held["finance", made.key_id]
    seen = [caplog.text, capsys.readouterr().out]
    seen += [
        json.dumps(provider.ok("GET", path)) for path in (ONE, PROVIDERS, "/trust/keys", "/trust/events")
    ]
    seen += [file.read_bytes().decode("latin-1") for file in tmp_path.rglob("*") if file.is_file()]
    seen += [body.decode("latin-1") for body in nodes.bodies]
    for secret in (key.hex(), key.decode("latin-1"), base64.b64encode(key).decode(), PASSWORD, "PRIVATE KEY"):
        for text in seen:
            assert secret not in text


# ---- with the agent's own code -----------------------------------------------------------------------------


class AgentsOwn:
    """The parts of a real agent that hold keys of standard providers, and its routes."""

    def __init__(self, host: str, folder: Path) -> None:
        self.delivery = DeliveryKey(host, "MLKEM768_X25519")
        self.queue = KeyQueue()
        self.standard = StandardKeys(self.delivery, self.queue, folder)
        parts = SimpleNamespace(delivery=self.delivery, queue=self.queue, standard=self.standard)
        app = answering_refusals(Starlette(routes=key_routes(cast(Any, parts))))
        self.nodes = HttpNodes(lambda _host: httpx.AsyncClient(transport=httpx.ASGITransport(app=app)))


def answering_refusals(app: Starlette) -> Starlette:
    """As the services answer a Refusal."""

    async def refused(_request: Any, error: Exception) -> JSONResponse:
        assert isinstance(error, Refusal)
        return JSONResponse({"error": error.as_dict()}, error.status)

    app.add_exception_handler(Refusal, refused)
    return app


class RealAgents(AgentNodes):
    """Hosts whose agents are real, as far as keys go."""

    def __init__(self) -> None:
        super().__init__()
        self.real: dict[str, AgentsOwn] = {}

    async def call(
        self, host: str, method: str, path: str, content: Any = None, timeout: float | None = None
    ) -> bytes:
        if host not in self.real or not path.startswith("/agent/manage/v1/"):
            return await super().call(host, method, path, content, timeout)
        agent = self.real[host]
        answering = asyncio.ensure_future(agent.nodes.call(host, method, path, content, timeout))
        while not answering.done():
            await asyncio.wait([answering], timeout=0.05)
            if self.real[host] is not agent:  # a restart ends its connections
                answering.cancel()
                raise NodeError(host, "unreachable", "connection reset")
        return answering.result()


class TestWithRealAgents:
    @pytest.fixture
    def nodes(self) -> RealAgents:
        return RealAgents()

    def test_keys_of_an_object(self, provider: Api, nodes: RealAgents, tmp_path: Path) -> None:
        use = ObjectOfKey("52d3-77", "Virtual Machine", "db1")

        async def drive() -> tuple[bytes, bytes, bytes, str]:
            nodes.real["host1"] = AgentsOwn("host1", tmp_path)
            task = asyncio.create_task(key_delivery.serve_key_requests(provider.manager, 0.1))
            try:
                made = await nodes.real["host1"].standard.create("finance", use)
                with pytest.raises(Refusal) as refused:
                    await nodes.real["host1"].standard.get("finance", "999999", b"", use)
                nodes.real["host1"] = AgentsOwn("host1", tmp_path)  # it was restarted
                again = await nodes.real["host1"].standard.get("finance", made.kek_id, b"", use)
                nodes.real["host2"] = AgentsOwn("host2", tmp_path)
                other = await nodes.real["host2"].standard.get("finance", made.kek_id, b"", use)
                return bytes(made.key), bytes(again.key), bytes(other.key), refused.value.code
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

        made, again, other, code = provider.run(drive())
        assert len(made) == 32
        assert made == again == other
        assert code == "key_unknown"
        (row,) = provider.ok("GET", "/trust/keys")
        assert (row["identifier"], row["hosts"]) == ("52d3-77", ["host1", "host2"])
