# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys that the manager knows: pages of them, forgetting one that is used, how many a host may have made."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import pytest
import sqlalchemy as sql
from services.manager.harness import Api, Clock, FakeNodes, open_api
from services.manager.simulated_agents import Agent, AgentNodes

from trusted_infrastructure.key_delivery import MAX_KEYS, DeliveryTarget
from trusted_infrastructure.kmip.servers import ServedKey
from trusted_infrastructure.manager import events, key_delivery, known_keys, standard_keys
from trusted_infrastructure.manager.database import Database
from trusted_infrastructure.manager.inventory import (
    Cluster,
    Host,
    add_host,
    all_clusters,
    create_cluster,
    remove_host,
)
from trusted_infrastructure.manager.key_delivery import Passed, pass_to_cluster
from trusted_infrastructure.manager.key_quota import KeyQuota
from trusted_infrastructure.manager.known_keys import Asker, Use, Wanted
from trusted_infrastructure.refusal import Refusal

KEYS = "/trust/keys"
UNUSED, USED = Use(), Use("Virtual Machine", "db1", "52d3-77")


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with open_api(tmp_path, "workload", FakeNodes(), Clock()) as made:
        for cluster in ("one", "two"):
            made.ok("POST", "/trust/clusters", json={"name": cluster})
        yield made


def served_key(key_id: str) -> ServedKey:
    return ServedKey(key_id=key_id, material=bytes(32), state="ACTIVE", server="kms1")


def know(
    api: Api, provider: str, key_id: str, use: Use = UNUSED, cluster: str = "one", host: str = ""
) -> None:
    with api.manager.database.transaction() as connection:
        (number,) = [one.number for one in all_clusters(connection) if one.name == cluster]
        asker = Asker(number, "administrator", host)
        known_keys.insert(connection, provider, served_key(key_id), asker, use, 1)
    if host:
        known_keys.note_host(api.manager, host, [(provider, key_id)])


# ---- pages


def listed(api: Api, **query: Any) -> list[tuple[str, str]]:
    found = api.ok("GET", f"{KEYS}?{urlencode(query, doseq=True)}")
    return [(row["provider"], row["key_id"]) for row in found]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("after=a", "after"),
        ("after=a&after=b&after=c", "after"),
    ],
)
def test_what_is_no_page_is_refused(api: Api, query: str, field: str) -> None:
    response = api.request("GET", f"{KEYS}?{query}")
    assert response.status_code == 400
    assert response.json()["messages"][0]["args"] == [field]


def test_pages_have_every_key_once(api: Api) -> None:
    known = [("a", "1"), ("a", "10"), ("a", "2"), ("a/b", "1"), ("b", "0"), ("b", "x/y z&")]
    for provider, key_id in known:
        know(api, provider, key_id, cluster="two" if key_id == "10" else "one", host="host1")
    assert listed(api) == known
    for limit in range(1, 8):
        found, after = [], {}
        while page := listed(api, limit=limit, **after):
            assert len(page) <= limit
            found += page
            after = {"after": page[-1]}
            know(api, "a", "0")  # what comes before is for the next who reads
        assert found == known
        with api.manager.database.transaction() as connection:
            known_keys.forget(connection, "a", "0")
    # Filters come before the page is cut.
    assert listed(api, limit=2, clusters="two") == [("a", "10")]
    assert listed(api, limit=1, providers="b", after=("b", "0")) == [("b", "x/y z&")]
    assert listed(api, clusters="three") == []
    assert api.ok("GET", f"{KEYS}?limit=1&hosts=host1")[0]["hosts"] == ["host1"]
    assert listed(api, hosts="host2") == []


def test_a_page_is_bounded_where_nobody_says_so(api: Api) -> None:
    with api.manager.database.transaction() as connection:
        for number in range(1001):
            key = served_key(f"{number:04}")
            known_keys.insert(connection, "finance", key, Asker(1, "administrator"), Use(), 1)
    assert len(listed(api)) == 1000
    assert listed(api, after=("finance", "0999")) == [("finance", "1000")]


# ---- forgetting


def test_a_key_that_is_used_is_forgotten_by_force_alone(api: Api) -> None:
    know(api, "finance", "100", USED, host="host1")
    know(api, "finance", "101")
    refused = api.request("DELETE", f"{KEYS}/100")
    assert refused.status_code == 400
    (message,) = refused.json()["messages"]
    assert (refused.json()["error_type"], message["id"]) == (
        "NOT_ALLOWED_IN_CURRENT_STATE",
        "trusted.infrastructure.key_in_use",
    )
    for named in ("Virtual Machine", "db1", "52d3-77", "host1"):
        assert named in message["default_message"]
    assert api.request("DELETE", f"{KEYS}/100?provider=finance&force=false").status_code == 400
    assert [key for _provider, key in listed(api)] == ["100", "101"]
    assert not [call for call in api.nodes.calls if call[1] == "DELETE"]
    api.ok("DELETE", f"{KEYS}/101")
    api.ok("DELETE", f"{KEYS}/100?force=true")
    assert listed(api) == []
    assert [call[0] for call in api.nodes.calls if call[1] == "DELETE"] == ["host1"]
    log = (api.manager.settings.state_directory / "audit.log").read_text().splitlines()
    forced = [line for line in log if '"force":"true"' in line]
    assert len(forced) == 1 and "52d3-77" in forced[0]


# ---- quota


