# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts join and leave clusters: what has to be decided and sent, on both sides."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sql

from trusted_infrastructure.config.documents import Document, Generation
from trusted_infrastructure.manager import (
    assertions,
    audit_heads,
    desired,
    key_delivery,
    known_keys,
    native_departures,
    native_push,
    provider_registry,
    trust_authority,
)
from trusted_infrastructure.manager.comparison import Applied, deletion
from trusted_infrastructure.manager.context import Context, Manager
from trusted_infrastructure.manager.desired import Change, Desired
from trusted_infrastructure.manager.inventory import (
    Cluster,
    Host,
    add_host,
    find_cluster,
    hosts_of,
    remove_host,
    update_host,
)
from trusted_infrastructure.manager.nodes import NodeError, applied
from trusted_infrastructure.manager.provider_secrets import reseal_for_missing_hosts


@dataclass(frozen=True)
class NewHost:
    """A host to be added: see inventory.Host."""

    name: str
    public_name: str
    port: int
    ek_digest: str | None
    scope: str | None


async def join(context: Context, new: NewHost) -> Host:
    """Adds a host and brings it and its peers to the desired state.

    Raises NodeError when it does not answer (nothing is changed), AlreadyExists, and ResourceInaccessible
    naming hosts: then it is a member, and a remediation completes the rest."""
    manager, cluster = context.manager, context.cluster
    async with manager.replication.lock(cluster):
        found = await applied(manager.nodes, new.name)
        with manager.database.transaction() as connection:
            find_cluster(connection, cluster.id)  # it may have been removed while the host was asked
            host = add_host(
                connection,
                cluster,
                name=new.name,
                public_name=new.public_name,
                port=new.port,
                ek_digest=new.ek_digest,
                scope=new.scope,
            )
            desired.write(connection, cluster, consequences(connection, manager, cluster))
            raise_above(connection, cluster, host, found)
        context.progress(30, f"{new.name} is a member and is given the configuration.")
        await restore(manager, cluster)
    await native_push.push_all(manager, [host])
    return host


async def change(context: Context, ek_digest: str | None, scope: str | None) -> None:
    """Records another EK digest or scope of `context.host`, with a new assertion where there is one."""
    manager, cluster = context.manager, context.cluster
    async with manager.replication.lock(cluster):
        with manager.database.transaction() as connection:
            update_host(connection, context.host, ek_digest, scope)
            desired.write(connection, cluster, consequences(connection, manager, cluster))
        await restore(manager, cluster)


async def leave(manager: Manager, cluster: Cluster, host: Host) -> NodeError | None:
    """Takes the configuration off a host and removes it from its cluster.

    A host that does not answer is removed all the same; the returned error says that it keeps what it had.
    Raises ResourceInaccessible naming other hosts that did not take the change."""
    async with manager.replication.lock(cluster):
        missed = await strip(manager, host)
        with manager.database.transaction() as connection:
            remove_host(connection, host)
            given = native_departures.departed(connection, manager, host)
            passed = known_keys.departed(connection, host.name)
            audit_heads.forget(connection, host.name)
            desired.write(connection, cluster, consequences(connection, manager, cluster))
        try:
            await restore(manager, cluster)
        finally:
            await native_push.push_all(manager)
            await native_departures.withdraw_all(manager, host, given)
            await key_delivery.take_back(manager, host.name, passed)
    return missed


async def restore(manager: Manager, cluster: Cluster) -> None:
    """Brings all hosts of the cluster to the desired state, secrets included. The caller holds the lock.

    Raises ResourceInaccessible naming hosts."""
    await manager.replication.remediate(cluster)
    await manager.replication.change(cluster, await reseal_for_missing_hosts(manager, cluster))


def consequences(connection: sql.Connection, manager: Manager, cluster: Cluster) -> list[Change]:
    """Documents that follow from the members of a cluster."""
    if manager.settings.side == "trust_authority":
        return trust_authority.membership(connection, cluster, hosts_of(connection, cluster))
    services = assertions.current_services(connection, cluster)
    return [
        *assertions.changes(connection, manager, cluster, services),
        *provider_registry.changes(connection, cluster),
    ]


def raise_above(connection: sql.Connection, cluster: Cluster, host: Host, found: Applied) -> None:
    """A host that was in a cluster before may have documents, or deletions, newer than this cluster's. It was
    added on purpose, so the cluster's documents get higher generations, and so will those that are still to
    come; otherwise it would refuse them."""
    on_host = found.by_key()
    for theirs in on_host.values():
        desired.raise_generation_floor(connection, cluster, theirs.generation)
    for item in desired.everything(connection, cluster):
        other = on_host.get((item.document.kind, item.document.id))
        if other is None or item.host not in {desired.EVERY_HOST, host.name}:
            continue
        ahead = other.generation > item.document.generation
        if ahead or (other.generation == item.document.generation and other.digest != item.document.digest):
            generation = Generation(other.generation.epoch, other.generation.counter + 1)
            document = Document(item.document.kind, item.document.id, generation, item.document.content)
            desired.store(connection, cluster, Desired(item.host, document))


async def strip(manager: Manager, host: Host) -> NodeError | None:
    """Deletes all documents on a host; the error if it could not be done."""
    try:
        found = await applied(manager.nodes, host.name)
        deletions = [deletion(item) for item in found.documents if not item.deleted]
        if deletions:
            await manager.replication.send(host.name, deletions, found.security_generation)
    except NodeError as error:
        return error
    return None
