# SPDX-License-Identifier: GPL-3.0-or-later
"""consumer_principals: workload managers whose host assertions the Trust Authority accepts."""

from __future__ import annotations

import uuid

from trusted_infrastructure.config.documents import ConsumerPrincipal
from trusted_infrastructure.manager import authority_documents
from trusted_infrastructure.manager.comparison import Health
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.health import document_health
from trusted_infrastructure.manager.operations.structures import (
    TRUST_AUTHORITY,
    TRUST_AUTHORITY_PATH,
    StsPrincipal,
    X509CertChain,
    principal_of,
)
from trusted_infrastructure.manager.vapi.errors import (
    AlreadyExists,
    InvalidArgument,
    LocalizableMessage,
    NotFound,
    ResourceInaccessible,
)
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import FieldError, Identifier, Structure

SERVICE = f"{TRUST_AUTHORITY}.consumer_principals"
PATH = f"{TRUST_AUTHORITY_PATH}/{{cluster}}/consumer-principals"
KIND = "consumer_principal"


class CreateSpec(Structure, frozen=True):
    """A workload manager. certificates: chains of its signing certificates, leaf first."""

    certificates: list[X509CertChain]
    issuer_alias: Identifier
    issuer: Identifier
    principal: StsPrincipal

    def __post_init__(self) -> None:
        if not self.certificates:
            raise FieldError("certificates", "must have at least one chain")


class CreateInput(Structure, frozen=True):
    """Input of create."""

    cluster: Identifier
    spec: CreateSpec


class ProfileInput(Structure, frozen=True):
    """Input of get and delete."""

    cluster: Identifier
    profile: Identifier


class FilterSpec(Structure, frozen=True):
    """Principals with one of the ids, one of the principals and one of the issuers, where given."""

    id: list[str] | None = None
    principals: list[StsPrincipal] | None = None
    issuer: list[str] | None = None


class ListInput(Structure, frozen=True):
    """Input of list."""

    cluster: Identifier
    spec: FilterSpec | None = None


class Summary(Structure, frozen=True):
    """A principal."""

    id: str
    principal: StsPrincipal
    issuer_alias: str
    issuer: str


class Info(Summary, frozen=True):
    """A principal, its certificates and health."""

    certificates: list[X509CertChain]
    health: Health
    message: LocalizableMessage | None = None


async def create(context: Context, given: CreateInput) -> str:
    spec = given.spec
    content = ConsumerPrincipal(
        issuer=spec.issuer,
        issuer_alias=spec.issuer_alias,
        principal=spec.principal.document(),
        certificates=[chain.pem() for chain in spec.certificates],
    )
    for profile, known in authority_documents.find_all(context, KIND, ConsumerPrincipal).items():
        if known.issuer == spec.issuer:
            raise AlreadyExists(f"The issuer {spec.issuer!r} has the profile {profile}.", profile)
    profile = str(uuid.uuid4())
    await authority_documents.create(context, KIND, profile, content)
    return profile


async def delete(context: Context, given: ProfileInput) -> None:
    await authority_documents.delete(context, KIND, given.profile, ConsumerPrincipal)


async def get(context: Context, given: ProfileInput) -> Info:
    content = authority_documents.find(context, KIND, given.profile, ConsumerPrincipal)
    comparison = await context.manager.replication.compare(context.cluster)
    health, details = document_health(comparison, KIND, given.profile)
    return Info(
        id=given.profile,
        principal=principal_of(content.principal),
        issuer_alias=content.issuer_alias,
        issuer=content.issuer,
        certificates=[X509CertChain(cert_chain=chain) for chain in content.certificates],
        health=health,
        message=details[0] if details else None,
    )


async def list_principals(context: Context, given: ListInput) -> list[Summary]:
    found = [
        Summary(
            id=profile,
            principal=principal_of(content.principal),
            issuer_alias=content.issuer_alias,
            issuer=content.issuer,
        )
        for profile, content in authority_documents.find_all(context, KIND, ConsumerPrincipal).items()
    ]
    return [item for item in found if matches(item, given.spec or FilterSpec())]


def matches(item: Summary, wanted: FilterSpec) -> bool:
    """Whether the filter lets the principal through."""
    return (
        (not wanted.id or item.id in wanted.id)
        and (not wanted.principals or item.principal in wanted.principals)
        and (not wanted.issuer or item.issuer in wanted.issuer)
    )


READ = privileges("TrustedAdmin.ReadAttestingSSO", "System.View@cluster")
MANAGE = privileges("TrustedAdmin.ManageAttestingSSO", "System.View@cluster")

OPERATIONS: Table = (
    Operation(
        service=SERVICE,
        operation="create",
        method="POST",
        path=PATH,
        summary="Accept the hosts of a workload manager",
        input=CreateInput,
        output=str,
        handler=create,
        privileges=MANAGE,
        errors=(AlreadyExists, InvalidArgument, NotFound, ResourceInaccessible),
        body="spec",
        task=True,
        side="trust_authority",
    ),
    Operation(
        service=SERVICE,
        operation="delete",
        method="DELETE",
        path=f"{PATH}/{{profile}}",
        summary="Stop accepting the hosts of a workload manager",
        input=ProfileInput,
        output=None,
        handler=delete,
        privileges=MANAGE,
        errors=(NotFound, ResourceInaccessible),
        task=True,
        side="trust_authority",
    ),
    Operation(
        service=SERVICE,
        operation="get",
        method="GET",
        path=f"{PATH}/{{profile}}",
        summary="One accepted workload manager",
        input=ProfileInput,
        output=Info,
        handler=get,
        privileges=READ,
        errors=(NotFound,),
        task=True,
        side="trust_authority",
    ),
    Operation(
        service=SERVICE,
        operation="list",
        method="POST",
        path=PATH,
        action="query",
        summary="Accepted workload managers",
        input=ListInput,
        output=list[Summary],
        handler=list_principals,
        privileges=READ,
        errors=(NotFound,),
        body="spec",
        task=True,
        side="trust_authority",
    ),
)
