# SPDX-License-Identifier: GPL-3.0-or-later
"""trusted-clusters/{cluster}/.../services-applied-config: desired state against what hosts have applied.

It works for any cluster of the workload side: what a host has of a cluster that uses no services is an error,
and remediation takes it away.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any, Literal

from trusted_infrastructure.config.documents import NetworkAddress as DocumentAddress
from trusted_infrastructure.manager import applied_config, trusted_clusters
from trusted_infrastructure.manager.applied_config import (
    ALL_KINDS,
    ATTESTATION_KINDS,
    KMS_KINDS,
    ServiceState,
)
from trusted_infrastructure.manager.comparison import Health
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.operations.registered_services import BASE, BASE_PATH
from trusted_infrastructure.manager.operations.structures import (
    HTTPS_PORT,
    ClusterInput,
    HealthInfo,
    NetworkAddress,
    PresentedCertChain,
    address_of,
)
from trusted_infrastructure.manager.registrations import Kind
from trusted_infrastructure.manager.vapi.errors import (
    InvalidArgument,
    NotFound,
    ResourceBusy,
    ResourceInaccessible,
)
from trusted_infrastructure.manager.vapi.operation import AnyOperation, Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import Identifier, Structure


class FilterSpec(Structure, frozen=True):
    """Services of one of the healths and addresses, where given."""

    health: list[Literal["NONE", "OK", "ERROR"]] | None = None
    address: list[NetworkAddress] | None = None


class ListInput(Structure, frozen=True):
    """Input of list."""

    cluster: Identifier
    spec: FilterSpec | None = None


class AddressInput(Structure, frozen=True):
    """Input of get: the address of a service, as two query parameters."""

    cluster: Identifier
    address: NetworkAddress


class Summary(Structure, frozen=True):
    """A service; `service` is unset for one that is on hosts only."""

    health: Health
    address: NetworkAddress
    service: str | None = None


class Info(HealthInfo, frozen=True):
    """A service. groups, trustedc_as (so spelled on vSphere): what hosts that deviate have."""

    address: NetworkAddress
    groups: list[str]
    trustedc_as: list[PresentedCertChain]
    service: str | None = None


async def states(context: Context, kind: Kind) -> list[ServiceState]:
    """All services of a kind, desired or found. Raises ResourceBusy while the cluster is being changed."""
    context.manager.replication.refuse_when_busy(context.cluster)
    comparison = await context.manager.replication.compare(context.cluster)
    with context.manager.database.transaction() as connection:
        wanted = trusted_clusters.services(connection, context.cluster, kind)
    return await applied_config.services(context.manager.nodes, kind, wanted, comparison)


def summary_of(state: ServiceState) -> Summary:
    """As the API lists it."""
    return Summary(health=state.health, address=address_of(state.address), service=state.service)


def info_of(state: ServiceState) -> Info:
    """As the API gives it."""
    chains: list[list[str]] = []
    for content in state.deviating:
        if content.trusted_ca not in chains:
            chains.append(content.trusted_ca)
    return Info(
        health=state.health,
        details=state.details,
        address=address_of(state.address),
        service=state.service,
        groups=sorted({content.group for content in state.deviating}),
        trustedc_as=[PresentedCertChain(cert_chain=chain) for chain in chains],
    )


def list_states(kind: Kind) -> Callable[[Context, ListInput], Awaitable[list[Summary]]]:
    """The handler for a kind of service."""

    async def handler(context: Context, given: ListInput) -> list[Summary]:
        wanted = given.spec or FilterSpec()
        addresses = [(item.hostname, item.port or HTTPS_PORT) for item in wanted.address or []]
        found = [summary_of(state) for state in await states(context, kind)]
        return [
            item
            for item in found
            if (not wanted.health or item.health in wanted.health)
            and (not addresses or (item.address.hostname, item.address.port) in addresses)
        ]

    return handler


def get_state(kind: Kind) -> Callable[[Context, AddressInput], Awaitable[Info]]:
    """The handler for a kind of service."""

    async def handler(context: Context, given: AddressInput) -> Info:
        address: DocumentAddress = given.address.document(HTTPS_PORT)
        for state in await states(context, kind):
            if state.address == address:
                return info_of(state)
        name = f"{address.hostname}:{address.port}"
        raise NotFound(f"Neither the cluster nor its hosts use a service at {name}.", name)

    return handler


async def get_overall(context: Context, _given: ClusterInput) -> HealthInfo:
    context.manager.replication.refuse_when_busy(context.cluster)
    comparison = await context.manager.replication.compare(context.cluster)
    health, details = applied_config.overall(comparison)
    return HealthInfo(health=health, details=details)


async def update(context: Context, _given: ClusterInput) -> None:
    """Remediates the whole cluster: a host that is brought to the desired state in part is not."""
    context.manager.replication.refuse_when_busy(context.cluster)
    async with context.manager.replication.lock(context.cluster):
        await context.manager.replication.remediate(context.cluster)


def delete(kinds: Collection[str]) -> Callable[[Context, ClusterInput], Awaitable[None]]:
    """The handler for some kinds of documents."""

    async def handler(context: Context, _given: ClusterInput) -> None:
        context.manager.replication.refuse_when_busy(context.cluster)
        async with context.manager.replication.lock(context.cluster):
            await applied_config.strip(context.manager, context.cluster, kinds)

    return handler


READ = privileges("TrustedAdmin.ReadTrustedHosts", "System.View@cluster")
MANAGE = privileges("TrustedAdmin.ManageTrustedHosts", "System.View@cluster")
READ_ERRORS = (InvalidArgument, NotFound, ResourceBusy)
CHANGE_ERRORS = (InvalidArgument, NotFound, ResourceBusy, ResourceInaccessible)


def changes(part: str, kinds: Collection[str]) -> tuple[AnyOperation, ...]:
    """update and delete. part: "", "attestation" or "kms"."""
    service, path = names(part)
    common: dict[str, Any] = {
        "service": service,
        "path": path,
        "input": ClusterInput,
        "output": None,
        "privileges": MANAGE,
        "errors": CHANGE_ERRORS,
        "task": True,
        "side": "workload",
    }
    return (
        Operation(
            operation="update",
            method="PATCH",
            summary="Bring the hosts of a cluster to the desired state",
            handler=update,
            **common,
        ),
        Operation(
            operation="delete",
            method="DELETE",
            summary="Take the applied configuration off the hosts; the desired state is kept",
            handler=delete(kinds),
            **common,
        ),
    )


def reads(part: str, kind: Kind) -> tuple[AnyOperation, ...]:
    """list and get for a kind of service."""
    service, path = names(part)
    return (
        Operation(
            service=service,
            operation="list",
            method="POST",
            path=path,
            action="query",
            summary="Desired against applied, for each service",
            input=ListInput,
            output=list[Summary],
            handler=list_states(kind),
            privileges=READ,
            errors=READ_ERRORS,
            body="spec",
            task=True,
            side="workload",
        ),
        Operation(
            service=service,
            operation="get",
            method="GET",
            path=path,
            summary="Desired against applied, for one service",
            input=AddressInput,
            output=Info,
            handler=get_state(kind),
            privileges=READ,
            errors=READ_ERRORS,
            query="address",
            task=True,
            side="workload",
        ),
    )


def names(part: str) -> tuple[str, str]:
    """Service id and path of a part."""
    dotted = f"{part}." if part else ""
    slashed = f"{part}/" if part else ""
    return (
        f"{BASE}.trusted_clusters.{dotted}services_applied_config",
        f"{BASE_PATH}/trusted-clusters/{{cluster}}/{slashed}services-applied-config",
    )


OVERALL_SERVICE, OVERALL_PATH = names("")

OPERATIONS: Table = (
    *reads("attestation", "attestation_service"),
    *changes("attestation", ATTESTATION_KINDS),
    *reads("kms", "kms_service"),
    *changes("kms", KMS_KINDS),
    Operation(
        service=OVERALL_SERVICE,
        operation="get",
        method="GET",
        path=OVERALL_PATH,
        summary="Desired against applied, for all services of a cluster",
        input=ClusterInput,
        output=HealthInfo,
        handler=get_overall,
        privileges=READ,
        errors=READ_ERRORS,
        task=True,
        side="workload",
    ),
    *changes("", ALL_KINDS),
)
