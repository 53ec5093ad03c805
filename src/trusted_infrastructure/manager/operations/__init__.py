# SPDX-License-Identifier: GPL-3.0-or-later
"""The operations of the management API: one module for each resource, one table of all."""

from __future__ import annotations

from trusted_infrastructure.manager.operations import (
    session,
    tasks,
    trust_authority_clusters,
    trust_cluster_hosts,
    trust_clusters,
    vcenter,
)
from trusted_infrastructure.manager.vapi.operation import Table

MODULES = (
    session,
    tasks,
    vcenter,
    trust_authority_clusters,
    trust_clusters,
    trust_cluster_hosts,
)

TABLE: Table = tuple(operation for module in MODULES for operation in module.OPERATIONS)
