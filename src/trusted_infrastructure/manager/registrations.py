# SPDX-License-Identifier: GPL-3.0-or-later
"""Services of Trust Authority hosts that this manager knows, and which clusters use them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Literal

import msgspec
import sqlalchemy as sql

from trusted_infrastructure.config.documents import NetworkAddress, RegisteredService
from trusted_infrastructure.manager import desired
from trusted_infrastructure.manager.database import registrations
from trusted_infrastructure.manager.inventory import Cluster, all_clusters
from trusted_infrastructure.manager.vapi.errors import AlreadyExists, NotFound

Kind = Literal["attestation_service", "kms_service"]
WHAT: dict[Kind, str] = {
    "attestation_service": "Attestation Service",
    "kms_service": "Key Provider Service",
}


@dataclass(frozen=True)
class Registration:
    """A registered service: its id, and what hosts that use it are given."""

    service: str
    content: RegisteredService


def of_row(row: sql.Row[tuple[object, ...]]) -> Registration:
    """A row of `registrations`."""
    content = RegisteredService(
        address=NetworkAddress(row.hostname, row.port),
        trusted_ca=msgspec.json.decode(row.trusted_ca, type=list[str]),
        group=row.group_id,
        trust_authority_cluster=row.trust_authority_cluster,
    )
    return Registration(row.service, content)


def all_of(connection: sql.Connection, kind: Kind) -> list[Registration]:
    """All registered services of a kind, by address."""
    query = sql.select(registrations).where(registrations.c.kind == kind)
    order = (registrations.c.hostname, registrations.c.port)
    return [of_row(row) for row in connection.execute(query.order_by(*order))]


def find(connection: sql.Connection, kind: Kind, service: str) -> Registration:
    """A registered service. Raises NotFound."""
    condition = (registrations.c.kind == kind) & (registrations.c.service == service)
    row = connection.execute(sql.select(registrations).where(condition)).one_or_none()
    if row is None:
        raise NotFound(f"No {WHAT[kind]} is registered as {service!r}.", service, reason="no_service")
    return of_row(row)


def register(connection: sql.Connection, kind: Kind, content: RegisteredService) -> str:
    """Registers a service and returns its id. Raises AlreadyExists for its address."""
    for known in all_of(connection, kind):
        if known.content.address == content.address:
            address = f"{content.address.hostname}:{content.address.port}"
            raise AlreadyExists(f"The {WHAT[kind]} at {address} is registered.", known.service)
    service = str(uuid.uuid4())
    connection.execute(
        registrations.insert().values(
            service=service,
            kind=kind,
            hostname=content.address.hostname,
            port=content.address.port,
            trusted_ca=msgspec.json.encode(content.trusted_ca).decode(),
            group_id=content.group,
            trust_authority_cluster=content.trust_authority_cluster,
        )
    )
    return service


def unregister(connection: sql.Connection, kind: Kind, service: str) -> None:
    """Forgets a service."""
    condition = (registrations.c.kind == kind) & (registrations.c.service == service)
    connection.execute(registrations.delete().where(condition))


def users(connection: sql.Connection, kind: Kind, service: str) -> list[Cluster]:
    """The clusters that use a service."""
    return [
        cluster
        for cluster in all_clusters(connection)
        if desired.content(connection, cluster, kind, service, RegisteredService) is not None
    ]
