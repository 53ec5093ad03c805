# SPDX-License-Identifier: GPL-3.0-or-later
"""Structures that several resources of the API share. Pure."""

from __future__ import annotations

from typing import Literal

from trusted_infrastructure.config import documents
from trusted_infrastructure.manager.certificates import read_chain
from trusted_infrastructure.manager.comparison import Health
from trusted_infrastructure.manager.vapi.errors import LocalizableMessage
from trusted_infrastructure.manager.vapi.structure import Identifier, Port, Structure, check_hostname

TRUST_AUTHORITY = "com.vmware.vcenter.trusted_infrastructure.trust_authority_clusters"
TRUST_AUTHORITY_PATH = "/vcenter/trusted-infrastructure/trust-authority-clusters"
TRUST = "trusted.infrastructure"
TRUST_PATH = "/trust"
HTTPS_PORT = 443
KMIP_PORT = 5696


class NetworkAddress(Structure, frozen=True):
    """Host name or IP address, and port; the default depends on what is there (443, KMIP 5696)."""

    hostname: str
    port: Port | None = None

    def __post_init__(self) -> None:
        check_hostname("hostname", self.hostname)

    def document(self, default_port: int = HTTPS_PORT) -> documents.NetworkAddress:
        """As documents hold it."""
        port = default_port if self.port is None else self.port
        return documents.NetworkAddress(self.hostname, port)


def address_of(address: documents.NetworkAddress) -> NetworkAddress:
    """As the API gives it."""
    return NetworkAddress(hostname=address.hostname, port=address.port)


class X509CertChain(Structure, frozen=True):
    """Certificates, PEM or base64 of DER. The order depends on where it is used."""

    cert_chain: list[str]

    def __post_init__(self) -> None:
        read_chain("cert_chain", self.cert_chain)

    def pem(self) -> list[str]:
        """Each certificate as PEM."""
        return [certificate.pem for certificate in read_chain("cert_chain", self.cert_chain)]


class PresentedCertChain(Structure, frozen=True):
    """Certificates (PEM) as a host has them: shown, whatever they are."""

    cert_chain: list[str]


class StsPrincipalId(Structure, frozen=True):
    """Name and domain of a principal."""

    name: Identifier
    domain: Identifier


class StsPrincipal(Structure, frozen=True):
    """A user or group of a workload manager's token service."""

    id: StsPrincipalId
    type: Literal["STS_USER", "STS_GROUP"]

    def document(self) -> documents.StsPrincipal:
        """As documents hold it."""
        identifier = documents.StsPrincipalId(self.id.name, self.id.domain)
        return documents.StsPrincipal(identifier, self.type)


def principal_of(principal: documents.StsPrincipal) -> StsPrincipal:
    """As the API gives it."""
    identifier = StsPrincipalId(name=principal.id.name, domain=principal.id.domain)
    return StsPrincipal(id=identifier, type=principal.type)


class HealthInfo(Structure, frozen=True):
    """Health and why: `details` has texts where it is not OK."""

    health: Health
    details: list[LocalizableMessage]


class ClusterInput(Structure, frozen=True):
    """Input that is a cluster alone."""

    cluster: Identifier


class HostInput(Structure, frozen=True):
    """Input that is a host alone."""

    host: Identifier
