# SPDX-License-Identifier: GPL-3.0-or-later
"""What the services of Trust Authority hosts say of themselves, put together for the cluster."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Annotated

import msgspec

from trusted_infrastructure.manager.comparison import Health, worst
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.inventory import hosts_of
from trusted_infrastructure.manager.nodes import NodeError, ask_all
from trusted_infrastructure.manager.vapi.errors import LocalizableMessage, message

ATTESTATION_STATUS = "/attestation/manage/v1/status"
KMS_STATUS = "/kms/manage/v1/status"


class ServiceReport(msgspec.Struct, frozen=True):
    """A service's health; `details` are texts."""

    health: Health
    details: list[str]


class KeyReport(msgspec.Struct, frozen=True):
    """What a host has of a primary key from one key server: its KMIP state, or why it was not given."""

    primary_key_id: str
    state: str
    code: str


class ServerReport(msgspec.Struct, frozen=True):
    """What a host knows of one key server. certificate_end: of the certificate that the server presented."""

    name: str
    health: Health
    details: list[str]
    client_trust_server: bool
    server_trust_client: bool
    certificate_end: Annotated[datetime.datetime, msgspec.Meta(tz=True)] | None = None
    keys: list[KeyReport] = []


class ProviderReport(msgspec.Struct, frozen=True):
    """What a host knows of one key provider."""

    health: Health
    details: list[str]
    servers: list[ServerReport]


class KmsReport(msgspec.Struct, frozen=True):
    """A Key Provider Service's health, and its providers'."""

    health: Health
    details: list[str]
    providers: dict[str, ProviderReport]


def host_names(context: Context) -> list[str]:
    """Names of the hosts of the cluster that the path names."""
    with context.manager.database.transaction() as connection:
        return [host.name for host in hosts_of(connection, context.cluster)]


async def attestation(context: Context) -> Mapping[str, ServiceReport | NodeError]:
    """By host."""
    return await ask_all(context.manager.nodes, host_names(context), "GET", ATTESTATION_STATUS, ServiceReport)


async def kms(context: Context) -> Mapping[str, KmsReport | NodeError]:
    """By host."""
    return await ask_all(context.manager.nodes, host_names(context), "GET", KMS_STATUS, KmsReport)


def service_health(
    reports: Mapping[str, ServiceReport | KmsReport | NodeError],
) -> tuple[Health, list[LocalizableMessage]]:
    """The cluster's health: the worst of its hosts; a host that does not answer is an error."""
    if not reports:
        return "NONE", [message("The cluster has no hosts.", "no_hosts")]
    details: list[LocalizableMessage] = []
    for host, report in reports.items():
        if isinstance(report, NodeError):
            details.append(report.message())
        else:
            details += texts(host, report.details)
    return worst(health_of(report) for report in reports.values()), details


def health_of(report: ServiceReport | KmsReport | NodeError) -> Health:
    """A host's part."""
    return "ERROR" if isinstance(report, NodeError) else report.health


def texts(host: str, details: list[str], prefix: str = "") -> list[LocalizableMessage]:
    """A host's texts, with its name in front."""
    return [message(f"{host}: {prefix}{text}", "service", host) for text in details]
