# SPDX-License-Identifier: GPL-3.0-or-later
"""Primary keys of a provider on two real key servers (PyKMIP): their states, a rotation, and servers that
hang, stop or answer nonsense while hosts go on asking."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from integration.software_key_server import SoftwareKeyServer
from integration.test_key_provider import (
    CLIENT_NAME,
    POLICY,
    TIMEOUT,
    TrustAuthority,
    make,
    revoke,
    set_up,
)
from services.asgi_client import AsgiClient
from services.key_provider.harness import Host, service_settings
from services.side_authority import forwarded

from trusted_infrastructure.config.documents import KmipServer, NetworkAddress, PreviousPrimaryKey
from trusted_infrastructure.key_provider import key_servers
from trusted_infrastructure.key_provider.key_servers import SETTLE, KeyServers
from trusted_infrastructure.key_provider.service import build
from trusted_infrastructure.refusal import Refusal

IDS = ["1001", "1002", "2001", "2002", "2003", "2004", "2005", "2006"]
KEYS = [{"name": f"key {key_id}", "id": key_id, "policy": POLICY} for key_id in IDS]
APART = [{"name": "apart", "id": "3001", "policy": POLICY}]
Servers = tuple[SoftwareKeyServer, SoftwareKeyServer]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("key-servers")
    first = SoftwareKeyServer(folder / "kms1", "kms1")
    second = SoftwareKeyServer(folder / "kms2", "kms2", authority=first.authority)
    for server in (first, second):
        server.allow({POLICY: [CLIENT_NAME, "kms1", "kms2"]})
    with first, second:
        first.ensure_keys(KEYS + APART)
        second.ensure_keys(KEYS, first)
        second.ensure_keys(APART)
        yield first, second


@pytest.fixture
def authority(tmp_path: Path, servers: Servers) -> Iterator[TrustAuthority]:
    made = make(tmp_path, servers)
    set_up(made)
    yield made
    made.parts.close()


def candidate(authority: TrustAuthority, key_id: str) -> str:
    """The check value of a key that is to wrap; or the reason code of the refusal."""
    _key, certificate = authority.side.leaf("manager", "ta-manager")
    client = AsgiClient(authority.parts.management, forwarded(certificate))
    path = "/kms/manage/v1/providers/finance/check-value"
    answer = client.post(path, json={"master_key_id": key_id}).json()
    if "error" in answer:
        return str(answer["error"]["code"])
    assert answer["master_key_id"] == key_id
    return str(answer["check_value"])


def use(authority: TrustAuthority, key_id: str) -> bytes:
    """Make a key of the key servers the primary key, and wrap something under it."""
    authority.set(master_key_id=key_id, primary_key_check_value=candidate(authority, key_id))
    _code, _key, answer = authority.ask()
    assert answer is not None and answer.wrapped_key is not None
    return answer.wrapped_key


def forget(authority: TrustAuthority) -> None:
    """No key is in memory, as after a start of the service."""
    authority.parts.state.primary_keys.configure({})
    authority.parts.state._configured = ""


def restart(authority: TrustAuthority) -> None:
    """The service begins anew, with nothing but its files; no peer answers."""

    async def fetch(_peer: object) -> str:
        raise Refusal("peer_unreachable", "nobody answers")

    authority.parts.close()
    authority.parts = build(service_settings(authority.folder), fetch)


# ---- states ------------------------------------------------------------------------------------------------

DESTROY = "p.destroy(e['id'])"


@pytest.mark.parametrize(
    ("key_id", "reason", "then", "opens", "wraps"),
    [
        ("2001", "CESSATION_OF_OPERATION", "", "ok", "key_deactivated"),
        ("2002", "KEY_COMPROMISE", "", "key_compromised", "key_compromised"),
        ("2003", "CESSATION_OF_OPERATION", DESTROY, "key_destroyed", "key_destroyed"),
        ("2005", "KEY_COMPROMISE", DESTROY, "key_destroyed", "key_destroyed"),
    ],
    ids=["deactivated", "compromised", "destroyed", "compromised and destroyed"],
)
def test_the_state_of_a_key_decides(
    authority: TrustAuthority, servers: Servers, key_id: str, reason: str, then: str, opens: str, wraps: str
) -> None:
    wrapped = use(authority, key_id)
    for server in servers:
        revoke(server, key_id, reason, then)
    authority.look()
    for _memory in ("checked in the background", "after a start"):
        assert authority.ask(wrapped, "unwrap")[0] == opens
        assert authority.ask()[0] == wraps
        assert authority.ask(wrapped, "rewrap")[0] == opens
        forget(authority)
    health = authority.look()
    assert health["health"] == "ERROR"
    for server in health["servers"]:
        assert server["keys"][0]["primary_key_id"] == key_id
        assert (server["keys"][0]["state"], server["keys"][0]["code"]) == (
            ("DEACTIVATED", "") if opens == "ok" else ("", opens)
        )
    assert candidate(authority, key_id) == wraps


def test_one_server_where_it_is_revoked_is_enough(authority: TrustAuthority, servers: Servers) -> None:
    wrapped = use(authority, "2004")
    revoke(servers[1], "2004", "CESSATION_OF_OPERATION")
    authority.look()
    assert authority.ask()[0] == "key_deactivated"
    assert authority.ask(wrapped, "unwrap")[0] == "ok"
    states = [server["keys"][0]["state"] for server in authority.look()["servers"]]
    assert states == ["ACTIVE", "DEACTIVATED"]


@pytest.mark.parametrize(
    ("key_id", "code"), [("9999", "key_missing"), ("3001", "primary_key_mismatch"), ("0", "key_missing")]
)
def test_keys_that_cannot_be_rotated_to(authority: TrustAuthority, key_id: str, code: str) -> None:
    assert candidate(authority, key_id) == code
    assert authority.ask()[0] == "ok"


def test_a_server_that_is_down_cannot_confirm_a_new_key(authority: TrustAuthority, servers: Servers) -> None:
    servers[1].stop()
    try:
        assert candidate(authority, "1002") == "key_server_unreachable"
    finally:
        servers[1].start()
    assert len(candidate(authority, "1002")) == 64


# ---- rotation ----------------------------------------------------------------------------------------------


def test_a_rotation_with_restarts_between_all_steps(authority: TrustAuthority, servers: Servers) -> None:
    keys: dict[bytes, bytes] = {}

    def wrap() -> bytes:
        code, key, answer = authority.ask()
        assert code == "ok" and answer is not None and answer.wrapped_key is not None
        keys[answer.wrapped_key] = key
        return answer.wrapped_key

    def everything_opens() -> None:
        for wrapped, key in keys.items():
            assert authority.ask(wrapped, "unwrap")[:2] == ("ok", key)

    old = wrap()
    value = candidate(authority, "1002")
    restart(authority)
    everything_opens()
    before = authority.document
    previous = PreviousPrimaryKey("1001", before.primary_key_check_value or "", int(time.time()))
    authority.set(master_key_id="1002", primary_key_check_value=value, previous_keys=[previous])
    everything_opens()
    new = wrap()
    restart(authority)
    everything_opens()
    code, key, answer = authority.ask(old, "rewrap")
    assert (code, key) == ("ok", keys[old])
    assert answer is not None and answer.wrapped_key is not None
    keys[answer.wrapped_key] = key
    restart(authority)
    everything_opens()
    usage = authority.manage("GET", "/providers/finance/usage")["usage"]
    assert {key_id for one in usage for key_id in one["unreported"]} == {"1001", "1002"}
    # The old one may be deactivated on the key servers meanwhile.
    assert authority.look()["health"] == "OK"
    authority.set(previous_keys=[])
    del keys[old]
    restart(authority)
    everything_opens()
    assert authority.ask(old, "unwrap")[0] == "primary_key_unavailable"
    assert new in keys and len(keys) == 2


# ---- servers that stop, hang, or answer nonsense -----------------------------------------------------------


def test_no_request_is_lost_while_servers_stop_and_come_back(
    authority: TrustAuthority, servers: Servers
) -> None:
    """A host asks as often as it may, half of the time a service that has nothing in memory; so does the
    background."""
    wrapped = use(authority, "1001")
    pace = 1 / service_settings(authority.folder).requests_per_second
    codes: list[str] = []
    end = threading.Event()

    def ask() -> None:
        number = 0
        while not end.wait(pace):
            number += 1
            if number % 2:
                forget(authority)
            codes.append(authority.ask(wrapped, "unwrap")[0])

    def look() -> None:
        while not end.is_set():
            with contextlib.suppress(Refusal):
                authority.parts.state.primary_keys.check("finance", "1001", 86400)
            time.sleep(0.2)

    threads = [threading.Thread(target=ask), threading.Thread(target=look)]
    for thread in threads:
        thread.start()
    try:
        for server in servers:
            server.stop()
            time.sleep(0.5)
            server.start()
            time.sleep(0.5)
            server.pause()
            time.sleep(SETTLE + 0.5)
            server.pause(resume=True)
            time.sleep(0.5)
    finally:
        end.set()
        for thread in threads:
            thread.join()
    assert set(codes) == {"ok"}
    assert len(codes) > 20
    assert authority.look()["health"] == "OK"


@pytest.mark.parametrize("hanging", [0, 1])
def test_a_server_that_hangs_costs_a_moment_and_once(
    authority: TrustAuthority, servers: Servers, monkeypatch: pytest.MonkeyPatch, hanging: int
) -> None:
    """It accepts connections and never answers: SIGSTOP."""
    wrapped = use(authority, "1001")
    servers[hanging].pause()
    try:
        with monkeypatch.context() as unasked:
            unasked.setattr(KeyServers, "ask", None)  # the key is in memory
            for _request in range(10):
                assert authority.ask(wrapped, "unwrap")[0] == "ok"
        forget(authority)
        started = time.monotonic()
        assert authority.ask(wrapped, "unwrap")[0] == "ok"
        assert time.monotonic() - started < TIMEOUT
        # The look in the background, which waits for it, holds up nobody: who waited for the look would wait
        # as long as for the server.
        monkeypatch.setattr(key_servers, "SETTLE", 3 * TIMEOUT)
        look = threading.Thread(target=authority.look)
        look.start()
        started = time.monotonic()
        for _request in range(10):
            assert authority.ask(wrapped, "unwrap")[0] == "ok"
        assert time.monotonic() - started < TIMEOUT
        assert look.is_alive()
        look.join()
        assert time.monotonic() - started < 3 * TIMEOUT  # it looks twice, because all was forgotten
    finally:
        servers[hanging].pause(resume=True)
    assert authority.look()["health"] == "OK"


GARBAGE = {
    "closes at once": b"",
    "is a web server": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "is a mail server": b"220 mail.example ESMTP\r\n",
    "sends zeros": bytes(4096),
    "begins TLS and stops": b"\x16\x03\x03\x40\x00",
}


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("name", GARBAGE)
def test_a_server_that_answers_nonsense(
    authority: TrustAuthority, servers: Servers, name: str, place: int
) -> None:
    wrapped = use(authority, "1001")
    with listening(lambda connection: connection.sendall(GARBAGE[name])) as (port, _connections):
        real = KmipServer("kms1", NetworkAddress(servers[0].address, servers[0].port))
        addresses = [real]
        addresses.insert(place, KmipServer("nonsense", NetworkAddress("127.0.0.1", port)))
        authority.set(servers=addresses)
        forget(authority)
        started = time.monotonic()
        assert authority.ask(wrapped, "unwrap")[0] == "ok"
        assert time.monotonic() - started < TIMEOUT
        health = {server["name"]: server["health"] for server in authority.look()["servers"]}
        assert health == {"kms1": "OK", "nonsense": "ERROR"}


# ---- nobody is asked for those who may not -----------------------------------------------------------------


def test_the_key_server_hears_nothing_before_the_token_was_accepted(
    authority: TrustAuthority, servers: Servers
) -> None:
    """Connections to the key server are counted on the wire."""
    wrapped = use(authority, "1001")

    def forward(connection: socket.socket) -> None:
        with socket.create_connection((servers[0].address, servers[0].port)) as onward:
            back = threading.Thread(target=pump, args=(onward, connection), daemon=True)
            back.start()
            pump(connection, onward)
            back.join()

    with listening(forward) as (port, connections):
        authority.set(servers=[KmipServer("kms1", NetworkAddress("127.0.0.1", port))])
        forget(authority)
        public = AsgiClient(authority.parts.public)
        path = "/kms/v1/providers/finance/keys"
        for action in ("create", "unwrap", "rewrap"):
            for headers, code in refused_headers(authority, wrapped, action):
                body = body_of(Host(authority.authority), wrapped, action)
                answer = public.post(f"{path}?action={action}", content=body, headers=headers)
                assert answer.json()["error"]["code"] == code
        assert connections == []
        assert authority.ask(wrapped, "unwrap")[0] == "ok"
        assert len(connections) > 0


def body_of(host: Host, wrapped: bytes, action: str) -> bytes:
    bodies = {
        "create": host.create_body(),
        "unwrap": host.unwrap_body(wrapped),
        "rewrap": host.rewrap_body(wrapped),
    }
    return bodies[action]


def refused_headers(authority: TrustAuthority, wrapped: bytes, action: str) -> list[tuple[Any, str]]:
    """Headers of requests that are refused, and why: from no token at all to one of another scope."""
    host, now = Host(authority.authority, now=int(time.time())), int(time.time())
    body = body_of(host, wrapped, action)

    def headers(token: str, proof: str) -> dict[str, str]:
        return {"Authorization": f"DPoP {token}", "DPoP": proof}

    ended = host.token(exp=now - 1)
    elsewhere = host.token(aud="group-2")
    no_scope = host.token(scope="cluster-z")
    good = host.token()
    return [
        ({}, "token_invalid"),
        (headers("x.y.z", "x"), "token_invalid"),
        (headers(good[:-4] + "AAAA", host.proof(good, body)), "token_invalid"),
        (headers(ended, host.proof(ended, body)), "token_expired"),
        (headers(elsewhere, host.proof(elsewhere, body)), "token_audience"),
        (headers(no_scope, host.proof(no_scope, body)), "scope_unknown"),
        (headers(good, host.proof(good, b"another body")), "proof_mismatch"),
    ]


@contextlib.contextmanager
def listening(talk: Any) -> Iterator[tuple[int, list[float]]]:
    """A loopback port whose connections are handled by `talk`; when each of them came."""
    connections: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def handle(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                talk(connection)

        def accept() -> None:
            while True:
                try:
                    connection, _address = listener.accept()
                except OSError:
                    return
                connections.append(time.monotonic())
                threading.Thread(target=handle, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1], connections
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def pump(source: socket.socket, target: socket.socket) -> None:
    """Bytes from one connection to another, until it ends."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
