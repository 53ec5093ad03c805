# SPDX-License-Identifier: GPL-3.0-or-later
"""trust/key-providers: key providers of all three kinds, and which is the default.

The default of the manager is for all clusters that have none of their own. What hosts encrypt from now on
uses it; what they encrypted before stays with the provider that it has.
"""

from __future__ import annotations

import sqlalchemy as sql

from trusted_infrastructure.config.documents import KeyProviderType
from trusted_infrastructure.manager import provider_defaults, provider_health, provider_registry
from trusted_infrastructure.manager.comparison import Health
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.inventory import Cluster
from trusted_infrastructure.manager.operations.structures import TRUST, TRUST_PATH, ClusterInput
from trusted_infrastructure.manager.vapi.errors import (
    InvalidArgument,
    LocalizableMessage,
    NotFound,
    ResourceInaccessible,
    Unsupported,
)
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import Identifier, Nothing, Structure

CLUSTER_PATH = f"{TRUST_PATH}/clusters/{{cluster}}/default-key-provider"


class Info(Structure, frozen=True):
    """A key provider. default: of the manager. default_of: names of the clusters for which it was set; others
    have the manager's. health: as far as the manager knows it, NONE where it does not; details say why."""

    provider: str
    type: KeyProviderType
    default: bool
    default_of: list[str]
    health: Health
    details: list[LocalizableMessage]


class DefaultSpec(Structure, frozen=True):
    """The provider by its name; null: none, or for a cluster the manager's."""

    provider: Identifier | None


class SetInput(Structure, frozen=True):
    """Input of set."""

    spec: DefaultSpec


class ClusterSetInput(Structure, frozen=True):
    """Input of set for a cluster."""

    cluster: Identifier
    spec: DefaultSpec


class DefaultInfo(Structure, frozen=True):
    """The default of the manager; without `provider` there is none."""

    provider: str | None = None


class ClusterDefaultInfo(Structure, frozen=True):
    """The default that a cluster has; without `provider` there is none. inherited: it is the manager's."""

    inherited: bool
    provider: str | None = None


async def list_providers(context: Context, _given: Nothing) -> list[Info]:
    visible = {cluster.number: cluster.name for cluster in context.clusters()}
    with context.manager.database.transaction() as connection:
        kinds = provider_registry.names(connection)
        users = {name: provider_defaults.users_of(connection, name) for name in kinds}
    health = await provider_health.known(context.manager, context.hosts())
    found = []
    for name, kind in kinds.items():
        verdict, details = health.get(name, ("NONE", []))
        info = Info(
            provider=name,
            type=kind,
            default=provider_defaults.MANAGER in users[name],
            default_of=[visible[number] for number in users[name] if number in visible],
            health=verdict,
            details=details,
        )
        found.append(info)
    return found


async def get_default(context: Context, _given: Nothing) -> DefaultInfo:
    with context.manager.database.transaction() as connection:
        return DefaultInfo(provider=provider_defaults.own_default(connection, None))


async def set_default(context: Context, given: SetInput) -> None:
    await store(context, None, given.spec.provider)


async def get_cluster_default(context: Context, _given: ClusterInput) -> ClusterDefaultInfo:
    with context.manager.database.transaction() as connection:
        return ClusterDefaultInfo(
            inherited=provider_defaults.own_default(connection, context.cluster) is None,
            provider=provider_defaults.default_of(connection, context.cluster),
        )


async def set_cluster_default(context: Context, given: ClusterSetInput) -> None:
    await store(context, context.cluster, given.spec.provider)


async def store(context: Context, cluster: Cluster | None, provider: str | None) -> None:
    """Sets a default. Raises InvalidArgument, ResourceInaccessible."""

    def work(connection: sql.Connection) -> None:
        provider_registry.make_default(context, connection, cluster, provider)

    await provider_registry.change(context.manager, work)


READ = "Cryptographer.ReadKeyServersInfo"
MANAGE = "Cryptographer.ManageKeyServers"

OPERATIONS: Table = (
    Operation(
        service=f"{TRUST}.key_providers",
        operation="list",
        method="GET",
        path=f"{TRUST_PATH}/key-providers",
        summary="Key providers of all three kinds",
        input=Nothing,
        output=list[Info],
        handler=list_providers,
        privileges=privileges(READ),
        side="workload",
    ),
    Operation(
        service=f"{TRUST}.default_key_provider",
        operation="get",
        method="GET",
        path=f"{TRUST_PATH}/default-key-provider",
        summary="The default key provider of the manager",
        input=Nothing,
        output=DefaultInfo,
        handler=get_default,
        privileges=privileges(READ),
        side="workload",
    ),
    Operation(
        service=f"{TRUST}.default_key_provider",
        operation="set",
        method="PUT",
        path=f"{TRUST_PATH}/default-key-provider",
        summary="Make a key provider the default of the manager",
        input=SetInput,
        output=None,
        handler=set_default,
        privileges=privileges(MANAGE),
        errors=(InvalidArgument, ResourceInaccessible, Unsupported),
        body="spec",
        task=True,
        side="workload",
    ),
    Operation(
        service=f"{TRUST}.clusters.default_key_provider",
        operation="get",
        method="GET",
        path=CLUSTER_PATH,
        summary="The default key provider of a cluster",
        input=ClusterInput,
        output=ClusterDefaultInfo,
        handler=get_cluster_default,
        privileges=privileges(READ, "System.View@cluster"),
        errors=(NotFound,),
        side="workload",
    ),
    Operation(
        service=f"{TRUST}.clusters.default_key_provider",
        operation="set",
        method="PUT",
        path=CLUSTER_PATH,
        summary="Make a key provider the default of a cluster",
        input=ClusterSetInput,
        output=None,
        handler=set_cluster_default,
        privileges=privileges(MANAGE, f"{MANAGE}@cluster"),
        errors=(InvalidArgument, NotFound, ResourceInaccessible),
        body="spec",
        task=True,
        side="workload",
    ),
)
