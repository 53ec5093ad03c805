# SPDX-License-Identifier: GPL-3.0-or-later
"""kms/providers/{provider}/client-certificate, csr, credential: how a provider shows itself to key servers.

A client key is made on a host, or given and sealed at once; this manager stores only sealed values.
"""

from __future__ import annotations

import msgspec

from trusted_infrastructure.config import provider_password
from trusted_infrastructure.config.documents import KeyProvider
from trusted_infrastructure.manager import key_providers, provider_certificates
from trusted_infrastructure.manager.certificates import read_client_chain, read_private_key
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.key_providers import MadeCertificate, MadeRequest
from trusted_infrastructure.manager.operations.key_providers import ProviderInput
from trusted_infrastructure.manager.operations.structures import TRUST_AUTHORITY, TRUST_AUTHORITY_PATH
from trusted_infrastructure.manager.vapi.errors import InvalidArgument, NotFound, ResourceInaccessible
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import FieldError, Identifier, Structure

SERVICE = f"{TRUST_AUTHORITY}.kms.providers"
PATH = f"{TRUST_AUTHORITY_PATH}/{{cluster}}/kms/providers/{{provider}}"
CREDENTIAL_LIMIT = 1024


class Info(Structure, frozen=True):
    """The client certificate, PEM."""

    certificate: str


class CsrInfo(Structure, frozen=True):
    """A certificate request, PEM."""

    csr: str


class UpdateSpec(Structure, frozen=True):
    """A client certificate (PEM), which its intermediates may follow.

    private_key (PEM): unset when it answers the outstanding request, or is for the key of the one of now."""

    certificate: str
    private_key: str | None = None

    def __post_init__(self) -> None:
        certificate = read_client_chain("certificate", self.certificate)
        if self.private_key is not None:
            key = read_private_key("private_key", self.private_key)
            if key.public_key() != certificate.x509.public_key():
                raise FieldError("private_key", "is not the key of the certificate")


class UpdateInput(Structure, frozen=True):
    """Input of update."""

    cluster: Identifier
    provider: Identifier
    spec: UpdateSpec


class CredentialInput(Structure, frozen=True):
    """Input of credential.set; never stored as it is."""

    cluster: Identifier
    provider: Identifier
    credential: str

    def __post_init__(self) -> None:
        check_credential(self.credential)


def check_credential(credential: str) -> None:
    """A password that key servers can be given. Raises FieldError."""
    if not 1 <= len(credential.encode("utf-8", "replace")) <= CREDENTIAL_LIMIT:
        raise FieldError("credential", f"must have 1 to {CREDENTIAL_LIMIT} bytes")


async def create(context: Context, given: ProviderInput) -> None:
    async with context.manager.replication.lock(context.cluster):
        key_providers.find(context, given.provider)
        body = {"hosts": await key_providers.all_sealing_keys(context)}
        made = await key_providers.first_answer(
            context, given.provider, "POST", "client-certificate", MadeCertificate, body
        )

        def edit(before: KeyProvider) -> KeyProvider:
            return msgspec.structs.replace(
                before, client_certificate=made.certificate, client_private_key=made.private_key
            )

        await key_providers.change(context, given.provider, edit)


async def get(context: Context, given: ProviderInput) -> Info:
    certificate = key_providers.find(context, given.provider).client_certificate
    if certificate is None:
        raise NotFound(f"The key provider {given.provider!r} has no client certificate.", given.provider)
    return Info(certificate=certificate)


async def update(context: Context, given: UpdateInput) -> None:
    async with context.manager.replication.lock(context.cluster):
        key_providers.find(context, given.provider)
        now = context.manager.clock()
        found = provider_certificates.read(given.spec.certificate, given.spec.private_key, now)
        sealed = None
        if found.private_key is not None:
            sealed = await key_providers.sealed(
                context, given.provider, "client_private_key", found.private_key
            )

        def edit(before: KeyProvider) -> KeyProvider:
            return provider_certificates.update(before, found.certificate, sealed)

        await key_providers.change(context, given.provider, edit)


