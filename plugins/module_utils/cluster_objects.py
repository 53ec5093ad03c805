# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading the objects that belong to a Trust Authority Cluster: a list of names, and each one in full."""

from __future__ import annotations

import typing as t

from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import cluster_id
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    Call,
    ManagementClient,
    path,
)


def each_in_full(
    client: ManagementClient, resource: str, cluster: str, key: str, names: t.Collection[str]
) -> list[dict[str, t.Any]]:
    """Each object in full. resource: path of the list, with {cluster}; key: field that names an object; names: only
    these, or all where there is none. Raises ApiError, NOT_FOUND for a cluster that is not there."""
    base = path(resource, cluster=cluster_id(client, cluster))
    rows = client.call(Call("GET", base, task=True))
    wanted = [row[key] for row in rows if not names or row[key] in names]
    return [
        {key: name, **client.call(Call("GET", base + path("/{name}", name=name), task=True))}
        for name in wanted
    ]
