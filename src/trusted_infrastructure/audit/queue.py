# SPDX-License-Identifier: GPL-3.0-or-later
"""An audit log for one event loop: what is decided while the disk is busy goes there together.

Each caller of `append` waits for the disk as it does at the log itself. But there is one thread instead of
one for each, and one lock and one sync for all that wait.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from trusted_infrastructure.audit.log import AuditLog
from trusted_infrastructure.audit.records import Decision


class AuditQueue:
    """See the module."""

    def __init__(self, log: AuditLog) -> None:
        """log: may be used by others at the same time."""
        self._log = log
        self._thread = ThreadPoolExecutor(1, "audit")
        self._waiting: list[tuple[Decision, asyncio.Future[None]]] = []
        self._busy = False

    async def append(self, decision: Decision) -> None:
        """Write one record and wait until it is on disk. Raises Unavailable `audit_unavailable`.

        Who is cancelled while it waits may have a record all the same."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((decision, written))
        if not self._busy:
            self._busy = True
            self._write()
        await written

    def _write(self) -> None:
        taken, self._waiting = self._waiting, []
        decisions = [decision for decision, _written in taken]
        loop = asyncio.get_running_loop()
        under_way = loop.run_in_executor(self._thread, self._log.append_all, decisions)
        under_way.add_done_callback(lambda done: self._written(taken, done.exception()))

    def _written(
        self, taken: list[tuple[Decision, asyncio.Future[None]]], error: BaseException | None
    ) -> None:
        for _decision, written in taken:
            if written.done():
                continue  # cancelled
            if error is None:
                written.set_result(None)
            else:
                written.set_exception(error)
        if self._waiting:
            self._write()
        else:
            self._busy = False
