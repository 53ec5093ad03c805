# SPDX-License-Identifier: GPL-3.0-or-later
"""kms/providers/{provider}/peer-certs: what key servers present, and what is trusted of it."""

from __future__ import annotations

import msgspec
from cryptography import x509

from trusted_infrastructure.config.documents import KeyProvider
from trusted_infrastructure.manager import key_providers
from trusted_infrastructure.manager.certificates import fits_name, issued_by, read_certificate
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.key_providers import PeerCertificate
from trusted_infrastructure.manager.operations.key_providers import ProviderInput
from trusted_infrastructure.manager.operations.structures import TRUST_AUTHORITY, TRUST_AUTHORITY_PATH
from trusted_infrastructure.manager.vapi.errors import (
    InvalidArgument,
    LocalizableMessage,
    NotFound,
    ResourceInaccessible,
    message,
)
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import Identifier, Structure

SERVICE = f"{TRUST_AUTHORITY}.kms.providers"
PATH = f"{TRUST_AUTHORITY_PATH}/{{cluster}}/kms/providers/{{provider}}/peer-certs"


class Summary(Structure, frozen=True):
    """What a key server presents."""

    server_name: str
    error_messages: list[LocalizableMessage]
    trusted: bool
    certificate: str | None = None


class FilterSpec(Structure, frozen=True):
    """Servers of one of the names, and trusted or not, where given."""

    server_names: list[str] | None = None
    trusted: bool | None = None


class ListInput(Structure, frozen=True):
    """Input of list."""

    cluster: Identifier
    provider: Identifier
    spec: FilterSpec = FilterSpec()


class Info(Structure, frozen=True):
    """Trusted certificates, PEM: what key servers present must be one of them, or come from one."""

    certificates: list[str]


class UpdateSpec(Structure, frozen=True):
    """certificates: replaces the whole list; empty: nothing is trusted; unset: unchanged."""

    certificates: list[str] | None = None

    def __post_init__(self) -> None:
        self.pem()

    def pem(self) -> list[str] | None:
        """The list as PEM. Raises FieldError."""
        if self.certificates is None:
            return None
        return [
            read_certificate(f"certificates[{position}]", text).pem
            for position, text in enumerate(self.certificates)
        ]


class UpdateInput(Structure, frozen=True):
    """Input of update."""

    cluster: Identifier
    provider: Identifier
    spec: UpdateSpec


async def list_current(context: Context, given: ListInput) -> list[Summary]:
    content = key_providers.find(context, given.provider)
    peers = await key_providers.first_answer(
        context, given.provider, "GET", "peer-certs", list[PeerCertificate]
    )
    found = [summary_of(peer, content, context.manager.clock()) for peer in peers]
    wanted = given.spec
    return [
        item
        for item in found
        if (not wanted.server_names or item.server_name in wanted.server_names)
        and (wanted.trusted is None or item.trusted == wanted.trusted)
    ]


def summary_of(peer: PeerCertificate, provider: KeyProvider, now: float) -> Summary:
    """As the API gives it."""
    errors = [] if peer.error is None else [message(peer.error, "peer_certificate", peer.server_name)]
    if peer.certificate is not None:
        hostname = next(
            (server.address.hostname for server in provider.servers if server.name == peer.server_name), ""
        )
        errors += unfit(peer.certificate, peer.server_name, hostname, now)
    trusted = peer.certificate is not None and is_trusted(peer.certificate, provider.trusted_certificates)
    return Summary(
        server_name=peer.server_name,
        certificate=peer.certificate,
        error_messages=errors,
        trusted=trusted,
    )


def unfit(certificate: str, server: str, hostname: str, now: float) -> list[LocalizableMessage]:
    """Why no client would accept what a server presents, whoever it trusts. hostname: what is dialled."""
    try:
        presented = x509.load_pem_x509_certificate(certificate.encode())
    except ValueError:
        return [message(f"What {server!r} presents is no certificate.", "certificate_invalid", server)]
    found = []
    if not fits_name(presented, hostname):
        text = f"What {server!r} presents is not for {hostname!r}, so it will not be accepted from there."
        found.append(message(text, "certificate_invalid", server))
    if not presented.not_valid_before_utc.timestamp() <= now < presented.not_valid_after_utc.timestamp():
        span = f"{presented.not_valid_before_utc:%Y-%m-%d} to {presented.not_valid_after_utc:%Y-%m-%d}"
        text = f"What {server!r} presents is valid from {span}, and not now."
        found.append(message(text, "certificate_expired", server))
    return found


def is_trusted(certificate: str, trusted: list[str]) -> bool:
    """Whether a certificate (PEM) is one of the trusted ones, or was issued by one."""
    try:
        presented = x509.load_pem_x509_certificate(certificate.encode())
        anchors = [x509.load_pem_x509_certificate(text.encode()) for text in trusted]
    except ValueError:
        return False
    return any(presented == anchor or issued_by(presented, anchor) for anchor in anchors)


async def get_trusted(context: Context, given: ProviderInput) -> Info:
    return Info(certificates=key_providers.find(context, given.provider).trusted_certificates)


async def update_trusted(context: Context, given: UpdateInput) -> None:
    certificates = given.spec.pem()
    async with context.manager.replication.lock(context.cluster):
        key_providers.find(context, given.provider)
        if certificates is None:
            return

        def edit(before: KeyProvider) -> KeyProvider:
            return msgspec.structs.replace(before, trusted_certificates=certificates)

        await key_providers.change(context, given.provider, edit)


READ = privileges("TrustedAdmin.ReadKMSTrust", "System.View@cluster")

OPERATIONS: Table = (
    Operation(
        service=f"{SERVICE}.current_peer_certificates",
        operation="list",
        method="GET",
        path=f"{PATH}/current",
        summary="Ask each key server what certificate it presents, for review",
        input=ListInput,
        output=list[Summary],
        handler=list_current,
        privileges=READ,
        errors=(InvalidArgument, NotFound, ResourceInaccessible),
        query="spec",
        task=True,
        side="trust_authority",
    ),
    Operation(
        service=f"{SERVICE}.trusted_peer_certificates",
        operation="get",
        method="GET",
        path=f"{PATH}/trusted",
        summary="Trusted certificates of the key servers",
        input=ProviderInput,
        output=Info,
        handler=get_trusted,
        privileges=READ,
        errors=(InvalidArgument, NotFound),
        task=True,
        side="trust_authority",
    ),
    Operation(
        service=f"{SERVICE}.trusted_peer_certificates",
        operation="update",
        method="PATCH",
        path=f"{PATH}/trusted",
        summary="Replace the trusted certificates of the key servers",
        input=UpdateInput,
        output=None,
        handler=update_trusted,
        privileges=privileges("TrustedAdmin.ManageKMSTrust", "System.View@cluster"),
        errors=(InvalidArgument, NotFound, ResourceInaccessible),
        body="spec",
        task=True,
        side="trust_authority",
    ),
)
