# SPDX-License-Identifier: GPL-3.0-or-later
"""What the manager of this side reads of hosts' identities, and how it releases one.

  GET  {base}/identities                           all; `host` narrows
  POST {base}/hosts/{host}/release?principal=...   the host's next attestation binds it anew

A release is in the audit log before it is done. To do it again changes nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trusted_infrastructure.attestation.state import State
from trusted_infrastructure.audit import Decision
from trusted_infrastructure.refusal import InvalidField
from trusted_infrastructure.transport import JSONAnswer


@dataclass(frozen=True)
class IdentityReports:
    """in_thread: runs what blocks. clock: Unix seconds. record: writes an audit record to disk."""

    state: State
    service_id: str
    clock: Callable[[], float]
    in_thread: Callable[[Callable[[], Any]], Awaitable[Any]]
    record: Callable[[Decision], Any]

    def routes(self, base: str) -> list[Route]:
        """The routes below `base`."""
        return [
            Route(base + "/identities", self.identities, methods=["GET"]),
            Route(base + "/hosts/{host}/release", self.release, methods=["POST"]),
        ]

    async def identities(self, request: Request) -> Response:
        """GET identities."""
        host = request.query_params.get("host")
        found = await self.in_thread(lambda: self.state.identities(host))
        return JSONAnswer({"service": self.service_id, "identities": found})

    async def release(self, request: Request) -> Response:
        """POST release."""
        host = request.path_params["host"]
        principal = request.query_params.get("principal", "")
        if not principal:
            raise InvalidField("principal", "is required: the issuer that vouches for the host")
        address, caller = request.headers.get("x-real-ip", ""), request.state.caller.host

        def released() -> bool:
            bound = self.state.identity(principal, host)
            if bound is None:
                return False
            self.record(
                Decision(
                    time=int(self.clock()),
                    service=self.service_id,
                    host=host,
                    address=address,
                    code="identity_released",
                    detail={"principal": principal, "ek_digest": bound.ek_digest, "by": caller},
                )
            )
            return self.state.release(principal, host)

        return JSONAnswer({"changed": await self.in_thread(released)})
