# SPDX-License-Identifier: GPL-3.0-or-later
"""trust/trusted-key-providers: the trusted key providers that hosts of this manager may use, and the default.

vSphere has this outside of the trusted infrastructure's API.
"""

from __future__ import annotations

import sqlalchemy as sql

from trusted_infrastructure.config.documents import TrustedKeyProvider
from trusted_infrastructure.manager import registrations, trusted_clusters
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.database import trusted_key_providers as table
from trusted_infrastructure.manager.inventory import all_clusters
from trusted_infrastructure.manager.operations.structures import TRUST, TRUST_PATH
from trusted_infrastructure.manager.vapi.errors import (
    AlreadyExists,
    InvalidArgument,
    LocalizableMessage,
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
    unset: that of the registered ones, when they have one. The first provider becomes the default."""

    name: str
    group: Identifier | None = None
    default: bool | None = None

    def __post_init__(self) -> None:
        check_name("name", self.name)


class CreateInput(Structure, frozen=True):
    """Input of create."""

    spec: CreateSpec


class UpdateSpec(Structure, frozen=True):
    """Unset: unchanged. default true takes it from the one that was."""

    group: Identifier | None = None
    default: bool | None = None


class UpdateInput(Structure, frozen=True):
    """Input of update."""

    name: Identifier
    spec: UpdateSpec


class NameInput(Structure, frozen=True):
    """Input of get and delete."""

    name: Identifier


class Info(Structure, frozen=True):
    """A provider."""

    name: str
    group: str
    default: bool


def info_of(name: str, content: TrustedKeyProvider) -> Info:
    """As the API gives it."""
    return Info(name=name, group=content.group, default=content.default)


def find(connection: sql.Connection, name: str) -> TrustedKeyProvider:
    """A provider. Raises NotFound."""
    found = trusted_clusters.providers(connection).get(name)
    if found is None:
        raise NotFound(f"This manager has no trusted key provider {name!r}.", name)
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
    with context.manager.database.transaction() as connection:
        known = trusted_clusters.providers(connection)
        if spec.name in known:
            raise AlreadyExists(f"This manager has a trusted key provider {spec.name!r}.", spec.name)
        group = only_group(connection) if spec.group is None else spec.group
        first = not any(provider.default for provider in known.values())
        default = first if spec.default is None else spec.default
        write(connection, spec.name, TrustedKeyProvider(group=group, default=default))
    await distribute(context)


async def update(context: Context, given: UpdateInput) -> None:
    with context.manager.database.transaction() as connection:
        before = find(connection, given.name)
        group = before.group if given.spec.group is None else given.spec.group
        default = before.default if given.spec.default is None else given.spec.default
        write(connection, given.name, TrustedKeyProvider(group=group, default=default))
    await distribute(context)


async def delete(context: Context, given: NameInput) -> None:
    with context.manager.database.transaction() as connection:
        find(connection, given.name)
        connection.execute(table.delete().where(table.c.name == given.name))
    await distribute(context)


async def get(context: Context, given: NameInput) -> Info:
    with context.manager.database.transaction() as connection:
        return info_of(given.name, find(connection, given.name))


async def list_providers(context: Context, _given: Nothing) -> list[Info]:
    with context.manager.database.transaction() as connection:
        providers = trusted_clusters.providers(connection)
    return [info_of(name, content) for name, content in providers.items()]


async def distribute(context: Context) -> None:
    """Gives every cluster with Key Provider Services the providers as they are now.

    Raises ResourceInaccessible naming the hosts of all clusters that did not take them."""
    manager = context.manager
    failures: list[ResourceInaccessible] = []
    with manager.database.transaction() as connection:
        clusters = all_clusters(connection)
    for cluster in clusters:
        async with manager.replication.lock(cluster):
            with manager.database.transaction() as connection:
                uses_kms = bool(trusted_clusters.services(connection, cluster, "kms_service"))
                changes = trusted_clusters.provider_changes(connection, cluster, uses_kms)
            try:
                await manager.replication.change(cluster, changes)
            except ResourceInaccessible as error:
                failures.append(error)
    if failures:
        details: list[LocalizableMessage] = [item for error in failures for item in error.messages[1:]]
        raise ResourceInaccessible(
            " ".join(error.text for error in failures), reason="replication_failed", details=details
        )


READ = privileges("Cryptographer.ReadKeyServersInfo")
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
        path=f"{PATH}/{{name}}",
        summary="One trusted key provider",
        input=NameInput,
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
        path=f"{PATH}/{{name}}",
        summary="Make a trusted key provider the default, or change its group",
        input=UpdateInput,
        output=None,
        handler=update,
        privileges=MANAGE,
        errors=(InvalidArgument, NotFound, ResourceInaccessible, Unsupported),
        body="spec",
        task=True,
        side="workload",
    ),
    Operation(
        service=SERVICE,
        operation="delete",
        method="DELETE",
        path=f"{PATH}/{{name}}",
        summary="Let hosts no longer use a trusted key provider",
        input=NameInput,
        output=None,
        handler=delete,
        privileges=MANAGE,
        errors=(NotFound, ResourceInaccessible, Unsupported),
        task=True,
        side="workload",
    ),
)
