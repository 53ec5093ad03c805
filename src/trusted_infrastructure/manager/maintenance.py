# SPDX-License-Identifier: GPL-3.0-or-later
"""What a manager does by itself, every few minutes: forgetting what is over, and renewing what ends."""

from __future__ import annotations

import structlog

from trusted_infrastructure.manager.assertions import renew
from trusted_infrastructure.manager.context import Context, Manager
from trusted_infrastructure.manager.inventory import all_clusters
from trusted_infrastructure.manager.key_providers import learn_missing_check_values
from trusted_infrastructure.manager.vapi.errors import VapiError

log = structlog.get_logger("trusted_infrastructure.manager")


async def maintain(manager: Manager) -> None:
    """One round. A failure is logged and tried again in the next round; the service goes on."""
    try:
        manager.sessions.forget_expired()
        manager.tasks.forget_finished()
        with manager.database.transaction() as connection:
            clusters = all_clusters(connection)
        if manager.principal is not None:
            await renew(manager, clusters)
        for cluster in clusters:
            async with manager.replication.lock(cluster):
                await learn_missing_check_values(Context(manager=manager, address="", cluster_named=cluster))
    except VapiError as error:
        log.warning("maintenance_incomplete", reason=error.reason, text=error.text)
    except Exception as error:
        log.error("maintenance_failed", type=type(error).__name__)
