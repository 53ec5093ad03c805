# SPDX-License-Identifier: GPL-3.0-or-later
"""Documents of the workload side that hosts get without a remediation when they were away: those that no
operation takes off hosts on purpose.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from trusted_infrastructure.config.documents import Document
from trusted_infrastructure.manager.comparison import Applied, to_send
from trusted_infrastructure.manager.context import Manager
from trusted_infrastructure.manager.desired import everything, for_host
from trusted_infrastructure.manager.inventory import Cluster, hosts_of
from trusted_infrastructure.manager.nodes import NodeError, applied

KINDS = frozenset({"key_providers", "pcr_policy"})
log = structlog.get_logger("trusted_infrastructure.manager")


async def catch_up(manager: Manager, cluster: Cluster) -> None:
    """Sends the hosts of a cluster what they lack. Those that do not answer get it in a later round."""
    with manager.database.transaction() as connection:
        names = [host.name for host in hosts_of(connection, cluster)]
        if not any(item.document.kind in KINDS for item in everything(connection, cluster)):
            return
    await asyncio.gather(*(bring(manager, cluster, name) for name in names))


async def bring(manager: Manager, cluster: Cluster, host: str) -> None:
    """Sends one host what it lacks. The lock is not held while it is asked: it may be slow, or down."""
    try:
        found = await applied(manager.nodes, host)
        if not lacking(manager, cluster, host, found):
            return
        async with manager.replication.lock(cluster):
            await manager.replication.send(host, lacking(manager, cluster, host, found), 0)
    except NodeError as error:
        log.info("not_caught_up", host=host, code=error.code, error=error.text)


def lacking(manager: Manager, cluster: Cluster, host: str, found: Applied) -> Sequence[Document]:
    """What a host should have of these kinds and has not, as of now. found: what it has of all kinds."""
    with manager.database.transaction() as connection:
        wanted = for_host(everything(connection, cluster), host)
    present = Applied([item for item in found.documents if item.kind in KINDS], found.security_generation)
    return to_send([document for document in wanted if document.kind in KINDS], present)
