# SPDX-License-Identifier: GPL-3.0-or-later
"""What a manager does by itself, every minute: forgetting what is over, and renewing what ends."""

from __future__ import annotations

from collections.abc import Awaitable

import structlog

from trusted_infrastructure.manager import (
    audit_heads,
    native_push,
    provider_health,
    standard_provider_health,
    trusted_provider_watch,
)
from trusted_infrastructure.manager.assertions import renew
from trusted_infrastructure.manager.catching_up import catch_up
from trusted_infrastructure.manager.context import Context, Manager
from trusted_infrastructure.manager.inventory import Cluster, all_clusters
from trusted_infrastructure.manager.key_providers import learn_missing_check_values
from trusted_infrastructure.manager.membership import restore
from trusted_infrastructure.manager.provider_registry import publish
from trusted_infrastructure.manager.vapi.errors import VapiError

log = structlog.get_logger("trusted_infrastructure.manager")


async def maintain(manager: Manager) -> None:
    """One round. A failure is logged and tried again in the next round; the service goes on."""
    manager.sessions.forget_expired()
    manager.tasks.forget_finished()
    with manager.database.transaction() as connection:
        clusters = all_clusters(connection)
    work = look_after if manager.settings.side == "trust_authority" else renew
    for cluster in clusters:
        await attempt(cluster.name, work(manager, cluster))
        if manager.settings.side == "trust_authority":
            await attempt(cluster.name, trusted_provider_watch.look(manager, cluster))
    if manager.settings.side == "workload":
        await attempt("key providers", publish(manager))
        for cluster in clusters:
            await attempt(cluster.name, catch_up(manager, cluster))
        await attempt("health of key providers", provider_health.check_trusted(manager))
        await attempt("standard key providers", standard_provider_health.upkeep(manager))
        await attempt("native key providers", native_push.upkeep(manager))


async def attempt(what: str, work: Awaitable[None]) -> None:
    """One piece of work; what goes wrong is logged. what: whom it is about."""
    try:
        await work
    except VapiError as error:
        log.warning("maintenance_incomplete", about=what, reason=error.reason, text=error.text)
    except Exception as error:
        log.error("maintenance_failed", about=what, type=type(error).__name__)


async def repair(manager: Manager, cluster: Cluster) -> None:
    """Gives Trust Authority hosts that were away what they missed; learns check values of primary keys.

    The workload side repairs on demand: there, an operation takes the configuration off hosts on purpose.
    Raises ResourceInaccessible naming hosts."""
    async with manager.replication.lock(cluster):
        await restore(manager, cluster)
        await learn_missing_check_values(Context(manager=manager, address="", cluster_named=cluster))


async def look_after(manager: Manager, cluster: Cluster) -> None:
    """One round for a Trust Authority Cluster."""
    try:
        await audit_heads.collect(manager, cluster)
    finally:
        await repair(manager, cluster)
