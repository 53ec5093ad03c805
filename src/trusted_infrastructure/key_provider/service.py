# SPDX-License-Identifier: GPL-3.0-or-later
"""The Key Provider Service of a Trust Authority host: `trusted-infrastructure serve key-provider`. SYSTEM K.

Wires the parts; decides nothing itself. Two unix sockets behind nginx: `public.sock` for trusted hosts, which
authenticate by token and proof, and `management.sock` for the manager of the Trust Authority side.
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
from trusted_infrastructure.key_provider.attestation_keys import SIDE, AttestationKeys, Fetch
from trusted_infrastructure.key_provider.host_state import HostState, IdentityFiles, Intervals
from trusted_infrastructure.key_provider.management import ManagementRoutes
from trusted_infrastructure.key_provider.providers import PoolFactory, PrimaryKeys, open_pools
from trusted_infrastructure.key_provider.public import KeyRoutes
from trusted_infrastructure.key_provider.release import ResponseKey
from trusted_infrastructure.key_provider.sealing_key_file import load_or_make
from trusted_infrastructure.key_provider.security_generations import SecurityGenerations
from trusted_infrastructure.rate_limit import RateLimit
from trusted_infrastructure.refusal import Refusal, Unavailable
from trusted_infrastructure.settings import ServiceSettings, group_id, load_settings
from trusted_infrastructure.transport import (
    Application,
    answer_of,
    async_public_client,
    configure_logging,
    serve,
    unreachable,
)

log = structlog.get_logger("trusted_infrastructure.key_provider")

Seconds = Annotated[float, msgspec.Meta(gt=0, le=300)]
HTTPS = 443


class Settings(ServiceSettings, frozen=True, kw_only=True):
    """Settings of the key provider service (/etc/trusted-infrastructure/key-provider.json).

    service_id: "key-provider@<host>". public_name, public_port: where trusted hosts reach this host; proofs
    must be for it. side_ca: PEM of the Trust Authority side's CA. identity_certificate, identity_key: PEM,
    role key-provider-service. anchors_directory: has peers.json. snapshot: published configuration.
    sealing_suite: of this host's configuration key, when it is made. state_check_interval: seconds between
    two looks at the primary keys on the key servers. peer_interval: seconds between two looks at the peers'
    key sets. requests_per_second, burst: allowed for each endorsement key.
    """

    host: Name
    service_id: Name
    public_name: Name
    public_port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = HTTPS
    side_ca: Path
    identity_certificate: Path
    identity_key: Path
    anchors_directory: Path
    snapshot: Path
    state_directory: Path
    run_directory: Path
    sealing_suite: str = sealing.DEFAULT_SUITE
    state_check_interval: Seconds = 60.0
    peer_interval: Seconds = 60.0
    requests_per_second: Annotated[float, msgspec.Meta(gt=0)] = 20.0
    burst: Annotated[int, msgspec.Meta(ge=1)] = 200


@dataclass(frozen=True)
class Parts:
    """The service, put together: its two applications, and what runs beside them."""

    public: Application
    management: Application
    state: HostState
    audit: AuditLog


def build(
    settings: Settings,
    fetch: Fetch,
    clock: Callable[[], float] = time.time,
    pools: PoolFactory = open_pools,
) -> Parts:
    """Put the service together.

    fetch: reads a peer's key set. clock: Unix seconds. pools: opens a provider's key servers.
    Raises Refusal when state cannot be used.
    """
    audit = AuditLog(settings.state_directory / "audit.log", settings.service_id, int(clock()))

    def alarm(provider: str, refusal: Refusal) -> None:
        log.error("primary_key_alarm", provider=provider, code=refusal.code, reason=refusal.message)
        audit.append(
            Decision(
                time=int(clock()),
                service=settings.service_id,
                host="",
                address="",
                code=refusal.code,
                detail={"provider": provider, "reason": refusal.message},
            )
        )

    state = HostState(
        host=settings.host,
        service_id=settings.service_id,
        snapshot=SnapshotReader(settings.snapshot),
        anchors=settings.anchors_directory / "peers.json",
        attestation_keys=AttestationKeys(
            settings.state_directory / "attestation-keys.json", settings.side_ca, fetch, time.monotonic
        ),
        generations=SecurityGenerations(settings.state_directory / "security-generations.json"),
        sealing_key=load_or_make(settings.state_directory / "sealing-key.json", settings.sealing_suite),
        primary_keys=PrimaryKeys(alarm, time.monotonic, pools),
        identity_files=IdentityFiles(settings.identity_certificate, settings.identity_key),
        clock=clock,
        intervals=Intervals(peers=settings.peer_interval, servers=settings.state_check_interval),
    )
    routes = KeyRoutes(
        state,
        audit,
        ResponseKey(),
        RateLimit(settings.requests_per_second, settings.burst, time.monotonic),
        public_url(settings),
        settings.service_id,
        clock,
    )
    return Parts(
        public=Application(routes.routes(), body_limit=public.BODY_LIMIT),
        management=Application(
            ManagementRoutes(state, audit).routes(),
            authenticate_client=LeafVerifier(settings.side_ca, SIDE, {"manager"}, clock),
            body_limit=management.BODY_LIMIT,
        ),
        state=state,
        audit=audit,
    )


def public_url(settings: Settings) -> str:
    """Where trusted hosts reach this service: what the `htu` of their proofs begins with."""
    port = "" if settings.public_port == HTTPS else f":{settings.public_port}"
    return f"https://{settings.public_name}{port}"


def fetch_over_https(side_ca: Path) -> tuple[Fetch, httpx.AsyncClient]:
    """Read a peer's attestation key set from its public name, trusting the side's CA alone."""
    client = async_public_client(side_ca)

    async def fetch(peer: Peer) -> str:
        port = "" if peer.port == HTTPS else f":{peer.port}"
        try:
            response = await client.get(f"https://{peer.public_name}{port}/attestation/v1/keys")
        except httpx.HTTPError as error:
            raise unreachable(peer.host, error) from None
        found = answer_of(response, peer.host)
        if not isinstance(found, dict) or not isinstance(found.get("keys"), str):
            raise Unavailable("peer_answer_invalid", f"{peer.host} answered without a key set")
        keys: str = found["keys"]
        return keys

    return fetch, client


def run(settings_path: Path) -> None:
    """Serve until SIGTERM. Raises Refusal when settings, state or sockets cannot be used."""
    settings = load_settings(settings_path, Settings)
    configure_logging("key-provider", settings.log_level)
    fetch, client = fetch_over_https(settings.side_ca)
    parts = build(settings, fetch)

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await client.aclose()
            parts.state.primary_keys.close()
            parts.audit.close()

    serve(
        {
            settings.run_directory / "public.sock": parts.public,
            settings.run_directory / "management.sock": parts.management,
        },
        allowed_users=settings.allowed_users,
        socket_group=group_id(settings.socket_group),
        lifespan=lifespan,
        background=[
            parts.state.watch_configuration,
            parts.state.watch_key_servers,
            parts.state.watch_peers,
        ],
    )
