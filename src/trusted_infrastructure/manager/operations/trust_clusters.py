# SPDX-License-Identifier: GPL-3.0-or-later
"""trust/clusters: making and removing clusters, and bringing their hosts to the desired state.

vSphere has this outside of the trusted infrastructure's API.
"""

from __future__ import annotations

from trusted_infrastructure.config.documents import RegisteredService, TrustAuthorityCluster
from trusted_infrastructure.manager import desired, inventory, key_providers, membership
from trusted_infrastructure.manager.comparison import Health
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.operations.structures import TRUST, TRUST_PATH, ClusterInput
from trusted_infrastructure.manager.vapi.errors import (
    AlreadyExists,
    InvalidArgument,
    LocalizableMessage,
    NotFound,
    ResourceBusy,
    ResourceInaccessible,
    message,
)
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import Structure, check_name

SERVICE = f"{TRUST}.clusters"
PATH = f"{TRUST_PATH}/clusters"


class CreateSpec(Structure, frozen=True):
    """A new cluster, without hosts."""

    name: str

    def __post_init__(self) -> None:
        check_name("name", self.name)


class CreateInput(Structure, frozen=True):
    """Input of create."""

    spec: CreateSpec


class Info(Structure, frozen=True):
    """A cluster. trusted: it is a Trust Authority Cluster, or uses one. group: see the services' `group`."""

    cluster: str
    name: str
    group: str
    trusted: bool
    hosts: list[str]


class StatusInfo(Structure, frozen=True):
    """Desired state against what the hosts have."""

    health: Health
    details: list[LocalizableMessage]


async def create(context: Context, given: CreateInput) -> str:
    with context.manager.database.transaction() as connection:
        return inventory.create_cluster(connection, given.spec.name).id


async def get(context: Context, _given: ClusterInput) -> Info:
    with context.manager.database.transaction() as connection:
        cluster = context.cluster
        enabled = desired.contents(connection, cluster, "trust_authority_cluster", TrustAuthorityCluster)
        attached = desired.contents(connection, cluster, "attestation_service", RegisteredService)
        return Info(
            cluster=cluster.id,
            name=cluster.name,
            group=cluster.group,
            trusted=any(item.state == "ENABLE" for item in enabled.values()) or bool(attached),
            hosts=[host.id for host in inventory.hosts_of(connection, cluster)],
        )


async def delete(context: Context, _given: ClusterInput) -> None:
    with context.manager.database.transaction() as connection:
        hosts = inventory.hosts_of(connection, context.cluster)
        if hosts:
            names = ", ".join(host.name for host in hosts)
            raise ResourceBusy(
                f"The cluster {context.cluster.name!r} has hosts: {names}. Remove them first.", names
            )
        inventory.delete_cluster(connection, context.cluster)


async def remediate(context: Context, _given: ClusterInput) -> None:
    manager = context.manager
    async with manager.replication.lock(context.cluster):
        await membership.restore(manager, context.cluster)
        await key_providers.learn_missing_check_values(context)


async def get_status(context: Context, _given: ClusterInput) -> StatusInfo:
    comparison = await context.manager.replication.compare(context.cluster)
    details = [message(str(item), "differs", item.host) for item in comparison.deviations]
    details += [failure.message() for failure in comparison.failures]
    if not comparison.hosts:
        return StatusInfo(health="NONE", details=[message("The cluster has no hosts.", "no_hosts")])
    return StatusInfo(health="OK" if comparison.consistent else "ERROR", details=details)


OPERATIONS: Table = (
    Operation(
        service=SERVICE,
        operation="create",
        method="POST",
        path=PATH,
        summary="Make a cluster",
        input=CreateInput,
        output=str,
        handler=create,
        privileges=privileges("TrustedAdmin.ManageTrustedHosts"),
        errors=(AlreadyExists, InvalidArgument),
        body="spec",
        success=201,
    ),
    Operation(
        service=SERVICE,
        operation="get",
        method="GET",
        path=f"{PATH}/{{cluster}}",
        summary="A cluster and its hosts",
        input=ClusterInput,
        output=Info,
        handler=get,
        privileges=privileges("TrustedAdmin.ReadTrustedHosts", "System.View@cluster"),
        errors=(NotFound,),
    ),
    Operation(
        service=SERVICE,
        operation="delete",
        method="DELETE",
        path=f"{PATH}/{{cluster}}",
        summary="Remove a cluster without hosts",
        input=ClusterInput,
        output=None,
        handler=delete,
        privileges=privileges("TrustedAdmin.ManageTrustedHosts", "TrustedAdmin.ManageTrustedHosts@cluster"),
        errors=(NotFound, ResourceBusy),
    ),
    Operation(
        service=SERVICE,
        operation="remediate",
        method="POST",
        path=f"{PATH}/{{cluster}}",
        action="remediate",
        summary="Bring all hosts of a cluster to the desired state",
        input=ClusterInput,
        output=None,
        handler=remediate,
        privileges=privileges("TrustedAdmin.ManageTrustedHosts", "TrustedAdmin.ManageTrustedHosts@cluster"),
        errors=(NotFound, ResourceInaccessible),
        task=True,
    ),
    Operation(
        service=f"{SERVICE}.status",
        operation="get",
        method="GET",
        path=f"{PATH}/{{cluster}}/status",
        summary="Whether all hosts of a cluster have the desired configuration",
        input=ClusterInput,
        output=StatusInfo,
        handler=get_status,
        privileges=privileges("TrustedAdmin.ReadTrustedHosts", "System.View@cluster"),
        errors=(NotFound,),
        task=True,
    ),
)
