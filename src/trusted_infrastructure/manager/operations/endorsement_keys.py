# SPDX-License-Identifier: GPL-3.0-or-later
"""attestation/tpm2/endorsement-keys: TPMs that are enrolled one by one, by key or by EK certificate."""

from __future__ import annotations

from datetime import UTC, datetime

from trusted_infrastructure.config.documents import CaCertificate, EndorsementKey
from trusted_infrastructure.manager import authority_documents
from trusted_infrastructure.manager.certificates import read_public_key
from trusted_infrastructure.manager.comparison import Health
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.health import document_health
from trusted_infrastructure.manager.operations.structures import (
    TRUST_AUTHORITY,
    TRUST_AUTHORITY_PATH,
    ClusterInput,
    HealthInfo,
)
from trusted_infrastructure.manager.vapi.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    ResourceInaccessible,
)
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import FieldError, Identifier, Structure, check_name
from trusted_infrastructure.manager.vendor_certificates import key_pem, read_vendor_certificate
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tpm.certificates import parse_pem_certificate
from trusted_infrastructure.tpm.endorsement import load_certificate_authority, verify_path

SERVICE = f"{TRUST_AUTHORITY}.attestation.tpm2.endorsement_keys"
PATH = f"{TRUST_AUTHORITY_PATH}/{{cluster}}/attestation/tpm2/endorsement-keys"
KIND = "endorsement_key"


class CreateSpec(Structure, frozen=True):
    """A TPM: its EK's public key, its EK certificate, or both, which must be of one key."""

    name: Identifier
    public_key: str | None = None
    certificate: str | None = None

    def __post_init__(self) -> None:
        check_name("name", self.name)
        if self.public_key is None and self.certificate is None:
            raise FieldError("public_key", "public_key or certificate is required")
        if self.public_key is not None:
            read_public_key("public_key", self.public_key)
        if self.certificate is not None:
            certified = key_pem(read_vendor_certificate("certificate", self.certificate))
            read_public_key("certificate", certified)
            if self.public_key is not None and read_public_key("public_key", self.public_key) != certified:
                raise FieldError("public_key", "is not the key of the certificate")

    def content(self) -> EndorsementKey:
        """As the document holds it."""
        if self.certificate is None:
            return EndorsementKey(public_key=read_public_key("public_key", self.public_key or ""))
        certificate = read_vendor_certificate("certificate", self.certificate)
        return EndorsementKey(public_key=key_pem(certificate), certificate=certificate.pem())


class CreateInput(Structure, frozen=True):
    """Input of create."""

    cluster: Identifier
    spec: CreateSpec


class NameInput(Structure, frozen=True):
    """Input of get and delete."""

    cluster: Identifier
    name: Identifier


class Summary(Structure, frozen=True):
    """An enrolled TPM and its health."""

    name: str
    health: Health


class Info(HealthInfo, frozen=True):
    """An enrolled TPM and its health."""

    public_key: str


async def create(context: Context, given: CreateInput) -> None:
    content = given.spec.content()
    if content.certificate is not None:
        check_certificate(context, content.certificate)
    await authority_documents.create(context, KIND, given.spec.name, content)


def check_certificate(context: Context, pem: str) -> None:
    """The EK certificate comes from a registered CA. Raises InvalidArgument with the reason."""
    registered = authority_documents.find_all(context, "ca_certificate", CaCertificate)
    try:
        authorities = [
            load_certificate_authority(name, entry.cert_chain, entry.eku_exception, entry.crls)
            for name, entry in registered.items()
        ]
        now = datetime.fromtimestamp(context.manager.clock(), UTC)
        verify_path(parse_pem_certificate(pem), [], authorities, now)
    except Refusal as refusal:
        raise InvalidArgument(
            "spec.certificate", f"{refusal.message} {refusal.remedy}".strip(), reason=refusal.code
        ) from None


async def delete(context: Context, given: NameInput) -> None:
    await authority_documents.delete(context, KIND, given.name, EndorsementKey)


async def get(context: Context, given: NameInput) -> Info:
    content = authority_documents.find(context, KIND, given.name, EndorsementKey)
    comparison = await context.manager.replication.compare(context.cluster)
    health, details = document_health(comparison, KIND, given.name)
    return Info(public_key=content.public_key, health=health, details=details)


async def list_keys(context: Context, _given: ClusterInput) -> list[Summary]:
    names = authority_documents.find_all(context, KIND, EndorsementKey)
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
        summary="Enrolled TPMs",
        input=ClusterInput,
        output=list[Summary],
        handler=list_keys,
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
        summary="Enroll a TPM by its endorsement key or EK certificate",
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
        summary="Remove an enrolled TPM",
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
        summary="One enrolled TPM",
        input=NameInput,
        output=Info,
        handler=get,
        privileges=READ,
        errors=(InvalidArgument, NotFound),
        task=True,
        side="trust_authority",
    ),
)
