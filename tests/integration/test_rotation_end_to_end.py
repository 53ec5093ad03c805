# SPDX-License-Identifier: GPL-3.0-or-later
"""A rotation from the manager's API to the key servers: manager, configuration services, Key Provider
Services of two hosts, and two real key servers (PyKMIP). Each part is stopped and started again in the
middle."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from integration.software_key_server import SoftwareKeyServer
from integration.test_key_provider import CLIENT_NAME, POLICY
from services.asgi_client import AsgiClient
from services.key_provider.harness import (
    AttestationKey,
    Authority,
    Host,
    principal,
    scope,
    service_settings,
    write_identity,
)
from services.manager.harness import Api, FakeNodes, open_api
from services.side_authority import SideAuthority, forwarded

from trusted_infrastructure import identity, messages, tokens
from trusted_infrastructure.config import service as config_service
from trusted_infrastructure.config.documents import Peer, TrustAuthorityCluster
from trusted_infrastructure.config.snapshot import SnapshotReader
from trusted_infrastructure.key_provider.service import Parts, build
from trusted_infrastructure.manager.desired import Change
from trusted_infrastructure.manager.inventory import all_clusters
from trusted_infrastructure.manager.nodes import HttpNodes
from trusted_infrastructure.messages import KeyAnswer, KeyUsageReport, PrimaryKeyIds

BASE = "/vcenter/trusted-infrastructure/trust-authority-clusters/authority"
ONE = f"{BASE}/kms/providers/finance"
ROTATION = "/trust/clusters/authority/kms/providers/finance/rotation"
NAMES = ("ta1", "ta2")
KEYS = [{"name": f"key {key_id}", "id": key_id, "policy": POLICY} for key_id in ("1001", "1002", "1003")]


class TrustAuthorityHost(httpx.AsyncBaseTransport):
    """One host: its configuration service, its Key Provider Service, and the front door to both."""

    def __init__(self, name: str, folder: Path, side: SideAuthority, keys: Authority) -> None:
        self.name, self.folder, self.side, self.keys = name, folder, side, keys
        self.shut = False
        for part in ("state", "run", "anchors", "config"):
            (folder / part).mkdir(parents=True)
        write_identity(folder, side, name)
        anchors = msgspec.json.encode([{"host": host, "public_name": host} for host in NAMES])
        (folder / "anchors" / "peers.json").write_bytes(anchors)
        settings = config_service.Settings(
            host=name,
            side="trust_authority",
            side_ca=folder / "side_ca.pem",
            snapshot=folder / "snapshot.json",
            state_directory=folder / "config",
            run_directory=folder / "run",
            anchors_directory=folder / "anchors",
        )
        configuration = config_service.Configuration(settings)
        configuration.start()
        self._config = httpx.ASGITransport(app=config_service.application(configuration, settings))
        self.parts: Parts
        self.start()

    def start(self) -> None:
        """Start the Key Provider Service, with nothing in memory."""
        settings = msgspec.structs.replace(
            service_settings(self.folder),
            host=self.name,
            service_id=f"key-provider@{self.name}",
            public_name=self.name,
        )
        self.parts = build(settings, self._attestation_keys)

    def restart(self) -> None:
        self.parts.close()
        self.start()

    async def _attestation_keys(self, peer: Peer) -> str:
        key, certificate = self.side.leaf("attestation-service", peer.host)
        service, now = f"attestation@{peer.host}", int(time.time())
        known = self.keys.keys() if peer.host == "ta1" else {}
        if not known:
            other = AttestationKey(service)
            known = {other.kid: other.key.public_key()}
        return tokens.sign_key_set(known, service, identity.load_key(key), [certificate], now, 3600)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.shut:
            raise httpx.ConnectError("connection refused", request=request)
        if request.url.path.startswith("/config/"):
            return await self._config.handle_async_request(request)
        return await httpx.ASGITransport(app=self.parts.management).handle_async_request(request)


class Site:
    """The side: its hosts by name, one attested trusted host, and the manager, which can be started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.side = SideAuthority(now=int(time.time()))
        (folder / "ca.pem").write_text(self.side.certificate)
        _key, self.certificate = self.side.leaf("manager", "ta-manager")
        self.authority = Authority()
        self.hosts = {
            name: TrustAuthorityHost(name, folder / name, self.side, self.authority) for name in NAMES
        }

    @contextlib.contextmanager
    def manager(self) -> Iterator[Api]:
        def client_for(name: str) -> httpx.AsyncClient:
            return httpx.AsyncClient(transport=self.hosts[name], headers=forwarded(self.certificate))

        nodes = HttpNodes(client_for)
        with open_api(self.folder, "trust_authority", FakeNodes(), time.time, real_nodes=nodes) as api:
            yield api

    def set_up(self, api: Api, servers: tuple[SoftwareKeyServer, ...]) -> None:
        """As an administrator does it: cluster, scope, provider, trust in both directions."""
        api.ok("POST", "/trust/clusters", json={"name": "authority"})
        for name in NAMES:
            api.done("POST", "/trust/clusters/authority/hosts", json={"name": name})
        api.done("PATCH", BASE, json={"state": "ENABLE"})
        with api.manager.database.transaction() as connection:
            (cluster,) = all_clusters(connection)
        changes = [
            Change("scope", "cluster-a", scope()),
            Change("consumer_principal", "principal-1", principal()),
        ]
        api.run(api.manager.replication.change(cluster, changes))
        addresses = [
            {"name": server.name, "address": {"hostname": server.address, "port": server.port}}
            for server in servers
        ]
        key_server = {"type": "KMIP", "connection_timeout": 5, "kmip_server": {"servers": addresses}}
        spec = {"provider": "finance", "master_key_id": "1001", "key_server": key_server}
        api.done("POST", f"{BASE}/kms/providers", json=spec)
        api.done("POST", f"{ONE}/client-certificate")
        certificate = api.done("GET", f"{ONE}/client-certificate")["certificate"]
        for server in servers:
            server.trust("finance", certificate)
        shown = api.done("GET", f"{ONE}/peer-certs/current")
        assert [item["error_messages"] for item in shown] == [[], []]
        api.done(
            "PATCH",
            f"{ONE}/peer-certs/trusted",
            json={"certificates": [item["certificate"] for item in shown]},
        )

    def ask(self, at: str, action: str, body: bytes) -> httpx.Response:
        """The trusted host asks one service."""
        snapshot = SnapshotReader(self.folder / at / "snapshot.json").current()
        cluster = snapshot.get("trust_authority_cluster", "cluster", TrustAuthorityCluster)
        assert cluster is not None
        self.host.claims = {"aud": cluster.group, "security_generation": snapshot.security_generation}
        path = "/kms/v1/providers/finance/" + ("usage" if action == "usage" else "keys")
        token = self.host.token()
        proof = self.host.proof(token, body, url=f"https://{at}{path}")
        headers = {"Authorization": f"DPoP {token}", "DPoP": proof}
        query = "" if action == "usage" else f"?action={action}"
        public = AsgiClient(self.hosts[at].parts.public)
        response = public.post(path + query, content=body, headers=headers)
        if response.status_code == 200 and action != "usage":
            answer = messages.decode(response.content, KeyAnswer)
            jws = public.get("/kms/v1/keys").json()["keys"]
            keys = tokens.verify_key_set(
                jws, self.side.certificate, "trust_authority", "key-provider-service", {at}, int(time.time())
            ).keys
            self.key = self.host.open(answer, body, token, proof, keys[answer.key_id])
        return response

    def wrap(self, at: str) -> tuple[bytes, bytes]:
        """A new key: wrapped, and as it is."""
        response = self.ask(at, "create", self.host.create_body())
        assert response.status_code == 200, response.text
        wrapped = messages.decode(response.content, KeyAnswer).wrapped_key
        assert wrapped is not None
        return wrapped, self.key

    def opens(self, wrapped: bytes, key: bytes) -> None:
        """At every host."""
        for at in NAMES:
            response = self.ask(at, "unwrap", self.host.unwrap_body(wrapped))
            assert (response.status_code, self.key) == (200, key), response.text

    def code(self, at: str, action: str, body: bytes) -> str:
        response = self.ask(at, action, body)
        return "ok" if response.status_code == 200 else str(response.json()["error"]["code"])

    def report(self, **keys: int) -> PrimaryKeyIds:
        """To every host, as agents do: until the service has wrapped nothing that it may lack."""
        counts, answer = {name.lstrip("_"): count for name, count in keys.items()}, None
        for at in NAMES:
            known = 0
            while answer is None or messages.number(answer.known) != known:
                known = 0 if answer is None else messages.number(answer.known)
                body = messages.encode(KeyUsageReport(keys=counts, known=known))
                response = self.ask(at, "usage", body)
                assert response.status_code == 200, response.text
                answer = messages.decode(response.content, PrimaryKeyIds)
            last, answer = answer, None
        return last

    @property
    def host(self) -> Host:
        if not hasattr(self, "_host"):
            self._host = Host(self.authority)
        self._host.now = int(time.time())  # a proof is good for a minute
        return self._host


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SoftwareKeyServer, ...]]:
    folder = tmp_path_factory.mktemp("key-servers")
    first = SoftwareKeyServer(folder / "kms1", "kms1")
    second = SoftwareKeyServer(folder / "kms2", "kms2", authority=first.authority)
    for server in (first, second):
        server.allow({POLICY: [CLIENT_NAME, "kms1", "kms2"]})
    with first, second:
        first.ensure_keys(KEYS)
        second.ensure_keys(KEYS, first)
        yield first, second


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    for host in made.hosts.values():
        host.parts.close()


