# SPDX-License-Identifier: GPL-3.0-or-later
"""attestation/tpm2/ca-certificates: TPM vendors' CAs that EK certificates may come from."""

from __future__ import annotations

from trusted_infrastructure.config.documents import CaCertificate
from trusted_infrastructure.manager import authority_documents
from trusted_infrastructure.manager.certificates import check_root_first, read_chain
from trusted_infrastructure.manager.comparison import Health
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.health import document_health
from trusted_infrastructure.manager.operations.structures import (
    TRUST_AUTHORITY,
    TRUST_AUTHORITY_PATH,
    ClusterInput,
    HealthInfo,
    X509CertChain,
)
from trusted_infrastructure.manager.vapi.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    ResourceInaccessible,
)
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import FieldError, Identifier, Structure, check_name
from trusted_infrastructure.refusal import InvalidField
from trusted_infrastructure.tpm.endorsement import load_certificate_authority

SERVICE = f"{TRUST_AUTHORITY}.attestation.tpm2.ca_certificates"
PATH = f"{TRUST_AUTHORITY_PATH}/{{cluster}}/attestation/tpm2/ca-certificates"
KIND = "ca_certificate"


class CreateSpec(Structure, frozen=True):
    """A CA: chain from the root to the last issuer. It is optional in the schema, as on vSphere, and needed.

    eku_exception is ours: EK certificates of this vendor have no extended key usage."""

    name: Identifier
    cert_chain: X509CertChain | None = None
    eku_exception: bool = False

    def __post_init__(self) -> None:
        check_name("name", self.name)
        if self.cert_chain is None:
            raise FieldError("cert_chain", "is required")
        chain = read_chain("cert_chain.cert_chain", self.cert_chain.cert_chain)
        try:
            load_certificate_authority(self.name, [certificate.pem for certificate in chain])
        except InvalidField as error:
            reason = error.message.removeprefix(f"{error.field}: ")
            raise FieldError(f"cert_chain.{error.field}", reason) from None
        check_root_first("cert_chain.cert_chain", chain)

    @property
    def pem_chain(self) -> list[str]:
        """The chain as PEM."""
        return [] if self.cert_chain is None else self.cert_chain.pem()


class CreateInput(Structure, frozen=True):
    """Input of create."""

    cluster: Identifier
    spec: CreateSpec


class NameInput(Structure, frozen=True):
    """Input of get and delete."""

    cluster: Identifier
    name: Identifier


class Summary(Structure, frozen=True):
    """A CA and its health."""

    name: str
    health: Health


class Info(HealthInfo, frozen=True):
    """A CA with its chain, and health."""

    cert_chain: X509CertChain
    eku_exception: bool = False


async def create(context: Context, given: CreateInput) -> None:
    spec = given.spec
    content = CaCertificate(cert_chain=spec.pem_chain, eku_exception=spec.eku_exception)
    await authority_documents.create(context, KIND, spec.name, content)


async def delete(context: Context, given: NameInput) -> None:
    await authority_documents.delete(context, KIND, given.name, CaCertificate)


async def get(context: Context, given: NameInput) -> Info:
    content = authority_documents.find(context, KIND, given.name, CaCertificate)
    comparison = await context.manager.replication.compare(context.cluster)
    health, details = document_health(comparison, KIND, given.name)
    return Info(
        cert_chain=X509CertChain(cert_chain=content.cert_chain),
        eku_exception=content.eku_exception,
        health=health,
        details=details,
    )


async def list_certificates(context: Context, _given: ClusterInput) -> list[Summary]:
    names = authority_documents.find_all(context, KIND, CaCertificate)
    comparison = await context.manager.replication.compare(context.cluster)
    return [Summary(name=name, health=document_health(comparison, KIND, name)[0]) for name in names]


READ = privileges("TrustedAdmin.RetrieveTPMHostCertificates", "System.View@cluster")
MANAGE = privileges("TrustedAdmin.ConfigureHostCertificates", "System.View@cluster")

OPERATIONS: Table = (
    Operation(
        service=SERVICE,
        operation="list",
        method="GET",
        path=PATH,
        summary="Trusted CAs of TPM vendors",
        input=ClusterInput,
        output=list[Summary],
        handler=list_certificates,
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
        summary="Trust a CA of a TPM vendor",
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
        operation="delete",
        method="DELETE",
        path=f"{PATH}/{{name}}",
        summary="Stop trusting a CA",
        input=NameInput,
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
        path=f"{PATH}/{{name}}",
        summary="One trusted CA",
        input=NameInput,
        output=Info,
        handler=get,
        privileges=READ,
        errors=(InvalidArgument, NotFound),
        task=True,
        side="trust_authority",
    ),
)
