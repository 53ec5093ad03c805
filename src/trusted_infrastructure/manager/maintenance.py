# SPDX-License-Identifier: GPL-3.0-or-later
"""What a manager does by itself, every few minutes: forgetting what is over, and renewing what ends."""

from __future__ import annotations

import structlog

from trusted_infrastructure.manager.context import Manager

log = structlog.get_logger("trusted_infrastructure.manager")


async def maintain(manager: Manager) -> None:
    """One round. A failure is logged and tried again in the next round; the service goes on."""
    try:
        manager.sessions.forget_expired()
        manager.tasks.forget_finished()
    except Exception as error:
        log.error("maintenance_failed", type=type(error).__name__)