async def create_csr(context: Context, given: ProviderInput) -> CsrInfo:
    async with context.manager.replication.lock(context.cluster):
        key_providers.find(context, given.provider)
        body = {"hosts": await key_providers.all_sealing_keys(context)}
        made = await key_providers.first_answer(context, given.provider, "POST", "csr", MadeRequest, body)

        def edit(before: KeyProvider) -> KeyProvider:
            return msgspec.structs.replace(before, csr=made.csr, csr_private_key=made.private_key)

        await key_providers.change(context, given.provider, edit)
    return CsrInfo(csr=made.csr)


async def get_csr(context: Context, given: ProviderInput) -> CsrInfo:
    csr = key_providers.find(context, given.provider).csr
    if csr is None:
        raise NotFound(
            f"The key provider {given.provider!r} has no outstanding certificate request.", given.provider
        )
    return CsrInfo(csr=csr)


async def set_credential(context: Context, given: CredentialInput) -> None:
    async with context.manager.replication.lock(context.cluster):
        # For the key servers that whoever knows the password sees in the provider now, and for no others.
        binding = provider_password.binding_of(key_providers.find(context, given.provider))
        secret = provider_password.sealable(given.credential, binding)
        sealed = await key_providers.sealed(context, given.provider, "password", secret)

        def edit(before: KeyProvider) -> KeyProvider:
            return msgspec.structs.replace(before, password=sealed, password_binding=binding)

        await key_providers.change(context, given.provider, edit)


READ = privileges("TrustedAdmin.ReadKMSTrust", "System.View@cluster")
MANAGE = privileges("TrustedAdmin.ManageKMSTrust", "System.View@cluster")
CHANGE_ERRORS = (InvalidArgument, NotFound, ResourceInaccessible)

OPERATIONS: Table = (
    Operation(
        service=f"{SERVICE}.client_certificate",
        operation="create",
        method="POST",
        path=f"{PATH}/client-certificate",
        summary="Make a self-signed client certificate, in place of the one before",
        input=ProviderInput,
        output=None,
        handler=create,
        privileges=MANAGE,
        errors=CHANGE_ERRORS,
        task=True,
        side="trust_authority",
    ),
    Operation(
        service=f"{SERVICE}.client_certificate",
        operation="get",
        method="GET",
        path=f"{PATH}/client-certificate",
        summary="The client certificate",
        input=ProviderInput,
        output=Info,
        handler=get,
        privileges=READ,
        errors=(InvalidArgument, NotFound),
        task=True,
        side="trust_authority",
    ),
    Operation(
        service=f"{SERVICE}.client_certificate",
        operation="update",
        method="PATCH",
        path=f"{PATH}/client-certificate",
        summary="Install a signed client certificate, or a certificate with its key",
        input=UpdateInput,
        output=None,
        handler=update,
        privileges=MANAGE,
        errors=CHANGE_ERRORS,
        body="spec",
        task=True,
        side="trust_authority",
    ),
    Operation(
        service=f"{SERVICE}.client_certificate.csr",
        operation="create",
        method="POST",
        path=f"{PATH}/client-certificate/csr",
        summary="Make a certificate request, in place of the one before",
        input=ProviderInput,
        output=CsrInfo,
        handler=create_csr,
        privileges=MANAGE,
        errors=CHANGE_ERRORS,
        task=True,
        side="trust_authority",
    ),
    Operation(
        service=f"{SERVICE}.client_certificate.csr",
        operation="get",
        method="GET",
        path=f"{PATH}/client-certificate/csr",
        summary="The outstanding certificate request",
        input=ProviderInput,
        output=CsrInfo,
        handler=get_csr,
        privileges=READ,
        errors=(InvalidArgument, NotFound),
        task=True,
        side="trust_authority",
    ),
    Operation(
        service=f"{SERVICE}.credential",
        operation="set",
        method="PUT",
        path=f"{PATH}/credential",
        summary="Set the password for the key servers; it cannot be read",
        input=CredentialInput,
        output=None,
        handler=set_credential,
        privileges=MANAGE,
        errors=CHANGE_ERRORS,
        body="credential",
        task=True,
        side="trust_authority",
    ),
)
