# SPDX-License-Identifier: GPL-3.0-or-later
"""Audit records of the management API: who did what, and who was refused (docs/protocol.md 10)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from trusted_infrastructure.audit import AuditLog, Decision
from trusted_infrastructure.manager.vapi.operation import AnyOperation


class Auditor:
    """Writes one record for each decision; durable before the decision takes effect."""

    def __init__(self, log: AuditLog, service: str, clock: Callable[[], float]) -> None:
        self._log = log
        self._service = service
        self._clock = clock

    def close(self) -> None:
        """Close the log. Who decides something after that is refused."""
        self._log.close()

    async def record(
        self,
        operation: AnyOperation,
        *,
        user: str,
        address: str,
        code: str,
        target: str = "",
        task: str = "",
        detail: Mapping[str, str] | None = None,
    ) -> None:
        """code: "ok" or a reason code. target: what the path names. Never the input: it may hold a secret.
        detail: what the handler says of its change.

        Raises Unavailable `audit_unavailable`."""
        decision = Decision(
            time=int(self._clock()),
            service=self._service,
            host="",
            address=address,
            code=code,
            detail={
                "user": user,
                "operation": f"{operation.service}.{operation.wire_id}",
                "target": target,
                "task": task,
                **(detail or {}),
            },
        )
        await asyncio.to_thread(self._log.append, decision)
