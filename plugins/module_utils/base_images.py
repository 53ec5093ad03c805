# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Base images in the management API: vSphere's resource, and the life cycle, which vSphere does not have."""

from __future__ import annotations

import typing as t

from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import cluster_id
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    ApiError,
    Call,
    ManagementClient,
    path,
)

RESOURCE = "/vcenter/trusted-infrastructure/trust-authority-clusters/{cluster}/attestation/os/esx/base-images"
LIFE_CYCLE = "/trust/clusters/{cluster}/base-images"


def life_cycles(client: ManagementClient, cluster: str) -> dict[str, dict[str, t.Any]] | None:
    """Version -> life cycle and use of each image of a cluster. None on a server without life cycles (vCenter)."""
    # Looked up first: after it, a 404 can only mean that there is no such operation.
    base = path(LIFE_CYCLE, cluster=cluster_id(client, cluster))
    try:
        rows = client.call(Call("GET", base, task=True))
    except ApiError as error:
        if error.status == 404:
            return None
        raise
    return {row["version"]: described(row) for row in rows}


def described(row: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """An image as modules show it: `life_cycle` in lower case in place of the API's `state`."""
    return {
        **{key: value for key, value in row.items() if key != "state"},
        "life_cycle": row["state"].lower(),
    }
