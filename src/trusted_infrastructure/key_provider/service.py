# SPDX-License-Identifier: GPL-3.0-or-later
"""The Key Provider Service of a Trust Authority host: `trusted-infrastructure serve key-provider`.

Wires the parts; decides nothing itself. Two unix sockets behind nginx: `public.sock` for trusted hosts, which
authenticate by token and proof, and `management.sock` for the manager of the Trust Authority side.

Workers have in common what is made before they are forked (`Shared`), and files that are made for several
processes: audit log, usage, key sets, security generations. Each asks the key servers for itself, and keeps
primary keys in its own memory.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import httpx
import msgspec
import structlog

from trusted_infrastructure import sealing
from trusted_infrastructure.audit import AuditLog, Decision
from trusted_infrastructure.config.documents import Name, Peer
from trusted_infrastructure.config.snapshot import SnapshotReader
from trusted_infrastructure.identity import LeafVerifier
from trusted_infrastructure.key_provider import management, public
from trusted_infrastructure.key_provider.attestation_keys import MAX_AGE, SIDE, AttestationKeys, Fetch
from trusted_infrastructure.key_provider.host_state import HostState, IdentityFiles, Intervals
from trusted_infrastructure.key_provider.key_servers import PoolFactory, open_pools
from trusted_infrastructure.key_provider.management import ManagementRoutes
from trusted_infrastructure.key_provider.providers import PrimaryKeys
from trusted_infrastructure.key_provider.public import KeyRoutes
from trusted_infrastructure.key_provider.release import ResponseKey
from trusted_infrastructure.key_provider.sealing_key_file import load_or_make
from trusted_infrastructure.key_provider.security_generations import SecurityGenerations
from trusted_infrastructure.key_provider.usage import Usage
from trusted_infrastructure.peers.oversight import Oversight
from trusted_infrastructure.peers.watch import FetchHead, fetch_over_https
from trusted_infrastructure.process_hardening import lock_memory
from trusted_infrastructure.rate_limit import Limit, RateLimit, SharedRateLimit
from trusted_infrastructure.refusal import Refusal, Unavailable
from trusted_infrastructure.settings import TrustAuthoritySettings, group_id, load_settings
from trusted_infrastructure.transport import (
    Application,
    Doors,
    Program,
    configure_logging,
    serve_workers,
    user_ids,
)

log = structlog.get_logger("trusted_infrastructure.key_provider")

Seconds = Annotated[float, msgspec.Meta(gt=0, le=300)]
HTTPS = 443


class Settings(TrustAuthoritySettings, frozen=True, kw_only=True):
    """Settings of the key provider service (/etc/trusted-infrastructure/key-provider.json).

    service_id: "key-provider@<host>". public_name, public_port: where trusted hosts reach this host; proofs
    must be for it. side_ca: PEM of the Trust Authority side's CA. identity_certificate, identity_key: PEM,
    role key-provider-service. snapshot: published configuration. key_set_max_age: seconds for which the keys
    of an attestation service that is down verify tokens, since it last confirmed them.
    sealing_suite: of this host's configuration key, when it is made. state_check_interval: seconds between
    two looks at the primary keys on the key servers. peer_interval: seconds between two looks at the peers'
    key sets. requests_per_second, burst: allowed for each endorsement key, by all workers. workers: processes
    that answer; one for each core that the service may use.
    """

    host: Name
    service_id: Name
    public_name: Name
    public_port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = HTTPS
    side_ca: Path
    identity_certificate: Path
    identity_key: Path
    snapshot: Path
    state_directory: Path
    run_directory: Path
    sealing_suite: str = sealing.DEFAULT_SUITE
    state_check_interval: Seconds = 60.0
    peer_interval: Seconds = 60.0
    key_set_max_age: Annotated[int, msgspec.Meta(ge=60, le=7 * 86_400)] = MAX_AGE
    requests_per_second: Annotated[float, msgspec.Meta(gt=0)] = 20.0
    burst: Annotated[int, msgspec.Meta(ge=1)] = 200
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1


@dataclass(frozen=True)
class Shared:
    """What the workers of one service have in common without a file. Never written, logged or sent."""

    response_key: ResponseKey
    limit: Limit

    @classmethod
    def make(cls, settings: Settings) -> Shared:
        """A new key, and a limit in shared memory. Call before a worker is forked."""
        limit = SharedRateLimit(settings.requests_per_second, settings.burst, time.monotonic)
        return cls(ResponseKey(), limit)


@dataclass(frozen=True)
class Parts:
    """The service, put together: its two applications, and what runs beside them."""

    public: Application
    management: Application
    state: HostState
    audit: AuditLog
    usage: Usage
    oversight: Oversight

    def close(self) -> None:
        """Let go of keys, connections and files."""
        self.state.primary_keys.close()
        self.usage.close()
        self.oversight.close()


def build(
    settings: Settings,
    fetch: Fetch,
    clock: Callable[[], float] = time.time,
    pools: PoolFactory = open_pools,
    fetch_head: FetchHead | None = None,
    shared: Shared | None = None,
) -> Parts:
    """Put the service together.

    fetch: reads a peer's key set. fetch_head: reads a peer's audit head; over HTTPS without it.
    clock: Unix seconds. pools: opens a provider's key servers. shared: with other workers; None: there are
    none.
    Raises Refusal when state cannot be used.
    """
    shared = shared or Shared(
        ResponseKey(), RateLimit(settings.requests_per_second, settings.burst, time.monotonic)
    )
    identity_files = IdentityFiles(settings.identity_certificate, settings.identity_key)
    oversight = Oversight(settings, "/kms/v1", identity_files.load, clock, fetch_head)
    audit = oversight.log
    primary_keys = PrimaryKeys(_alarm(settings.service_id, audit, clock), time.monotonic, pools)
    state = _host_state(settings, fetch, clock, identity_files, oversight, primary_keys)
    usage = Usage(settings.state_directory / "usage.db", clock)
    routes = KeyRoutes(
        state,
        audit,
        usage,
        shared.response_key,
        shared.limit,
        public_url(settings),
        settings.service_id,
        clock,
        oversight.ready,
    )
    return Parts(
        public=Application(
            [*routes.routes(), *oversight.routes.public("/kms/v1")], body_limit=public.BODY_LIMIT
        ),
        management=Application(
            [*ManagementRoutes(state, audit, usage).routes(), *oversight.routes.management("/kms/manage/v1")],
            authenticate_client=LeafVerifier(settings.side_ca, SIDE, {"manager"}, clock),
            body_limit=management.BODY_LIMIT,
        ),
        state=state,
        audit=audit,
        usage=usage,
        oversight=oversight,
    )


def _alarm(service_id: str, audit: AuditLog, clock: Callable[[], float]) -> Callable[[str, Refusal], None]:
    def alarm(provider: str, refusal: Refusal) -> None:
        log.error("primary_key_alarm", provider=provider, code=refusal.code, reason=refusal.message)
        audit.append(
            Decision(
                time=int(clock()),
                service=service_id,
                host="",
                address="",
                code=refusal.code,
                detail={"provider": provider, "reason": refusal.message},
            )
        )

    return alarm


def _host_state(
    settings: Settings,
    fetch: Fetch,
    clock: Callable[[], float],
    identity_files: IdentityFiles,
    oversight: Oversight,
    primary_keys: PrimaryKeys,
) -> HostState:
    return HostState(
        host=settings.host,
        service_id=settings.service_id,
        snapshot=SnapshotReader(settings.snapshot),
        anchors=settings.anchors_directory / "peers.json",
        attestation_keys=AttestationKeys(
            settings.state_directory / "attestation-keys.json",
            settings.side_ca,
            fetch,
            time.monotonic,
            settings.key_set_max_age,
        ),
        generations=SecurityGenerations(settings.state_directory / "security-generations.json"),
        sealing_key=load_or_make(settings.state_directory / "sealing-key.json", settings.sealing_suite),
        primary_keys=primary_keys,
        identity_files=identity_files,
        clock=clock,
        intervals=Intervals(peers=settings.peer_interval, servers=settings.state_check_interval),
        problems=oversight.problems,
    )


def public_url(settings: Settings) -> str:
    """Where trusted hosts reach this service: what the `htu` of their proofs begins with."""
    port = "" if settings.public_port == HTTPS else f":{settings.public_port}"
    return f"https://{settings.public_name}{port}"


def run(settings_path: Path) -> None:
    """Serve until SIGTERM. Raises Refusal when settings, state or sockets cannot be used."""
    settings = load_settings(settings_path, Settings)
    configure_logging("key-provider", settings.log_level)
    public_socket, management_socket = (
        settings.run_directory / name for name in ("public.sock", "management.sock")
    )
    doors = Doors(
        (public_socket, management_socket),
        allowed_uids=user_ids(settings.allowed_users),
        socket_group=group_id(settings.socket_group),
    )
    shared = Shared.make(settings)
    if settings.workers > 1:
        # What is made or repaired on opening is made by one process, and what cannot be used shows at once.
        build(settings, _nothing_is_fetched, shared=shared).close()

    def start(_number: int) -> Program:
        if settings.workers > 1 and settings.lock_memory:
            lock_memory()  # a fork does not inherit it
        fetch, client = fetch_over_https(settings.side_ca, "/attestation/v1/keys", "keys")
        parts = build(settings, fetch, shared=shared)
        background = [
            parts.state.watch_configuration,
            parts.state.watch_key_servers,
            parts.state.watch_peers,
            *parts.oversight.background,
        ]
        apps = {public_socket: parts.public, management_socket: parts.management}
        return Program(apps, lambda: _open(parts, client), background)

    serve_workers(doors, start, settings.workers)


@contextlib.asynccontextmanager
async def _open(parts: Parts, client: httpx.AsyncClient) -> AsyncIterator[None]:
    try:
        await parts.oversight.start()
        yield
    finally:
        await client.aclose()
        await parts.oversight.close_client()
        parts.close()


async def _nothing_is_fetched(peer: Peer) -> str:
    raise Unavailable("peer_unreachable", f"{peer.host} is not asked before the service runs")
