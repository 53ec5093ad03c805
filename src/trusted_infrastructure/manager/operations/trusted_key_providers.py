# SPDX-License-Identifier: GPL-3.0-or-later
"""trust/trusted-key-providers: the trusted key providers that hosts of this manager may use, and the default.

vSphere has this outside of the trusted infrastructure's API.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

import sqlalchemy as sql

from trusted_infrastructure.config.documents import TrustedKeyProvider
from trusted_infrastructure.manager import desired, registrations, trusted_clusters
from trusted_infrastructure.manager.context import Context, Manager
from trusted_infrastructure.manager.database import trusted_key_providers as table
from trusted_infrastructure.manager.inventory import Cluster, all_clusters
from trusted_infrastructure.manager.operations.structures import TRUST, TRUST_PATH
from trusted_infrastructure.manager.vapi.errors import (
    AlreadyExists,
    InvalidArgument,
    NotAllowedInCurrentState,
    NotFound,
    ResourceInaccessible,
    Unsupported,
)
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import Identifier, Nothing, Structure, check_name

SERVICE = f"{TRUST}.trusted_key_providers"
PATH = f"{TRUST_PATH}/trusted-key-providers"


class CreateSpec(Structure, frozen=True):
    """A provider by its name on the Trust Authority side. group: of the Key Provider Services that have it;
    unset: that of the registered ones, when they have one. Where there is no default, it becomes it."""

    provider: str
    group: Identifier | None = None
    default: bool | None = None

    def __post_init__(self) -> None:
        check_name("provider", self.provider)


class CreateInput(Structure, frozen=True):
    """Input of create."""

    spec: CreateSpec


class UpdateSpec(Structure, frozen=True):
    """Unset: unchanged. default true takes it from the one that was; false is for those that are not."""

    group: Identifier | None = None
    default: bool | None = None


class UpdateInput(Structure, frozen=True):
    """Input of update."""

    provider: Identifier
    spec: UpdateSpec


class ProviderInput(Structure, frozen=True):
    """Input of get and delete."""

    provider: Identifier


class Info(Structure, frozen=True):
    """A provider."""

    provider: str
    group: str
    default: bool


def info_of(name: str, content: TrustedKeyProvider) -> Info:
    """As the API gives it."""
    return Info(provider=name, group=content.group, default=content.default)


def find(connection: sql.Connection, name: str) -> TrustedKeyProvider:
    """A provider. Raises NotFound."""
    found = trusted_clusters.providers(connection).get(name)
    if found is None:
        raise NotFound(f"This manager has no trusted key provider {name!r}.", name, reason="no_provider")
    return found


def only_group(connection: sql.Connection) -> str:
    """The group of the registered Key Provider Services. Raises InvalidArgument when there is not one."""
    registered = registrations.all_of(connection, "kms_service")
    groups = sorted({item.content.group for item in registered})
    if len(groups) != 1:
        found = ", ".join(groups) or "no registered Key Provider Service"
        raise InvalidArgument("spec.group", f"is required: there is not exactly one ({found})")
    return groups[0]


def write(connection: sql.Connection, name: str, content: TrustedKeyProvider) -> None:
    """Inserts or replaces a provider; a default one takes that from the others."""
    if content.default:
        connection.execute(table.update().values(is_default=False))
    connection.execute(table.delete().where(table.c.name == name))
    connection.execute(table.insert().values(name=name, group_id=content.group, is_default=content.default))


async def create(context: Context, given: CreateInput) -> None:
    spec = given.spec

    def add(connection: sql.Connection) -> None:
        known = trusted_clusters.providers(connection)
        if spec.provider in known:
            text = f"This manager has a trusted key provider {spec.provider!r}."
            raise AlreadyExists(text, spec.provider)
        group = only_group(connection) if spec.group is None else spec.group
        first = not any(provider.default for provider in known.values())
        write(connection, spec.provider, TrustedKeyProvider(group=group, default=first or bool(spec.default)))

    await change(context, add)


async def update(context: Context, given: UpdateInput) -> None:
    spec = given.spec

    def replace(connection: sql.Connection) -> None:
        before = find(connection, given.provider)
        if spec.default is False and before.default:
            raise NotAllowedInCurrentState(
                f"{given.provider!r} is the default; make another provider the default instead.",
                given.provider,
                reason="is_default",
            )
        group = before.group if spec.group is None else spec.group
        content = TrustedKeyProvider(group=group, default=before.default or bool(spec.default))
        write(connection, given.provider, content)

    await change(context, replace)


async def delete(context: Context, given: ProviderInput) -> None:
    """The default one leaves none: no other begins to encrypt without somebody saying so."""

    def remove(connection: sql.Connection) -> None:
        find(connection, given.provider)
        connection.execute(table.delete().where(table.c.name == given.provider))

    await change(context, remove)


async def get(context: Context, given: ProviderInput) -> Info:
    with context.manager.database.transaction() as connection:
        return info_of(given.provider, find(connection, given.provider))


async def list_providers(context: Context, _given: Nothing) -> list[Info]:
    with context.manager.database.transaction() as connection:
        providers = trusted_clusters.providers(connection)
    return [info_of(name, content) for name, content in providers.items()]


async def change(context: Context, work: Callable[[sql.Connection], None]) -> None:
    """Changes the providers by `work`, and what all clusters with Key Provider Services desire, in one
    transaction: so whatever stops the manager after it, a remediation completes. Then sends it.

    Raises what `work` raises, and ResourceInaccessible naming the hosts of all clusters that failed."""
    manager = context.manager
    async with AsyncExitStack() as locks:
        with manager.database.transaction() as connection:
            clusters = all_clusters(connection)
        for cluster in clusters:  # in this order always, or two changes could wait for each other
            await locks.enter_async_context(manager.replication.lock(cluster))
        with manager.database.transaction() as connection:
            work(connection)
            changed = [cluster for cluster in clusters if desire(connection, cluster)]
        answers = await asyncio.gather(*(send(manager, cluster) for cluster in changed))
    failures = [answer for answer in answers if answer is not None]
    if failures:
        raise ResourceInaccessible(
            " ".join(error.text for error in failures),
            reason="replication_failed",
            details=[item for error in failures for item in error.messages[1:]],
        )


def desire(connection: sql.Connection, cluster: Cluster) -> bool:
    """Brings the desired state of a cluster to the providers as they are; whether that changed it."""
    uses_kms = bool(trusted_clusters.services(connection, cluster, "kms_service"))
    changes = trusted_clusters.provider_changes(connection, cluster, uses_kms)
    return bool(desired.write(connection, cluster, changes))


async def send(manager: Manager, cluster: Cluster) -> ResourceInaccessible | None:
    """Brings a cluster's hosts to the desired state; the error, so that others are served as well."""
    try:
        await manager.replication.remediate(cluster)
    except ResourceInaccessible as error:
        return error
    return None


