# SPDX-License-Identifier: GPL-3.0-or-later
"""An agent that is stopped while a manager waits at it and a program waits for a key: the real process."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
import structlog
from integration.key_host import STANDARD, KeyHost
from integration.served_manager import until
from integration.unix_sockets import connections
from services.side_authority import forwarded

from trusted_infrastructure.manager import key_delivery
from trusted_infrastructure.manager.nodes import HttpNodes
from trusted_infrastructure.transport.unix_server import GRACE


@pytest.fixture
def host() -> Iterator[KeyHost]:
    with KeyHost({}) as made:
        yield made


def stop(host: KeyHost) -> None:
    host.process.send_signal(signal.SIGTERM)
    assert host.process.wait(timeout=20) == 0


def connected(host: KeyHost, name: str) -> None:
    """Waits until somebody is at a socket of the agent, and has had a moment to ask."""
    deadline = time.monotonic() + 20
    while not connections(host.folder / f"run/{name}.sock"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.5)


class Asking(threading.Thread):
    """Somebody who asks, and waits. answer: what came of it. told: when."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._ask = ask
        self.answer: Any = None
        self.told = math.inf
        self.start()

    def run(self) -> None:
        self.answer = self._ask()
        self.told = time.monotonic()

    def told_at_once(self, began: float) -> Any:
        """The answer, which did not come because the server's patience ended."""
        self.join(timeout=5)
        assert self.told - began < GRACE
        return self.answer


def test_a_manager_that_waits_is_told_at_once(host: KeyHost) -> None:
    waiting = Asking(lambda: host.manage("GET", "key-requests?wait=25"))
    connected(host, "management")
    began = time.monotonic()
    stop(host)
    answer = waiting.told_at_once(began)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["error"]["code"] == "service_stopping"
    without_errors(host)


def test_a_program_that_waits_is_told_at_once(host: KeyHost) -> None:
    poll = Asking(lambda: host.manage("GET", "key-requests?wait=25"))
    waiting = Asking(lambda: host.use("POST", "generate", {"object_id": "vm-1", "provider": STANDARD}))
    poll.join(timeout=20)
    (request,) = poll.answer.json()["requests"]
    assert request["provider"] == STANDARD
    began = time.monotonic()
    stop(host)
    assert waiting.told_at_once(began)["error"]["code"] == "service_stopping"
    without_errors(host)


def without_errors(host: KeyHost) -> None:
    log = (host.folder / "log").read_text()
    assert '"level": "error"' not in log and '"level":"error"' not in log, log


class OverSocket(httpx.AsyncBaseTransport):
    """The manager's way to the agent, past nginx, open while `up` is set. answered: statuses. asked: when."""

    def __init__(self, host: KeyHost) -> None:
        self._socket = httpx.AsyncHTTPTransport(uds=str(host.folder / "run/management.sock"))
        self.answered: list[int] = []
        self.asked: list[float] = []
        self.up = asyncio.Event()
        self.up.set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(time.monotonic())
        await self.up.wait()
        request.url = request.url.copy_with(scheme="http")
        answer = await self._socket.handle_async_request(request)
        self.answered.append(answer.status_code)
        return answer


def test_a_manager_asks_again_and_complains_of_nothing(
    host: KeyHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = OverSocket(host)
    headers = forwarded(host._principal)
    nodes = HttpNodes(lambda _host: httpx.AsyncClient(transport=way, headers=headers))
    manager = cast(Any, SimpleNamespace(nodes=nodes, settings=SimpleNamespace(node_timeout=10)))
    stopped: list[float] = []

    async def run() -> None:
        serving = asyncio.create_task(key_delivery.serve_host(manager, "host1"))
        await asyncio.to_thread(connected, host, "management")
        way.up.clear()
        stopped.append(time.monotonic())
        await asyncio.to_thread(stop, host)
        monkeypatch.setattr(key_delivery, "WAIT", 1)
        # As long as it takes: on real hosts the manager's pause is enough for it.
        await asyncio.to_thread(host.start)
        way.up.set()
        await until(lambda: len(way.answered) >= 2, 30)
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving

    with structlog.testing.capture_logs() as lines:
        asyncio.run(run())
    assert way.answered[:2] == [503, 200]
    assert way.asked[1] - stopped[0] >= key_delivery.RESTART_PAUSE
    assert lines == []
