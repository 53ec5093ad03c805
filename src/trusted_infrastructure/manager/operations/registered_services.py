# SPDX-License-Identifier: GPL-3.0-or-later
"""attestation/services and kms/services: the services of Trust Authority hosts that this manager knows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from trusted_infrastructure.config.documents import RegisteredService
from trusted_infrastructure.manager import registrations
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.operations.structures import (
    HTTPS_PORT,
    NetworkAddress,
    X509CertChain,
    address_of,
)
from trusted_infrastructure.manager.registrations import WHAT, Kind, Registration
from trusted_infrastructure.manager.vapi.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    ResourceBusy,
    Unsupported,
)
from trusted_infrastructure.manager.vapi.operation import AnyOperation, Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import Identifier, Structure

BASE = "com.vmware.vcenter.trusted_infrastructure"
BASE_PATH = "/vcenter/trusted-infrastructure"


class Summary(Structure, frozen=True):
    """A service."""

    service: str
    address: NetworkAddress
    group: str
    trust_authority_cluster: str


class Info(Structure, frozen=True):
    """A service. trusted_CA: what its TLS certificate must come from."""

    address: NetworkAddress
    trusted_CA: X509CertChain
    group: str
    trust_authority_cluster: str


class CreateSpec(Structure, frozen=True):
    """A service, as trust-authority-hosts on the Trust Authority side describes it."""

    address: NetworkAddress
    trusted_CA: X509CertChain
    group: Identifier
    trust_authority_cluster: Identifier

    def content(self) -> RegisteredService:
        """As the document holds it."""
        return RegisteredService(
            address=self.address.document(HTTPS_PORT),
            trusted_ca=self.trusted_CA.pem(),
            group=self.group,
            trust_authority_cluster=self.trust_authority_cluster,
        )


class CreateInput(Structure, frozen=True):
    """Input of create."""

    spec: CreateSpec


class ServiceInput(Structure, frozen=True):
    """Input of get and delete."""

    service: Identifier


class FilterSpec(Structure, frozen=True):
    """Services of one of the ids, addresses, groups and Trust Authority Clusters, where given."""

    services: list[str] | None = None
    address: list[NetworkAddress] | None = None
    group: list[str] | None = None
    trust_authority_cluster: list[str] | None = None


class ListInput(Structure, frozen=True):
    """Input of list."""

    spec: FilterSpec | None = None


def summary_of(service: str, content: RegisteredService) -> Summary:
    """As the API lists it."""
    return Summary(
        service=service,
        address=address_of(content.address),
        group=content.group,
        trust_authority_cluster=content.trust_authority_cluster,
    )


def info_of(content: RegisteredService) -> Info:
    """As the API gives it."""
    return Info(
        address=address_of(content.address),
        trusted_CA=X509CertChain(cert_chain=content.trusted_ca),
        group=content.group,
        trust_authority_cluster=content.trust_authority_cluster,
    )


def matches(item: Summary, wanted: FilterSpec) -> bool:
    """Whether the filter lets the service through."""
    addresses = [(one.hostname, one.port or HTTPS_PORT) for one in wanted.address or []]
    clusters = wanted.trust_authority_cluster
    return (
        (not wanted.services or item.service in wanted.services)
        and (not addresses or (item.address.hostname, item.address.port) in addresses)
        and (not wanted.group or item.group in wanted.group)
        and (not clusters or item.trust_authority_cluster in clusters)
    )


def create(kind: Kind) -> Callable[[Context, CreateInput], Awaitable[str]]:
    """The handler for a kind of service."""

    async def handler(context: Context, given: CreateInput) -> str:
        with context.manager.database.transaction() as connection:
            return registrations.register(connection, kind, given.spec.content())

    return handler


def get(kind: Kind) -> Callable[[Context, ServiceInput], Awaitable[Info]]:
    """The handler for a kind of service."""

    async def handler(context: Context, given: ServiceInput) -> Info:
        with context.manager.database.transaction() as connection:
            return info_of(registrations.find(connection, kind, given.service).content)

    return handler


def delete(kind: Kind) -> Callable[[Context, ServiceInput], Awaitable[None]]:
    """The handler for a kind of service. It refuses while a cluster uses the service."""

    async def handler(context: Context, given: ServiceInput) -> None:
        with context.manager.database.transaction() as connection:
            registrations.find(connection, kind, given.service)
            using = registrations.users(connection, kind, given.service)
            if using:
                names = ", ".join(cluster.name for cluster in using)
                raise ResourceBusy(f"The {WHAT[kind]} is used by: {names}. Detach it there first.", names)
            registrations.unregister(connection, kind, given.service)

    return handler


def list_services(kind: Kind) -> Callable[[Context, ListInput], Awaitable[list[Summary]]]:
    """The handler for a kind of service."""

    async def handler(context: Context, given: ListInput) -> list[Summary]:
        with context.manager.database.transaction() as connection:
            found: list[Registration] = registrations.all_of(connection, kind)
        summaries = [summary_of(item.service, item.content) for item in found]
        return [item for item in summaries if matches(item, given.spec or FilterSpec())]

    return handler


READ = privileges("TrustedAdmin.ReadTrustedHosts")
MANAGE = privileges("TrustedAdmin.ManageTrustedHosts")


def operations(kind: Kind, part: str) -> tuple[AnyOperation, ...]:
    """The operations for a kind of service. part: "attestation" or "kms"."""
    service, path = f"{BASE}.{part}.services", f"{BASE_PATH}/{part}/services"
    return (
        Operation(
            service=service,
            operation="list",
            method="POST",
            path=path,
            action="query",
            summary=f"Registered {WHAT[kind]}s",
            input=ListInput,
            output=list[Summary],
            handler=list_services(kind),
            privileges=READ,
            errors=(InvalidArgument,),
            body="spec",
            side="workload",
        ),
        Operation(
            service=service,
            operation="get",
            method="GET",
            path=f"{path}/{{service}}",
            summary=f"One registered {WHAT[kind]}",
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
            summary=f"Register an {WHAT[kind]}" if part == "attestation" else f"Register a {WHAT[kind]}",
            input=CreateInput,
            output=str,
            handler=create(kind),
            privileges=MANAGE,
            errors=(AlreadyExists, InvalidArgument, Unsupported),
            body="spec",
            side="workload",
            success=201,
        ),
        Operation(
            service=service,
            operation="delete",
            method="DELETE",
            path=f"{path}/{{service}}",
            summary=f"Forget a registered {WHAT[kind]} that no cluster uses",
            input=ServiceInput,
            output=None,
            handler=delete(kind),
            privileges=MANAGE,
            errors=(NotFound, ResourceBusy, Unsupported),
            side="workload",
        ),
    )


OPERATIONS: Table = (
    *operations("attestation_service", "attestation"),
    *operations("kms_service", "kms"),
)
