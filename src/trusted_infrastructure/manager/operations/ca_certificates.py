# SPDX-License-Identifier: GPL-3.0-or-later
"""attestation/tpm2/ca-certificates: TPM vendors' CAs that EK certificates may come from."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from trusted_infrastructure.config.documents import CaCertificate
from trusted_infrastructure.manager import authority_documents
from trusted_infrastructure.manager.comparison import Health
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.health import document_health
from trusted_infrastructure.manager.operations.structures import (
    TRUST,
    TRUST_AUTHORITY,
    TRUST_AUTHORITY_PATH,
    TRUST_PATH,
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
from trusted_infrastructure.manager.vendor_certificates import check_root_first, read_vendor_chain
from trusted_infrastructure.refusal import InvalidField
from trusted_infrastructure.tpm.endorsement import load_certificate_authority
from trusted_infrastructure.tpm.revocation import parse_revocation_list

SERVICE = f"{TRUST_AUTHORITY}.attestation.tpm2.ca_certificates"
PATH = f"{TRUST_AUTHORITY_PATH}/{{cluster}}/attestation/tpm2/ca-certificates"
KIND = "ca_certificate"


# A CRL of 20,000 numbers takes 1 MB.
CREATE_LIMIT = 4 * 1024 * 1024


class VendorCertChain(X509CertChain, frozen=True):
    """Certificates of a TPM vendor, PEM or base64 of DER; root first."""

    def __post_init__(self) -> None:
        read_vendor_chain("cert_chain", self.cert_chain)

    def pem(self) -> list[str]:
        """Each certificate as PEM."""
        return [certificate.pem() for certificate in read_vendor_chain("cert_chain", self.cert_chain)]


class CreateSpec(Structure, frozen=True):
    """A CA: chain from the root to the last issuer. It is optional in the schema, as on vSphere, and needed.

    eku_exception and crls are ours. eku_exception: EK certificates of this vendor have no extended key usage.
    crls: certificate revocation lists (PEM) of CAs of the chain, one for each at most. Where a CA has one, it
    counts: what it names is refused, and after its nextUpdate everything that the CA has issued."""

    name: Identifier
    cert_chain: VendorCertChain | None = None
    eku_exception: bool = False
    crls: list[str] = []

    def __post_init__(self) -> None:
        check_name("name", self.name)
        if self.cert_chain is None:
            raise FieldError("cert_chain", "is required")
        try:
            authority = load_certificate_authority(self.name, self.pem_chain, crls=self.crls)
        except InvalidField as error:
            reason = error.message.removeprefix(f"{error.field}: ")
            field = error.field if error.field.startswith("crls") else f"cert_chain.{error.field}"
            raise FieldError(field, reason) from None
        check_root_first("cert_chain.cert_chain", [authority.anchor, *authority.intermediates])

    @property
    def pem_chain(self) -> list[str]:
        """The chain as PEM."""
        return [] if self.cert_chain is None else self.cert_chain.pem()


class CreateInput(Structure, frozen=True):
    """Input of create."""

    cluster: Identifier
    spec: CreateSpec


class UpdateSpec(Structure, frozen=True):
    """crls: in place of those that are there; unset: unchanged."""

    crls: list[str] | None = None


class UpdateInput(Structure, frozen=True):
    """Input of update."""

    cluster: Identifier
    name: Identifier
    spec: UpdateSpec


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

    cert_chain: VendorCertChain
    eku_exception: bool = False
    crls: list[str] = []


async def create(context: Context, given: CreateInput) -> None:
    spec = given.spec
    check_current(context, spec.crls)
    content = CaCertificate(cert_chain=spec.pem_chain, eku_exception=spec.eku_exception, crls=spec.crls)
    await authority_documents.create(context, KIND, spec.name, content)


async def update(context: Context, given: UpdateInput) -> None:
    """A vendor's next CRL, in one step: deleting the entry and making it anew would leave its TPMs untrusted
    for a moment."""
    crls = given.spec.crls

    def changed(content: CaCertificate) -> CaCertificate:
        try:
            load_certificate_authority(given.name, content.cert_chain, crls=crls or [])
        except InvalidField as error:
            reason = error.message.removeprefix(f"{error.field}: ")
            raise InvalidArgument(f"spec.{error.field}", reason) from None
        check_current(context, crls or [])
        return content if crls is None else msgspec.structs.replace(content, crls=crls)

    await authority_documents.update(context, KIND, given.name, CaCertificate, changed)


def check_current(context: Context, crls: Sequence[str]) -> None:
    """No CRL is out of date: with one, no TPM of this CA would be accepted. Raises InvalidArgument."""
    now = datetime.fromtimestamp(context.manager.clock(), UTC)
    for position, pem in enumerate(crls):
        crl = parse_revocation_list(pem)
        if not crl.this_update <= now <= crl.next_update:
            period = f"{crl.this_update:%Y-%m-%d} to {crl.next_update:%Y-%m-%d}"
            raise InvalidArgument(
                f"spec.crls[{position}]",
                f"is a CRL of '{crl.issuer.text}' for {period}, and today is {now:%Y-%m-%d}",
                reason="ek_certificate_invalid",
            )


async def delete(context: Context, given: NameInput) -> None:
    await authority_documents.delete(context, KIND, given.name, CaCertificate)


async def get(context: Context, given: NameInput) -> Info:
    content = authority_documents.find(context, KIND, given.name, CaCertificate)
    comparison = await context.manager.replication.compare(context.cluster)
    health, details = document_health(comparison, KIND, given.name)
    return Info(
        cert_chain=VendorCertChain(cert_chain=content.cert_chain),
        eku_exception=content.eku_exception,
        crls=content.crls,
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
        limit=CREATE_LIMIT,
    ),
    Operation(
        service=f"{TRUST}.ca_certificates",
        operation="update",
        method="PATCH",
        path=f"{TRUST_PATH}/clusters/{{cluster}}/ca-certificates/{{name}}",
        summary="Change the certificate revocation lists of a trusted CA",
        input=UpdateInput,
        output=None,
        handler=update,
        privileges=MANAGE,
        errors=(InvalidArgument, NotFound, ResourceInaccessible),
        body="spec",
        task=True,
        side="trust_authority",
        limit=CREATE_LIMIT,
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
