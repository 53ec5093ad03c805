# SPDX-License-Identifier: GPL-3.0-or-later
"""What the manager of this side reads of hosts: their states, their history, and every transition in order.

  GET {base}/hosts                      last result of each host; `principal` narrows
  GET {base}/hosts/{host}/history       newest first; `limit`
  GET {base}/transitions                above `after`, oldest first; `limit`

The last is what a manager polls: its answer is as large as what happened, whatever the number of hosts.
Times are Unix seconds. `service`: this service, which judged.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trusted_infrastructure.attestation.host_results import KEPT_PER_HOST
from trusted_infrastructure.attestation.state import State
from trusted_infrastructure.refusal import InvalidField
from trusted_infrastructure.transport import JSONAnswer

FEED_LIMIT = 1000
NUMBER_LIMIT = 2**62


@dataclass(frozen=True)
class HostReports:
    """in_thread: runs what blocks. clock: Unix seconds."""

    state: State
    service_id: str
    clock: Callable[[], float]
    in_thread: Callable[[Callable[[], Any]], Awaitable[Any]]

    def routes(self, base: str) -> list[Route]:
        """The routes below `base`."""
        return [
            Route(base + "/hosts", self.hosts, methods=["GET"]),
            Route(base + "/hosts/{host}/history", self.history, methods=["GET"]),
            Route(base + "/transitions", self.transitions, methods=["GET"]),
        ]

    async def hosts(self, request: Request) -> Response:
        """GET hosts."""
        principal = request.query_params.get("principal")
        found = await self.in_thread(lambda: self.state.results(self._now()))
        return JSONAnswer(
            {
                "service": self.service_id,
                "hosts": [one for one in found if principal is None or one.principal == principal],
            }
        )

    async def history(self, request: Request) -> Response:
        """GET hosts/{host}/history."""
        host = request.path_params["host"]
        limit = number(request, "limit", KEPT_PER_HOST, 1, KEPT_PER_HOST)
        found = await self.in_thread(lambda: self.state.history(host, limit, self._now()))
        return JSONAnswer({"service": self.service_id, "history": found})

    async def transitions(self, request: Request) -> Response:
        """GET transitions."""
        after = number(request, "after", 0, 0, NUMBER_LIMIT)
        limit = number(request, "limit", FEED_LIMIT, 1, FEED_LIMIT)
        found = await self.in_thread(lambda: self.state.transitions(after, limit, self._now()))
        return JSONAnswer({"service": self.service_id, **msgspec.to_builtins(found)})

    def _now(self) -> int:
        return int(self.clock())


def number(request: Request, name: str, default: int, least: int, most: int) -> int:
    """A query parameter. Raises InvalidField `malformed_request`."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and least <= int(text) <= most):
        raise InvalidField(name, f"expected a number from {least} to {most}")
    return int(text)
