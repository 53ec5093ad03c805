# SPDX-License-Identifier: GPL-3.0-or-later
"""A real manager over HTTPS on this machine, whose events the tests make."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import uvicorn
from integration.software_key_server import held_port
from services.manager.harness import PASSWORD, FakeNodes, settings_in, write_users
from services.side_authority import SideAuthority

from trusted_infrastructure.manager import events, service
from trusted_infrastructure.manager.context import Manager


class Site:
    """A manager that is served, stopped, and served again at the same port."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = SideAuthority(side="workload", now=int(time.time()))
        (directory / "ca.pem").write_text(self.authority.certificate)
        self.present("127.0.0.1")
        self.port = held_port(self, "127.0.0.1")
        write_users(directory / "users.json", [{"name": "events", "privileges": ["System.View"]}])
        self.manager: Manager | None = None
        self.requests: list[str] = []
        self.answer: Callable[[str], int | None] = lambda _path: None

    def present(self, address: str) -> None:
        """The certificate of the server from its next start on."""
        key, certificate = self.authority.leaf("server", "manager", side="workload", ips=(address,))
        (self.directory / "server.key").write_bytes(key)
        (self.directory / "server.pem").write_text(certificate)

    def open(self) -> Manager:
        """The manager's parts."""
        return service.build(settings_in(self.directory, "workload"), FakeNodes())

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[Manager]:
        """The manager behind TLS."""
        manager = self.manager = self.open()
        application = service.application(manager)

        async def noting(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                self.requests.append(f"{scope['method']} {scope['path']}")
                status = self.answer(scope["path"])
                if status is not None:
                    headers = [(b"location", b"https://192.0.2.1/")]
                    await send({"type": "http.response.start", "status": status, "headers": headers})
                    await send({"type": "http.response.body", "body": b"<html>"})
                    return
            await application(scope, receive, send)

        server = uvicorn.Server(
            uvicorn.Config(
                noting,
                host="127.0.0.1",
                port=self.port,
                ssl_keyfile=self.directory / "server.key",
                ssl_certfile=self.directory / "server.pem",
                lifespan="off",
                log_level="critical",
                timeout_graceful_shutdown=1,
            )
        )
        running = asyncio.create_task(server.serve())
        try:
            await until(lambda: server.started or running.done())
            yield manager
        finally:
            server.should_exit = True
            await running
            await service.close(manager)

    def happen(self, *messages: str, **fields: Any) -> None:
        """Events with these messages."""
        assert self.manager is not None
        with self.manager.database.transaction() as connection:
            for message in messages:
                event = events.Event(**{"type": "t", "time": 1, "message": message, **fields})
                events.record(connection, event)

    def arguments(self, **changes: Any) -> dict[str, Any]:
        """Of the source."""
        return {
            "hostname": "127.0.0.1",
            "port": self.port,
            "username": "events",
            "password": PASSWORD,
            "ca_path": str(self.directory / "ca.pem"),
            "interval": 0.1,
            **changes,
        }


async def until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    """Waits for a condition."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.01)