def reason(error: dict[str, Any]) -> str:
    return str(error["messages"][0]["id"]).removeprefix("trusted.infrastructure.")


def test_a_rotation_and_a_compromise(site: Site, servers: tuple[SoftwareKeyServer, ...]) -> None:
    with site.manager() as api:
        site.set_up(api, servers)
        old, old_key = site.wrap("ta1")
        site.opens(old, old_key)
        site.report(_1001=1)
        assert reason(api.failed("PATCH", ONE, json={"master_key_id": "9999"})) == "key_missing"
        site.opens(old, old_key)
        # ta2 does not hear of the rotation.
        site.hosts["ta2"].shut = True
        assert reason(api.failed("PATCH", ONE, json={"master_key_id": "1002"})) == "replication_failed"
        new, new_key = site.wrap("ta1")
        site.opens(old, old_key)
        assert site.code("ta2", "unwrap", site.host.unwrap_body(new)) == "primary_key_unavailable"
        assert reason(api.failed("POST", f"{ROTATION}?action=complete", json={})) == "keys_unknown"
    for host in site.hosts.values():
        host.restart()
    site.opens(old, old_key)
    with site.manager() as api:
        site.hosts["ta2"].shut = False
        api.done("POST", "/trust/clusters/authority?action=remediate")
        site.opens(old, old_key)
        site.opens(new, new_key)
        assert reason(api.failed("PATCH", ONE, json={"master_key_id": "1003"})) == "rotation_under_way"
        (previous,) = api.done("GET", ROTATION)["previous"]
        assert (previous["master_key_id"], previous["keys_left"]) == ("1001", 1)
        assert previous["hosts"][0]["host"] == "host1"
        error = api.failed("POST", f"{ROTATION}?action=complete", json={})
        assert reason(error) == "keys_left"
        response = site.ask("ta2", "rewrap", site.host.rewrap_body(old))
        again = messages.decode(response.content, KeyAnswer).wrapped_key
        assert again is not None and site.key == old_key
        site.hosts["ta2"].restart()
        site.opens(again, old_key)
        assert site.report(_1002=2).previous == ["1001"]
        done = api.done("POST", f"{ROTATION}?action=complete", json={})
        assert (done["removed"], done["lost"], done["unknown"]) == (["1001"], [], [])
        site.opens(again, old_key)
        site.opens(new, new_key)
        assert site.code("ta1", "unwrap", site.host.unwrap_body(old)) == "primary_key_unavailable"
        assert api.done("GET", ROTATION) == {
            "master_key_id": "1002",
            "previous": [],
            "unknown": [],
            "behind": [],
        }
        # It was only given up, not destroyed: made the primary key again, it opens.
        api.done("PATCH", ONE, json={"master_key_id": "1001"})
        site.opens(old, old_key)
        found = api.done("POST", f"{ROTATION}?action=compromise", json={"master_key_id": "1003"})
        assert found["compromised"] == ["1002", "1001"]
        site.opens(new, new_key)
        assert site.code("ta1", "rewrap", site.host.rewrap_body(new)) == "primary_key_compromised"
        ids = site.report(_1002=2)
        assert (ids.primary_key_id, ids.compromised) == ("1003", ["1002", "1001"])
        left = {key["master_key_id"]: key["keys_left"] for key in api.done("GET", ROTATION)["previous"]}
        assert left == {"1002": 2, "1001": 0}
        lost = api.done("POST", f"{ROTATION}?action=complete", json={"force": True})["lost"]
        assert [(row["master_key_id"], row["keys"]) for row in lost] == [("1002", 2)]
        # Every step is in the audit log of each host, and of the manager.
        operations = [event["details"] for event in events_of(api)]
        assert {"rotate", "compromise", "disable"} <= {str(item.get("operation")) for item in operations}
    for host in site.hosts.values():
        log = (host.folder / "state" / "audit.jsonl").read_text()
        assert "primary_key_compromised" in log or host.name == "ta2"
        assert '"operation":"usage"' in log.replace(" ", "")


