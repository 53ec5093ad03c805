# SPDX-License-Identifier: GPL-3.0-or-later
"""Clusters and hosts of this manager, with the ids that vSphere clients expect (domain-c1, host-1)."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sql

from trusted_infrastructure.manager.database import clusters, documents, hosts, permissions, provider_defaults
from trusted_infrastructure.manager.vapi.errors import AlreadyExists, NotFound

CLUSTER_PREFIX = "domain-c"
HOST_PREFIX = "host-"


@dataclass(frozen=True)
class Cluster:
    """A cluster. group: opaque id that pairs its attestation results with its key provider services, and the
    audience of its tokens and assertions."""

    number: int
    name: str
    group: str

    @property
    def id(self) -> str:
        """Managed object id."""
        return f"{CLUSTER_PREFIX}{self.number}"


@dataclass(frozen=True)
class Host:
    """A host. name: inventory name, its id in documents. public_name, port: where its services answer.
    ek_digest (hex), scope: recorded at enrolment, for trusted hosts."""

    number: int
    cluster: int
    name: str
    public_name: str
    port: int
    ek_digest: str | None
    scope: str | None

    @property
    def id(self) -> str:
        """Managed object id."""
        return f"{HOST_PREFIX}{self.number}"

    @property
    def cluster_id(self) -> str:
        """Id of its cluster."""
        return f"{CLUSTER_PREFIX}{self.cluster}"


def cluster_of_row(row: sql.Row[tuple[object, ...]]) -> Cluster:
    """A row of `clusters`."""
    return Cluster(row.number, row.name, row.group_id)


def host_of_row(row: sql.Row[tuple[object, ...]]) -> Host:
    """A row of `hosts`."""
    return Host(row.number, row.cluster, row.name, row.public_name, row.port, row.ek_digest, row.scope)


def number_of(identifier: str, prefix: str) -> int:
    """The number in an id, or -1."""
    digits = identifier.removeprefix(prefix)
    return int(digits) if identifier.startswith(prefix) and digits.isdecimal() and len(digits) < 10 else -1


def all_clusters(connection: sql.Connection) -> list[Cluster]:
    """All clusters, in the order in which they were made."""
    return [
        cluster_of_row(row) for row in connection.execute(sql.select(clusters).order_by(clusters.c.number))
    ]


def find_cluster(connection: sql.Connection, identifier: str) -> Cluster:
    """A cluster by id or name. Raises NotFound."""
    number = number_of(identifier, CLUSTER_PREFIX)
    for condition in (clusters.c.number == number, clusters.c.name == identifier):
        row = connection.execute(sql.select(clusters).where(condition)).one_or_none()
        if row is not None:
            return cluster_of_row(row)
    raise NotFound(f"There is no cluster {identifier!r} on this manager.", identifier, reason="no_cluster")


def create_cluster(connection: sql.Connection, name: str) -> Cluster:
    """A new cluster without hosts. Raises AlreadyExists."""
    if connection.execute(sql.select(clusters).where(clusters.c.name == name)).one_or_none() is not None:
        raise AlreadyExists(f"A cluster named {name!r} exists.", name)
    group = secrets.token_hex(16)
    result = connection.execute(clusters.insert().values(name=name, group_id=group))
    return Cluster(inserted(result), name, group)


def delete_cluster(connection: sql.Connection, cluster: Cluster) -> None:
    """Removes a cluster without hosts, its desired documents, default key provider and permissions."""
    connection.execute(permissions.delete().where(permissions.c.cluster == cluster.number))
    connection.execute(documents.delete().where(documents.c.cluster == cluster.number))
    connection.execute(provider_defaults.delete().where(provider_defaults.c.cluster == cluster.number))
    connection.execute(clusters.delete().where(clusters.c.number == cluster.number))


def all_hosts(connection: sql.Connection) -> list[Host]:
    """All hosts, in the order in which they were added."""
    return [host_of_row(row) for row in connection.execute(sql.select(hosts).order_by(hosts.c.number))]


def host_named(connection: sql.Connection, name: str) -> Host | None:
    """The host of that name."""
    row = connection.execute(sql.select(hosts).where(hosts.c.name == name)).one_or_none()
    return None if row is None else host_of_row(row)


def is_member(connection: sql.Connection, host: Host) -> bool:
    """Whether a host, as it was found before, is still in its cluster, and did not leave and come back."""
    found = host_named(connection, host.name)
    return found is not None and found.number == host.number


def hosts_of(connection: sql.Connection, cluster: Cluster) -> list[Host]:
    """The hosts of a cluster, in the order in which they were added."""
    return [host for host in all_hosts(connection) if host.cluster == cluster.number]


def find_host(connection: sql.Connection, identifier: str) -> Host:
    """A host by id or name. Raises NotFound."""
    number = number_of(identifier, HOST_PREFIX)
    for condition in (hosts.c.number == number, hosts.c.name == identifier):
        row = connection.execute(sql.select(hosts).where(condition)).one_or_none()
        if row is not None:
            return host_of_row(row)
    raise NotFound(f"There is no host {identifier!r} on this manager.", identifier, reason="no_host")


def add_host(
    connection: sql.Connection,
    cluster: Cluster,
    *,
    name: str,
    public_name: str,
    port: int,
    ek_digest: str | None,
    scope: str | None,
) -> Host:
    """A new host of the cluster. Raises AlreadyExists."""
    if connection.execute(sql.select(hosts).where(hosts.c.name == name)).one_or_none() is not None:
        raise AlreadyExists(f"A host named {name!r} is in a cluster of this manager.", name)
    result = connection.execute(
        hosts.insert().values(
            cluster=cluster.number,
            name=name,
            public_name=public_name,
            port=port,
            ek_digest=ek_digest,
            scope=scope,
        )
    )
    return Host(inserted(result), cluster.number, name, public_name, port, ek_digest, scope)


def update_host(connection: sql.Connection, host: Host, ek_digest: str | None, scope: str | None) -> None:
    """Records another EK digest or scope."""
    connection.execute(
        hosts.update().where(hosts.c.number == host.number).values(ek_digest=ek_digest, scope=scope)
    )


def remove_host(connection: sql.Connection, host: Host) -> None:
    """Removes a host and the desired documents that were its own."""
    connection.execute(
        documents.delete().where((documents.c.cluster == host.cluster) & (documents.c.host == host.name))
    )
    connection.execute(hosts.delete().where(hosts.c.number == host.number))


def inserted(result: sql.CursorResult[tuple[object, ...]]) -> int:
    """The number that an inserted row was given."""
    key: Sequence[int] | None = result.inserted_primary_key
    if key is None:
        raise RuntimeError("the database gave no key")
    return key[0]
