# SPDX-License-Identifier: GPL-3.0-or-later
"""Running an operation, whatever protocol asked for it: who asks, about what, tasks, audit."""

from __future__ import annotations

import traceback
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from trusted_infrastructure.manager.authorization import check_held, check_object, wanted_of
from trusted_infrastructure.manager.context import Basic, Context, Manager
from trusted_infrastructure.manager.inventory import Cluster, Host, all_clusters, find_cluster, find_host
from trusted_infrastructure.manager.nodes import NodeError
from trusted_infrastructure.manager.permissions import rights_of
from trusted_infrastructure.manager.tasks import DynamicId, NewTask, Running
from trusted_infrastructure.manager.vapi.errors import (
    NotFound,
    ServiceUnavailable,
    Unauthorized,
    Unsupported,
    VapiError,
    from_refusal,
)
from trusted_infrastructure.manager.vapi.operation import AnyOperation
from trusted_infrastructure.manager.vapi.structure import FieldError, Structure, argument_error
from trusted_infrastructure.refusal import Refusal

SIDES = {"trust_authority": "Trust Authority", "workload": "workload"}
log = structlog.get_logger("trusted_infrastructure.manager")


@dataclass(frozen=True)
class Caller:
    """Who asks: a session id, credentials for a login, or the token of a download."""

    address: str
    session: str | None = field(default=None, repr=False)
    basic: Basic | None = None
    bearer: str | None = field(default=None, repr=False)


async def authenticate(manager: Manager, operation: AnyOperation, caller: Caller) -> Context:
    """A context with the caller's session, if the user may ask this at all.

    Raises Unauthenticated, Unauthorized."""
    if operation.public:
        return Context(manager=manager, address=caller.address, basic=caller.basic, bearer=caller.bearer)
    session = manager.sessions.find(caller.session)
    with manager.database.transaction() as connection:
        rights = rights_of(connection, session.user)
    context = Context(
        manager=manager,
        address=caller.address,
        session=session,
        rights=rights,
        wanted=tuple(wanted_of(operation)),
    )
    try:
        check_held(operation, rights)
    except Unauthorized as error:
        await record(context, operation, error.reason)
        raise
    return context


async def locate(context: Context, operation: AnyOperation, path: Mapping[str, str]) -> Context:
    """The context with the objects that the path names. Raises NotFound, Unauthorized, Unsupported."""
    check_side(context.manager, operation, path)
    cluster, host = objects(context.manager, path)
    if not operation.public:
        try:
            check_object(operation, context.caller_rights, cluster, host)
        except Unauthorized as error:
            await record(context, operation, error.reason, target(operation, path))
            raise
    return replace(context, cluster_named=cluster, host_named=host)


def check_side(manager: Manager, operation: AnyOperation, path: Mapping[str, str]) -> None:
    """Each manager serves the whole API over its own clusters: those of the other side it does not have.

    Raises NotFound for an object that only the other side can have, Unsupported for a change without one."""
    if operation.side is None or operation.side == manager.settings.side:
        return
    here, there = SIDES[manager.settings.side], SIDES[operation.side]
    for name in ("cluster", "host"):
        if name in path:
            raise NotFound(
                f"There is no {name} {path[name]!r} of the {there} side on this manager, which "
                f"has the {here} side.",
                path[name],
                reason="other_side",
            )
    if operation.changes:
        raise Unsupported(
            f"This manager has the {here} side; ask the manager of the {there} side.", reason="other_side"
        )


def objects(manager: Manager, path: Mapping[str, str]) -> tuple[Cluster | None, Host | None]:
    """The cluster and host that the path names; a host brings its cluster. Raises NotFound."""
    with manager.database.transaction() as connection:
        cluster = find_cluster(connection, path["cluster"]) if "cluster" in path else None
        host = find_host(connection, path["host"]) if "host" in path else None
        if host is not None:
            own = next(item for item in all_clusters(connection) if item.number == host.cluster)
            if cluster is not None and cluster != own:
                raise NotFound(f"The cluster {cluster.name!r} has no host {host.name!r}.", host.name)
            cluster = own
    return cluster, host


async def perform(
    context: Context, operation: AnyOperation, values: Structure, path: Mapping[str, str]
) -> Any:
    """Runs the operation, or starts its task and gives the task's id. Raises VapiError."""
    named = target(operation, path)
    if not operation.task:
        return await audited(context, operation, values, named)

    async def work(running: Running) -> Any:
        return await audited(replace(context, running=running), operation, values, named)

    if operation.changes:
        await record(context, operation, "started", named)
    new = NewTask(
        service=operation.service,
        operation=operation.wire_id,
        description=operation.summary,
        user=context.caller.user.name,
        target=target_id(context),
    )
    return context.manager.tasks.start(new, work)


async def audited(context: Context, operation: AnyOperation, values: Structure, named: str) -> Any:
    """Runs the handler; a record says how a change ended. Login makes its own. Raises VapiError."""
    try:
        result = await operation.handler(context, values)
    except Exception as error:
        found = explain(error)
        if operation.changes and not operation.public:
            await record(context, operation, found.reason, named)
        raise found from None
    if operation.changes and not operation.public:
        await record(context, operation, "ok", named)
    return result


async def record(context: Context, operation: AnyOperation, code: str, named: str = "") -> None:
    """One audit record about the caller's request."""
    await context.manager.auditor.record(
        operation,
        user=context.caller.user.name,
        address=context.address,
        code=code,
        target=named,
        task=context.running.task if context.running else "",
        detail=context.audit_detail,
    )


def target(operation: AnyOperation, path: Mapping[str, str]) -> str:
    """What the path names, for the audit log."""
    return "/".join(path[name] for name in operation.path_parameters)


def target_id(context: Context) -> DynamicId | None:
    """The object of a task."""
    if context.host_named is not None:
        return DynamicId(type="HostSystem", id=context.host_named.id)
    if context.cluster_named is not None:
        return DynamicId(type="ClusterComputeResource", id=context.cluster_named.id)
    return None


def explain(error: Exception) -> VapiError:
    """What callers get for an exception; for what we did not expect, an incident number in the log."""
    if isinstance(error, VapiError):
        return error
    if isinstance(error, FieldError):
        return argument_error(error)
    if isinstance(error, Refusal):
        return from_refusal(error)
    if isinstance(error, NodeError):
        return error.error()
    if isinstance(error, TimeoutError):
        return ServiceUnavailable(
            "This took too long and was given up; try again.", reason="time_limit_exceeded"
        )
    incident = uuid.uuid4().hex[:12]
    # Places and type only: an exception's text may hold what a caller sent, a password too.
    frames = [
        f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)
    ]
    log.error("incident", incident=incident, type=type(error).__name__, frames=frames)
    return ServiceUnavailable(
        f"The manager could not complete this; its log has the reason under incident {incident}.",
        incident,
        reason="incident",
    )
