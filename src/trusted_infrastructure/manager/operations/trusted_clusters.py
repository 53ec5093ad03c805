# SPDX-License-Identifier: GPL-3.0-or-later
"""trusted-clusters/{cluster}/attestation/services and kms/services: what the hosts of a cluster use.

The first service makes the cluster a trusted cluster.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

from trusted_infrastructure.config.documents import RegisteredService
from trusted_infrastructure.manager import registrations, trusted_clusters
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.operations.registered_services import (
    BASE,
    BASE_PATH,
    FilterSpec,
    Info,
    Summary,
    info_of,
    matches,
    summary_of,
)
from trusted_infrastructure.manager.registrations import WHAT, Kind, Registration
from trusted_infrastructure.manager.vapi.errors import (
    AlreadyExists,
    InvalidArgument,
    NotAllowedInCurrentState,
    NotFound,
    ResourceInaccessible,
    UnableToAllocateResource,
)
from trusted_infrastructure.manager.vapi.operation import AnyOperation, Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import FieldError, Identifier, Structure


class CreateSpec(Structure, frozen=True):
    """One registered service (SERVICE), or all of a Trust Authority Cluster (CLUSTER)."""

    type: Literal["SERVICE", "CLUSTER"]
    service: Identifier | None = None
    trust_authority_cluster: Identifier | None = None

    def __post_init__(self) -> None:
        names = ("service", "trust_authority_cluster")
        wanted, other = names if self.type == "SERVICE" else names[::-1]
        if getattr(self, wanted) is None:
            raise FieldError(wanted, f"is required for type {self.type}")
        if getattr(self, other) is not None:
            raise FieldError(other, f"does not belong to type {self.type}")


class CreateInput(Structure, frozen=True):
    """Input of create."""

    cluster: Identifier
    spec: CreateSpec


class ServiceInput(Structure, frozen=True):
    """Input of get and delete."""

    cluster: Identifier
    service: Identifier


class ListInput(Structure, frozen=True):
    """Input of list."""

    cluster: Identifier
    spec: FilterSpec | None = None


def attached(context: Context, kind: Kind) -> dict[str, RegisteredService]:
    """The services that the cluster uses, by id."""
    with context.manager.database.transaction() as connection:
        return trusted_clusters.services(connection, context.cluster, kind)


def find(context: Context, kind: Kind, service: str) -> RegisteredService:
    """A service that the cluster uses. Raises NotFound."""
    found = attached(context, kind).get(service)
    if found is None:
        raise NotFound(
            f"The cluster {context.cluster.name!r} does not use an {WHAT[kind]} {service!r}.",
            service,
            reason="no_service",
        )
    return found


def wanted_services(context: Context, kind: Kind, spec: CreateSpec) -> list[Registration]:
    """The registered services that a request means and the cluster does not use yet.

    Raises NotFound, AlreadyExists when it uses them all."""
    with context.manager.database.transaction() as connection:
        if spec.service is not None:
            meant = [registrations.find(connection, kind, spec.service)]
        else:
            meant = [
                item
                for item in registrations.all_of(connection, kind)
                if item.content.trust_authority_cluster == spec.trust_authority_cluster
            ]
    if not meant:
        raise NotFound(
            f"No {WHAT[kind]} of the Trust Authority Cluster {spec.trust_authority_cluster!r} is registered.",
            reason="no_service",
        )
    used = attached(context, kind)
    new = [item for item in meant if item.service not in used]
    if not new:
        raise AlreadyExists(
            f"The cluster {context.cluster.name!r} uses this already: "
            f"{', '.join(item.service for item in meant)}.",
            meant[0].service,
        )
    return new


def create(kind: Kind) -> Callable[[Context, CreateInput], Awaitable[str]]:
    """The handler for a kind of service; gives the id of the (first) attached service."""

    async def handler(context: Context, given: CreateInput) -> str:
        manager, cluster = context.manager, context.cluster
        async with manager.replication.lock(cluster):
            new = wanted_services(context, kind, given.spec)
            with manager.database.transaction() as connection:
                changes = trusted_clusters.attaching(connection, manager, cluster, kind, new)
            await manager.replication.change(cluster, changes)
        return new[0].service

    return handler


def delete(kind: Kind) -> Callable[[Context, ServiceInput], Awaitable[None]]:
    """The handler for a kind of service."""

    async def handler(context: Context, given: ServiceInput) -> None:
        manager, cluster = context.manager, context.cluster
        async with manager.replication.lock(cluster):
            find(context, kind, given.service)
            with manager.database.transaction() as connection:
                changes = trusted_clusters.detaching(connection, manager, cluster, kind, given.service)
            await manager.replication.change(cluster, changes)

    return handler


def get(kind: Kind) -> Callable[[Context, ServiceInput], Awaitable[Info]]:
    """The handler for a kind of service."""

    async def handler(context: Context, given: ServiceInput) -> Info:
        return info_of(find(context, kind, given.service))

    return handler


def list_services(kind: Kind) -> Callable[[Context, ListInput], Awaitable[list[Summary]]]:
    """The handler for a kind of service."""

    async def handler(context: Context, given: ListInput) -> list[Summary]:
        found = [summary_of(service, content) for service, content in attached(context, kind).items()]
        return [item for item in found if matches(item, given.spec or FilterSpec())]

    return handler


READ = privileges("TrustedAdmin.ReadTrustedHosts", "System.View@cluster")
MANAGE = privileges("TrustedAdmin.ManageTrustedHosts", "System.View@cluster")


def operations(kind: Kind, part: str) -> tuple[AnyOperation, ...]:
    """The operations for a kind of service. part: "attestation" or "kms"."""
    service = f"{BASE}.trusted_clusters.{part}.services"
    path = f"{BASE_PATH}/trusted-clusters/{{cluster}}/{part}/services"
    return (
        Operation(
            service=service,
            operation="list",
            method="POST",
            path=path,
            action="query",
            summary=f"The {WHAT[kind]}s that a cluster uses",
            input=ListInput,
            output=list[Summary],
            handler=list_services(kind),
            privileges=READ,
            errors=(NotFound,),
            body="spec",
            side="workload",
        ),
        Operation(
            service=service,
            operation="get",
            method="GET",
            path=f"{path}/{{service}}",
            summary=f"One {WHAT[kind]} that a cluster uses",
            input=ServiceInput,
            output=Info,
            handler=get(kind),
            privileges=READ,
            errors=(NotFound,),
            side="workload",
        ),
        Operation(
            service=service,
            operation="create",
            method="POST",
            path=path,
            summary=f"Let a cluster use {WHAT[kind]}s",
            input=CreateInput,
            output=str,
            handler=create(kind),
            privileges=MANAGE,
            errors=(
                AlreadyExists,
                InvalidArgument,
                NotAllowedInCurrentState,
                NotFound,
                ResourceInaccessible,
                UnableToAllocateResource,
            ),
            body="spec",
            task=True,
            side="workload",
        ),
        Operation(
            service=service,
            operation="delete",
            method="DELETE",
            path=f"{path}/{{service}}",
            summary=f"Let a cluster no longer use an {WHAT[kind]}"
            if part == "attestation"
            else f"Let a cluster no longer use a {WHAT[kind]}",
            input=ServiceInput,
            output=None,
            handler=delete(kind),
            privileges=MANAGE,
            errors=(NotFound, ResourceInaccessible),
            task=True,
            side="workload",
        ),
    )


OPERATIONS: Table = (
    *operations("attestation_service", "attestation"),
    *operations("kms_service", "kms"),
)