READ = privileges("TrustedAdmin.ReadTrustedHosts")
MANAGE = privileges("Cryptographer.ManageKeyServers")

OPERATIONS: Table = (
    Operation(
        service=SERVICE,
        operation="list",
        method="GET",
        path=PATH,
        summary="Trusted key providers that hosts may use",
        input=Nothing,
        output=list[Info],
        handler=list_providers,
        privileges=READ,
        side="workload",
    ),
    Operation(
        service=SERVICE,
        operation="create",
        method="POST",
        path=PATH,
        summary="Let hosts use a trusted key provider",
        input=CreateInput,
        output=None,
        handler=create,
        privileges=MANAGE,
        errors=(AlreadyExists, InvalidArgument, ResourceInaccessible, Unsupported),
        body="spec",
        task=True,
        side="workload",
    ),
    Operation(
        service=SERVICE,
        operation="get",
        method="GET",
        path=f"{PATH}/{{provider}}",
        summary="One trusted key provider",
        input=ProviderInput,
        output=Info,
        handler=get,
        privileges=READ,
        errors=(NotFound,),
        side="workload",
    ),
    Operation(
        service=SERVICE,
        operation="update",
        method="PATCH",
        path=f"{PATH}/{{provider}}",
        summary="Make a trusted key provider the default, or change its group",
        input=UpdateInput,
        output=None,
        handler=update,
        privileges=MANAGE,
        errors=(InvalidArgument, NotAllowedInCurrentState, NotFound, ResourceInaccessible, Unsupported),
        body="spec",
        task=True,
        side="workload",
    ),
    Operation(
        service=SERVICE,
        operation="delete",
        method="DELETE",
        path=f"{PATH}/{{provider}}",
        summary="Let hosts no longer use a trusted key provider",
        input=ProviderInput,
        output=None,
        handler=delete,
        privileges=MANAGE,
        errors=(NotFound, ResourceInaccessible, Unsupported),
        task=True,
        side="workload",
    ),
)
