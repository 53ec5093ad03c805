# SPDX-License-Identifier: GPL-3.0-or-later
"""trust/clusters/{cluster}/denied-hosts: hosts that are refused whatever their manager and tokens say."""

from __future__ import annotations

from trusted_infrastructure.config.documents import DeniedHost
from trusted_infrastructure.manager import authority_documents
from trusted_infrastructure.manager.comparison import Health
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.health import document_health
from trusted_infrastructure.manager.operations.structures import TRUST, TRUST_PATH, ClusterInput
from trusted_infrastructure.manager.operations.trust_cluster_hosts import check_enrolment
from trusted_infrastructure.manager.vapi.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    ResourceInaccessible,
)
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import FieldError, Identifier, Structure, check_dns_name

SERVICE = f"{TRUST}.denied_hosts"
PATH = f"{TRUST_PATH}/clusters/{{cluster}}/denied-hosts"
KIND = "denied_host"


class CreateSpec(Structure, frozen=True):
    """A host to be refused: its id in assertions (inventory name), its EK's digest; reason: for people."""

    host: str
    ek_digest: str
    reason: str | None = None

    def __post_init__(self) -> None:
        check_dns_name("host", self.host)
        check_enrolment(self.ek_digest, None)
        if self.reason is not None and len(self.reason) > 500:
            raise FieldError("reason", "is longer than 500 characters")

    @property
    def id(self) -> str:
        """Host and TPM: the same host with another TPM is another entry."""
        return f"{self.host}:{self.ek_digest[:16]}"

    def content(self) -> DeniedHost:
        """As the document holds it."""
        return DeniedHost(host=self.host, ek_digest=self.ek_digest, reason=self.reason or "")


class CreateInput(Structure, frozen=True):
    """Input of create."""

    cluster: Identifier
    spec: CreateSpec


class DenialInput(Structure, frozen=True):
    """Input of delete."""

    cluster: Identifier
    denial: Identifier


class Summary(Structure, frozen=True):
    """A refused host. denial: id of the entry."""

    denial: str
    host: str
    ek_digest: str
    reason: str
    health: Health


async def create(context: Context, given: CreateInput) -> str:
    await authority_documents.create(context, KIND, given.spec.id, given.spec.content())
    return given.spec.id


async def delete(context: Context, given: DenialInput) -> None:
    await authority_documents.delete(context, KIND, given.denial, DeniedHost)


async def list_denials(context: Context, _given: ClusterInput) -> list[Summary]:
    denials = authority_documents.find_all(context, KIND, DeniedHost)
    comparison = await context.manager.replication.compare(context.cluster)
    return [
        Summary(
            denial=name,
            host=content.host,
            ek_digest=content.ek_digest,
            reason=content.reason,
            health=document_health(comparison, KIND, name)[0],
        )
        for name, content in denials.items()
    ]


MANAGE = privileges("TrustedAdmin.ManageTrustedHosts", "System.View@cluster")

OPERATIONS: Table = (
    Operation(
        service=SERVICE,
        operation="list",
        method="GET",
        path=PATH,
        summary="Refused hosts",
        input=ClusterInput,
        output=list[Summary],
        handler=list_denials,
        privileges=privileges("TrustedAdmin.ReadTrustedHosts", "System.View@cluster"),
        errors=(NotFound,),
        side="trust_authority",
        task=True,
    ),
    Operation(
        service=SERVICE,
        operation="create",
        method="POST",
        path=PATH,
        summary="Refuse a host",
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
        path=f"{PATH}/{{denial}}",
        summary="Stop refusing a host",
        input=DenialInput,
        output=None,
        handler=delete,
        privileges=MANAGE,
        errors=(NotFound, ResourceInaccessible),
        task=True,
        side="trust_authority",
    ),
)
