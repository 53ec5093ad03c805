# SPDX-License-Identifier: GPL-3.0-or-later
"""The rulebook of the collection under ansible-rulebook, with a real manager and what takes the tickets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import argon2
import pytest
from collection_tree import ROOT
from integration.served_manager import Site, until
from services.manager.harness import PASSWORD, write_users

from trusted_infrastructure.manager import users

# Without care, ansible-rulebook makes the number 1000 of it.
DIGITS = "1_000"
REFUSED = "com.vmware.vc.TaHostAttestFailEvent"
OPERATION = "com.vmware.vc.crypto.Operation"
UNREACHABLE = "com.vmware.vc.kms.crypto.Unreachable"
SECONDS = 120.0


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(users, "HASH", argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    site = Site(tmp_path)
    reader = {"name": "events", "privileges": ["System.View"], "password": users.hash_password(DIGITS)}
    write_users(tmp_path / "users.json", [reader, {"name": "nobody", "privileges": []}])
    # From the first event on, and not from those after the start.
    (tmp_path / "state.json").write_text(json.dumps({"manager": f"127.0.0.1:{site.port}", "last": 0}))
    (tmp_path / "inventory").write_text("localhost ansible_connection=local\n")
    namespace = tmp_path / "collections" / "ansible_collections" / "trusted"
    namespace.mkdir(parents=True)
    (namespace / "infrastructure").symlink_to(ROOT)
    return site


class Tickets:
    """Takes tickets, and answers when it is open."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.open = asyncio.Event()
        self.url = ""

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length:")[2].split()[0])
        self.taken.append(json.loads(await reader.readexactly(length)))
        await self.open.wait()
        writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[Tickets]:
        """At its url."""
        server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.url = "http://127.0.0.1:{1}/".format(*server.sockets[0].getsockname())
        try:
            yield self
        finally:
            server.close()


@contextlib.asynccontextmanager
async def ansible_rulebook(
    site: Site, url: str, **changes: Any
) -> AsyncIterator[tuple[asyncio.subprocess.Process, Path]]:
    """It with the rulebook, as docs/events.md has it, and the file with what it prints. Killed at the end."""
    variables = {
        "manager_hostname": "127.0.0.1",
        "manager_port": site.port,
        "manager_ca_path": str(site.directory / "ca.pem"),
        "events_username": "events",
        "events_password": DIGITS,
        "state_file": str(site.directory / "state.json"),
        "drools_db_file_path": str(site.directory / "rules"),
        "ticket_url": url,
        **changes,
    }
    (site.directory / "variables.yml").write_text(json.dumps(variables))
    programs = Path(sys.executable).parent
    log = site.directory / "log"
    with log.open("w") as output:
        process = await asyncio.create_subprocess_exec(
            programs / "ansible-rulebook",
            *("--rulebook", "trusted.infrastructure.tickets", "--inventory", "inventory"),
            *("--vars", "variables.yml", "--persistence-id", "tickets"),
            cwd=site.directory,
            env={
                "PATH": f"{programs}:/usr/bin:/bin",
                "HOME": str(site.directory),
                "TMPDIR": str(site.directory),
                "LANG": "C.UTF-8",
                "ANSIBLE_COLLECTIONS_PATH": str(site.directory / "collections"),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process, log
    finally:
        # With the playbooks that it runs.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"events_password": "not this one"}, "User name or password is wrong"),
        ({"events_username": "nobody", "events_password": PASSWORD}, "System.View"),
        ({"manager_port": 0}, "port: must be at least 1"),
    ],
)
def test_what_cannot_mend_ends_it_with_the_reason(site: Site, changes: dict[str, Any], reason: str) -> None:
    async def scene() -> None:
        async with site.served(), ansible_rulebook(site, "http://127.0.0.1:9/", **changes) as (process, log):
            async with asyncio.timeout(SECONDS):
                assert await process.wait() == 1, log.read_text()
            printed = log.read_text()
            assert reason in printed
            assert PASSWORD not in printed and "not this one" not in printed

    asyncio.run(scene())


def test_every_ticket_is_opened_also_after_a_kill_and_while_the_manager_is_away(site: Site) -> None:
    async def scene() -> None:
        async with Tickets().served() as tickets:
            async with site.served(), ansible_rulebook(site, tickets.url) as (_process, log):
                site.happen(
                    "host1 was refused: {{ 1 + 1 }}", type=REFUSED, host="host1", details={"a": "{{ 3 }}"}
                )
                site.happen("Nobody has to look at this.")
                site.happen("Nor at this.", type=OPERATION, details={"provider": "finance"})
                site.happen("No key server can be reached.", type=UNREACHABLE)
                await until(lambda: len(tickets.taken) == 1, SECONDS)
            # It was killed before the first ticket was there, and had been given more events than this one.
            tickets.open.set()
            async with ansible_rulebook(site, tickets.url) as (_process, log):
                await until(lambda: "asking again" in log.read_text(), SECONDS)
                async with site.served():
                    site.happen("host2 was refused.", type=REFUSED, host="host2")
                    site.happen("Another's key.", type=OPERATION, details={"code": "key_unknown"})
                    await until(lambda: len(tickets.taken) == 5, SECONDS)
            first, *more = tickets.taken
            assert first["title"] == "host1 was refused: { { 1 + 1 }}"
            assert first["event"]["host"] == "host1" and first["event"]["details"] == {"a": "{ { 3 }}"}
            titles = [ticket["title"] for ticket in more]
            told = ["No key server can be reached.", "host2 was refused.", "Another's key."]
            assert titles == [first["title"], *told]

    asyncio.run(scene())
