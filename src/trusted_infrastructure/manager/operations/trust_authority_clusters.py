# SPDX-License-Identifier: GPL-3.0-or-later
"""trust_authority_clusters: which clusters are Trust Authority Clusters; enabling and disabling."""

from __future__ import annotations

from typing import Literal

from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.inventory import Cluster
from trusted_infrastructure.manager.operations.structures import (
    TRUST_AUTHORITY,
    TRUST_AUTHORITY_PATH,
    ClusterInput,
)
from trusted_infrastructure.manager.provider_secrets import reseal_for_missing_hosts
from trusted_infrastructure.manager.trust_authority import disabling, enabling, is_enabled
from trusted_infrastructure.manager.vapi.errors import NotFound
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import Identifier, Structure

State = Literal["ENABLE", "DISABLE"]


class UpdateSpec(Structure, frozen=True):
    """state unset: nothing changes."""

    state: State | None = None


class UpdateInput(Structure, frozen=True):
    """Input of update."""

    cluster: Identifier
    spec: UpdateSpec


class Info(Structure, frozen=True):
    """A cluster and its state."""

    cluster: str
    state: State


class FilterSpec(Structure, frozen=True):
    """Clusters with one of the ids and one of the states, where given."""

    cluster: list[str] | None = None
    state: list[State] | None = None


class ListInput(Structure, frozen=True):
    """Input of list."""

    spec: FilterSpec = FilterSpec()


async def update(context: Context, given: UpdateInput) -> None:
    """Enabling also brings hosts that lack something to the desired state: it may be repeated."""
    cluster, replication = context.cluster, context.manager.replication
    if given.spec.state is None:
        return
    async with replication.lock(cluster):
        with context.manager.database.transaction() as connection:
            if given.spec.state == "ENABLE":
                changes = enabling(connection, cluster)
            else:
                changes = disabling(connection, cluster)
        await replication.change(cluster, changes)
        if given.spec.state == "ENABLE":
            await replication.change(cluster, await reseal_for_missing_hosts(context.manager, cluster))


async def get(context: Context, _given: ClusterInput) -> Info:
    return info(context, context.cluster)


async def list_clusters(context: Context, given: ListInput) -> list[Info]:
    found = [info(context, cluster) for cluster in context.clusters()]
    wanted = given.spec
    return [
        item
        for item in found
        if (not wanted.cluster or item.cluster in wanted.cluster)
        and (not wanted.state or item.state in wanted.state)
    ]


def info(context: Context, cluster: Cluster) -> Info:
    """A cluster's state."""
    with context.manager.database.transaction() as connection:
        state: State = "ENABLE" if is_enabled(connection, cluster) else "DISABLE"
    return Info(cluster=cluster.id, state=state)


OPERATIONS: Table = (
    Operation(
        service=TRUST_AUTHORITY,
        operation="update",
        method="PATCH",
        path=f"{TRUST_AUTHORITY_PATH}/{{cluster}}",
        summary="Make a cluster a Trust Authority Cluster, or a plain one again",
        input=UpdateInput,
        output=None,
        handler=update,
        privileges=privileges("TrustedAdmin.ManageTrustedHosts", "TrustedAdmin.ManageTrustedHosts@cluster"),
        errors=(NotFound,),
        body="spec",
        task=True,
        side="trust_authority",
    ),
    Operation(
        service=TRUST_AUTHORITY,
        operation="get",
        method="GET",
        path=f"{TRUST_AUTHORITY_PATH}/{{cluster}}",
        summary="State of a cluster",
        input=ClusterInput,
        output=Info,
        handler=get,
        privileges=privileges("TrustedAdmin.ReadTrustedHosts", "System.View@cluster"),
        errors=(NotFound,),
    ),
    Operation(
        service=TRUST_AUTHORITY,
        operation="list",
        method="GET",
        path=TRUST_AUTHORITY_PATH,
        summary="Clusters of this manager and their states",
        input=ListInput,
        output=list[Info],
        handler=list_clusters,
        privileges=privileges("TrustedAdmin.ReadTrustedHosts"),
        query="spec",
    ),
)
