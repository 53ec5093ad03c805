# SPDX-License-Identifier: GPL-3.0-or-later
"""Load: a process of its own that attests over HTTPS with so many connections at once, kept alive.

It does the host's part in full (open the credential, quote, encode 45 kB), so its own processor time is part
of the answer: it runs beside the service, on the same cores.

nginx limits requests and connections for each address, and the load stays within that: each connection has an
address of its own in 127.0.1.0/24, as hosts have. The service limits attestations for each endorsement key:
so there are many hosts, each with a key of its own.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
import ssl
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp
import msgspec
import uvloop
from bench.attester import Attester
from bench.front import ADDRESS, Front
from bench.site import HOST

from trusted_infrastructure.messages import AttestationResult, Challenge

PATIENCE = 30.0
CHALLENGE, EVIDENCE = "/attestation/v1/challenge", "/attestation/v1/evidence"


class Result(msgspec.Struct):
    """What came of it. seconds: of the measured time. latencies: of each attestation, both requests without
    the host's own work between them (seconds). cpu: processor time of the generator. refused: code -> count.
    """

    attestations: int = 0
    seconds: float = 0.0
    latencies: list[float] = []
    cpu: float = 0.0
    refused: dict[str, int] = {}

    @property
    def rate(self) -> float:
        return self.attestations / self.seconds

    def percentile(self, percent: int) -> float:
        """Latency that so many percent stay under."""
        if not self.latencies:
            raise SystemExit(f"nobody was attested; refused: {self.refused or 'nobody'}")
        if len(self.latencies) < 100:
            return max(self.latencies)
        return statistics.quantiles(self.latencies, n=100)[percent - 1]


@dataclass
class Generator:
    """connections: at once. seconds: how long it measures, after `warm_up` seconds that do not count."""

    front: Front
    attesters: Sequence[Attester]
    connections: int = 8
    seconds: float = 10.0
    warm_up: float = 2.0
    _latencies: list[float] = field(default_factory=list)
    _refused: Counter[str] = field(default_factory=Counter)

    def run(self) -> Result:
        """Attest, in a process of its own."""
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        worker = context.Process(target=self._report, args=(sender,))
        worker.start()
        sender.close()
        try:
            return msgspec.msgpack.decode(receiver.recv_bytes(), type=Result)
        finally:
            worker.join()

    def _report(self, sender: multiprocessing.connection.Connection) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            sender.send_bytes(msgspec.msgpack.encode(runner.run(self._attest())))

    async def _attest(self) -> Result:
        begins = time.monotonic() + self.warm_up
        tasks = [
            asyncio.create_task(self._connection(number, begins, begins + self.seconds))
            for number in range(self.connections)
        ]
        await asyncio.sleep(self.warm_up)
        before = cpu()
        await asyncio.sleep(self.seconds)
        used = cpu() - before
        await asyncio.gather(*tasks)
        return Result(len(self._latencies), self.seconds, self._latencies, used, dict(self._refused))

    async def _connection(self, number: int, begins: float, ends: float) -> None:
        context = ssl.create_default_context(cafile=str(self.front.ca))
        connector = aiohttp.TCPConnector(
            ssl=context,
            limit=1,
            keepalive_timeout=60,
            local_addr=(f"127.0.1.{number + 1}", 0),
            resolver=Loopback(),
        )
        hosts = self.attesters[number :: self.connections]
        async with aiohttp.ClientSession(self.front.url, connector=connector) as session:
            turn = 0
            # What was under way at the end does not count, but a machine that is too slow for even one does.
            while (now := time.monotonic()) < ends or (not self._latencies and now < ends + PATIENCE):
                taken = await self._one(session, hosts[turn % len(hosts)])
                turn += 1
                in_time = begins <= now and (time.monotonic() < ends or not self._latencies)
                if taken is not None and in_time:
                    self._latencies.append(taken)

    async def _one(self, session: aiohttp.ClientSession, host: Attester) -> float | None:
        """One attestation: the time of both requests, None where it was refused."""
        began = time.perf_counter()
        answer = await self._post(session, CHALLENGE, host.request)
        first = time.perf_counter() - began
        if answer is None:
            return None
        body = host.evidence(msgspec.json.decode(answer, type=Challenge))
        began = time.perf_counter()
        answer = await self._post(session, EVIDENCE, body)
        if answer is None:
            return None
        msgspec.json.decode(answer, type=AttestationResult)
        return first + time.perf_counter() - began

    async def _post(self, session: aiohttp.ClientSession, path: str, body: bytes) -> bytes | None:
        async with session.post(path, data=body) as response:
            answer = await response.read()
            if response.status == 200:
                return answer
        try:
            code = msgspec.json.decode(answer)["error"]["code"]
        except (msgspec.DecodeError, KeyError, TypeError):
            code = f"status {response.status}"
        self._refused[code] += 1
        return None


class Loopback(aiohttp.abc.AbstractResolver):
    """The service's name leads to this machine."""

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[aiohttp.abc.ResolveResult]:
        if host != HOST:
            raise OSError(f"unknown host {host}")
        return [aiohttp.abc.ResolveResult(hostname=host, host=ADDRESS, port=port, family=2, proto=0, flags=0)]

    async def close(self) -> None:
        pass


def cpu() -> float:
    """Processor time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
