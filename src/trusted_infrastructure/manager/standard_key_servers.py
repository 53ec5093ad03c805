# SPDX-License-Identifier: GPL-3.0-or-later
"""The key servers of standard providers while the manager runs: connections, threads, how they were found."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from trusted_infrastructure.kmip.servers import KeyServerGroup, ServerStatus
from trusted_infrastructure.manager import standard_providers
from trusted_infrastructure.manager.database_secrets import DatabaseSecrets
from trusted_infrastructure.manager.standard_providers import StandardProvider
from trusted_infrastructure.refusal import Refusal

# Calls at the same time to the key servers of one provider; each blocks a thread for the network. Providers
# share no threads: one whose key servers hang must not keep the others waiting.
MAX_CALLS = 32
# The same failure, of a provider at a host, is one event in this many seconds.
REPORT_AGAIN_AFTER = 60.0
MAX_REPORTS = 10_000
Result = TypeVar("Result")


@dataclass(frozen=True)
class Looked:
    """What was found of a provider's key servers. problem: why none could be asked at all."""

    time: float
    servers: list[ServerStatus]
    problem: Refusal | None = None


class KeyServers:
    """To be used on the event loop's thread, like the database."""

    def __init__(self, secrets: DatabaseSecrets, clock: Callable[[], float]) -> None:
        self._secrets = secrets
        self._clock = clock
        self._workers: dict[str, ThreadPoolExecutor] = {}
        self._groups: dict[str, tuple[StandardProvider, KeyServerGroup]] = {}
        self._reported: dict[tuple[str, ...], float] = {}
        self.looked: dict[str, Looked] = {}

    async def ask(
        self, name: str, provider: StandardProvider, work: Callable[[KeyServerGroup], Result]
    ) -> Result:
        """Do `work` with a provider's key servers, in a thread. Raises Refusal."""
        group = self._group(name, provider)
        return await self.run(name, lambda: work(group))

    async def run(self, name: str, work: Callable[[], Result]) -> Result:
        """Do what blocks, in a thread of the provider's."""
        workers = self._workers.get(name)
        if workers is None:
            workers = self._workers[name] = ThreadPoolExecutor(MAX_CALLS, thread_name_prefix="kmip")
        return await asyncio.get_running_loop().run_in_executor(workers, work)

    async def look(self, name: str, provider: StandardProvider, kept: Collection[str]) -> Looked:
        """Ask every server of a provider how it does; remembered in `looked`. kept: ids of keys in use, of
        any provider: they are never destroyed."""
        try:
            servers = await self.ask(name, provider, lambda group: group.check(kept))
            found = Looked(self._clock(), servers)
        except Refusal as refusal:
            found = Looked(self._clock(), [], refusal)
        self.looked[name] = found
        return found

    def forget(self, name: str) -> None:
        """The provider is gone."""
        workers = self._workers.pop(name, None)
        if workers is not None:
            workers.shutdown(wait=False)  # what was begun comes to its end
        self._disconnect(name)

    def is_new(self, *failure: str) -> bool:
        """Whether a failure, by what tells it from others, is to be told: not where the same one was a moment
        ago."""
        now, key = self._clock(), failure
        if now - self._reported.get(key, -REPORT_AGAIN_AFTER) < REPORT_AGAIN_AFTER:
            return False
        if len(self._reported) >= MAX_REPORTS:
            self._reported = {
                known: time for known, time in self._reported.items() if now - time < REPORT_AGAIN_AFTER
            }
        self._reported[key] = now
        return True

    def close(self) -> None:
        """Close what is idle; let threads end by themselves."""
        for name in list(self._groups):
            self._disconnect(name)
        for workers in self._workers.values():
            workers.shutdown(wait=False, cancel_futures=True)

    def _disconnect(self, name: str) -> None:
        self.looked.pop(name, None)
        known = self._groups.pop(name, None)
        if known is not None:
            known[1].close()

    def _group(self, name: str, provider: StandardProvider) -> KeyServerGroup:
        known = self._groups.get(name)
        if known is not None and known[0] == provider:
            return known[1]
        made = standard_providers.connected(self._secrets, name, provider)
        self._disconnect(name)
        self._groups[name] = (provider, made)
        return made
