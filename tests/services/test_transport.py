# SPDX-License-Identifier: GPL-3.0-or-later
"""Applications and unix sockets: limits, error answers, who may connect, and how a service stops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import signal
import socket
import stat
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from services.asgi_client import AsgiClient
from services.served import OWN, Served, serving
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trusted_infrastructure.refusal import InvalidField, Refusal, Unavailable
from trusted_infrastructure.transport import (
    Application,
    JSONAnswer,
    notify,
    unix_server,
)
from trusted_infrastructure.transport.unix_server import HEAD_LIMIT, listen, user_ids

# ---- applications ----


def _raising(error: Exception) -> Route:
    async def endpoint(_request: Request) -> Response:
        raise error

    return Route("/x", endpoint)


FAULTS = {
    "refusal": (Refusal("host_denied", "host1 is denied", "ask"), 403, "host_denied"),
    "invalid field": (InvalidField("a.b", "is wrong"), 400, "malformed_request"),
    "unavailable": (Unavailable("configuration_unavailable", "none"), 503, "configuration_unavailable"),
    "fault": (ValueError("secret=hunter2"), 500, "internal_error"),
    "operating system": (OSError(28, "No space left", "/var/hunter2"), 500, "internal_error"),
    "recursion": (RecursionError("deep"), 400, "malformed_request"),
    "time": (TimeoutError(), 503, "time_limit_exceeded"),
    "HTTP": (HTTPException(400, "bad"), 400, "malformed_request"),
}


@pytest.mark.parametrize(("error", "status", "code"), FAULTS.values(), ids=FAULTS.keys())
def test_whatever_is_raised_is_an_error_answer(error: Exception, status: int, code: str) -> None:
    response = AsgiClient(Application([_raising(error)])).get("/x")
    assert response.status_code == status
    assert set(response.json()) == {"error"}
    assert response.json()["error"]["code"] == code
    assert set(response.json()["error"]) == {"code", "message", "remedy"}
    assert "hunter2" not in response.text
    assert ("retry-after" in response.headers) == (status == 503)


def test_unknown_paths_and_methods_are_error_answers() -> None:
    client = AsgiClient(Application([_raising(ValueError())]))
    assert client.get("/y").json()["error"]["code"] == "not_found"
    assert client.get("/x/").json()["error"]["code"] == "not_found"
    response = client.request("DELETE", "/x")
    assert (response.status_code, response.json()["error"]["code"]) == (405, "method_not_allowed")


async def _echo(request: Request) -> Response:
    return JSONAnswer({"size": len(await request.body()), "path": request.url.path})


async def _slow(_request: Request) -> Response:
    await asyncio.sleep(1)
    return JSONAnswer({"slow": True})


ROUTES = [Route("/echo", _echo, methods=["GET", "POST"]), Route("/slow", _slow)]


@pytest.mark.parametrize(("size", "status"), [(0, 200), (1000, 200), (1001, 413), (100_000, 413)])
@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_are_limited(size: int, status: int, chunked: bool) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, size, 300):
            yield b"x" * min(300, size - start)

    content: Any = chunks() if chunked else b"x" * size
    response = AsgiClient(Application(ROUTES, body_limit=1000)).post("/echo", content=content)
    assert response.status_code == status
    assert status == 200 or response.json()["error"]["code"] == "request_too_large"


def test_requests_have_a_time_limit() -> None:
    response = AsgiClient(Application(ROUTES, time_limit=0.05)).get("/slow")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "time_limit_exceeded")


def test_too_many_requests_at_once_are_refused_and_the_next_are_served() -> None:
    application = Application(ROUTES, concurrency=2)

    async def several() -> list[int]:
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            answers = await asyncio.gather(*(client.get("/slow") for _index in range(5)))
            return sorted(answer.status_code for answer in [*answers, await client.get("/echo")])

    assert asyncio.run(several()) == [200, 200, 200, 503, 503, 503]


# ---- sockets ----


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path


def test_serves_several_sockets_with_their_own_applications(directory: Path) -> None:
    apps = {"public.sock": Application(ROUTES), "management.sock": Application(ROUTES, body_limit=1)}
    with serving(directory, apps) as served:
        with served.client("public.sock") as public, served.client("management.sock") as management:
            response = public.post("/echo", content=b"hello")
            assert response.json() == {"size": 5, "path": "/echo"}
            assert "server" not in response.headers
            assert management.post("/echo", content=b"hello").status_code == 413
        for name in apps:
            assert stat.S_IMODE((directory / name).stat().st_mode) == 0o660
        os.kill(served.pid, signal.SIGTERM)
        assert served.wait() == 0
    assert not any((directory / name).exists() for name in apps)
    assert "GET" not in (directory / "log").read_text()


class Begun:
    """Tells the test, from the process of the service, that a request is under way."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()

    def tell(self) -> None:
        os.write(self._writing, b"x")

    def wait(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._reading, selectors.EVENT_READ)
            assert selector.select(20), "the request has not begun"

    def close(self) -> None:
        os.close(self._reading)
        os.close(self._writing)


