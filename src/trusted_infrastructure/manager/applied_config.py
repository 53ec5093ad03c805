# SPDX-License-Identifier: GPL-3.0-or-later
"""What the hosts of a workload cluster have applied of the services' configuration; taking it off them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import msgspec

from trusted_infrastructure.config.documents import Document, Generation, RegisteredService, typed
from trusted_infrastructure.manager import desired
from trusted_infrastructure.manager.comparison import Applied, Health
from trusted_infrastructure.manager.context import Manager
from trusted_infrastructure.manager.desired import Desired
from trusted_infrastructure.manager.inventory import Cluster, Host, hosts_of
from trusted_infrastructure.manager.nodes import NodeError, Nodes, applied, ask
from trusted_infrastructure.manager.replication import Comparison
from trusted_infrastructure.manager.vapi.errors import LocalizableMessage, ResourceInaccessible, message

# What belongs to which part: an assertion is of no use without Attestation Services.
ATTESTATION_KINDS = frozenset({"attestation_service", "host_assertion"})
KMS_KINDS = frozenset({"kms_service", "trusted_key_provider"})
ALL_KINDS = ATTESTATION_KINDS | KMS_KINDS

DocumentKey = tuple[str, str]


@dataclass(frozen=True)
class ServiceState:
    """One service of a cluster, desired or only found on hosts. service: its id when it is desired."""

    content: RegisteredService
    health: Health
    details: list[LocalizableMessage]
    service: str | None
    deviating: list[RegisteredService]


def health(comparison: Comparison, kinds: Collection[str]) -> tuple[Health, list[LocalizableMessage]]:
    """OK: every host has exactly the desired documents of these kinds. NONE: there are no hosts."""
    if not comparison.hosts:
        return "NONE", [message("The cluster has no hosts.", "no_hosts")]
    details = [
        message(str(item), "differs", item.host) for item in comparison.deviations if item.kind in kinds
    ]
    details += [failure.message() for failure in comparison.failures]
    return ("ERROR", details) if details else ("OK", [])


async def services(
    nodes: Nodes, kind: str, wanted: Mapping[str, RegisteredService], comparison: Comparison
) -> list[ServiceState]:
    """Desired services with what differs on hosts, then services that hosts have and should not."""
    found = []
    for service, content in wanted.items():
        part = narrowed(comparison, kind, service)
        verdict, details = health(part, {kind})
        found.append(ServiceState(content, verdict, details, service, await on_hosts(nodes, part)))
    strays = {item.id for item in comparison.deviations if item.kind == kind} - set(wanted)
    for stray in sorted(strays):
        part = narrowed(comparison, kind, stray)
        contents = await on_hosts(nodes, part)
        if contents:
            verdict, details = health(part, {kind})
            found.append(ServiceState(contents[0], verdict, details, None, contents))
    return found


def narrowed(comparison: Comparison, kind: str, identifier: str) -> Comparison:
    """The part of a comparison that is about one document."""
    about = [item for item in comparison.deviations if (item.kind, item.id) == (kind, identifier)]
    return Comparison(about, comparison.failures, comparison.hosts)


async def on_hosts(nodes: Nodes, part: Comparison) -> list[RegisteredService]:
    """What the hosts that deviate have instead; those without it are left out."""

    async def one(host: str, kind: str, identifier: str) -> RegisteredService | None:
        path = f"/config/v1/documents/{kind}/{quote(identifier, safe='')}"
        try:
            document = await ask(nodes, host, "GET", path, Document)
        except NodeError:
            return None
        content = None if document.content is None else typed(kind, document.content)
        return content if isinstance(content, RegisteredService) else None

    answers = await asyncio.gather(*(one(item.host, item.kind, item.id) for item in part.deviations))
    return [answer for answer in answers if answer is not None]


async def strip(manager: Manager, cluster: Cluster, kinds: Collection[str]) -> None:
    """Deletes documents of these kinds on all hosts of a cluster; the desired state is kept.

    The deletions get generations above all that hosts have, and the desired documents higher ones still, so
    that a remediation can bring them back. The caller holds the cluster's lock. Raises ResourceInaccessible
    naming hosts; those that answered are stripped then."""
    with manager.database.transaction() as connection:
        hosts = hosts_of(connection, cluster)
    answers = await asyncio.gather(*(look(manager.nodes, host) for host in hosts))
    reached = {
        host.name: answer for host, answer in zip(hosts, answers, strict=True) if isinstance(answer, Applied)
    }
    with manager.database.transaction() as connection:
        wanted = [item for item in desired.everything(connection, cluster) if item.document.kind in kinds]
        highest = highest_generations(wanted, list(reached.values()), kinds)
        for item in wanted:
            if item.document.content is not None:
                desired.store(connection, cluster, raised(item, highest, 2))
    sent = await asyncio.gather(
        *(send(manager, host, answer, kinds, highest) for host, answer in reached.items())
    )
    failures = [answer for answer in [*answers, *sent] if isinstance(answer, NodeError)]
    if failures:
        names = ", ".join(failure.host for failure in failures)
        raise ResourceInaccessible(
            f"{len(failures)} of {len(hosts)} hosts of {cluster.name!r} keep the configuration: {names}.",
            names,
            reason="replication_failed",
            details=[failure.message() for failure in failures],
        )


async def look(nodes: Nodes, host: Host) -> Applied | NodeError:
    """What a host has, or why that is not known."""
    try:
        return await applied(nodes, host.name)
    except NodeError as error:
        return error


async def send(
    manager: Manager,
    host: str,
    found: Applied,
    kinds: Collection[str],
    highest: Mapping[DocumentKey, Generation],
) -> NodeError | None:
    """Deletes what a host has of these kinds."""
    deletions = [
        Document(item.kind, item.id, above(highest[item.kind, item.id], 1), None)
        for item in found.documents
        if item.kind in kinds and not item.deleted
    ]
    if not deletions:
        return None
    try:
        await manager.replication.send(host, deletions, found.security_generation)
    except NodeError as error:
        return error
    return None


def highest_generations(
    wanted: Sequence[Desired], found: Sequence[Applied], kinds: Collection[str]
) -> dict[DocumentKey, Generation]:
    """The highest generation of each document, desired or on any host."""
    highest: dict[DocumentKey, Generation] = {}
    seen = [(item.document.kind, item.document.id, item.document.generation) for item in wanted]
    seen += [(item.kind, item.id, item.generation) for applied_ in found for item in applied_.documents]
    for kind, identifier, generation in seen:
        if kind in kinds:
            key = (kind, identifier)
            highest[key] = max(highest.get(key, generation), generation)
    return highest


def above(generation: Generation, steps: int) -> Generation:
    """A later generation."""
    return Generation(generation.epoch, generation.counter + steps)


def raised(item: Desired, highest: Mapping[DocumentKey, Generation], steps: int) -> Desired:
    """The same desired document with a generation above all others."""
    document = item.document
    generation = above(highest[document.kind, document.id], steps)
    return Desired(item.host, msgspec.structs.replace(document, generation=generation))
