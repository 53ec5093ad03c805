# SPDX-License-Identifier: GPL-3.0-or-later
"""trust/clusters/{cluster}/scopes: what the hosts of a trusted cluster may use (docs/protocol.md 2)."""

from __future__ import annotations

import msgspec

from trusted_infrastructure.config.documents import BaseImage, ConsumerPrincipal, KeyProvider, Scope
from trusted_infrastructure.manager import authority_documents
from trusted_infrastructure.manager.comparison import Health
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.health import document_health
from trusted_infrastructure.manager.operations.structures import (
    TRUST,
    TRUST_PATH,
    ClusterInput,
    HealthInfo,
)
from trusted_infrastructure.manager.scope_references import check_references
from trusted_infrastructure.manager.vapi.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    ResourceInaccessible,
)
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import FieldError, Identifier, Structure, check_name

SERVICE = f"{TRUST}.scopes"
PATH = f"{TRUST_PATH}/clusters/{{cluster}}/scopes"
KIND = "scope"
ALL = "*"


class CreateSpec(Structure, frozen=True):
    """A scope. principal: issuer of a consumer principal. base_images, providers: ids, or ["*"] for all."""

    scope: str
    principal: Identifier
    trusted_cluster: Identifier
    base_images: list[Identifier]
    providers: list[Identifier]

    def __post_init__(self) -> None:
        check_name("scope", self.scope)
        check_list("base_images", self.base_images)
        check_list("providers", self.providers)

    def content(self) -> Scope:
        """As the document holds it."""
        return Scope(
            principal=self.principal,
            trusted_cluster=self.trusted_cluster,
            base_images=self.base_images,
            providers=self.providers,
        )


class CreateInput(Structure, frozen=True):
    """Input of create."""

    cluster: Identifier
    spec: CreateSpec


class UpdateSpec(Structure, frozen=True):
    """Unset: unchanged."""

    principal: Identifier | None = None
    trusted_cluster: Identifier | None = None
    base_images: list[Identifier] | None = None
    providers: list[Identifier] | None = None

    def __post_init__(self) -> None:
        check_list("base_images", self.base_images or [])
        check_list("providers", self.providers or [])

    def applied_to(self, before: Scope) -> Scope:
        """The document with these changes."""
        given = msgspec.structs.asdict(self)
        return msgspec.structs.replace(
            before, **{name: value for name, value in given.items() if value is not None}
        )


class UpdateInput(Structure, frozen=True):
    """Input of update."""

    cluster: Identifier
    scope: Identifier
    spec: UpdateSpec


class ScopeInput(Structure, frozen=True):
    """Input that is a scope alone."""

    cluster: Identifier
    scope: Identifier


class Summary(Structure, frozen=True):
    """A scope and its health."""

    scope: str
    principal: str
    trusted_cluster: str
    base_images: list[str]
    providers: list[str]
    health: Health


class Info(HealthInfo, frozen=True):
    """A scope and its health."""

    principal: str
    trusted_cluster: str
    base_images: list[str]
    providers: list[str]


def check_list(field: str, values: list[str]) -> None:
    """ "*" stands alone; nothing is there twice. Raises FieldError."""
    if ALL in values and len(values) > 1:
        raise FieldError(field, f"{ALL!r} means all, and stands alone")
    if len(set(values)) != len(values):
        raise FieldError(field, "has a value twice")


def checked(context: Context, scope: Scope, before: Scope | None) -> Scope:
    """A scope that names only what there is, or what it named before. Raises InvalidArgument."""
    principals = authority_documents.find_all(context, "consumer_principal", ConsumerPrincipal)
    check_references(
        scope,
        before,
        principals=[principal.issuer for principal in principals.values()],
        base_images=authority_documents.find_all(context, "base_image", BaseImage),
        providers=authority_documents.find_all(context, "key_provider", KeyProvider),
    )
    return scope


async def create(context: Context, given: CreateInput) -> None:
    content = checked(context, given.spec.content(), None)
    await authority_documents.create(context, KIND, given.spec.scope, content)


async def update(context: Context, given: UpdateInput) -> None:
    await authority_documents.update(
        context,
        KIND,
        given.scope,
        Scope,
        lambda before: checked(context, given.spec.applied_to(before), before),
    )


async def delete(context: Context, given: ScopeInput) -> None:
    await authority_documents.delete(context, KIND, given.scope, Scope)


async def get(context: Context, given: ScopeInput) -> Info:
    content = authority_documents.find(context, KIND, given.scope, Scope)
    comparison = await context.manager.replication.compare(context.cluster)
    health, details = document_health(comparison, KIND, given.scope)
    return Info(
        principal=content.principal,
        trusted_cluster=content.trusted_cluster,
        base_images=content.base_images,
        providers=content.providers,
        health=health,
        details=details,
    )


async def list_scopes(context: Context, _given: ClusterInput) -> list[Summary]:
    scopes = authority_documents.find_all(context, KIND, Scope)
    comparison = await context.manager.replication.compare(context.cluster)
    return [
        Summary(
            scope=name,
            principal=content.principal,
            trusted_cluster=content.trusted_cluster,
            base_images=content.base_images,
            providers=content.providers,
            health=document_health(comparison, KIND, name)[0],
        )
        for name, content in scopes.items()
    ]


READ = privileges("TrustedAdmin.ReadAttestingSSO", "System.View@cluster")
MANAGE = privileges("TrustedAdmin.ManageAttestingSSO", "System.View@cluster")

OPERATIONS: Table = (
    Operation(
        service=SERVICE,
        operation="list",
        method="GET",
        path=PATH,
        summary="Scopes",
        input=ClusterInput,
        output=list[Summary],
        handler=list_scopes,
        privileges=READ,
        errors=(NotFound,),
        side="trust_authority",
        task=True,
    ),
    Operation(
        service=SERVICE,
        operation="create",
        method="POST",
        path=PATH,
        summary="Make a scope",
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
        operation="get",
        method="GET",
        path=f"{PATH}/{{scope}}",
        summary="One scope",
        input=ScopeInput,
        output=Info,
        handler=get,
        privileges=READ,
        errors=(NotFound,),
        side="trust_authority",
        task=True,
    ),
    Operation(
        service=SERVICE,
        operation="update",
        method="PATCH",
        path=f"{PATH}/{{scope}}",
        summary="Change a scope",
        input=UpdateInput,
        output=None,
        handler=update,
        privileges=MANAGE,
        errors=(InvalidArgument, NotFound, ResourceInaccessible),
        body="spec",
        task=True,
        side="trust_authority",
    ),
    Operation(
        service=SERVICE,
        operation="delete",
        method="DELETE",
        path=f"{PATH}/{{scope}}",
        summary="Delete a scope: its hosts are not attested any more",
        input=ScopeInput,
        output=None,
        handler=delete,
        privileges=MANAGE,
        errors=(NotFound, ResourceInaccessible),
        task=True,
        side="trust_authority",
    ),
)
