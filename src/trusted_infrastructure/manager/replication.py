# SPDX-License-Identifier: GPL-3.0-or-later
"""Bringing hosts to the desired state.

The one way to change configuration: commit the desired documents, then send each host of the cluster what it
lacks. So a host that was away gets everything that it missed with the next change or with a remediation; what
was acknowledged is in the database before any host is asked; and a repetition sends nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import structlog

from trusted_infrastructure.config.documents import Document
from trusted_infrastructure.manager.comparison import Applied, Deviation, deviations, to_send
from trusted_infrastructure.manager.database import Database, fact, set_fact
from trusted_infrastructure.manager.desired import (
    Change,
    Desired,
    everything,
    for_host,
    security_generation_fact,
    write,
)
from trusted_infrastructure.manager.inventory import Cluster, Host, hosts_of
from trusted_infrastructure.manager.nodes import NodeError, Nodes, applied, ask
from trusted_infrastructure.manager.vapi.errors import ResourceBusy, ResourceInaccessible

BATCH_BYTES = 8 * 1024 * 1024
log = structlog.get_logger("trusted_infrastructure.manager")


@dataclass(frozen=True)
class Comparison:
    """What a look at all hosts of a cluster found. kinds: of the documents that each host (name) that
    answered has."""

    deviations: list[Deviation]
    failures: list[NodeError]
    hosts: list[Host]
    kinds: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def consistent(self) -> bool:
        """Every host was reached and has exactly the desired documents."""
        return not self.deviations and not self.failures


@dataclass(frozen=True)
class Brought:
    """A host that has the desired documents, and its security generation."""

    host: Host
    security_generation: int


class Acknowledged(msgspec.Struct, frozen=True):
    """A configuration service's answer to a batch: committed and published."""

    security_generation: int


class Replication:
    """Writes and compares the documents of clusters; one change at a time for each cluster."""

    def __init__(self, database: Database, nodes: Nodes) -> None:
        self._database = database
        self._nodes = nodes
        self._locks: dict[int, asyncio.Lock] = {}

    def lock(self, cluster: Cluster) -> asyncio.Lock:
        """Held while a change of this cluster is decided, committed and sent."""
        return self._locks.setdefault(cluster.number, asyncio.Lock())

    def refuse_when_busy(self, cluster: Cluster) -> None:
        """Raises ResourceBusy while a change of this cluster is under way."""
        if self.lock(cluster).locked():
            raise ResourceBusy(
                f"Another operation changes the cluster {cluster.name!r}; try again when it has finished.",
                cluster.name,
            )

    async def change(self, cluster: Cluster, changes: Sequence[Change]) -> None:
        """Commits changes and brings all hosts of the cluster to the desired state.

        The caller holds `lock(cluster)` when the changes depend on what was desired before. Raises
        ResourceInaccessible that names each host that failed; the changes are kept then."""
        if not changes:
            return
        with self._database.transaction() as connection:
            write(connection, cluster, changes)
        await self.remediate(cluster)

    async def remediate(self, cluster: Cluster) -> None:
        """Brings all hosts of a cluster to the desired state. Raises ResourceInaccessible naming hosts."""
        hosts, desired = self._state(cluster)
        results = await asyncio.gather(*(self._attempt(cluster, host, desired) for host in hosts))
        results += await self._level(cluster, [item for item in results if isinstance(item, Brought)])
        failures = [item for item in results if isinstance(item, NodeError)]
        if failures:
            names = ", ".join(failure.host for failure in failures)
            raise ResourceInaccessible(
                f"{len(failures)} of {len(hosts)} hosts of {cluster.name!r} did not take the configuration: "
                f"{names}. The desired state is kept; remediate the cluster when the cause is gone.",
                names,
                reason="replication_failed",
                details=[failure.message() for failure in failures],
            )

    async def compare(self, cluster: Cluster) -> Comparison:
        """The desired state against what every host has."""
        hosts, desired = self._state(cluster)

        async def look(host: Host) -> Applied | NodeError:
            try:
                return await applied(self._nodes, host.name)
            except NodeError as error:
                return error

        results = await asyncio.gather(*(look(host) for host in hosts))
        failures = [result for result in results if isinstance(result, NodeError)]
        differing: list[Deviation] = []
        kinds = {}
        for host, found in zip(hosts, results, strict=True):
            if isinstance(found, Applied):
                differing += deviations(host.name, for_host(desired, host.name), found)
                kinds[host.name] = frozenset(item.kind for item in found.documents if not item.deleted)
        return Comparison(differing, failures, hosts, kinds)

    async def send(self, host: str, documents: Sequence[Document], security_generation: int) -> int:
        """Sends documents to one host as they are; returns its security generation. Raises NodeError."""
        reached = security_generation
        for batch in batches(documents) or [[]]:
            body = {"documents": batch, "security_generation": reached}
            answer = await ask(self._nodes, host, "POST", "/config/v1/documents", Acknowledged, body)
            reached = max(reached, answer.security_generation)
        return reached

    async def bring(self, cluster: Cluster, host: Host, desired: Sequence[Desired]) -> Brought:
        """Sends one host what it lacks. Raises NodeError."""
        found = await applied(self._nodes, host.name)
        documents = to_send(for_host(desired, host.name), found)
        known = self._security_generation(cluster)
        if not documents and found.security_generation >= known:
            return Brought(host, found.security_generation)
        return Brought(host, await self.send(host.name, documents, known))

    async def _attempt(self, cluster: Cluster, host: Host, desired: Sequence[Desired]) -> Brought | NodeError:
        try:
            return await self.bring(cluster, host, desired)
        except NodeError as error:
            log.warning("replication_failed", host=host.name, code=error.code, error=error.text)
            return error

    async def _level(self, cluster: Cluster, brought: Sequence[Brought]) -> list[Brought | NodeError]:
        """Raises hosts that are behind in the security generation to what the cluster has reached: a host
        that joined later counted fewer withdrawals. Remembers the number for hosts that were not reached."""
        reached = max((item.security_generation for item in brought), default=0)
        with self._database.transaction() as connection:
            name = security_generation_fact(cluster)
            reached = max(reached, int(fact(connection, name) or "0"))
            set_fact(connection, name, str(reached))
        behind = [item.host for item in brought if item.security_generation < reached]
        return list(await asyncio.gather(*(self._raise(host, reached) for host in behind)))

    async def _raise(self, host: Host, security_generation: int) -> Brought | NodeError:
        try:
            return Brought(host, await self.send(host.name, [], security_generation))
        except NodeError as error:
            return error

    def _security_generation(self, cluster: Cluster) -> int:
        with self._database.transaction() as connection:
            return int(fact(connection, security_generation_fact(cluster)) or "0")

    def _state(self, cluster: Cluster) -> tuple[list[Host], list[Desired]]:
        with self._database.transaction() as connection:
            return hosts_of(connection, cluster), everything(connection, cluster)


def batches(documents: Sequence[Document]) -> list[list[Document]]:
    """The documents in order, in requests of BATCH_BYTES or one document."""
    found: list[list[Document]] = []
    size = 0
    for document in documents:
        length = len(msgspec.json.encode(document))
        if not found or size + length > BATCH_BYTES:
            found.append([])
            size = 0
        found[-1].append(document)
        size += length
    return found