def test_a_host_has_no_more_made_than_its_bound(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/manager.db")
    quota = KeyQuota(3, 100, lambda: 0.0)

    def make(number: int, host: str = "host1") -> None:
        with database.transaction() as connection:
            asker = Asker(1, "host", host)
            known_keys.insert(connection, "finance", served_key(str(number)), asker, Use(), 1)

    def made(host: str) -> int:
        with database.transaction() as connection:
            return known_keys.made_by(connection, host)

    make(1)
    make(2, "host2")
    with ExitStack() as making:  # what is under way counts
        making.enter_context(quota.one_more("host1", made("host1")))
        making.enter_context(quota.one_more("host1", made("host1")))
        with pytest.raises(Refusal) as refused, quota.one_more("host1", made("host1")):
            pass
        assert (refused.value.code, refused.value.status) == ("key_quota_exceeded", 409)
        assert "host1" in refused.value.message and "host_key_limit" in refused.value.remedy
        with quota.one_more("host2", made("host2")):
            pass
    # What was not made after all does not count; what is forgotten makes room.
    make(3)
    make(4)
    with pytest.raises(Refusal), quota.one_more("host1", made("host1")):
        pass
    with database.transaction() as connection:
        known_keys.forget(connection, "finance", "4")
    with quota.one_more("host1", made("host1")):
        pass
    database.close()


def test_a_host_has_keys_made_no_quicker_than_its_rate() -> None:
    now = [0.0]
    quota = KeyQuota(1000, 60, lambda: now[0])

    def taken(host: str, count: int) -> None:
        for _number in range(count):
            with quota.one_more(host, 0):
                pass

    taken("host1", 60)
    with pytest.raises(Refusal) as refused:
        taken("host1", 1)
    assert (refused.value.code, refused.value.status) == ("rate_limited", 429)
    taken("host2", 60)
    now[0] += 2
    taken("host1", 2)
    with pytest.raises(Refusal):
        taken("host1", 1)


def test_the_key_server_is_not_asked_beyond_the_bound(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Users of the manager are not bound."""
    asked = []

    async def ask(*_arguments: Any) -> ServedKey:
        asked.append(str(len(asked)))
        key = served_key(asked[-1])
        await asyncio.sleep(0)
        return key

    manager = api.manager
    monkeypatch.setattr(manager.key_servers, "ask", ask)
    monkeypatch.setattr(standard_keys, "provider_of", lambda *_arguments: SimpleNamespace())
    object.__setattr__(manager, "key_quota", KeyQuota(2, 100))
    host, person = Asker(1, "host:host1", "host1", "i/1"), Asker(1, "administrator")

    async def make(asker: Asker, count: int) -> list[Any]:
        making = [standard_keys.create(manager, asker, "finance", USED) for _number in range(count)]
        return await asyncio.gather(*making, return_exceptions=True)

    made = api.run(make(host, 5))
    assert [type(one) for one in made].count(ServedKey) == len(asked) == 2
    assert {one.code for one in made if isinstance(one, Refusal)} == {"key_quota_exceeded"}
    api.run(make(person, 3))
    assert len(asked) == 5
    with manager.database.transaction() as connection:
        (event,) = events.find(connection, events.Wanted(types=[events.KEY_GENERATE_FAIL]))
        assert "key_quota_exceeded" in event.details and event.host == "host1"
        assert len(known_keys.keys(connection, Wanted())) == 5


def test_the_default_bound(api: Api) -> None:
    assert (api.manager.settings.host_key_limit, api.manager.settings.host_key_rate) == (10_000, 600)


# ---- hosts that leave


@pytest.mark.parametrize("back", [False, True])
def test_a_host_that_left_meanwhile_is_passed_nothing(tmp_path: Path, back: bool) -> None:
    """Also where it is in a cluster again by then."""
    nodes = AgentNodes()
    with open_api(tmp_path, "workload", nodes, Clock()) as api:
        database = api.manager.database
        with database.transaction() as connection:
            clusters = [create_cluster(connection, name) for name in ("one", "two")]
            gone, stays = [joined(connection, clusters[0], name) for name in ("host1", "host2")]
        agent, item = nodes.agent("host1"), Passed("finance", served_key("k1"), USED)

        def target(_agent: Agent) -> DeliveryTarget:
            if _agent is agent:  # it answers when it was removed
                with database.transaction() as connection:
                    remove_host(connection, gone)
                    if back:
                        joined(connection, clusters[1], "host1")
            return original(_agent)

        original = Agent.target.fget
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Agent, "target", property(target))
            assert api.run(pass_to_cluster(api.manager, clusters[0], item, "administrator")) == []
        assert list(nodes.agent("host2").held) == [("finance", "k1")]
        assert agent.held == {}


def joined(connection: sql.Connection, cluster: Cluster, name: str) -> Host:
    return add_host(connection, cluster, name=name, public_name=name, port=443, ek_digest=None, scope=None)


# ---- hosts that ask for what they may not have


def test_a_host_that_is_refused_all_the_time_is_asked_in_between_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = AgentNodes()
    monkeypatch.setattr(standard_keys, "provider_of", lambda *_arguments: SimpleNamespace())
    monkeypatch.setattr(key_delivery, "FIRST_PAUSE", 30.0)
    with open_api(tmp_path, "workload", nodes, Clock()) as api:
        with api.manager.database.transaction() as connection:
            joined(connection, create_cluster(connection, "one"), "host1")
        agent = nodes.agent("host1")

        def ask() -> None:
            while len(agent.requests) < MAX_KEYS:
                agent.ask(action="get", provider="finance", key_id="another's")

        async def asking() -> None:
            ask()
            serving = asyncio.create_task(key_delivery.serve_host(api.manager, "host1"))
            async with asyncio.timeout(30):
                while not agent.answers:
                    await asyncio.sleep(0.01)
            ask()
            await asyncio.sleep(1)
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

        api.run(asking())
    assert len(agent.answers) == MAX_KEYS
    assert {answer.code for answer in agent.answers.values()} == {"key_unknown"}
