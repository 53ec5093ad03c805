# SPDX-License-Identifier: GPL-3.0-or-later
"""trust_authority_hosts: where the services of Trust Authority hosts answer, for the workload side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.inventory import Cluster, Host
from trusted_infrastructure.manager.operations.structures import (
    HTTPS_PORT,
    HostInput,
    NetworkAddress,
    X509CertChain,
)
from trusted_infrastructure.manager.trust_authority import is_enabled
from trusted_infrastructure.manager.vapi.errors import (
    InvalidArgument,
    NotFound,
    ResourceInaccessible,
    ServiceUnavailable,
)
from trusted_infrastructure.manager.vapi.operation import AnyOperation, Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import Structure

SERVICE = "com.vmware.vcenter.trusted_infrastructure.trust_authority_hosts"
PATH = "/vcenter/trusted-infrastructure/trust-authority-hosts"
HEALTH = "/config/v1/health"

Projection = Literal["FULL", "NORMAL", "BRIEF"]


class Info(Structure, frozen=True):
    """A service of a host. trusted_CA: what its TLS certificate comes from."""

    host: str
    address: NetworkAddress
    group: str
    cluster: str
    trusted_CA: X509CertChain


class Summary(Structure, frozen=True):
    """A service of a host; which fields are set depends on the projection."""

    summary_type: Projection
    host: str | None = None
    address: NetworkAddress | None = None
    group: str | None = None
    cluster: str | None = None
    trusted_CA: X509CertChain | None = None


class FilterSpec(Structure, frozen=True):
    """Services of one of the hosts, clusters, groups and at one of the addresses, where given."""

    hosts: list[str] | None = None
    clusters: list[str] | None = None
    address: list[NetworkAddress] | None = None
    groups: list[str] | None = None


class ListInput(Structure, frozen=True):
    """Input of list."""

    spec: FilterSpec | None = None
    projection: Projection = "NORMAL"


async def get(context: Context, _given: HostInput) -> Info:
    """Raises ResourceInaccessible when the host does not answer."""
    found = members(context, [context.host])
    if not found:
        raise NotFound(f"{context.host.name!r} is not a Trust Authority host.", context.host.name)
    await context.manager.nodes.call(context.host.name, "GET", HEALTH)
    return info_of(context, *found[0])


async def list_services(context: Context, given: ListInput) -> list[Summary]:
    wanted = given.spec or FilterSpec()
    infos = [info_of(context, host, cluster) for host, cluster in members(context, context.hosts())]
    return [summary_of(info, given.projection) for info in infos if matches(info, wanted)]


def members(context: Context, hosts: Sequence[Host]) -> list[tuple[Host, Cluster]]:
    """Those of the hosts that are in Trust Authority Clusters, with their clusters."""
    clusters = {cluster.number: cluster for cluster in context.clusters()}
    with context.manager.database.transaction() as connection:
        enabled = {number for number, cluster in clusters.items() if is_enabled(connection, cluster)}
    return [(host, clusters[host.cluster]) for host in hosts if host.cluster in enabled]


def info_of(context: Context, host: Host, cluster: Cluster) -> Info:
    """Both services of a host answer at its public name."""
    return Info(
        host=host.id,
        address=NetworkAddress(hostname=host.public_name, port=host.port),
        group=cluster.group,
        cluster=cluster.id,
        trusted_CA=X509CertChain(cert_chain=side_ca(context)),
    )


def side_ca(context: Context) -> list[str]:
    """The CA of this side, PEM; two during a rollover. Raises ServiceUnavailable."""
    path = context.manager.settings.side_ca
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError):
        raise ServiceUnavailable(f"{path} cannot be read as PEM.", reason="side_ca_unavailable") from None
    return [certificate.public_bytes(Encoding.PEM).decode() for certificate in found]


def matches(info: Info, wanted: FilterSpec) -> bool:
    """Whether the filter lets the service through."""
    addresses = [(item.hostname, item.port or HTTPS_PORT) for item in wanted.address or []]
    return (
        (not wanted.hosts or info.host in wanted.hosts)
        and (not wanted.clusters or info.cluster in wanted.clusters)
        and (not wanted.groups or info.group in wanted.groups)
        and (not addresses or (info.address.hostname, info.address.port) in addresses)
    )


def summary_of(info: Info, projection: Projection) -> Summary:
    """The fields that the projection has."""
    normal = projection != "BRIEF"
    return Summary(
        summary_type=projection,
        host=info.host,
        address=info.address,
        group=info.group if normal else None,
        cluster=info.cluster if normal else None,
        trusted_CA=info.trusted_CA if projection == "FULL" else None,
    )


def operations(service: str, action: str | None, what: str) -> tuple[AnyOperation, ...]:
    """The two operations of one of the services."""
    return (
        Operation(
            service=f"{SERVICE}.{service}",
            operation="get",
            method="GET",
            path=f"{PATH}/{{host}}/{service}",
            summary=f"Where the {what} of a host answers",
            input=HostInput,
            output=Info,
            handler=get,
            privileges=privileges("TrustedAdmin.ReadTrustedHosts", "System.View@host"),
            errors=(NotFound, ResourceInaccessible),
            side="trust_authority",
        ),
        Operation(
            service=f"{SERVICE}.{service}",
            operation="list",
            method="POST",
            path=f"{PATH}/{service}",
            action=action,
            summary=f"Where the {what}s of all Trust Authority hosts answer",
            input=ListInput,
            output=list[Summary],
            handler=list_services,
            privileges=privileges("TrustedAdmin.ReadTrustedHosts"),
            errors=(InvalidArgument,),
            body="spec",
            side="trust_authority",
        ),
    )


# The one has no action on vSphere, its twin has one.
OPERATIONS: Table = (
    *operations("attestation", None, "Attestation Service"),
    *operations("kms", "query", "Key Provider Service"),
)
