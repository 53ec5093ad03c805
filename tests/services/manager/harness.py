# SPDX-License-Identifier: GPL-3.0-or-later
"""A manager in this process, a client of it, and hosts that are simulated at the level of their answers."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import httpx
import msgspec

from trusted_infrastructure.config.documents import Document
from trusted_infrastructure.manager import service, users
from trusted_infrastructure.manager.context import Manager
from trusted_infrastructure.manager.nodes import NodeError, Nodes
from trusted_infrastructure.manager.settings import ManagerSettings

PASSWORD = "correct horse"
Answer = Callable[[Any], Any]
Side = Literal["trust_authority", "workload"]


class FakeNodes:
    """Hosts by name: each has documents as a configuration service keeps them, and answers of its services.

    down: hosts that do not answer. refusing: hosts that refuse documents. calls: (host, method, path).
    """

    def __init__(self) -> None:
        self.documents: dict[str, dict[tuple[str, str], Document]] = {}
        self.generations: dict[str, int] = {}
        self.down: set[str] = set()
        self.refusing: set[str] = set()
        self.answers: dict[tuple[str, str], Answer] = {}
        self.calls: list[tuple[str, str, str]] = []
        self.bodies: list[bytes] = []

    async def call(
        self, host: str, method: str, path: str, content: Any = None, timeout: float | None = None
    ) -> bytes:
        self.calls.append((host, method, path))
        self.bodies.append(msgspec.json.encode(content))
        await asyncio.sleep(0)
        if host in self.down:
            raise NodeError(host, "unreachable", "cannot be reached: connection refused")
        if path == "/config/v1/documents":
            return self._list(host) if method == "GET" else self._apply(host, content)
        if path.startswith("/config/v1/documents/"):
            return self._one(host, path)
        if path == "/config/v1/health":
            return b'{"status":"OK"}'
        answer = self.answers.get((method, path))
        if answer is None:
            raise NodeError(host, "not_found", f"no {method} {path}", 404)
        return msgspec.json.encode(answer(content if content is not None else host))

    def _list(self, host: str) -> bytes:
        lines = [
            {
                "kind": item.kind,
                "id": item.id,
                "generation": item.generation,
                "digest": item.digest,
                "deleted": item.content is None,
            }
            for item in self.documents.get(host, {}).values()
        ]
        generation = self.generations.get(host, 0)
        return msgspec.json.encode({"documents": lines, "security_generation": generation})

    def _one(self, host: str, path: str) -> bytes:
        kind, identifier = (unquote(part) for part in path.split("/")[-2:])
        found = self.documents.get(host, {}).get((kind, identifier))
        if found is None:
            raise NodeError(host, "not_found", f"no {kind} {identifier!r} on this host", 404)
        return msgspec.json.encode(found)

    def _apply(self, host: str, content: Any) -> bytes:
        if host in self.refusing:
            raise NodeError(host, "invalid_document", "documents[0]: refused", 400)
        batch = msgspec.json.decode(msgspec.json.encode(content["documents"]), type=list[Document])
        stored = self.documents.setdefault(host, {})
        for document in batch:
            before = stored.get((document.kind, document.id))
            if before is not None and document.generation <= before.generation and document != before:
                raise NodeError(host, "stale_generation", f"{document.kind} {document.id} is stale", 409)
            if document.content is None and before is not None and before.content is not None:
                self.generations[host] = self.generations.get(host, 0) + 1
        stored.update({(document.kind, document.id): document for document in batch})
        reached = max(self.generations.get(host, 0), content["security_generation"])
        self.generations[host] = reached
        return msgspec.json.encode({"changed": [], "security_generation": reached})

    def content(self, host: str, kind: str, identifier: str) -> dict[str, Any] | None:
        """Content of a document on a host."""
        document = self.documents.get(host, {}).get((kind, identifier))
        return document.content if document else None

    async def close(self) -> None:
        """Nothing is open."""


class Clock:
    """Time that tests move."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Api:
    """A client of the manager's application. Every call runs to its end, tasks included."""

    def __init__(self, manager: Manager, runner: asyncio.Runner, nodes: FakeNodes) -> None:
        self.manager = manager
        self.nodes = nodes
        self._runner = runner
        transport = httpx.ASGITransport(app=service.application(manager))
        self._client = httpx.AsyncClient(transport=transport, base_url="https://manager")
        self.session = ""

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request below /api, with the session if there is one."""

        async def run() -> httpx.Response:
            response = await self.send(method, path, **options)
            await self.manager.tasks.idle()
            return response

        return self._runner.run(run())

    async def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request; tasks that it starts go on after it."""
        headers = {"vmware-api-session-id": self.session} if self.session else {}
        headers.update(options.pop("headers", {}))
        return await self._client.request(method, f"/api{path}", headers=headers, **options)

    def run(self, work: Any) -> Any:
        """Runs a coroutine on the manager's loop."""
        return self._runner.run(work)

    def login(self, name: str = "administrator", password: str = PASSWORD, address: str = "192.0.2.1") -> Any:
        """Logs in and keeps the session; the response."""
        token = base64.b64encode(f"{name}:{password}".encode()).decode()
        headers = {"authorization": f"Basic {token}", "x-real-ip": address}
        response = self.request("POST", "/session", headers=headers)
        if response.status_code == 201:
            self.session = response.json()
        return response

    def ok(self, method: str, path: str, **options: Any) -> Any:
        """The JSON of a 2xx answer."""
        response = self.request(method, path, **options)
        assert response.is_success, response.text
        return response.json() if response.content else None

    def task(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Runs a task and returns its information."""
        path = f"{path}{'&' if '?' in path else '?'}vmw-task=true"
        response = self.request(method, path, **options)
        assert response.status_code == 202, response.text
        info: dict[str, Any] = self.ok("GET", f"/cis/tasks/{response.json()}")
        return info

    def done(self, method: str, path: str, **options: Any) -> Any:
        """The result of a task that succeeds."""
        info = self.task(method, path, **options)
        assert info["status"] == "SUCCEEDED", info["error"]
        return info.get("result")

    def failed(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """The error of a task that fails."""
        info = self.task(method, path, **options)
        assert info["status"] == "FAILED", info
        error: dict[str, Any] = info["error"]
        return error


def write_users(path: Path, entries: list[dict[str, Any]]) -> None:
    """A users file; each entry may leave the password out."""
    complete = [{"password": users.hash_password(PASSWORD), **entry} for entry in entries]
    path.write_bytes(msgspec.json.encode({"users": complete}))


def settings_in(directory: Path, side: Side, **options: Any) -> ManagerSettings:
    """Settings of a manager with all its files in one directory."""
    return ManagerSettings(
        side=side,
        host="manager",
        public_names=["manager.example"],
        database=f"sqlite:///{directory / 'manager.db'}",
        side_ca=directory / "ca.pem",
        client_certificate=directory / "client.pem",
        client_key=directory / "client.key",
        run_directory=directory,
        state_directory=directory,
        users=directory / "users.json",
        **options,
    )


@contextlib.contextmanager
def open_api(directory: Path, side: Side, nodes: FakeNodes, clock: Clock, **options: Any) -> Iterator[Api]:
    """A manager with its files in a directory, and an administrator who is logged in."""
    write_users(directory / "users.json", [{"name": "administrator", "privileges": ["*"]}])
    real_nodes: Nodes = options.pop("real_nodes", nodes)
    with asyncio.Runner() as runner:
        manager = service.build(settings_in(directory, side, **options), real_nodes, clock)
        api = Api(manager, runner, nodes)
        api.login()
        yield api
        runner.run(service.close(manager))


def prepared(api: Api) -> Api:
    """With the cluster domain-c1 and the host host-1 in it."""
    api.ok("POST", "/trust/clusters", json={"name": "one"})
    workload = api.manager.settings.side == "workload"
    enrolment = {"ek_digest": "ab" * 32, "scope": "lab"} if workload else {}
    api.done("POST", "/trust/clusters/one/hosts", json={"name": "first", **enrolment})
    return api
