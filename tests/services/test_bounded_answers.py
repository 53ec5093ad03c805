# SPDX-License-Identifier: GPL-3.0-or-later
"""What a peer that means harm can answer: agents, services and managers read a bounded part
of it, for a bounded time."""

from __future__ import annotations

import asyncio
import gzip
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
from services.side_authority import SideAuthority

from trusted_infrastructure.config.documents import NetworkAddress, Peer
from trusted_infrastructure.host.registered_services import Service
from trusted_infrastructure.host.service_client import ServiceClient
from trusted_infrastructure.manager.nodes import HttpNodes, NodeError
from trusted_infrastructure.peers.watch import fetch_over_https
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.transport import (
    ask_once,
    bounded_answers,
    clients,
    local_client,
    management_client,
    public_client,
)

SOURCES = Path(__file__).resolve().parents[2] / "src"
HOST = "config.host1"
LIMIT, ERROR_LIMIT = 1 << 20, 1 << 16
# Seconds: what a client may wait for the next bytes; and in all, where it is to give up.
PATIENT, GAP, WHOLE = 20.0, 0.3, 0.6
# Made beforehand: it takes longer than clients that give up wait.
BOMB = gzip.compress(bytes(64 << 20))

OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
ERROR = b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\n"
Pieces = AsyncIterator[bytes]


async def endless(head: bytes = OK) -> Pieces:
    yield head + b"transfer-encoding: chunked\r\n\r\n"
    while True:
        yield b"10000\r\n" + bytes(0x10000) + b"\r\n"


async def endless_error() -> Pieces:
    async for piece in endless(ERROR):
        yield piece


async def until_closed() -> Pieces:
    """An answer without a length."""
    yield OK + b"\r\n"
    while True:
        yield bytes(1 << 16)


async def announced() -> Pieces:
    yield OK + b"content-length: 1099511627776\r\n\r\n"
    await asyncio.sleep(60)


async def too_long_by_one() -> Pieces:
    yield OK + b"transfer-encoding: chunked\r\n\r\n%x\r\n" % (LIMIT + 1) + bytes(LIMIT + 1) + b"\r\n0\r\n\r\n"
    await asyncio.sleep(60)


async def error_too_long_by_one() -> Pieces:
    body = b'{"error":{"code":"x"},"y":["%s"]}' % (b"y" * ERROR_LIMIT)
    yield ERROR + b"content-length: %d\r\n\r\n" % (ERROR_LIMIT + 1) + body[: ERROR_LIMIT + 1]
    await asyncio.sleep(60)


async def bomb(encoding: bytes = b"gzip") -> Pieces:
    assert len(BOMB) < LIMIT
    yield OK + b"content-encoding: %s\r\ncontent-length: %d\r\n\r\n" % (encoding, len(BOMB)) + BOMB


async def bomb_in_a_bomb() -> Pieces:
    async for piece in bomb(b"identity, gzip"):
        yield piece


async def bomb_of_an_error() -> Pieces:
    yield ERROR + b"Content-Encoding: GZIP\r\ncontent-length: %d\r\n\r\n" % len(BOMB) + BOMB


async def trickled() -> Pieces:
    yield OK + b"content-length: 1000\r\n\r\n"
    while True:
        await asyncio.sleep(0.05)
        yield b" "


async def trickled_head() -> Pieces:
    yield OK + b"x: "
    while True:
        await asyncio.sleep(0.05)
        yield b"x"


async def never_final() -> Pieces:
    while True:
        await asyncio.sleep(0.05)
        yield b"HTTP/1.1 103 Early Hints\r\n\r\n"


async def silent() -> Pieces:
    await asyncio.sleep(60)
    yield b""


REFUSED = (
    endless,
    endless_error,
    until_closed,
    announced,
    too_long_by_one,
    error_too_long_by_one,
    bomb,
    bomb_in_a_bomb,
    bomb_of_an_error,
)
SLOW = (trickled, trickled_head, never_final, silent)


class HostileServer:
    """A TLS server on a unix socket that answers each connection with `pieces`. sent: bytes that left."""

    def __init__(self, folder: Path, side: SideAuthority) -> None:
        self.socket = folder / "hostile.sock"
        self.pieces: Callable[[], Pieces] = silent
        self.sent = 0
        self.heads: list[bytes] = []
        key, certificate = side.leaf("server", "host1", dns=(HOST,))
        (folder / "pair.pem").write_bytes(key + certificate.encode())
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / "pair.pem")

    async def __aenter__(self) -> HostileServer:
        self.sent = 0
        self._server = await asyncio.start_unix_server(self._answer, self.socket, ssl=self._context)
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self._server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            async for piece in self.pieces():
                writer.write(piece)
                await writer.drain()
                self.sent += len(piece)
        except (ConnectionError, ssl.SSLError, asyncio.CancelledError):
            pass  # the client closed, as it must
        finally:
            writer.transport.abort()


@pytest.fixture(scope="module")
def side() -> SideAuthority:
    return SideAuthority("workload", now=int(time.time()))


@pytest.fixture
def server(tmp_path: Path, side: SideAuthority, monkeypatch: pytest.MonkeyPatch) -> HostileServer:
    """Clients of HTTPS reach it under every name."""
    made = HostileServer(tmp_path, side)
    (tmp_path / "ca.pem").write_text(side.certificate)
    side.write_leaf(tmp_path, "manager", "manager", "workload-manager")
    monkeypatch.setattr(
        clients, "_https", lambda context: httpx.AsyncHTTPTransport(uds=str(made.socket), verify=context)
    )
    monkeypatch.setattr(bounded_answers, "ANSWER_LIMIT", LIMIT)
    monkeypatch.setattr(bounded_answers, "UNTYPED_LIMIT", ERROR_LIMIT)
    return made