@pytest.fixture
def begun() -> Iterator[Begun]:
    made = Begun()
    yield made
    made.close()


def test_a_stop_finishes_requests_within_ten_seconds(directory: Path, begun: Begun) -> None:
    answers: list[int] = []

    async def slow(request: Request) -> Response:
        begun.tell()
        return await _slow(request)

    def call(served: Served) -> None:
        with served.client("public.sock") as client:
            answers.append(client.get("/slow").status_code)

    routes = [ROUTES[0], Route("/slow", slow)]
    with serving(directory, {"public.sock": Application(routes)}) as served:
        with served.client("public.sock") as idle:
            idle.get("/echo")
            thread = threading.Thread(target=call, args=(served,))
            thread.start()
            begun.wait()
            begin = time.monotonic()
            os.kill(served.pid, signal.SIGTERM)
            assert served.wait() == 0
            assert time.monotonic() - begin < 10
        thread.join()
    assert answers == [200]


def test_who_waits_beyond_the_grace_of_a_stop_is_told_so(
    directory: Path, begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the form of every refusal; the server's own answer would be a bare 500."""
    monkeypatch.setattr(unix_server, "GRACE", 1)
    answers: list[httpx.Response] = []

    async def endless(_request: Request) -> Response:
        begun.tell()
        await asyncio.sleep(3600)
        raise AssertionError

    with serving(directory, {"public.sock": Application([Route("/x", endless)])}) as served:

        def call() -> None:
            with served.client("public.sock") as client:
                answers.append(client.get("/x"))

        thread = threading.Thread(target=call)
        thread.start()
        begun.wait()
        os.kill(served.pid, signal.SIGTERM)
        assert served.wait() == 0
        thread.join()
    (answer,) = answers
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["error"]["code"] == "service_stopping"


def test_a_request_that_never_ends_does_not_hold_the_stop(
    directory: Path, begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert unix_server.GRACE + 1 < unix_server.HARD_STOP < 10
    monkeypatch.setattr(unix_server, "GRACE", 1)
    monkeypatch.setattr(unix_server, "HARD_STOP", 2.5)

    async def endless(_request: Request) -> Response:
        begun.tell()
        await asyncio.sleep(3600)
        raise AssertionError

    async def deaf() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)

    app = Application([Route("/x", endless)], time_limit=3600)
    with serving(directory, {"public.sock": app}, background=[deaf]) as served:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(directory / "public.sock"))
        connection.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
        begun.wait()
        begin = time.monotonic()
        os.kill(served.pid, signal.SIGTERM)
        assert served.wait() == -signal.SIGALRM
        assert time.monotonic() - begin < 5
        connection.close()


def test_other_users_are_closed_before_they_are_read(directory: Path) -> None:
    with serving(directory, {"public.sock": Application(ROUTES)}, allowed_users=[OWN + 1]) as served:
        with served.client("public.sock") as client, pytest.raises(httpx.HTTPError):
            client.get("/echo")
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(directory / "public.sock"))
        connection.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
        connection.close()
        os.kill(served.pid, signal.SIGTERM)
        assert served.wait() == 0
        refused = [line for line in served.log() if line["event"] == "peer_refused"]
    assert [line["uid"] for line in refused] == [OWN, OWN]


