# SPDX-License-Identifier: GPL-3.0-or-later
"""trust/standard-key-providers: providers whose keys this manager gets from key servers itself.

vSphere has them in its SOAP API (CryptoManagerKmip), which this project does not serve.
"""

from __future__ import annotations

import asyncio

import sqlalchemy as sql

from trusted_infrastructure.manager import (
    known_keys,
    provider_registry,
    standard_provider_changes,
    standard_provider_health,
    standard_providers,
)
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.operations.standard_key_provider_structures import (
    CreateSpec,
    Info,
    Summary,
    UpdateSpec,
    servers_of,
    status_of,
)
from trusted_infrastructure.manager.operations.structures import TRUST, TRUST_PATH, address_of
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
from trusted_infrastructure.manager.vapi.structure import Identifier, Nothing, Structure

SERVICE = f"{TRUST}.standard_key_providers"
PATH = f"{TRUST_PATH}/standard-key-providers"


class CreateInput(Structure, frozen=True):
    """Input of create."""

    spec: CreateSpec


class UpdateInput(Structure, frozen=True):
    """Input of update."""

    provider: Identifier
    spec: UpdateSpec


class ProviderInput(Structure, frozen=True):
    """Input that is a provider alone."""

    provider: Identifier


class DeleteInput(Structure, frozen=True):
    """Input of delete. force: also where keys of the provider are known."""

    provider: Identifier
    force: bool = False


async def create(context: Context, given: CreateInput) -> None:
    spec = given.spec

    def add(connection: sql.Connection) -> None:
        provider_registry.check_new(connection, spec.provider)
        standard_provider_changes.write(context, connection, spec.provider, spec.content())
        provider_registry.added(connection, spec.provider)

    await provider_registry.change(context.manager, add)


async def update(context: Context, given: UpdateInput) -> None:
    standard_provider_changes.change(context, given.provider, given.spec.applied_to)


async def delete(context: Context, given: DeleteInput) -> None:
    """The keys stay on the key servers, and hosts that hold some keep them until they restart."""

    def remove(connection: sql.Connection) -> None:
        standard_providers.find(connection, given.provider)
        left = known_keys.count(connection, given.provider)
        if left and not given.force:
            raise NotAllowedInCurrentState(
                f"{left} keys of the provider {given.provider!r} are known. What they encrypt cannot be "
                "opened after a restart of its host: give its objects keys of another provider, or force.",
                given.provider,
                reason="provider_in_use",
            )
        if left:
            context.audit_detail["keys_forgotten"] = str(left)
        known_keys.forget_all(connection, given.provider)
        standard_provider_changes.write(context, connection, given.provider, None)
        without_default = provider_registry.removed(connection, given.provider)
        provider_registry.report_removal(context, connection, given.provider, without_default)

    await provider_registry.change(context.manager, remove)
    context.manager.key_servers.forget(given.provider)


async def get(context: Context, given: ProviderInput) -> Info:
    with context.manager.database.transaction() as connection:
        found = standard_providers.find(connection, given.provider)
        known = known_keys.count(connection, given.provider)
    status = await standard_provider_health.look(context.manager, given.provider, found)
    return Info(
        provider=given.provider,
        servers=servers_of(found),
        description=found.description,
        username=found.username,
        proxy_server=None if found.proxy_server is None else address_of(found.proxy_server),
        connection_timeout=found.connection_timeout,
        has_credential=standard_providers.has_credential(found),
        has_client_certificate=found.client_certificate is not None,
        has_certificate_request=found.csr is not None,
        trusted_certificates=len(found.trusted_certificates),
        keys=known,
        status=status_of(status),
    )


async def list_providers(context: Context, _given: Nothing) -> list[Summary]:
    with context.manager.database.transaction() as connection:
        known = standard_providers.providers(connection)
    looks = (standard_provider_health.look(context.manager, name, one) for name, one in known.items())
    reports = await asyncio.gather(*looks)
    return [Summary(provider=name, health=found.health) for name, found in zip(known, reports, strict=True)]


READ = privileges("Cryptographer.ReadKeyServersInfo")
MANAGE = privileges("Cryptographer.ManageKeyServers")

OPERATIONS: Table = (
    Operation(
        service=SERVICE,
        operation="list",
        method="GET",
        path=PATH,
        summary="Standard key providers, and how they do",
        input=Nothing,
        output=list[Summary],
        handler=list_providers,
        privileges=READ,
        side="workload",
    ),
    Operation(
        service=SERVICE,
        operation="create",
        method="POST",
        path=PATH,
        summary="Make a standard key provider",
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
        summary="One standard key provider, and how its key servers do",
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
        summary="Change the key servers of a standard key provider, or how they are reached",
        input=UpdateInput,
        output=None,
        handler=update,
        privileges=MANAGE,
        errors=(InvalidArgument, NotFound, Unsupported),
        body="spec",
        task=True,
        side="workload",
    ),
    Operation(
        service=SERVICE,
        operation="delete",
        method="DELETE",
        path=f"{PATH}/{{provider}}",
        summary="Delete a standard key provider; its keys stay on the key servers",
        input=DeleteInput,
        output=None,
        handler=delete,
        privileges=MANAGE,
        errors=(NotAllowedInCurrentState, NotFound, ResourceInaccessible, Unsupported),
        task=True,
        side="workload",
    ),
)