async def agent(folder: Path, gap: float) -> Refusal:
    """What an agent makes of the answer."""
    client = ServiceClient(lambda anchor: public_client(anchor, timeout=gap))
    await client.trust((folder / "ca.pem").read_text())
    service = Service("attestation", NetworkAddress(HOST, 443), "group")
    with pytest.raises(Refusal) as refused:
        await client.get(service, "/attestation/v1/keys")
    await client.close()
    return refused.value


async def peer(folder: Path, gap: float) -> Refusal:
    """What a service of the Trust Authority makes of it."""
    fetch, client = fetch_over_https(folder / "ca.pem", "/attestation/v1/audit-head")
    client.timeout = httpx.Timeout(gap)
    with pytest.raises(Refusal) as refused:
        await fetch(Peer(HOST, HOST))
    await client.aclose()
    return refused.value


async def manager(folder: Path, gap: float) -> NodeError:
    """What a manager makes of it."""

    def client_for(_host: str) -> httpx.AsyncClient:
        files = [folder / name for name in ("ca.pem", "manager.pem", "manager.key")]
        return management_client(*files, timeout=gap)

    nodes = HttpNodes(client_for)
    with pytest.raises(NodeError) as refused:
        await nodes.call("host1", "GET", "/agent/manage/v1/status")
    await nodes.close()
    return refused.value


CALLERS = {"agent": agent, "peer": peer, "manager": manager}


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("pieces", REFUSED, ids=lambda pieces: pieces.__name__)
def test_what_is_too_large_or_compressed_is_refused(
    server: HostileServer, tmp_path: Path, caller: str, pieces: Callable[[], Pieces]
) -> None:
    server.pieces = pieces

    async def run() -> Refusal | NodeError:
        async with server:
            return await CALLERS[caller](tmp_path, PATIENT)

    refused = asyncio.run(run())
    assert refused.code == "answer_refused"
    limit = ERROR_LIMIT if "error" in pieces.__name__ else LIMIT
    assert ("compressed" if "bomb" in pieces.__name__ else f" {limit} bytes") in str(refused)
    # What was on its way in buffers, and no more.
    assert server.sent < LIMIT + (3 << 20)
    if isinstance(refused, Refusal):
        assert (refused.status, HOST in refused.message, bool(refused.remedy)) == (503, True, True)
    else:
        assert not refused.unreachable
    assert b"accept-encoding: identity\r\n" in server.heads[0].lower()


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("pieces", SLOW, ids=lambda pieces: pieces.__name__)
def test_what_takes_too_long_is_given_up(
    server: HostileServer,
    tmp_path: Path,
    caller: str,
    pieces: Callable[[], Pieces],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounded_answers, "TRANSFER_TIME", WHOLE - GAP)
    server.pieces = pieces

    async def run() -> Refusal | NodeError:
        async with server:
            return await asyncio.wait_for(CALLERS[caller](tmp_path, GAP), PATIENT)

    refused = asyncio.run(run())
    assert refused.code == ("unreachable" if caller == "manager" else "peer_unreachable")


def test_an_alert_after_the_handshake_is_an_error_of_the_connection() -> None:
    """httpx does not know it: whether the client reads it, or a closed connection, is chance."""

    class Refusing(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            raise ssl.SSLError(1, "tlsv13 alert certificate required")

    bounded = bounded_answers.BoundedAnswers(Refusing())
    with pytest.raises(httpx.ReadError, match="certificate required"):
        asyncio.run(bounded.handle_async_request(httpx.Request("GET", "https://ta1")))


def test_commands_are_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an agent that was taken over, at its own socket."""
    monkeypatch.setattr(bounded_answers, "TRANSFER_TIME", 0.2)
    ended: list[bool] = []

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for piece in trickled_head():
            writer.write(piece)
            ended.append(writer.transport.is_closing())

    async def serve() -> None:
        listener = await asyncio.start_unix_server(answer, tmp_path / "local.sock")
        async with listener:
            with pytest.raises(httpx.ReadTimeout, match="not whole within"):
                await asyncio.to_thread(
                    ask_once, local_client(tmp_path / "local.sock", timeout=1), "GET", "/x"
                )

    asyncio.run(serve())
    assert len(ended) > 3


def test_as_much_as_is_taken_is_read_whole(server: HostileServer, tmp_path: Path) -> None:
    body = b'"' + b"x" * (LIMIT - 2) + b'"'

    async def whole() -> Pieces:
        yield OK + b"set-cookie: a=b\r\ncontent-length: %d\r\n\r\n" % len(body)
        for start in range(0, len(body), 1 << 16):
            yield body[start : start + (1 << 16)]
        await asyncio.sleep(60)

    server.pieces = whole

    async def run() -> None:
        async with server, public_client(tmp_path / "ca.pem", timeout=PATIENT) as client:
            answer = await client.get(f"https://{HOST}/")
            assert answer.content == body
            assert not client.cookies and "set-cookie" not in answer.headers

    asyncio.run(run())


def test_nobody_else_makes_clients() -> None:
    """What is made elsewhere would read without bounds."""
    made = re.compile(r"httpx\.(Async)?(Client|HTTPTransport)\(|httpx\.(get|post|request|stream)\(|urlopen\(")
    found = {path.name for path in SOURCES.rglob("*.py") if made.search(path.read_text())}
    assert found == {"clients.py"}
