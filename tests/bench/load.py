# SPDX-License-Identifier: GPL-3.0-or-later
"""Load: a process of its own that attests over HTTPS with so many connections at once, kept alive.

It does the host's part in full (open the credential, quote, encode 45 kB), so its own processor time is part
of the answer: it runs beside the service, on the same cores.

nginx limits requests and connections for each address, and the load stays within that: each connection has
addresses of its own in 127.1.0.0/24, as hosts have. The service limits attestations for each endorsement key:
so there are many hosts, each with a key of its own.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
import statistics
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import uvloop
from bench.attester import Attester
from bench.front import Front
from bench.wire import Wire, request, trusting

from trusted_infrastructure.messages import AttestationResult, Challenge

PATIENCE = 30.0
ADDRESSES = 4  # of each connection
REST = 0.05  # after a refusal, which costs the service little: a host would wait longer
CHALLENGE, EVIDENCE = "/attestation/v1/challenge", "/attestation/v1/evidence"


class Result(msgspec.Struct):
    """What came of it. done: attestations, or keys released. seconds: of the measured time. latencies: of
    each one (seconds); of an attestation, both requests without the host's own work between them. cpu:
    processor time of the generator. refused: code -> count.
    """

    done: int = 0
    seconds: float = 0.0
    latencies: list[float] = []
    cpu: float = 0.0
    refused: dict[str, int] = {}

    @property
    def rate(self) -> float:
        return self.done / self.seconds

    def percentile(self, percent: int) -> float:
        """Latency that so many percent stay under."""
        if not self.latencies:
            raise SystemExit(f"nothing was done; refused: {self.refused or 'nobody'}")
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
        return forked(self._attest)

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
        # They take turns: one address alone would meet nginx's limit before the service's.
        context = trusting(self.front.ca)
        wires = [Wire(self.front, context, number + turn * self.connections) for turn in range(ADDRESSES)]
        hosts = self.attesters[number :: self.connections]
        try:
            turn = 0
            # What was under way at the end does not count, but a machine that is too slow for even one does.
            while (now := time.monotonic()) < ends or (not self._latencies and now < ends + PATIENCE):
                taken = await attested(
                    wires[turn % ADDRESSES], self.front, hosts[turn % len(hosts)], self._refused
                )
                turn += 1
                in_time = begins <= now and (time.monotonic() < ends or not self._latencies)
                if taken is None:
                    await asyncio.sleep(REST)
                elif in_time:
                    self._latencies.append(taken[0])
        finally:
            for wire in wires:
                wire.close()


async def attested(
    wire: Wire, front: Front, host: Attester, refused: Counter[str]
) -> tuple[float, AttestationResult] | None:
    """One attestation: the time of both requests, and its result; None where it was refused."""
    name = f"{front.host}:{front.port}"
    began = time.perf_counter()
    status, answer = await wire.ask(request(name, CHALLENGE, host.request))
    first = time.perf_counter() - began
    if status != 200:
        refused[code_of(answer)] += 1
        return None
    body = host.evidence(msgspec.json.decode(answer, type=Challenge))
    began = time.perf_counter()
    status, answer = await wire.ask(request(name, EVIDENCE, body))
    taken = first + time.perf_counter() - began
    if status != 200:
        refused[code_of(answer)] += 1
        return None
    return taken, msgspec.json.decode(answer, type=AttestationResult)


def code_of(answer: bytes) -> str:
    """The code of a refusal."""
    try:
        return str(msgspec.json.decode(answer)["error"]["code"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return "unreadable"


def forked(work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """What `work` answers, in a process of its own with an event loop."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=_report, args=(work, sender))
    worker.start()
    sender.close()
    try:
        return msgspec.msgpack.decode(receiver.recv_bytes(), type=Result)
    except EOFError:
        raise SystemExit("the load generator failed; see above") from None
    finally:
        worker.join()


def _report(
    work: Callable[[], Coroutine[Any, Any, Result]], sender: multiprocessing.connection.Connection
) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sender.send_bytes(msgspec.msgpack.encode(runner.run(work())))


def cpu() -> float:
    """Processor time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