def test_who_is_refused_all_the_time_does_not_fill_the_journal(directory: Path) -> None:
    with serving(directory, {"public.sock": Application(ROUTES)}, allowed_users=[OWN + 1]) as served:
        for _attempt in range(200):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(directory / "public.sock"))
                connection.settimeout(5)
                with contextlib.suppress(ConnectionResetError):
                    assert connection.recv(1) == b""
        os.kill(served.pid, signal.SIGTERM)
        assert served.wait() == 0
        assert [line["event"] for line in served.log()].count("peer_refused") == 10


def test_a_socket_for_root_is_for_root_only(directory: Path) -> None:
    apps = {"public.sock": Application(ROUTES), "local.sock": Application(ROUTES)}
    with serving(directory, apps, root_only=["local.sock"]) as served:
        assert stat.S_IMODE((directory / "local.sock").stat().st_mode) == 0o600
        with served.client("local.sock") as client:
            if OWN == 0:
                assert client.get("/echo").status_code == 200
            else:
                with pytest.raises(httpx.HTTPError):
                    client.get("/echo")


HEADS = {
    "no HTTP": b"hello\r\n\r\n",
    "long header": b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * HEAD_LIMIT + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: aaaaaaaaaaaaaaaaaaaa\r\n" * 4000 + b"\r\n",
    "long path": b"GET /" + b"a" * HEAD_LIMIT + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "two lengths": b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunks": (
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
def test_bad_heads_are_answered_and_closed(directory: Path, head: bytes) -> None:
    with serving(directory, {"public.sock": Application(ROUTES)}):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(5)
        connection.connect(str(directory / "public.sock"))
        answer = b""
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(head)
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(4096):
                answer += data
        connection.close()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert msgspec.json.decode(answer.split(b"\r\n\r\n", 1)[1])["error"]["code"] == "malformed_request"


def test_a_background_task_that_ends_ends_the_service(directory: Path) -> None:
    async def failing() -> None:
        await asyncio.sleep(0.1)
        raise ValueError("secret=hunter2")

    with serving(directory, {"public.sock": Application(ROUTES)}, background=[failing]) as served:
        assert served.wait() == 3
    error = served.log()[-1]
    assert (error["code"], error["message"]) == (
        "service_part_ended",
        "a part of the service ended: ValueError",
    )
    assert "hunter2" not in (directory / "log").read_text()


def test_the_lifespan_surrounds_the_service(directory: Path) -> None:
    events = directory / "events"

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        events.write_text(f"start {(directory / 'public.sock').exists()}")
        yield
        events.write_text(events.read_text() + f" stop {(directory / 'public.sock').exists()}")

    with serving(directory, {"public.sock": Application(ROUTES)}, lifespan=lifespan):
        pass
    assert events.read_text() == "start False stop False"


def test_a_socket_that_a_killed_process_left_is_replaced(directory: Path) -> None:
    path = directory / "public.sock"
    with serving(directory, {"public.sock": Application(ROUTES)}) as served:
        os.kill(served.pid, signal.SIGKILL)
        assert served.wait() == -signal.SIGKILL
    assert path.is_socket()
    (directory / "notify").unlink()
    with (
        serving(directory, {"public.sock": Application(ROUTES)}) as served,
        served.client("public.sock") as client,
    ):
        assert client.get("/echo").status_code == 200


def test_anything_else_in_the_place_of_a_socket_is_kept_and_refused(directory: Path) -> None:
    path = directory / "public.sock"
    path.write_text("important")
    with pytest.raises(Refusal, match="socket_unusable"):
        listen(path, 0o660)
    assert path.read_text() == "important"
    with pytest.raises(Refusal, match="No such file"):
        listen(directory / "missing" / "public.sock", 0o660)


def test_the_group_is_the_directorys_or_as_given(directory: Path) -> None:
    groups = [1, 2] if OWN == 0 else [os.getgid(), os.getgid()]
    os.chown(directory, -1, groups[0])
    for name, given, wanted in (("a.sock", None, groups[0]), ("b.sock", groups[1], groups[1])):
        listener = listen(directory / name, 0o660, given)
        status = (directory / name).stat()
        listener.close()
        assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (wanted, 0o660)


def test_users_are_names_or_numbers_and_unknown_names_are_nobody() -> None:
    assert user_ids(["root", 7, "no-such-user"]) == {0, 7}


def test_notify_without_a_service_manager_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert notify("READY=1") is False
