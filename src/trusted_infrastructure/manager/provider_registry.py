# SPDX-License-Identifier: GPL-3.0-or-later
"""The key providers of a workload manager, of all three kinds: their names, which is the default, and what
hosts are told of them.

Each kind has its own table; names are unique over all. The first provider is the default of the manager. One
that is removed leaves none where it was the default: no other begins to encrypt without somebody saying so.

    with manager.database.transaction() as connection:      # or all in one: `change(manager, work)`
        check_new(connection, name)
        ... insert the row of the own table ...
        added(connection, name)
    await publish(manager)

and for a removal `removed` and `report_removal` after the row is deleted, then `publish`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TypeVar

import sqlalchemy as sql

from trusted_infrastructure.config.documents import KeyProviders, KeyProviderType
from trusted_infrastructure.manager import crypto_events, desired, events, provider_defaults, trusted_clusters
from trusted_infrastructure.manager.context import Context, Manager
from trusted_infrastructure.manager.database import (
    native_key_providers,
    standard_key_providers,
    trusted_key_providers,
)
from trusted_infrastructure.manager.desired import Change
from trusted_infrastructure.manager.inventory import Cluster, all_clusters
from trusted_infrastructure.manager.provider_defaults import default_of, own_default
from trusted_infrastructure.manager.vapi.errors import (
    AlreadyExists,
    InvalidArgument,
    ResourceInaccessible,
    UnableToAllocateResource,
)

__all__ = [
    "added",
    "change",
    "changes",
    "check_new",
    "default_of",
    "make_default",
    "names",
    "own_default",
    "publish",
    "removed",
    "report_removal",
    "set_default",
]

KIND = DOCUMENT = "key_providers"
LIMIT = 32  # as vCenter Server
TABLES: Mapping[KeyProviderType, sql.Table] = {
    "STANDARD": standard_key_providers,
    "TRUSTED": trusted_key_providers,
    "NATIVE": native_key_providers,
}
Result = TypeVar("Result")


def names(connection: sql.Connection) -> dict[str, KeyProviderType]:
    """All key providers of this manager with their kind, by name, in the order of names."""
    found: dict[str, KeyProviderType] = {}
    for kind, table in TABLES.items():
        found.update(dict.fromkeys(connection.execute(sql.select(table.c.name)).scalars(), kind))
    return dict(sorted(found.items()))


def check_new(connection: sql.Connection, name: str) -> None:
    """Whether a provider may be added. Raises AlreadyExists, whichever kind has the name, and
    UnableToAllocateResource `too_many_providers`."""
    known = names(connection)
    if name in known:
        raise AlreadyExists(
            f"This manager has a {known[name].lower()} key provider {name!r}; a name is for one "
            "provider of any kind.",
            name,
        )
    if len(known) >= LIMIT:
        raise UnableToAllocateResource(
            f"This manager has {len(known)} key providers, and takes {LIMIT} at most.",
            reason="too_many_providers",
        )


def added(connection: sql.Connection, name: str) -> None:
    """A provider was added: where the manager has no default, it is it."""
    if own_default(connection, None) is None:
        provider_defaults.store(connection, None, name)


def removed(connection: sql.Connection, name: str) -> list[str]:
    """A provider was removed: it is no default any more, and nothing takes its place. Returns whose default
    it was, in words, for `report_removal`."""
    numbers = provider_defaults.users_of(connection, name)
    provider_defaults.clear(connection, name)
    clusters = {cluster.number: cluster.name for cluster in all_clusters(connection)}
    return [
        "the manager" if number == provider_defaults.MANAGER else f"the cluster {clusters[number]!r}"
        for number in numbers
        if number == provider_defaults.MANAGER or number in clusters
    ]


def report_removal(
    context: Context, connection: sql.Connection, name: str, without_default: Sequence[str]
) -> None:
    """Says in the audit record of the operation, and as an event of the same transaction, whose default was
    removed. without_default: what `removed` returned."""
    if not without_default:
        return
    whose = ", ".join(without_default)
    context.audit_detail["default_cleared"] = f"{name}: {whose}"
    crypto_events.record(
        context.manager,
        events.CRYPTO_OPERATION,
        f"The key provider {name} was removed. It was the default of {whose}; no other has taken its place.",
        operation="clear_default",
        user=context.caller.user.name,
        provider=name,
        object_id=name,
        connection=connection,
    )


def set_default(connection: sql.Connection, cluster: Cluster | None, name: str | None) -> None:
    """Makes a provider the default of a cluster, or of the manager (None); name None: none of its own.

    Raises InvalidArgument for one that does not exist."""
    if name is not None and name not in names(connection):
        raise InvalidArgument(
            "provider", f"this manager has no key provider {name!r}", name, reason="no_provider"
        )
    provider_defaults.store(connection, cluster, name)


def make_default(
    context: Context, connection: sql.Connection, cluster: Cluster | None, name: str | None
) -> None:
    """As `set_default`, for a caller: where it is another than before, the audit record of the operation says
    so, and there is an event."""
    before = own_default(connection, cluster)
    set_default(connection, cluster, name)
    if before == name:
        return
    context.audit_detail["default"] = f"{before or 'none'} -> {name or 'none'}"
    whose = "this manager" if cluster is None else f"the cluster {cluster.name}"
    now = "none" if cluster is None else "that of the manager"
    crypto_events.record(
        context.manager,
        events.CRYPTO_OPERATION,
        f"The default key provider of {whose} is now {now if name is None else name}.",
        operation="set_default",
        user=context.caller.user.name,
        provider=name or "",
        object_id=name or "",
        cluster=None if cluster is None else cluster.number,
        connection=connection,
    )


def changes(connection: sql.Connection, cluster: Cluster) -> list[Change]:
    """The documents of a cluster's hosts that follow from the providers, where they differ."""
    content = KeyProviders(providers=dict(names(connection)), default=default_of(connection, cluster))
    known = desired.content(connection, cluster, KIND, DOCUMENT, KeyProviders)
    untold = known is None and not content.providers
    own = [] if untold or known == content else [Change(KIND, DOCUMENT, content)]
    uses_kms = bool(trusted_clusters.services(connection, cluster, "kms_service"))
    return [*own, *trusted_clusters.provider_changes(connection, cluster, uses_kms)]


