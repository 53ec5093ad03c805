# SPDX-License-Identifier: GPL-3.0-or-later
"""The manager as a service: its parts put together, and served on public.sock behind nginx."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import structlog
from starlette.types import ASGIApp

from trusted_infrastructure.audit import AuditLog
from trusted_infrastructure.manager import principal
from trusted_infrastructure.manager.accounts import Accounts
from trusted_infrastructure.manager.audit_records import Auditor
from trusted_infrastructure.manager.context import Manager
from trusted_infrastructure.manager.database import Database
from trusted_infrastructure.manager.database_secrets import DatabaseSecrets
from trusted_infrastructure.manager.key_delivery import serve_key_requests
from trusted_infrastructure.manager.key_quota import KeyQuota
from trusted_infrastructure.manager.maintenance import maintain
from trusted_infrastructure.manager.nodes import HttpNodes, Nodes
from trusted_infrastructure.manager.operations import TABLE
from trusted_infrastructure.manager.replication import Replication
from trusted_infrastructure.manager.sessions import Sessions
from trusted_infrastructure.manager.settings import ManagerSettings
from trusted_infrastructure.manager.standard_key_servers import KeyServers
from trusted_infrastructure.manager.tasks import Tasks
from trusted_infrastructure.manager.users import LoginLimiter
from trusted_infrastructure.manager.vapi.dispatch import explain
from trusted_infrastructure.manager.vapi.errors import InvalidArgument
from trusted_infrastructure.manager.vapi.rest import RestApi
from trusted_infrastructure.manager.watching import watch
from trusted_infrastructure.settings import group_id, load_settings
from trusted_infrastructure.transport import configure_logging, management_client, serve

log = structlog.get_logger("trusted_infrastructure.manager")

# Tasks get this long at SIGTERM; what they committed is kept, and they are FAILED when it is over.
TASK_GRACE = 2.0


def build(settings: ManagerSettings, nodes: Nodes, clock: Callable[[], float] = time.time) -> Manager:
    """The parts of a manager. Tasks that an earlier process left running are failed here.

    Raises Refusal for files that cannot be used."""
    database = Database(settings.database)
    users = Accounts(settings.users, database)
    tasks = Tasks(database, clock, settings.host, settings.task_retention, explain)
    interrupted = tasks.recover()
    if interrupted:
        log.warning("tasks_interrupted", count=interrupted)
    secrets = DatabaseSecrets(settings.state_directory / "database-secrets.key")
    return Manager(
        settings=settings,
        clock=clock,
        database=database,
        users=users,
        limiter=LoginLimiter(clock),
        sessions=Sessions(database, users, clock, settings.session_idle, settings.session_lifetime),
        tasks=tasks,
        nodes=nodes,
        replication=Replication(database, nodes),
        auditor=Auditor(
            AuditLog(settings.state_directory / "audit.log", f"manager@{settings.host}", int(clock())),
            f"manager@{settings.host}",
            clock,
        ),
        principal=load_principal(settings),
        secrets=secrets,
        key_servers=KeyServers(secrets, clock),
        key_quota=KeyQuota(settings.host_key_limit, settings.host_key_rate),
        table=TABLE,
    )


def load_principal(settings: ManagerSettings) -> principal.Principal | None:
    """The principal that the settings name, if any. Raises InvalidField naming the file."""
    if settings.principal_certificate is None or settings.principal_key is None:
        return None
    return principal.load(settings.issuer, settings.principal_certificate, settings.principal_key)


def application(manager: Manager) -> ASGIApp:
    """The ASGI application of public.sock."""
    return RestApi(manager)


async def close(manager: Manager) -> None:
    """Stops tasks, closes connections."""
    await manager.tasks.close(TASK_GRACE)
    await manager.nodes.close()
    manager.key_servers.close()
    manager.database.close()
    manager.auditor.close()


def run(settings_path: Path) -> None:
    """Serve until SIGTERM. Raises Refusal when settings, files or sockets cannot be used."""
    settings = load_settings(settings_path, ManagerSettings)
    configure_logging("manager", settings.log_level)

    def client_for(_host: str) -> httpx.AsyncClient:
        return management_client(
            settings.side_ca,
            settings.client_certificate,
            settings.client_key,
            timeout=settings.node_timeout,
        )

    manager = build(settings, HttpNodes(client_for))

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await close(manager)

    async def background() -> None:
        while True:
            await maintain(manager)
            await asyncio.sleep(settings.maintenance_interval)

    async def watching() -> None:
        while True:
            await watch(manager)
            await asyncio.sleep(settings.attestation_poll_interval)

    async def key_requests() -> None:
        await serve_key_requests(manager)

    parts = [background, watching]
    serve(
        {settings.run_directory / "public.sock": application(manager)},
        allowed_users=settings.allowed_users,
        socket_group=group_id(settings.socket_group),
        lifespan=lifespan,
        background=[*parts, key_requests] if settings.side == "workload" else parts,
        not_http=lambda text: InvalidArgument("request", text).body(),
    )
