# SPDX-License-Identifier: GPL-3.0-or-later
"""What the hosts of a workload cluster have applied of the services' configuration; taking it off them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import msgspec

from trusted_infrastructure.config.documents import (
    Document,
    Generation,
    NetworkAddress,
    RegisteredService,
    typed,
)
from trusted_infrastructure.manager import desired
from trusted_infrastructure.manager.comparison import Applied, Deviation, Health
from trusted_infrastructure.manager.context import Manager
from trusted_infrastructure.manager.desired import Desired
from trusted_infrastructure.manager.inventory import Cluster, Host, hosts_of
from trusted_infrastructure.manager.nodes import NodeError, Nodes, applied, ask
from trusted_infrastructure.manager.replication import Comparison
from trusted_infrastructure.manager.vapi.errors import LocalizableMessage, ResourceInaccessible, message
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.transport import UNTYPED_LIMIT

# What belongs to which part: an assertion is of no use without Attestation Services.
ATTESTATION_KINDS = frozenset({"attestation_service", "host_assertion"})
KMS_KINDS = frozenset({"kms_service", "trusted_key_provider"})
ALL_KINDS = ATTESTATION_KINDS | KMS_KINDS

DocumentKey = tuple[str, str]
Present = tuple[Deviation, RegisteredService | None]


@dataclass(frozen=True)
class ServiceState:
    """The services at one address, desired or only found on hosts. service: id of the desired one.
    deviating: what hosts that deviate have there."""

    address: NetworkAddress
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


def overall(comparison: Comparison) -> tuple[Health, list[LocalizableMessage]]:
    """Health of all that the hosts have of the services; a message of its own says that it is nothing."""
    verdict, details = health(comparison, ALL_KINDS)
    bare = [name for name, kinds in comparison.kinds.items() if not kinds & ALL_KINDS]
    if comparison.hosts and len(bare) == len(comparison.hosts):
        details.insert(0, message("No host of the cluster has any configuration.", "nothing_applied"))
    return verdict, details


async def services(
    nodes: Nodes, kind: str, wanted: Mapping[str, RegisteredService], comparison: Comparison
) -> list[ServiceState]:
    """One state for each address: first those of desired services, then those that only hosts have."""
    differing = [item for item in comparison.deviations if item.kind == kind]
    contents = await asyncio.gather(*(on_host(nodes, item) for item in differing))
    present = list(zip(differing, contents, strict=True))
    ids = {content.address: service for service, content in wanted.items()}
    strays = {content.address for content in contents if content is not None} - set(ids)
    addresses = [*ids, *sorted(strays, key=lambda address: (address.hostname, address.port))]
    return [at_address(address, ids.get(address), present, comparison) for address in addresses]


def at_address(
    address: NetworkAddress, service: str | None, present: Sequence[Present], comparison: Comparison
) -> ServiceState:
    """What differs at one address. service: id of the desired one. present: documents that differ, with
    what the host has."""
    about = [
        (item, content)
        for item, content in present
        if item.id == service or (content is not None and content.address == address)
    ]
    part = Comparison([item for item, _content in about], comparison.failures, comparison.hosts)
    verdict, details = health(part, ALL_KINDS)
    have = [content for _item, content in about if content is not None and content.address == address]
    return ServiceState(address, verdict, details, service, have)


async def on_host(nodes: Nodes, item: Deviation) -> RegisteredService | None:
    """What the host has as this document; None where it has none, or none that can be read."""
    path = f"/config/v1/documents/{item.kind}/{quote(item.id, safe='')}"
    try:
        document = await ask(nodes, item.host, "GET", path, Document, limit=UNTYPED_LIMIT)
        content = None if document.content is None else typed(item.kind, document.content)
    except (NodeError, Refusal):
        return None
    return content if isinstance(content, RegisteredService) else None


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
