# SPDX-License-Identifier: GPL-3.0-or-later
"""How a manager learns what became of hosts: round by round, apart from its other work, so that neither keeps
the other waiting."""

from __future__ import annotations

import structlog

from trusted_infrastructure.manager import attestation_states, attestation_verdicts, events
from trusted_infrastructure.manager.context import Manager
from trusted_infrastructure.manager.inventory import all_clusters
from trusted_infrastructure.manager.operations.trust_hosts import look

log = structlog.get_logger("trusted_infrastructure.manager")


async def watch(manager: Manager) -> None:
    """One round. A failure is logged and tried again in the next; the service goes on."""
    try:
        if manager.settings.side == "trust_authority":
            with manager.database.transaction() as connection:
                clusters = all_clusters(connection)
            for cluster in clusters:
                await attestation_verdicts.collect(manager, cluster)
        else:
            await attestation_states.poll(manager, lambda host, timeout: look(manager, host, timeout))
        settings = manager.settings
        with manager.database.transaction() as connection:
            events.forget(connection, int(manager.clock()), settings.event_retention, settings.event_limit)
    except Exception as error:
        log.error("watching_failed", type=type(error).__name__)