def test_a_key_is_stolen_while_it_is_rotated(site: Site, servers: tuple[SoftwareKeyServer, ...]) -> None:
    """The host has wrapped its key again, and rests on the new primary key, when the old one turns out to be
    stolen: who has that and the old copy knows the key all the same."""
    with site.manager() as api:
        site.set_up(api, servers)
        old, old_key = site.wrap("ta1")
        api.done("PATCH", ONE, json={"master_key_id": "1002"})
        response = site.ask("ta1", "rewrap", site.host.rewrap_body(old))
        again = messages.decode(response.content, KeyAnswer).wrapped_key
        assert again is not None and site.key == old_key
        site.report(_1002=1)
        error = api.failed("POST", f"{ROTATION}?action=compromise", json={"master_key_id": "1002"})
        assert error["error_type"] == "INVALID_ARGUMENT"
        assert site.code("ta2", "rewrap", site.host.rewrap_body(old)) == "ok"
        found = api.done("POST", f"{ROTATION}?action=compromise", json={"master_key_id": "1003"})
        assert found["compromised"] == ["1001", "1002"]
        for at in NAMES:
            for wrapped in (old, again):
                code = site.code(at, "rewrap", site.host.rewrap_body(wrapped))
                assert code == "primary_key_compromised"
        site.opens(again, old_key)
        ids = site.report(_1002=1)
        assert (ids.primary_key_id, ids.compromised) == ("1003", ["1001", "1002"])
        assert reason(api.failed("POST", f"{ROTATION}?action=complete", json={})) == "keys_left"
        new, new_key = site.wrap("ta2")
        assert new_key != old_key
        site.report(_1003=1)
        assert api.done("POST", f"{ROTATION}?action=complete", json={})["removed"] == ["1001", "1002"]
        site.opens(new, new_key)


