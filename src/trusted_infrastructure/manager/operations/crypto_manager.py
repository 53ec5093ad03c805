# SPDX-License-Identifier: GPL-3.0-or-later
"""crypto_manager.kms.providers: native key providers, as in vCenter Server 7.0.2 and later."""

from __future__ import annotations

import sqlalchemy as sql

from trusted_infrastructure.manager import (
    native_downloads,
    native_health,
    native_providers,
    native_push,
    native_reminders,
    provider_registry,
)
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.native_changes import add, change, record
from trusted_infrastructure.manager.native_providers import Provider
from trusted_infrastructure.manager.operations.crypto_manager_structures import (
    CreateSpec,
    FilterSpec,
    Info,
    NativeCreateSpec,
    NativeInfo,
    Summary,
    UpdateSpec,
    constraints_of,
    decoded_key,
)
from trusted_infrastructure.manager.vapi.errors import (
    AlreadyExists,
    InvalidArgument,
    NotAllowedInCurrentState,
    NotFound,
    UnableToAllocateResource,
    Unsupported,
)
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import (
    Identifier,
    Structure,
)

SERVICE = "com.vmware.vcenter.crypto_manager.kms.providers"
PATH = "/vcenter/crypto-manager/kms/providers"


class ListInput(Structure, frozen=True):
    """Input of list."""

    filter: FilterSpec = FilterSpec()


class ProviderInput(Structure, frozen=True):
    """Input that is a provider alone."""

    provider: Identifier


class CreateInput(Structure, frozen=True):
    """Input of create."""

    spec: CreateSpec


class UpdateInput(Structure, frozen=True):
    """Input of update."""

    provider: Identifier
    spec: UpdateSpec


async def list_providers(context: Context, given: ListInput) -> list[Summary]:
    found = await native_health.verdicts(context.manager, context.hosts())
    names, health = given.filter.providers, given.filter.health
    return [
        Summary(provider=name, type="NATIVE", health=verdict)
        for name, (verdict, _details) in found.items()
        if (not names or name in names) and (not health or verdict in health)
    ]


async def get(context: Context, given: ProviderInput) -> Info:
    with context.manager.database.transaction() as connection:
        provider = native_providers.find(connection, given.provider)
    found = await native_health.verdicts(context.manager, context.hosts())
    health, details = found.get(provider.name, ("NONE", []))
    return Info(
        health=health,
        details=details,
        type="NATIVE",
        native_info=NativeInfo(key_id=provider.key_id),
        constraints=constraints_of(provider.tpm_required),
    )


async def create(context: Context, given: CreateInput) -> None:
    spec = given.spec
    native = spec.native_spec or NativeCreateSpec()
    key_id = (native.key_id or native_providers.new_key_id()).lower()
    given_key = native.key_derivation_key
    secret = native_providers.new_key() if given_key is None else decoded_key(given_key)
    required = bool(spec.constraints and spec.constraints.tpm_required)
    now = int(context.manager.clock())
    provider = Provider(spec.provider, key_id, required, usable=False, backed_up=False, reminded=now)

    def work(connection: sql.Connection) -> None:
        if given_key is None:
            native_providers.check_unused(connection, spec.provider, key_id)
        add(context, connection, provider, {key_id: secret}, "create")
        native_reminders.not_backed_up(context.manager, connection, provider, context.caller.user.name)

    await change(context, work)


async def update(context: Context, given: UpdateInput) -> None:
    """A new key is used at once where the provider is usable; the one before goes on opening."""
    native = given.spec.native_spec
    key_id = native.key_id.lower() if native and native.key_id else None
    manager = context.manager
    with manager.database.transaction() as connection:
        provider = native_providers.find(connection, given.provider)
        if key_id is None or key_id == provider.key_id:
            return
        if key_id in native_providers.check_values(connection, provider):
            raise InvalidArgument("spec.native_spec.key_id", "is one that the provider had before", key_id)
        provider = native_providers.rotate(
            connection, manager.secrets, provider, key_id, int(manager.clock())
        )
        record(context, connection, provider, "update", "has a new key")
        native_reminders.not_backed_up(manager, connection, provider, context.caller.user.name)
    await native_push.push_all(manager)


async def delete(context: Context, given: ProviderInput) -> None:
    """Hosts forget its keys: what is encrypted under them opens again when a backup is imported."""

    def work(connection: sql.Connection) -> None:
        provider = native_providers.find(connection, given.provider)
        native_providers.remove(connection, provider.name)
        native_downloads.forget_provider(connection, provider.name)
        without_default = provider_registry.removed(connection, provider.name)
        provider_registry.report_removal(context, connection, provider.name, without_default)
        context.audit_detail["backed_up"] = "yes" if provider.backed_up else "no"
        lost = "" if provider.backed_up else "; its current key, which was not backed up, is gone with it"
        record(context, connection, provider, "delete", f"was removed{lost}")

    await change(context, work)


READ = privileges("Cryptographer.ReadKeyServersInfo")
MANAGE = privileges("Cryptographer.ManageKeyServers")

OPERATIONS: Table = (
    Operation(
        service=SERVICE,
        operation="list",
        method="GET",
        path=PATH,
        summary="Native key providers",
        input=ListInput,
        output=list[Summary],
        handler=list_providers,
        privileges=READ,
        errors=(InvalidArgument,),
        query="filter",
        side="workload",
    ),
    Operation(
        service=SERVICE,
        operation="create",
        method="POST",
        path=PATH,
        summary="Make a native key provider; it can be used when it was exported once",
        input=CreateInput,
        output=None,
        handler=create,
        privileges=MANAGE,
        errors=(
            AlreadyExists,
            InvalidArgument,
            NotAllowedInCurrentState,
            UnableToAllocateResource,
            Unsupported,
        ),
        body="spec",
        side="workload",
    ),
    Operation(
        service=SERVICE,
        operation="get",
        method="GET",
        path=f"{PATH}/{{provider}}",
        summary="One native key provider",
        input=ProviderInput,
        output=Info,
        handler=get,
        privileges=READ,
        errors=(InvalidArgument, NotFound),
        side="workload",
    ),
    Operation(
        service=SERVICE,
        operation="update",
        method="PATCH",
        path=f"{PATH}/{{provider}}",
        summary="Give a native key provider a new key",
        input=UpdateInput,
        output=None,
        handler=update,
        privileges=MANAGE,
        errors=(InvalidArgument, NotAllowedInCurrentState, NotFound, Unsupported),
        body="spec",
        side="workload",
    ),
    Operation(
        service=SERVICE,
        operation="delete",
        method="DELETE",
        path=f"{PATH}/{{provider}}",
        summary="Remove a native key provider from the manager and all hosts",
        input=ProviderInput,
        output=None,
        handler=delete,
        privileges=MANAGE,
        errors=(InvalidArgument, NotFound, Unsupported),
        side="workload",
    ),
)
