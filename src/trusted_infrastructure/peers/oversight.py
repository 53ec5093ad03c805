# SPDX-License-Identifier: GPL-3.0-or-later
"""What makes a service of a Trust Authority host answerable: its audit log, its clock, and its peers.

Both services open one `Oversight` in each of their processes, and ask it before each decision.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import httpx

from trusted_infrastructure.audit import AuditLog, Head, Rotation
from trusted_infrastructure.clock_guard import ClockGuard, Clocks
from trusted_infrastructure.config.documents import Peer
from trusted_infrastructure.config.snapshot import SnapshotReader
from trusted_infrastructure.peers.routes import AuditRoutes, Identity, role_of, signed_head
from trusted_infrastructure.peers.watch import FetchHead, PeerWatch, Service, fetch_over_https
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.transport.unix_server import Background

AUDIT_LOG = "audit.jsonl"
CLOCK_STATE = "clock.json"
PEER_STATE = "peer-heads.json"


class Settings(Protocol):
    """What the settings of both services have."""

    @property
    def host(self) -> str: ...
    @property
    def service_id(self) -> str: ...
    @property
    def side_ca(self) -> Path: ...
    @property
    def snapshot(self) -> Path: ...
    @property
    def state_directory(self) -> Path: ...
    @property
    def anchors_directory(self) -> Path: ...
    @property
    def audit_segment_size(self) -> int: ...
    @property
    def audit_segments_kept(self) -> int: ...
    @property
    def clock_max_unsynchronized(self) -> int: ...
    @property
    def peer_head_interval(self) -> float: ...


class Oversight:
    """One process's part of it. `ready` may be called from any thread; the rest is for one event loop."""

    def __init__(
        self,
        settings: Settings,
        base: str,
        identity: Identity,
        clock: Callable[[], float] = time.time,
        fetch: FetchHead | None = None,
        clocks: Clocks | None = None,
    ) -> None:
        """base: of the service's public routes, such as /attestation/v1. identity: signs heads.

        clock: Unix seconds. fetch: reads a peer's head; over HTTPS where it is None.
        Raises Unavailable `audit_unavailable`, `state_unusable`.
        """
        state = settings.state_directory
        self._reader = SnapshotReader(settings.snapshot)
        self._side_ca = settings.side_ca
        self._head_path = f"{base}/audit-head"
        self._fetch = fetch
        self._client: httpx.AsyncClient | None = None
        clocks = clocks or Clocks(wall=clock)

        def sign(head: Head) -> str:
            return signed_head(head, settings.service_id, identity, int(clock()))

        rotation = Rotation(settings.audit_segment_size, settings.audit_segments_kept, sign)
        self.log = AuditLog(state / AUDIT_LOG, settings.service_id, int(clock()), rotation)
        self.guard = ClockGuard(
            state / CLOCK_STATE, settings.clock_max_unsynchronized, self.log.last_time, clocks
        )
        self.watch = PeerWatch(
            Service(settings.host, role_of(settings.service_id)),
            self._reader.current,
            settings.anchors_directory / "peers.json",
            settings.side_ca,
            state / PEER_STATE,
            self.guard,
            self._ask,
            clock,
            clocks,
            settings.peer_head_interval,
        )
        self.routes = AuditRoutes(
            self.log,
            state / AUDIT_LOG,
            settings.service_id,
            identity,
            self.watch,
            settings.side_ca,
            self._generation,
            clock,
        )

    def ready(self, generation: int | None) -> None:
        """May this service decide now? generation: security generation of what it would decide by; None where
        it only vouches for its own keys.

        Raises Unavailable `clock_went_back`, `clock_off_peers`, `clock_unsynchronized`,
        `configuration_stale`.
        """
        self.guard.check()
        if generation is not None:
            self.watch.check(generation)

    async def start(self) -> None:
        """Before anything is served: see what the peers say, for a few seconds at most."""
        await self.watch.start()

    @property
    def background(self) -> Sequence[Background]:
        """Endless tasks that run beside the service."""
        return (self.guard.watch, self.watch.watch)

    def problems(self) -> tuple[list[str], list[str]]:
        """For the status: what makes this service refuse, and what somebody should look at."""
        generation = self._generation()
        errors, warnings = self.guard.problems()
        if generation is not None:
            stale, others = self.watch.problems(generation)
            errors, warnings = errors + stale, warnings + others
        return errors, warnings

    async def close_client(self) -> None:
        """Close connections to peers."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def close(self) -> None:
        """Close the audit log."""
        self.log.close()

    def _generation(self) -> int | None:
        try:
            return self._reader.current().security_generation
        except Refusal:
            return None

    async def _ask(self, peer: Peer) -> str:
        if self._fetch is None:
            self._fetch, self._client = fetch_over_https(self._side_ca, self._head_path)
        return await self._fetch(peer)