def test_an_end_by_force_while_a_host_is_off(site: Site, servers: tuple[SoftwareKeyServer, ...]) -> None:
    """It is decided, and one host knows. The other goes on as before until it is told, by the same again."""
    with site.manager() as api:
        site.set_up(api, servers)
        old, old_key = site.wrap("ta1")
        site.report(_1001=1)
        api.done("PATCH", ONE, json={"master_key_id": "1002"})
        site.hosts["ta2"].shut = True
        assert reason(api.failed("POST", f"{ROTATION}?action=complete", json={})) == "keys_unknown"
        site.opens(old, old_key)
        for again in range(2):
            error = api.failed("POST", f"{ROTATION}?action=complete", json={"force": True})
            assert reason(error) == "replication_failed"
            assert "ta2" in error["messages"][0]["default_message"]
            text = error["messages"][0]["default_message"]
            assert ("'1001' of 'finance' is given up (keys left under it: 1)" in text) == (again == 0)
        assert site.code("ta1", "unwrap", site.host.unwrap_body(old)) == "primary_key_unavailable"
        assert site.code("ta2", "unwrap", site.host.unwrap_body(old)) == "ok"
    # Neither a restart of the manager nor of the host loses it.
    site.hosts["ta2"].restart()
    with site.manager() as api:
        site.hosts["ta2"].shut = False
        found = api.done("GET", ROTATION)
        assert (found["previous"], found["unknown"], found["behind"]) == ([], [], ["ta2"])
        assert site.code("ta2", "unwrap", site.host.unwrap_body(old)) == "ok"
        done = api.done("POST", f"{ROTATION}?action=complete", json={})
        assert (done["removed"], done["lost"]) == ([], [])
        assert api.done("GET", ROTATION)["behind"] == []
        assert site.code("ta2", "unwrap", site.host.unwrap_body(old)) == "primary_key_unavailable"
        # It was given up once, and is an event once.
        operations = [event["details"]["operation"] for event in events_of(api)]
        assert operations.count("disable") == 1


def events_of(api: Api) -> list[dict[str, Any]]:
    """The manager's events, with the operation among the details."""
    found = api.ok("GET", "/trust/events")
    rows = found["events"] if isinstance(found, dict) else found
    return [
        {"details": {"operation": row.get("operation") or row.get("details", {}).get("operation")}}
        for row in rows
    ]


def test_status_shows_each_key_on_each_server(site: Site, servers: tuple[SoftwareKeyServer, ...]) -> None:
    with site.manager() as api:
        site.set_up(api, servers)
        api.done("PATCH", ONE, json={"master_key_id": "1002"})
        for host in site.hosts.values():
            asyncio.run(host.parts.state.take_configuration())
        status = api.done("GET", ONE)["status"]
        assert [server["name"] for server in status["servers"]] == ["kms1", "kms2"]
        for server in status["servers"]:
            assert [(key["master_key_id"], key["available"], key["state"]) for key in server["keys"]] == [
                ("1002", True, "ACTIVE"),
                ("1001", True, "ACTIVE"),
            ]
