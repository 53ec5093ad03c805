# SPDX-License-Identifier: GPL-3.0-or-later
"""kms/providers: trusted key providers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trusted_infrastructure.config import provider_password
from trusted_infrastructure.config.documents import KeyProvider
from trusted_infrastructure.manager import (
    authority_documents,
    key_provider_events,
    key_provider_rotation,
    key_providers,
    service_reports,
)
from trusted_infrastructure.manager.comparison import Health, worst
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.health import document_health
from trusted_infrastructure.manager.nodes import NodeError
from trusted_infrastructure.manager.operations.key_provider_structures import (
    CreateSpec,
    Info,
    KeyAvailability,
    ServerInfo,
    Status,
    UpdateSpec,
    key_server_info,
)
from trusted_infrastructure.manager.operations.structures import (
    TRUST_AUTHORITY,
    TRUST_AUTHORITY_PATH,
    ClusterInput,
)
from trusted_infrastructure.manager.provider_secrets import KIND
from trusted_infrastructure.manager.replication import Comparison
from trusted_infrastructure.manager.service_reports import (
    KeyReport,
    KmsReport,
    ProviderReport,
    ServerReport,
)
from trusted_infrastructure.manager.vapi.errors import (
    AlreadyExists,
    InvalidArgument,
    NotAllowedInCurrentState,
    NotFound,
    ResourceInaccessible,
    message,
)
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import Identifier, Structure

SERVICE = f"{TRUST_AUTHORITY}.kms.providers"
PATH = f"{TRUST_AUTHORITY_PATH}/{{cluster}}/kms/providers"
Reports = Mapping[str, KmsReport | NodeError]


class CreateInput(Structure, frozen=True):
    """Input of create."""

    cluster: Identifier
    spec: CreateSpec


class UpdateInput(Structure, frozen=True):
    """Input of update."""

    cluster: Identifier
    provider: Identifier
    spec: UpdateSpec


class ProviderInput(Structure, frozen=True):
    """Input that is a provider alone."""

    cluster: Identifier
    provider: Identifier


class Summary(Structure, frozen=True):
    """A provider and its health."""

    provider: str
    health: Health


async def create(context: Context, given: CreateInput) -> None:
    with key_provider_events.noted(context, given.spec.provider):
        await authority_documents.create(context, KIND, given.spec.provider, given.spec.content())


async def update(context: Context, given: UpdateInput) -> None:
    """Another primary key comes last: the key servers that it is asked of are those of the new settings."""
    spec, provider = given.spec, given.provider
    async with context.manager.replication.lock(context.cluster):
        if spec.master_key_id is not None:
            key_provider_rotation.check_may_rotate(context, provider, spec.master_key_id)
        if spec.master_key_id is None or spec.has_settings:
            await key_providers.change(context, provider, spec.applied_to)
        if spec.master_key_id is not None:
            await key_provider_rotation.rotate(context, provider, spec.master_key_id)


async def delete(context: Context, given: ProviderInput) -> None:
    with key_provider_events.noted(context, given.provider):
        await authority_documents.delete(context, KIND, given.provider, KeyProvider)


async def get(context: Context, given: ProviderInput) -> Info:
    content = key_providers.find(context, given.provider)
    comparison = await context.manager.replication.compare(context.cluster)
    return Info(
        master_key_id=content.master_key_id,
        key_server=key_server_info(content),
        status=status_of(given.provider, content, await service_reports.kms(context), comparison),
        required_userspace=content.required_userspace,
        has_credential=has_credential(content),
        previous_master_key_ids=[key.master_key_id for key in content.previous_keys],
    )


def has_credential(provider: KeyProvider) -> bool:
    """Whether a password was set, for the key servers and certificates that the provider has now."""
    if provider.password is None or provider.password_binding is None:
        return False
    return provider_password.covers(provider.password_binding, provider)


async def list_providers(context: Context, _given: ClusterInput) -> list[Summary]:
    providers = authority_documents.find_all(context, KIND, KeyProvider)
    reports = await service_reports.kms(context)
    comparison = await context.manager.replication.compare(context.cluster)
    return [
        Summary(provider=name, health=status_of(name, content, reports, comparison).health)
        for name, content in providers.items()
    ]


def status_of(name: str, content: KeyProvider, reports: Reports, comparison: Comparison) -> Status:
    """What all hosts say of a provider; a host that does not answer, or has another document, is an error."""
    health, details = document_health(comparison, KIND, name)
    healths: list[Health] = [health]
    for host, report in reports.items():
        if isinstance(report, NodeError):
            healths.append("ERROR")
            details = [*details, report.message()]
            continue
        found = report.providers.get(name)
        if found is not None:
            healths.append(found.health)
            details = [*details, *service_reports.texts(host, found.details)]
    if content.primary_key_check_value is None and worst(healths) == "OK":
        healths.append("WARNING")
        text = "The primary key's check value is not recorded yet: not all key servers have agreed on it."
        details = [*details, message(text, "check_value_unknown", name)]
    servers = [server_info(name, server.name, reports) for server in content.servers]
    return Status(health=worst(healths), details=details, servers=servers)


def server_info(provider: str, server: str, reports: Reports) -> ServerInfo:
    """What all hosts say of a key server. Trust is there when every host that knows it has it."""
    known: list[tuple[str, ServerReport]] = [
        (host, found)
        for host, report in reports.items()
        if isinstance(report, KmsReport)
        for found in report.providers.get(provider, NO_REPORT).servers
        if found.name == server
    ]
    return ServerInfo(
        name=server,
        health=worst(found.health for _host, found in known),
        details=[text for host, found in known for text in service_reports.texts(host, found.details)],
        client_trust_server=bool(known) and all(found.client_trust_server for _host, found in known),
        server_trust_client=bool(known) and all(found.server_trust_client for _host, found in known),
        keys=key_availability([found for _host, found in known]),
    )


def key_availability(reports: Sequence[ServerReport]) -> list[KeyAvailability]:
    """What all hosts say of the primary keys on one server: there, when each of them has it from there."""
    found: dict[str, list[KeyReport]] = {}
    for report in reports:
        for key in report.keys:
            found.setdefault(key.primary_key_id, []).append(key)
    return [
        KeyAvailability(
            master_key_id=key_id,
            available=all(key.state for key in keys),
            # DEACTIVATED where hosts differ: it comes after ACTIVE.
            state=max(key.state for key in keys),
            code=next((key.code for key in keys if key.code), ""),
        )
        for key_id, keys in found.items()
    ]


NO_REPORT = ProviderReport("NONE", [], [])
READ = privileges("TrustedAdmin.ReadKMSTrust", "System.View@cluster")
MANAGE = privileges("TrustedAdmin.ManageKMSTrust", "System.View@cluster")

OPERATIONS: Table = (
    Operation(
        service=SERVICE,
        operation="list",
        method="GET",
        path=PATH,
        summary="Trusted key providers",
        input=ClusterInput,
        output=list[Summary],
        handler=list_providers,
        privileges=READ,
        errors=(InvalidArgument, NotFound),
        task=True,
        side="trust_authority",
    ),
    Operation(
        service=SERVICE,
        operation="create",
        method="POST",
        path=PATH,
        summary="Make a trusted key provider from a primary key that exists on its key servers",
        input=CreateInput,
        output=None,
        handler=create,
        privileges=MANAGE,
        errors=(AlreadyExists, InvalidArgument, NotFound, ResourceInaccessible),
        body="spec",
        task=True,
        side="trust_authority",
    ),
    Operation(
        service=SERVICE,
        operation="update",
        method="PATCH",
        path=f"{PATH}/{{provider}}",
        summary="Change a trusted key provider; another primary key rotates it",
        input=UpdateInput,
        output=None,
        handler=update,
        privileges=MANAGE,
        errors=(InvalidArgument, NotAllowedInCurrentState, NotFound, ResourceInaccessible),
        body="spec",
        task=True,
        side="trust_authority",
    ),
    Operation(
        service=SERVICE,
        operation="delete",
        method="DELETE",
        path=f"{PATH}/{{provider}}",
        summary="Delete a trusted key provider",
        input=ProviderInput,
        output=None,
        handler=delete,
        privileges=MANAGE,
        errors=(InvalidArgument, NotFound, ResourceInaccessible),
        task=True,
        side="trust_authority",
    ),
    Operation(
        service=SERVICE,
        operation="get",
        method="GET",
        path=f"{PATH}/{{provider}}",
        summary="One trusted key provider and how its key servers do",
        input=ProviderInput,
        output=Info,
        handler=get,
        privileges=READ,
        errors=(InvalidArgument, NotFound),
        task=True,
        side="trust_authority",
    ),
)
