# SPDX-License-Identifier: GPL-3.0-or-later
"""trust/standard-key-providers/{provider}/client-certificate, csr, credential, peer-certs.

How a provider shows itself to key servers, and whom it trusts. The private key of a certificate that is made
here never leaves the manager; one that is given, and a password, cannot be read again.
"""

from __future__ import annotations

import asyncio

import msgspec

from trusted_infrastructure.config import provider_password
from trusted_infrastructure.kmip import client_certificates
from trusted_infrastructure.kmip.connection import KeyServer, presented_certificate
from trusted_infrastructure.manager import provider_certificates, standard_providers
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.operations.client_certificate import CsrInfo, check_credential
from trusted_infrastructure.manager.operations.client_certificate import UpdateSpec as CertificateSpec
from trusted_infrastructure.manager.operations.peer_certificates import Info as TrustedInfo
from trusted_infrastructure.manager.operations.peer_certificates import Summary as PeerSummary
from trusted_infrastructure.manager.operations.peer_certificates import UpdateSpec as TrustSpec
from trusted_infrastructure.manager.operations.peer_certificates import is_trusted, unfit
from trusted_infrastructure.manager.operations.standard_key_providers import (
    MANAGE,
    PATH,
    READ,
    SERVICE,
    ProviderInput,
)
from trusted_infrastructure.manager.standard_provider_changes import change
from trusted_infrastructure.manager.standard_providers import CLIENT_NAME_PREFIX, StandardProvider, purpose
from trusted_infrastructure.manager.vapi.errors import InvalidArgument, NotFound, Unsupported, message
from trusted_infrastructure.manager.vapi.operation import Operation, Table
from trusted_infrastructure.manager.vapi.structure import (
    Identifier,
    Structure,
    Timestamp,
    timestamp,
)
from trusted_infrastructure.refusal import Refusal

ONE = f"{PATH}/{{provider}}"


class CertificateInfo(Structure, frozen=True):
    """The client certificate, PEM, and when it ends."""

    certificate: str
    expires: Timestamp


class CertificateInput(Structure, frozen=True):
    """Input of client_certificate.set."""

    provider: Identifier
    spec: CertificateSpec


class CredentialInput(Structure, frozen=True):
    """Input of credential.set; never stored as it is."""

    provider: Identifier
    credential: str

    def __post_init__(self) -> None:
        check_credential(self.credential)


class TrustInput(Structure, frozen=True):
    """Input of trusted_peer_certificates.update."""

    provider: Identifier
    spec: TrustSpec


def find(context: Context, name: str) -> StandardProvider:
    """A provider. Raises NotFound."""
    with context.manager.database.transaction() as connection:
        return standard_providers.find(connection, name)


def private_key(context: Context, name: str, key: bytes) -> str:
    """A client key (PKCS 8 PEM), encrypted for the database."""
    return context.manager.secrets.encrypt(purpose(name, "client_private_key"), key)


async def make_certificate(context: Context, given: ProviderInput) -> None:
    name = client_certificates.client_name(CLIENT_NAME_PREFIX, given.provider)
    key, certificate = client_certificates.self_signed(name, int(context.manager.clock()))
    encrypted = private_key(context, given.provider, key)

    def edit(before: StandardProvider) -> StandardProvider:
        return msgspec.structs.replace(before, client_certificate=certificate, client_private_key=encrypted)

    change(context, given.provider, edit)


async def get_certificate(context: Context, given: ProviderInput) -> CertificateInfo:
    certificate = find(context, given.provider).client_certificate
    if certificate is None:
        raise NotFound(f"The key provider {given.provider!r} has no client certificate.", given.provider)
    end = client_certificates.certificate_end(certificate)
    return CertificateInfo(certificate=certificate, expires=timestamp(end.timestamp()))


async def set_certificate(context: Context, given: CertificateInput) -> None:
    now = context.manager.clock()
    found = provider_certificates.read(given.spec.certificate, given.spec.private_key, now)
    key = found.private_key
    encrypted = None if key is None else private_key(context, given.provider, key)

    def edit(before: StandardProvider) -> StandardProvider:
        return provider_certificates.update(before, found.certificate, encrypted)

    change(context, given.provider, edit)


async def make_request(context: Context, given: ProviderInput) -> CsrInfo:
    name = client_certificates.client_name(CLIENT_NAME_PREFIX, given.provider)
    key, csr = client_certificates.certificate_request(name)
    encrypted = private_key(context, given.provider, key)

    def edit(before: StandardProvider) -> StandardProvider:
        return msgspec.structs.replace(before, csr=csr, csr_private_key=encrypted)

    change(context, given.provider, edit)
    return CsrInfo(csr=csr)


async def get_request(context: Context, given: ProviderInput) -> CsrInfo:
    csr = find(context, given.provider).csr
    if csr is None:
        text = f"The key provider {given.provider!r} has no outstanding certificate request."
        raise NotFound(text, given.provider)
    return CsrInfo(csr=csr)


