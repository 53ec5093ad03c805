# SPDX-License-Identifier: GPL-3.0-or-later
"""Several processes on the same sockets: readiness, replacement, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.transport import Doors, Program, configure_logging, serve_workers

OWN = os.getuid()


async def who(scope: Any, _receive: Any, send: Any) -> None:
    """Answers with the worker's process id."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})


class Parent:
    """serve_workers in a child process. messages: what it told the service manager."""

    def __init__(self, folder: Path, start: Callable[[int], Program], workers: int) -> None:
        self.folder = folder
        self.socket = folder / "public.sock"
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(folder / "notify"))
        self.notify.settimeout(20)
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                os.environ["NOTIFY_SOCKET"] = str(folder / "notify")
                os.dup2(os.open(folder / "log", os.O_WRONLY | os.O_CREAT), 2)
                sys.stderr = open(2, "w", buffering=1, closefd=False)
                configure_logging("test")
                serve_workers(Doors((self.socket,), allowed_uids=frozenset({OWN})), start, workers)
                code = 0
            except Refusal as refusal:
                (folder / "refusal").write_bytes(msgspec.json.encode(refusal.as_dict()))
                code = 3
            finally:
                os._exit(code)

    def message(self) -> bytes:
        return self.notify.recv(100)

    def workers(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def get(self) -> int:
        """The worker that answers on a new connection."""
        transport = httpx.HTTPTransport(uds=str(self.socket))
        with httpx.Client(transport=transport, base_url="http://x", timeout=10) as client:
            return int(client.get("/").text)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and wait for the end; the status."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def parent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Parent]]:
    started: list[Parent] = []

    def make(
        start: Callable[[int], Program] | None = None, workers: int = 2, app: Callable[..., Any] = who
    ) -> Parent:
        folder = tmp_path_factory.mktemp("w")
        started.append(Parent(folder, start or (lambda _n: Program({folder / "public.sock": app})), workers))
        return started[-1]

    yield make
    for one in started:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(one.pid, signal.SIGKILL)
            os.waitpid(one.pid, 0)
        one.notify.close()


def test_it_is_ready_once_all_workers_are_and_serves(parent: Callable[..., Parent]) -> None:
    running = parent(workers=3)
    assert running.message() == b"READY=1"
    assert len(running.workers()) == 3
    assert running.socket.stat().st_mode & 0o777 == 0o660
    assert running.get() in running.workers()
    assert running.end() == 0
    assert running.message() == b"STOPPING=1"
    assert not running.socket.exists()


def test_with_one_worker_there_is_no_parent(parent: Callable[..., Parent]) -> None:
    running = parent(workers=1)
    assert running.message() == b"READY=1"
    assert running.workers() == [] and running.get() == running.pid
    assert running.end() == 0


def test_what_a_worker_cannot_start_without_ends_the_service(parent: Callable[..., Parent]) -> None:
    def start(number: int) -> Program:
        if number == 1:
            raise Refusal("state_unavailable", "the state is not there", "look")
        return Program({})

    running = parent(start)
    assert running.end(0) == 3
    answer = msgspec.json.decode((running.folder / "refusal").read_bytes())
    assert answer == {"code": "state_unavailable", "message": "the state is not there", "remedy": "look"}
    assert not running.socket.exists()


def test_a_worker_that_fails_without_a_word_ends_the_service(parent: Callable[..., Parent]) -> None:
    def start(_number: int) -> Program:
        raise ValueError("a secret")

    running = parent(start)
    assert running.end(0) == 3
    assert b"worker_failed" in (running.folder / "refusal").read_bytes()
    assert b"a secret" not in (running.folder / "log").read_bytes()


def test_dead_workers_are_replaced_with_pauses(parent: Callable[..., Parent]) -> None:
    running = parent()
    assert running.message() == b"READY=1"
    kept, killed = running.workers()
    for _round in range(3):
        os.kill(killed, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while len(running.workers()) != 2 or killed in running.workers():
            assert time.monotonic() < deadline
            assert running.get() != killed  # there is always somebody who answers
            time.sleep(0.01)
        (killed,) = set(running.workers()) - {kept}
    log = [msgspec.json.decode(line) for line in (running.folder / "log").read_bytes().splitlines()]
    assert [entry["next_in"] for entry in log if entry["event"] == "worker_died"] == [0.1, 0.2, 0.4]
    assert running.end() == 0


def test_requests_under_way_are_answered_before_the_end(parent: Callable[..., Parent]) -> None:
    begun, beginning = os.pipe()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        os.write(beginning, b"x")
        await asyncio.sleep(0.5)
        await who(scope, receive, send)

    running = parent(app=slow)
    assert running.message() == b"READY=1"
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if running.get() else 1)
        finally:
            os._exit(1)
    assert os.read(begun, 1) == b"x"
    assert running.end() == 0
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_worker_that_hangs_is_killed_in_time(tmp_path: Path, parent: Callable[..., Parent]) -> None:
    @contextlib.asynccontextmanager
    async def hanging() -> AsyncIterator[None]:
        yield
        signal.signal(signal.SIGALRM, signal.SIG_IGN)  # it would not even end itself
        time.sleep(60)

    running = parent(lambda _n: Program({}, lifespan=hanging))
    assert running.message() == b"READY=1"
    began = time.monotonic()
    assert running.end() == 0
    assert time.monotonic() - began < 10
