# SPDX-License-Identifier: GPL-3.0-or-later
"""All hosts start at once, after a power cut: each attests and has one key opened, as its agent does.

Simulated agents in one process: a host of its own each (keys, address, connection), that tries again after a
pause where it is turned away. What a host does between its requests is part of the time here, as the machine
is shared; on real hosts it happens on theirs.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bench.attester import Attester
from bench.front import Front
from bench.key_site import KeyHolder
from bench.load import Result, attested, code_of, forked
from bench.wire import Wire, trusting

# As the agent's own (host/schedule.py), without its upper end.
FIRST_RETRY = 2.0
PATIENCE = 300.0


@dataclass(frozen=True)
class StartingHost:
    """A host, and the key that it wants back. Both have its proof key and its key to seal to."""

    attester: Attester
    holder: KeyHolder


@dataclass
class PowerCut:
    """Hosts are spread over the fronts, in turn. Result: done: hosts that have their key; seconds: until the
    last had it; latencies: when each had it, since the power is back."""

    fronts: Sequence[Front]
    hosts: Sequence[StartingHost]

    def run(self) -> Result:
        """In a process of its own."""
        return forked(self._start)

    async def _start(self) -> Result:
        result, refused = Result(), Counter[str]()
        context = trusting(self.fronts[0].ca)
        used, began = time.process_time(), time.monotonic()

        async def host(number: int, one: StartingHost) -> None:
            for attempt in range(20):
                front = self.fronts[number % len(self.fronts)]
                wire = Wire(front, context, number)
                try:
                    if await self._one(wire, front, one, refused):
                        result.latencies.append(time.monotonic() - began)
                        return
                except (OSError, EOFError, ValueError) as error:
                    refused[type(error).__name__] += 1
                finally:
                    wire.close()
                if time.monotonic() - began > PATIENCE:
                    return
                await asyncio.sleep(FIRST_RETRY * 2**attempt * random.uniform(0.5, 1.0))

        await asyncio.gather(*(host(number, one) for number, one in enumerate(self.hosts)))
        result.done, result.seconds = len(result.latencies), time.monotonic() - began
        result.cpu, result.refused = time.process_time() - used, dict(refused)
        return result

    async def _one(self, wire: Wire, front: Front, one: StartingHost, refused: Counter[str]) -> bool:
        found = await attested(wire, front, one.attester, refused)
        if found is None:
            return False
        token = found[1].token
        status, answer = await wire.ask(one.holder.request(front, token))
        if status != 200:
            refused[code_of(answer)] += 1
            return False
        if not one.holder.opens(answer, token):
            raise SystemExit("a host got another key than its own")
        return True
