# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Trust Authority Cluster's hosts must know of their cluster, and how its members change."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import sqlalchemy as sql

from trusted_infrastructure.config.documents import Peer, Tpm2Settings, TrustAuthorityCluster
from trusted_infrastructure.manager import desired
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.desired import Change
from trusted_infrastructure.manager.inventory import Cluster, Host, hosts_of
from trusted_infrastructure.manager.vapi.errors import NotAllowedInCurrentState

KIND = "trust_authority_cluster"
ID = "cluster"
SETTINGS_KIND = "tpm2_settings"
SETTINGS_ID = "settings"


def document(connection: sql.Connection, cluster: Cluster) -> TrustAuthorityCluster | None:
    """The cluster's document; None for a cluster that was never enabled."""
    return desired.content(connection, cluster, KIND, ID, TrustAuthorityCluster)


def is_enabled(connection: sql.Connection, cluster: Cluster) -> bool:
    """Whether it is a Trust Authority Cluster."""
    found = document(connection, cluster)
    return found is not None and found.state == "ENABLE"


def require_enabled(context: Context) -> None:
    """Configuration is for Trust Authority Clusters. Raises NotAllowedInCurrentState."""
    with context.manager.database.transaction() as connection:
        if not is_enabled(connection, context.cluster):
            raise NotAllowedInCurrentState(
                f"The cluster {context.cluster.name!r} is not a Trust Authority Cluster; enable it first "
                "(PATCH trust-authority-clusters, state ENABLE).",
                context.cluster.name,
                reason="not_enabled",
            )


def peers(hosts: Sequence[Host]) -> list[Peer]:
    """The members as the document names them."""
    return [Peer(host.name, host.public_name, host.port) for host in hosts]


def document_or_new(connection: sql.Connection, cluster: Cluster) -> TrustAuthorityCluster:
    """The cluster's document; what it begins with, if it was never enabled."""
    found = document(connection, cluster)
    if found is not None:
        return found
    members = peers(hosts_of(connection, cluster))
    return TrustAuthorityCluster(
        cluster=cluster.id, name=cluster.name, state="DISABLE", group=cluster.group, peers=members
    )


def enabling(connection: sql.Connection, cluster: Cluster) -> list[Change]:
    """What makes a cluster a Trust Authority Cluster; earlier settings are kept."""
    before = document_or_new(connection, cluster)
    changes = [Change(KIND, ID, msgspec.structs.replace(before, state="ENABLE"))]
    if desired.content(connection, cluster, SETTINGS_KIND, SETTINGS_ID, Tpm2Settings) is None:
        changes.append(Change(SETTINGS_KIND, SETTINGS_ID, Tpm2Settings()))
    return changes


def disabling(connection: sql.Connection, cluster: Cluster) -> list[Change]:
    """The services stop serving; the configuration is kept for when it is enabled again."""
    before = document(connection, cluster)
    return [] if before is None else [Change(KIND, ID, msgspec.structs.replace(before, state="DISABLE"))]


def membership(connection: sql.Connection, cluster: Cluster, hosts: Sequence[Host]) -> list[Change]:
    """The document after hosts came or went."""
    before = document(connection, cluster)
    return [] if before is None else [Change(KIND, ID, msgspec.structs.replace(before, peers=peers(hosts)))]
