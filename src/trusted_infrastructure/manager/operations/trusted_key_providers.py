# SPDX-License-Identifier: GPL-3.0-or-later
"""trust/trusted-key-providers: the trusted key providers that hosts of this manager may use, and the default.

vSphere has this outside of the trusted infrastructure's API.
"""

from __future__ import annotations

import sqlalchemy as sql

from trusted_infrastructure.manager import (
    crypto_events,
    events,
    provider_registry,
    registrations,
    trusted_clusters,
)
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.database import trusted_key_providers as table
from trusted_infrastructure.manager.operations.structures import TRUST, TRUST_PATH
from trusted_infrastructure.manager.vapi.errors import (
    AlreadyExists,
    InvalidArgument,
    NotAllowedInCurrentState,
    NotFound,
    ResourceInaccessible,
    UnableToAllocateResource,
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


def find(connection: sql.Connection, name: str) -> Info:
    """A provider. Raises NotFound."""
    found = {provider.provider: provider for provider in everything(connection)}.get(name)
    if found is None:
        raise NotFound(f"This manager has no trusted key provider {name!r}.", name, reason="no_provider")
    return found


def everything(connection: sql.Connection) -> list[Info]:
    """All of them, in the order of names."""
    default = provider_registry.default_of(connection, None)
    return [
        Info(provider=name, group=group, default=name == default)
        for name, group in trusted_clusters.provider_groups(connection).items()
    ]


def only_group(connection: sql.Connection) -> str:
    """The group of the registered Key Provider Services. Raises InvalidArgument when there is not one."""
    registered = registrations.all_of(connection, "kms_service")
    groups = sorted({item.content.group for item in registered})
    if len(groups) != 1:
        found = ", ".join(groups) or "no registered Key Provider Service"
        raise InvalidArgument("spec.group", f"is required: there is not exactly one ({found})")
    return groups[0]


def done(context: Context, connection: sql.Connection, name: str, operation: str, said: str) -> None:
    """The event of a change, in its transaction."""
    crypto_events.record(
        context.manager,
        events.CRYPTO_OPERATION,
        f"The trusted key provider {name} {said}.",
        operation=operation,
        user=context.caller.user.name,
        provider=name,
        object_id=name,
        connection=connection,
    )


async def create(context: Context, given: CreateInput) -> None:
    spec = given.spec

    def add(connection: sql.Connection) -> None:
        provider_registry.check_new(connection, spec.provider)
        group = only_group(connection) if spec.group is None else spec.group
        connection.execute(table.insert().values(name=spec.provider, group_id=group))
        done(context, connection, spec.provider, "create_provider", f"was registered, of group {group}")
        provider_registry.added(connection, spec.provider)
        if spec.default:
            provider_registry.make_default(context, connection, None, spec.provider)

    await provider_registry.change(context.manager, add)


async def update(context: Context, given: UpdateInput) -> None:
    spec = given.spec

    def replace(connection: sql.Connection) -> None:
        before = find(connection, given.provider)
        if spec.default is False and before.default:
            raise NotAllowedInCurrentState(
                f"{given.provider!r} is the default; make another provider the default instead, or unset the "
                "manager's default key provider.",
                given.provider,
                reason="is_default",
            )
        if spec.group not in (None, before.group):
            row = table.update().where(table.c.name == given.provider)
            connection.execute(row.values(group_id=spec.group))
            said = f"is of group {spec.group} now, not of {before.group}"
            done(context, connection, given.provider, "update_provider", said)
        if spec.default:
            provider_registry.make_default(context, connection, None, given.provider)

    await provider_registry.change(context.manager, replace)


async def delete(context: Context, given: ProviderInput) -> None:
    """Where it was the default there is none: no other begins to encrypt without somebody saying so."""

    def remove(connection: sql.Connection) -> None:
        find(connection, given.provider)
        connection.execute(table.delete().where(table.c.name == given.provider))
        done(context, connection, given.provider, "delete_provider", "was removed")
        without_default = provider_registry.removed(connection, given.provider)
        provider_registry.report_removal(context, connection, given.provider, without_default)

    await provider_registry.change(context.manager, remove)


async def get(context: Context, given: ProviderInput) -> Info:
    with context.manager.database.transaction() as connection:
        return find(connection, given.provider)


async def list_providers(context: Context, _given: Nothing) -> list[Info]:
    with context.manager.database.transaction() as connection:
        return everything(connection)


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
        errors=(AlreadyExists, InvalidArgument, ResourceInaccessible, UnableToAllocateResource, Unsupported),
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
