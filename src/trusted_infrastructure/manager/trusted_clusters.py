# SPDX-License-Identifier: GPL-3.0-or-later
"""Trusted clusters: the services that their hosts use, their assertions, their key providers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sql

from trusted_infrastructure.config.documents import RegisteredService, TrustedKeyProvider
from trusted_infrastructure.manager import assertions, desired, provider_defaults
from trusted_infrastructure.manager.context import Manager
from trusted_infrastructure.manager.database import trusted_key_providers
from trusted_infrastructure.manager.desired import Change
from trusted_infrastructure.manager.inventory import Cluster
from trusted_infrastructure.manager.registrations import Kind, Registration
from trusted_infrastructure.manager.vapi.errors import NotAllowedInCurrentState

PROVIDER_KIND = "trusted_key_provider"
KINDS: tuple[Kind, Kind] = ("attestation_service", "kms_service")


def services(connection: sql.Connection, cluster: Cluster, kind: Kind) -> dict[str, RegisteredService]:
    """The services that a cluster uses, by id."""
    return dict(desired.contents(connection, cluster, kind, RegisteredService))


def attaching(
    connection: sql.Connection,
    manager: Manager,
    cluster: Cluster,
    kind: Kind,
    added: Sequence[Registration],
) -> list[Change]:
    """The documents for a cluster that uses further services.

    Raises NotAllowedInCurrentState when they are of another Trust Authority Cluster than those it uses."""
    used = {other: services(connection, cluster, other) for other in KINDS}
    used[kind].update({item.service: item.content for item in added})
    groups = sorted({service.group for found in used.values() for service in found.values()})
    if len(groups) > 1:
        raise NotAllowedInCurrentState(
            f"The cluster {cluster.name!r} would use services of several groups ({', '.join(groups)}); a "
            "trusted cluster uses one Trust Authority Cluster.",
            reason="several_groups",
        )
    changes = [Change(kind, item.service, item.content) for item in added]
    return [*changes, *consequences(connection, manager, cluster, used)]


def detaching(
    connection: sql.Connection, manager: Manager, cluster: Cluster, kind: Kind, service: str
) -> list[Change]:
    """The documents for a cluster that uses a service no more."""
    used = {other: services(connection, cluster, other) for other in KINDS}
    used[kind].pop(service, None)
    return [Change(kind, service, None), *consequences(connection, manager, cluster, used)]


def consequences(
    connection: sql.Connection,
    manager: Manager,
    cluster: Cluster,
    used: Mapping[Kind, Mapping[str, RegisteredService]],
) -> list[Change]:
    """Assertions and key providers that follow from the services in use."""
    return [
        *assertions.changes(connection, manager, cluster, used["attestation_service"]),
        *provider_changes(connection, cluster, bool(used["kms_service"])),
    ]


def provider_changes(connection: sql.Connection, cluster: Cluster, uses_kms: bool) -> list[Change]:
    """Hosts of a cluster with Key Provider Services know all trusted key providers of this manager."""
    default = provider_defaults.default_of(connection, cluster)
    groups = provider_groups(connection) if uses_kms else {}
    wanted = {
        name: TrustedKeyProvider(group=group, default=name == default) for name, group in groups.items()
    }
    known = desired.contents(connection, cluster, PROVIDER_KIND, TrustedKeyProvider)
    written = [
        Change(PROVIDER_KIND, name, content) for name, content in wanted.items() if known.get(name) != content
    ]
    return [*written, *(Change(PROVIDER_KIND, name, None) for name in known if name not in wanted)]


def provider_groups(connection: sql.Connection) -> dict[str, str]:
    """The group of each trusted key provider that this manager knows, by name."""
    query = sql.select(trusted_key_providers).order_by(trusted_key_providers.c.name)
    return {row.name: row.group_id for row in connection.execute(query)}
