# SPDX-License-Identifier: GPL-3.0-or-later
"""The same power cut for a standard provider: for each host, the workload manager is asked for one key, gets
it from the key server (KMIP Get Attributes and Get), seals it to the host and posts it to its agent (mTLS).

The manager's parts for it are the real ones; agents are a stub in a process of its own, which answers what an
agent answers. Left out are the manager's database and its events.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec
import uvloop
from bench.front import ADDRESS
from bench.key_site import Vault
from integration.software_key_server import held_port
from services.side_authority import SideAuthority

from trusted_infrastructure import sealing
from trusted_infrastructure.key_delivery import DeliveryTarget, StandardKey, StandardKeys
from trusted_infrastructure.kmip.connection import client_context
from trusted_infrastructure.kmip.servers import KeyServerGroup, ServedKey
from trusted_infrastructure.manager.standard_key_servers import MAX_CALLS
from trusted_infrastructure.messages import delivery_info
from trusted_infrastructure.sealing import SealingKey
from trusted_infrastructure.transport import clients

PROVIDER = "bench-standard"
AGENT = "/agent/manage/v1"
USE = {"x-Component": "Virtual Machine", "x-Name": "bench", "x-Identifier": "1"}


@dataclass
class StubAgents:
    """The agents of all hosts, on one port. keys: how many came."""

    side: SideAuthority
    folder: Path
    port: int
    target: bytes

    @classmethod
    def make(cls, side: SideAuthority, folder: Path) -> StubAgents:
        """One key to seal to for all: sealing costs the manager the same."""
        key = SealingKey.generate()
        target = DeliveryTarget(instance=os.urandom(16).hex(), suite=key.suite, public_key=key.public_bytes())
        side.write_leaf(folder, "agents", "configuration-service", "agents", dns=("config.agents",))
        side.write_leaf(folder, "manager", "manager", "workload-manager")
        (folder / "side_ca.pem").write_text(side.certificate)
        return cls(side, folder, held_port(side, ADDRESS), msgspec.json.encode(target))

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Serve, in a process of its own."""
        context = multiprocessing.get_context("fork")
        ready = context.Event()
        process = context.Process(target=self._serve, args=(ready,), daemon=True)
        process.start()
        try:
            if not ready.wait(20):
                raise RuntimeError("the stub of the agents did not start")
            yield
        finally:
            process.terminate()
            process.join()

    def _serve(self, ready: multiprocessing.synchronize.Event) -> None:
        async def serve() -> None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.folder / "agents.pem", self.folder / "agents.key")
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.folder / "side_ca.pem")
            server = await asyncio.start_server(self._talk, ADDRESS, self.port, ssl=context, backlog=1024)
            ready.set()
            await server.serve_forever()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                answer = self.target
                if b"content-length:" in head:
                    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
                    msgspec.json.decode(await reader.readexactly(length), type=StandardKeys)
                    answer = b"{}"
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: "
                    + str(len(answer)).encode()
                    + b"\r\n\r\n"
                    + answer
                )
        writer.close()


def delivered(held: Vault, agents: StubAgents, hosts: int) -> tuple[float, float]:
    """Seconds until all hosts have their key, and how many keys a second the key server alone gives."""
    credentials = held.client
    context = client_context(credentials, [held.server.certificate])
    group = KeyServerGroup([held.key_server()], credentials, context)
    try:
        with ThreadPoolExecutor(MAX_CALLS) as threads, agents.running():
            made = list(threads.map(lambda _number: group.create({}, USE).key_id, range(hosts)))
            began = time.monotonic()
            list(threads.map(group.get, made))
            alone = hosts / (time.monotonic() - began)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                seconds = runner.run(_deliver(group, agents, made, threads))
    finally:
        group.close()
    return seconds, alone


async def _deliver(
    group: KeyServerGroup, agents: StubAgents, made: list[str], threads: ThreadPoolExecutor
) -> float:
    loop = asyncio.get_running_loop()
    files = [agents.folder / name for name in ("side_ca.pem", "manager.pem", "manager.key")]
    address = f"https://{ADDRESS}:{agents.port}"
    # One for each host, as the manager has them: it made them before the power went.
    open_clients = [clients.management_client(*files, base_url=address, timeout=120) for _key in made]

    async def one(number: int, key_id: str) -> None:
        host, named, client = f"host{number}", {"sni_hostname": "config.agents"}, open_clients[number]
        asked = await client.get(f"{AGENT}/key-delivery", extensions=named)
        target = msgspec.json.decode(asked.content, type=DeliveryTarget)
        key = await loop.run_in_executor(threads, group.get, key_id)
        message = StandardKeys(instance=target.instance, keys=[sealed(host, target, key)])
        answer = await client.post(
            f"{AGENT}/standard-keys", content=msgspec.json.encode(message), extensions=named
        )
        if answer.status_code != 200 or json.loads(answer.content) != {}:
            raise RuntimeError(f"{host} did not take its key: {answer.status_code}")

    began = time.monotonic()
    try:
        await asyncio.gather(*(one(number, key_id) for number, key_id in enumerate(made)))
        return time.monotonic() - began
    finally:
        await asyncio.gather(*(client.aclose() for client in open_clients))


def sealed(host: str, target: DeliveryTarget, key: ServedKey) -> StandardKey:
    """As the manager does it."""
    info = delivery_info(
        kind="standard", host=host, instance=target.instance, provider=PROVIDER, key_id=key.key_id
    )
    data = sealing.seal(target.suite, target.public_key, key.material, info)
    return StandardKey(provider=PROVIDER, key_id=key.key_id, sealed_key=data)