async def set_credential(context: Context, given: CredentialInput) -> None:
    def edit(before: StandardProvider) -> StandardProvider:
        # For the key servers that whoever knows the password sees in the provider now, and for no others.
        binding = provider_password.binding_of(before)
        secret = provider_password.sealable(given.credential, binding)
        encrypted = context.manager.secrets.encrypt(purpose(given.provider, "password"), secret)
        return msgspec.structs.replace(before, password=encrypted, password_binding=binding)

    change(context, given.provider, edit)


async def list_current(context: Context, given: ProviderInput) -> list[PeerSummary]:
    provider = find(context, given.provider)

    async def one(server: KeyServer) -> PeerSummary:
        try:
            certificate = await context.manager.key_servers.run(
                given.provider, lambda: presented_certificate(server)
            )
        except Refusal as refusal:
            errors = [message(refusal.message, "peer_certificate", server.name)]
            return PeerSummary(server_name=server.name, error_messages=errors, trusted=False)
        trusted = is_trusted(certificate, provider.trusted_certificates)
        errors = unfit(certificate, server.name, server.hostname, context.manager.clock())
        return PeerSummary(
            server_name=server.name, error_messages=errors, trusted=trusted, certificate=certificate
        )

    servers = standard_providers.key_servers(provider)
    return list(await asyncio.gather(*(one(server) for server in servers)))


async def get_trusted(context: Context, given: ProviderInput) -> TrustedInfo:
    return TrustedInfo(certificates=find(context, given.provider).trusted_certificates)


async def update_trusted(context: Context, given: TrustInput) -> None:
    certificates = given.spec.pem()

    def edit(before: StandardProvider) -> StandardProvider:
        if certificates is None:
            return before
        return msgspec.structs.replace(before, trusted_certificates=certificates)

    change(context, given.provider, edit)


CHANGE_ERRORS = (InvalidArgument, NotFound, Unsupported)

OPERATIONS: Table = (
    Operation(
        service=f"{SERVICE}.client_certificate",
        operation="create",
        method="POST",
        path=f"{ONE}/client-certificate",
        summary="Make a self-signed client certificate, in place of the one before",
        input=ProviderInput,
        output=None,
        handler=make_certificate,
        privileges=MANAGE,
        errors=(NotFound, Unsupported),
        side="workload",
    ),
    Operation(
        service=f"{SERVICE}.client_certificate",
        operation="get",
        method="GET",
        path=f"{ONE}/client-certificate",
        summary="The client certificate",
        input=ProviderInput,
        output=CertificateInfo,
        handler=get_certificate,
        privileges=READ,
        errors=(NotFound,),
        side="workload",
    ),
    Operation(
        service=f"{SERVICE}.client_certificate",
        operation="set",
        method="PUT",
        path=f"{ONE}/client-certificate",
        summary="Install a signed client certificate, or a certificate with its key",
        input=CertificateInput,
        output=None,
        handler=set_certificate,
        privileges=MANAGE,
        errors=CHANGE_ERRORS,
        body="spec",
        side="workload",
    ),
    Operation(
        service=f"{SERVICE}.csr",
        operation="create",
        method="POST",
        path=f"{ONE}/csr",
        summary="Make a certificate request, in place of the one before",
        input=ProviderInput,
        output=CsrInfo,
        handler=make_request,
        privileges=MANAGE,
        errors=(NotFound, Unsupported),
        side="workload",
    ),
    Operation(
        service=f"{SERVICE}.csr",
        operation="get",
        method="GET",
        path=f"{ONE}/csr",
        summary="The outstanding certificate request",
        input=ProviderInput,
        output=CsrInfo,
        handler=get_request,
        privileges=READ,
        errors=(NotFound,),
        side="workload",
    ),
    Operation(
        service=f"{SERVICE}.credential",
        operation="set",
        method="PUT",
        path=f"{ONE}/credential",
        summary="Set the password for the key servers; it cannot be read",
        input=CredentialInput,
        output=None,
        handler=set_credential,
        privileges=MANAGE,
        errors=CHANGE_ERRORS,
        body="credential",
        side="workload",
    ),
    Operation(
        service=f"{SERVICE}.current_peer_certificates",
        operation="list",
        method="GET",
        path=f"{ONE}/peer-certs/current",
        summary="Ask each key server what certificate it presents, for review",
        input=ProviderInput,
        output=list[PeerSummary],
        handler=list_current,
        privileges=READ,
        errors=(NotFound,),
        side="workload",
    ),
    Operation(
        service=f"{SERVICE}.trusted_peer_certificates",
        operation="get",
        method="GET",
        path=f"{ONE}/peer-certs/trusted",
        summary="Trusted certificates of the key servers",
        input=ProviderInput,
        output=TrustedInfo,
        handler=get_trusted,
        privileges=READ,
        errors=(NotFound,),
        side="workload",
    ),
    Operation(
        service=f"{SERVICE}.trusted_peer_certificates",
        operation="update",
        method="PATCH",
        path=f"{ONE}/peer-certs/trusted",
        summary="Replace the trusted certificates of the key servers",
        input=TrustInput,
        output=None,
        handler=update_trusted,
        privileges=MANAGE,
        errors=CHANGE_ERRORS,
        body="spec",
        side="workload",
    ),
)
