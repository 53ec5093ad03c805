# SPDX-License-Identifier: GPL-3.0-or-later
"""Which key provider is used where none is named: one default of the manager, and one for each cluster.

A cluster without a default of its own has the manager's. A name here is always that of a provider that
exists: `provider_registry` sees to it.
"""

from __future__ import annotations

import sqlalchemy as sql

from trusted_infrastructure.manager.database import provider_defaults as table
from trusted_infrastructure.manager.inventory import Cluster

MANAGER = 0  # in the column `cluster`; no cluster has this number


def default_of(connection: sql.Connection, cluster: Cluster | None) -> str | None:
    """The default that counts: a cluster's own or, without one, the manager's; the manager's for None."""
    own = None if cluster is None else own_default(connection, cluster)
    return own if own is not None else own_default(connection, None)


def own_default(connection: sql.Connection, cluster: Cluster | None) -> str | None:
    """What was set for this cluster, or for the manager (None), alone."""
    query = sql.select(table.c.provider).where(table.c.cluster == number_of(cluster))
    return connection.execute(query).scalar_one_or_none()


def store(connection: sql.Connection, cluster: Cluster | None, provider: str | None) -> None:
    """Sets a default, or unsets it. The caller knows that the provider exists."""
    connection.execute(table.delete().where(table.c.cluster == number_of(cluster)))
    if provider is not None:
        connection.execute(table.insert().values(cluster=number_of(cluster), provider=provider))


def users_of(connection: sql.Connection, provider: str) -> list[int]:
    """Where a provider is the default: MANAGER, and numbers of clusters for which it was set."""
    query = sql.select(table.c.cluster).where(table.c.provider == provider).order_by(table.c.cluster)
    return [row.cluster for row in connection.execute(query)]


def clear(connection: sql.Connection, provider: str) -> None:
    """The provider is no default any more, nowhere."""
    connection.execute(table.delete().where(table.c.provider == provider))


def number_of(cluster: Cluster | None) -> int:
    """In the column `cluster`."""
    return MANAGER if cluster is None else cluster.number
