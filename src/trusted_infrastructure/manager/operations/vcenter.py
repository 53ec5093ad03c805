# SPDX-License-Identifier: GPL-3.0-or-later
"""com.vmware.vcenter.cluster and .host: how clients look up ids by names."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Literal

from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.inventory import Cluster, Host
from trusted_infrastructure.manager.nodes import NodeError, Nodes
from trusted_infrastructure.manager.vapi.errors import InvalidArgument
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import Structure

PROBE_TIMEOUT = 2.0


class ClusterFilter(Structure, frozen=True):
    """Clusters with one of the ids and one of the names, where given."""

    clusters: list[str] | None = None
    names: list[str] | None = None


class ClusterSummary(Structure, frozen=True):
    """A cluster. High availability and resource scheduling are vSphere's; nothing here has them."""

    cluster: str
    name: str
    ha_enabled: bool
    drs_enabled: bool


class ClusterListInput(Structure, frozen=True):
    """Input of cluster.list."""

    filter: ClusterFilter = ClusterFilter()


class HostFilter(Structure, frozen=True):
    """Hosts with one of the ids, one of the names and in one of the clusters (ids), where given."""

    hosts: list[str] | None = None
    names: list[str] | None = None
    clusters: list[str] | None = None


class HostSummary(Structure, frozen=True):
    """A host. connection_state: whether its configuration service answers the manager."""

    host: str
    name: str
    connection_state: Literal["CONNECTED", "DISCONNECTED", "NOT_RESPONDING"]
    power_state: Literal["POWERED_ON", "POWERED_OFF", "STANDBY"] | None = None


class HostListInput(Structure, frozen=True):
    """Input of host.list."""

    filter: HostFilter = HostFilter()


def wanted_cluster(cluster: Cluster, wanted: ClusterFilter) -> bool:
    """Whether the filter lets the cluster through."""
    return among(cluster.id, wanted.clusters) and among(cluster.name, wanted.names)


def wanted_host(host: Host, wanted: HostFilter) -> bool:
    """Whether the filter lets the host through."""
    return (
        among(host.id, wanted.hosts)
        and among(host.name, wanted.names)
        and among(host.cluster_id, wanted.clusters)
    )


def among(value: str, values: Collection[str] | None) -> bool:
    """Whether a filter's field is unset or empty, or has the value."""
    return not values or value in values


async def list_clusters(context: Context, given: ClusterListInput) -> list[ClusterSummary]:
    return [
        ClusterSummary(cluster=cluster.id, name=cluster.name, ha_enabled=False, drs_enabled=False)
        for cluster in context.clusters()
        if wanted_cluster(cluster, given.filter)
    ]


async def list_hosts(context: Context, given: HostListInput) -> list[HostSummary]:
    hosts = [host for host in context.hosts() if wanted_host(host, given.filter)]
    answering = await asyncio.gather(*(answers(context.manager.nodes, host) for host in hosts))
    return [
        HostSummary(
            host=host.id,
            name=host.name,
            connection_state="CONNECTED" if up else "NOT_RESPONDING",
            power_state="POWERED_ON" if up else None,
        )
        for host, up in zip(hosts, answering, strict=True)
    ]


async def answers(nodes: Nodes, host: Host) -> bool:
    """Whether the host's configuration service answers soon."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT):
            await nodes.call(host.name, "GET", "/config/v1/health")
    except (NodeError, TimeoutError):
        return False
    return True


OPERATIONS: Table = (
    Operation(
        service="com.vmware.vcenter.cluster",
        operation="list",
        method="GET",
        path="/vcenter/cluster",
        summary="Clusters of this manager",
        input=ClusterListInput,
        output=list[ClusterSummary],
        handler=list_clusters,
        privileges=privileges("System.View"),
        query="filter",
        errors=(InvalidArgument,),
    ),
    Operation(
        service="com.vmware.vcenter.host",
        operation="list",
        method="GET",
        path="/vcenter/host",
        summary="Hosts of this manager",
        input=HostListInput,
        output=list[HostSummary],
        handler=list_hosts,
        privileges=privileges("System.View"),
        query="filter",
        errors=(InvalidArgument,),
    ),
)
