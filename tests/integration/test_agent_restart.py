# SPDX-License-Identifier: GPL-3.0-or-later
"""An agent that is stopped while a manager waits at it and a program waits for a key: the real process."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
import structlog
from integration.key_host import STANDARD, KeyHost
from services.side_authority import forwarded

from trusted_infrastructure.manager import key_delivery
from trusted_infrastructure.manager.nodes import HttpNodes


@pytest.fixture
def host() -> Iterator[KeyHost]:
    with KeyHost({}) as made:
        yield made


def stop(host: KeyHost) -> float:
    """Seconds that it took."""
    began = time.monotonic()
    host.process.send_signal(signal.SIGTERM)
    assert host.process.wait(timeout=20) == 0
    return time.monotonic() - began


def test_who_waits_is_told_at_once(host: KeyHost) -> None:
    answers: dict[str, Any] = {}

    def poll() -> None:
        answers["poll"] = host.manage("GET", "key-requests?wait=25")

    def second_poll() -> None:
        # Offered a moment ago, so this poll waits, too.
        answers["second"] = host.manage("GET", "key-requests?wait=25")

    def program() -> None:
        answers["key"] = host.use("POST", "generate", {"object_id": "vm-1", "provider": STANDARD})

    for waiting in ([poll], [program, second_poll]):
        threads = [threading.Thread(target=target) for target in waiting]
        for thread in threads:
            thread.start()
            time.sleep(0.5)
    assert stop(host) < 3
    for thread in threads:
        thread.join(timeout=5)
    (request,) = answers["poll"].json()["requests"]
    assert request["provider"] == STANDARD
    second = answers["second"]
    assert (second.status_code, second.headers["retry-after"]) == (503, "5")
    assert second.json()["error"]["code"] == "service_stopping"
    assert answers["key"]["error"]["code"] == "service_stopping"
    log = (host.folder / "log").read_text()
    assert '"level": "error"' not in log and '"level":"error"' not in log, log


class OverSocket(httpx.AsyncBaseTransport):
    """The manager's way to the agent, past nginx. answered: statuses."""

    def __init__(self, host: KeyHost) -> None:
        self._socket = httpx.AsyncHTTPTransport(uds=str(host.folder / "run/management.sock"))
        self.answered: list[int] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(scheme="http")
        answer = await self._socket.handle_async_request(request)
        self.answered.append(answer.status_code)
        return answer


def test_a_manager_asks_again_and_complains_of_nothing(
    host: KeyHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_delivery, "WAIT", 2)
    way = OverSocket(host)
    headers = forwarded(host._principal)
    nodes = HttpNodes(lambda _host: httpx.AsyncClient(transport=way, headers=headers))
    manager = cast(Any, SimpleNamespace(nodes=nodes, settings=SimpleNamespace(node_timeout=10)))

    async def run() -> None:
        serving = asyncio.create_task(key_delivery.serve_host(manager, "host1"))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(stop, host)
        await asyncio.to_thread(host.start)
        await asyncio.sleep(key_delivery.RESTART_PAUSE + 2.5)
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving

    with structlog.testing.capture_logs() as lines:
        asyncio.run(run())
    assert way.answered[:2] == [503, 200]
    assert lines == []