async def publish(manager: Manager) -> None:
    """Writes what follows for all clusters, and sends it where it changed.

    Where nothing did, which is the rule, no cluster is locked: a change of one that takes its time would keep
    all others waiting. Raises ResourceInaccessible naming the hosts that failed; what is desired is kept."""
    with manager.database.transaction() as connection:
        differing = any(changes(connection, cluster) for cluster in all_clusters(connection))
    if differing:
        await change(manager, lambda _connection: None)


async def change(manager: Manager, work: Callable[[sql.Connection], Result]) -> Result:
    """Changes providers by `work`, and what all clusters desire, in one transaction: so whatever stops the
    manager after it, a remediation completes. Then sends it to the clusters for which something changed.

    Returns what `work` returns. Raises what `work` raises, and ResourceInaccessible naming the hosts of all
    clusters that failed."""
    async with AsyncExitStack() as locks:
        with manager.database.transaction() as connection:
            clusters = all_clusters(connection)
        for cluster in clusters:  # in this order always, or two changes could wait for each other
            await locks.enter_async_context(manager.replication.lock(cluster))
        with manager.database.transaction() as connection:
            result = work(connection)
            # A cluster that was removed since is not there any more; one that was made has no hosts yet.
            clusters = [cluster for cluster in all_clusters(connection) if cluster in clusters]
            changed = [
                cluster
                for cluster in clusters
                if desired.write(connection, cluster, changes(connection, cluster))
            ]
        answers = await asyncio.gather(*(send(manager, cluster) for cluster in changed))
    failures = [answer for answer in answers if answer is not None]
    if failures:
        raise ResourceInaccessible(
            " ".join(error.text for error in failures),
            reason="replication_failed",
            details=[item for error in failures for item in error.messages[1:]],
        )
    return result


async def send(manager: Manager, cluster: Cluster) -> ResourceInaccessible | None:
    """Brings a cluster's hosts to the desired state; the error, so that others are served as well."""
    try:
        await manager.replication.remediate(cluster)
    except ResourceInaccessible as error:
        return error
    return None
