# SPDX-License-Identifier: GPL-3.0-or-later
"""The key provider service with two real key servers (PyKMIP) on loopback: set-up, release, failures."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from integration.key_traces import traces
from integration.software_key_server import SoftwareKeyServer
from services.asgi_client import AsgiClient
from services.key_provider.harness import (
    Authority,
    Host,
    cluster,
    provider,
    service_settings,
    write_identity,
)
from services.side_authority import SideAuthority, forwarded

from trusted_infrastructure import identity, messages, tokens
from trusted_infrastructure.config.documents import (
    KeyProvider,
    KmipServer,
    NetworkAddress,
    Peer,
    Sealed,
)
from trusted_infrastructure.key_provider.service import Parts, build
from trusted_infrastructure.messages import KeyAnswer

CLIENT_NAME = "trusted-key-provider.finance"
POLICY = "primary-key-finance"
TIMEOUT = 5  # of the provider
KEYS = [
    {"name": "finance", "id": "1001", "policy": POLICY},
    {"name": "to be revoked", "id": "4001", "policy": POLICY},
    {"name": "somebody else's", "id": "5001", "policy": "private"},
]
APART = [{"name": "apart", "id": "3001", "policy": POLICY}]
PATH = "/kms/v1/providers/finance/keys"


@dataclass
class TrustAuthority:
    """One Trust Authority host over two key servers, set up as a manager does it."""

    parts: Parts
    authority: Authority
    side: SideAuthority
    servers: tuple[SoftwareKeyServer, ...]
    folder: Path
    document: KeyProvider

    def set(self, **changes: Any) -> None:
        """Change the provider's document, as a manager replicates it."""
        import msgspec

        self.document = msgspec.structs.replace(self.document, **changes)
        self.authority.put("key_provider", "finance", self.document)
        self.authority.publish(self.folder / "snapshot.json")

    def public(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A request of a host, as it comes."""
        return AsgiClient(self.parts.public).request(method, path, **options)

    def manage(self, method: str, path: str, body: Any = None) -> Any:
        _key, certificate = self.side.leaf("manager", "ta-manager")
        client = AsgiClient(self.parts.management, forwarded(certificate))
        response = client.request(method, f"/kms/manage/v1{path}", json=body)
        assert response.status_code == 200, response.text
        return response.json()

    def look(self) -> Any:
        """Ask all key servers now; the provider's health."""

        async def check() -> None:
            await self.parts.state.take_configuration()
            await self.parts.state._check(["finance"], self.parts.state.snapshot())

        asyncio.run(check())
        return self.manage("GET", "/status")["providers"]["finance"]

    def ask(self, body: bytes | None = None, action: str = "create") -> tuple[str, bytes, KeyAnswer | None]:
        """A host asks: reason code ("ok"), the key it gets, the answer. body: a wrapped key."""
        host = Host(self.authority, now=int(time.time()))
        body = body or host.create_body()
        if action == "unwrap":
            body = host.unwrap_body(body)
        elif action == "rewrap":
            body = host.rewrap_body(body)
        token = host.token()
        proof = host.proof(token, body)
        headers = {"Authorization": f"DPoP {token}", "DPoP": proof}
        response = self.public("POST", f"{PATH}?action={action}", content=body, headers=headers)
        if response.status_code != 200:
            return response.json()["error"]["code"], b"", None
        answer = messages.decode(response.content, KeyAnswer)
        jws = self.public("GET", "/kms/v1/keys").json()["keys"]
        keys = tokens.verify_key_set(
            jws, self.side.certificate, "trust_authority", "key-provider-service", {"ta1"}, int(time.time())
        ).keys
        return "ok", host.open(answer, body, token, proof, keys[answer.key_id]), answer


@pytest.fixture(scope="module")
def servers(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[SoftwareKeyServer, SoftwareKeyServer]]:
    folder = tmp_path_factory.mktemp("key-servers")
    first = SoftwareKeyServer(folder / "kms1", "kms1")
    second = SoftwareKeyServer(folder / "kms2", "kms2", authority=first.authority)
    readers = {POLICY: [CLIENT_NAME, "kms1", "kms2"], "private": ["kms1", "kms2"]}
    for server in (first, second):
        server.allow(readers)
    with first, second:
        first.ensure_keys(KEYS + APART)
        second.ensure_keys(KEYS, first)
        second.ensure_keys(APART)
        yield first, second


def make(folder: Path, servers: tuple[SoftwareKeyServer, ...]) -> TrustAuthority:
    for name in ("state", "run", "anchors"):
        (folder / name).mkdir()
    now = int(time.time())
    side, authority = SideAuthority(now=now), Authority()
    write_identity(folder, side)
    (folder / "anchors" / "peers.json").write_text('[{"host":"ta1","public_name":"ta1"}]')
    document = provider(
        servers=[KmipServer(server.name, NetworkAddress(server.address, server.port)) for server in servers],
        primary_key_check_value=None,
        connection_timeout=TIMEOUT,
    )
    authority.put("key_provider", "finance", document)
    authority.publish(folder / "snapshot.json")

    async def fetch(peer: Peer) -> str:
        key, certificate = side.leaf("attestation-service", peer.host)
        return tokens.sign_key_set(
            authority.keys(), f"attestation@{peer.host}", identity.load_key(key), [certificate], now, 3600
        )

    return TrustAuthority(build(service_settings(folder), fetch), authority, side, servers, folder, document)


def set_up(authority: TrustAuthority) -> None:
    """As an administrator does it: client certificate, trust in both directions, check value."""
    own = authority.manage("GET", "/sealing-key")
    made = authority.manage("POST", "/providers/finance/client-certificate", {"hosts": {"ta1": own}})
    sealed = made["private_key"]
    for server in authority.servers:
        server.trust("finance", made["certificate"])
    authority.set(
        client_certificate=made["certificate"],
        client_private_key=Sealed(
            sealed["suite"],
            sealed["digest"],
            {host: base64.b64decode(part) for host, part in sealed["sealed"].items()},
        ),
    )
    presented = authority.manage("GET", "/providers/finance/peer-certs")
    assert [entry["certificate"] for entry in presented] == [s.certificate for s in authority.servers]
    authority.set(trusted_certificates=[entry["certificate"] for entry in presented])
    value = authority.manage("POST", "/providers/finance/check-value")["check_value"]
    authority.set(primary_key_check_value=value)


@pytest.fixture
def trust_authority(
    tmp_path: Path, servers: tuple[SoftwareKeyServer, SoftwareKeyServer]
) -> Iterator[TrustAuthority]:
    made = make(tmp_path, servers)
    set_up(made)
    yield made
    made.parts.close()


def test_set_up_step_by_step(tmp_path: Path, servers: tuple[SoftwareKeyServer, SoftwareKeyServer]) -> None:
    """Before each step is done no key leaves, and the status says what is missing."""
    made = make(tmp_path, servers)
    assert made.ask()[0] == "primary_key_unavailable"
    assert "no client certificate" in str(made.look()["details"])
    presented = made.manage("GET", "/providers/finance/peer-certs")
    assert presented[0]["certificate"] == servers[0].certificate
    set_up(made)
    assert made.look()["health"] == "OK"
    assert made.ask()[0] == "ok"
    made.set(trusted_certificates=[])
    made.parts.state.primary_keys.configure({})
    made.parts.state._configured = ""
    assert made.ask()[0] == "certificate_invalid"
    made.set(trusted_certificates=[servers[1].certificate], primary_key_check_value=None)
    health = made.look()
    assert [server["client_trust_server"] for server in health["servers"]] == [False, True]
    assert made.ask()[0] == "primary_key_unavailable"


def test_a_key_is_made_and_opened(trust_authority: TrustAuthority) -> None:
    code, key, answer = trust_authority.ask()
    assert (code, len(key)) == ("ok", 32)
    assert answer is not None and answer.wrapped_key is not None
    code, again, _answer = trust_authority.ask(answer.wrapped_key, "unwrap")
    assert (code, again) == ("ok", key)
    assert trust_authority.look()["health"] == "OK"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("stopped", [0, 1])
def test_one_key_server_stops_and_nothing_changes(
    trust_authority: TrustAuthority, stopped: int, how: int
) -> None:
    _code, key, answer = trust_authority.ask()
    assert answer is not None and answer.wrapped_key is not None
    server = trust_authority.servers[stopped]
    took = server.stop(how)
    try:
        assert took < 5
        assert trust_authority.ask(answer.wrapped_key, "unwrap")[:2] == ("ok", key)
        health = trust_authority.look()
        assert health["health"] == "WARNING"
        assert health["servers"][stopped]["health"] == "ERROR"
        assert health["servers"][1 - stopped]["health"] == "OK"
        # Also for a service that starts now and has no key in memory.
        trust_authority.parts.state.primary_keys.configure({})
        trust_authority.parts.state._configured = ""
        assert trust_authority.ask(answer.wrapped_key, "unwrap")[:2] == ("ok", key)
    finally:
        server.start()
    assert trust_authority.look()["health"] == "OK"


def test_both_key_servers_stop(trust_authority: TrustAuthority) -> None:
    assert trust_authority.ask()[0] == "ok"
    for server in trust_authority.servers:
        server.stop()
    try:
        assert trust_authority.look()["health"] == "WARNING"
        assert trust_authority.ask()[0] == "ok"
        trust_authority.authority.put("trust_authority_cluster", "cluster", cluster(key_cache_max_age=0))
        trust_authority.set(description="no cache")
        assert trust_authority.look()["health"] == "ERROR"
        assert trust_authority.ask()[0] == "key_server_unreachable"
    finally:
        for server in trust_authority.servers:
            server.start()
    assert trust_authority.look()["health"] == "OK"
    assert trust_authority.ask()[0] == "ok"


def test_a_key_that_is_not_replicated_is_refused(trust_authority: TrustAuthority) -> None:
    """Both servers have id 3001, but each made its own key."""
    trust_authority.set(master_key_id="3001")
    assert trust_authority.look()["health"] == "ERROR"
    assert trust_authority.ask()[0] == "primary_key_mismatch"
    log = (trust_authority.folder / "state" / "audit.jsonl").read_text()
    assert log.count("primary_key_mismatch") >= 2
    with pytest.raises(AssertionError, match="primary_key_mismatch"):
        trust_authority.manage("POST", "/providers/finance/check-value")
    with pytest.raises(subprocess.CalledProcessError) as failed:
        trust_authority.servers[1].ensure_keys(APART, trust_authority.servers[0])
    assert b"different keys under id 3001" in failed.value.stderr


def test_a_revoked_key_is_refused(trust_authority: TrustAuthority) -> None:
    trust_authority.set(master_key_id="4001", primary_key_check_value=None)
    value = trust_authority.manage("POST", "/providers/finance/check-value")["check_value"]
    trust_authority.set(primary_key_check_value=value)
    assert trust_authority.ask()[0] == "ok"
    revoke(trust_authority.servers[1], "4001")
    health = trust_authority.look()
    assert health["health"] == "ERROR"
    assert "COMPROMISED" in str(health["details"])
    assert trust_authority.ask()[0] == "key_compromised"


def test_a_key_of_somebody_else_is_not_given(trust_authority: TrustAuthority) -> None:
    trust_authority.set(master_key_id="5001")
    health = trust_authority.look()
    assert "permission_denied" in str(health["details"])
    assert trust_authority.ask()[0] == "primary_key_unavailable"


def test_a_client_that_is_not_known_any_more(trust_authority: TrustAuthority) -> None:
    for server in trust_authority.servers:
        (server.clients / "finance.pem").unlink()
    trust_authority.parts.state.primary_keys.configure({})
    trust_authority.parts.state._configured = ""
    health = trust_authority.look()
    assert [server["client_trust_server"] for server in health["servers"]] == [True, True]
    assert [server["server_trust_client"] for server in health["servers"]] == [False, False]
    assert trust_authority.ask()[0] == "key_server_unreachable"


# ---- the key server itself ----


def test_keys_are_equal_on_both_and_made_once(
    servers: tuple[SoftwareKeyServer, SoftwareKeyServer],
) -> None:
    first, second = servers
    assert second.ensure_keys(KEYS, first) == {"changed": False, "keys": []}


def test_check_mode_makes_nothing(servers: tuple[SoftwareKeyServer, SoftwareKeyServer]) -> None:
    first, _second = servers
    wanted = {
        "keys": [{"name": "later", "id": "9001", "policy": POLICY}],
        "here": first.endpoint(),
        "first": None,
    }
    assert first.command("primary-keys", wanted, "--check") == {"changed": True, "keys": ["9001"]}
    assert first.command("primary-keys", wanted, "--check") == {"changed": True, "keys": ["9001"]}


def test_the_key_server_logs_no_key_and_its_files_are_private(
    trust_authority: TrustAuthority,
) -> None:
    trust_authority.look()
    primary = trust_authority.parts.state.primary_keys.current("finance", "1001", 60)
    assert primary is not None
    for server in trust_authority.servers:
        log = server.log()
        assert "Getting a SymmetricKey" in log
        assert traces(log.encode(), {"primary key": primary.material}) == []
        assert "DEBUG" not in log
        for name in ("keys.db", "server.key"):
            assert (server.folder / name).stat().st_mode & 0o077 == 0, name


def revoke(server: SoftwareKeyServer, key_id: str, reason: str = "KEY_COMPROMISE", then: str = "") -> None:
    """Revoke a key, as its owner does: compromised by KEY_COMPROMISE, deactivated by other reasons of KMIP.

    then: further calls of a KMIPProxy `p`, each a line that answers."""
    script = (
        "import sys, json\n"
        "from key_server.primary_keys import Client, Endpoint\n"
        "from kmip.core import enums\n"
        "e = json.load(sys.stdin)\n"
        "with Client(Endpoint(**e['here'])) as c:\n"
        "    p, answers = c._proxy, []\n"
        f"    answers.append(p.revoke(enums.RevocationReasonCode.{reason}, e['id']))\n"
        + "".join(f"    answers.append({line})\n" for line in then.splitlines())
        + "    for r in answers:\n"
        "        assert r.result_status.value is enums.ResultStatus.SUCCESS, r.result_message\n"
    )
    server.run_python(script, json.dumps({"here": server.endpoint(), "id": key_id}))
