# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit logs of Trust Authority hosts: whether they are whole, and what to say of one that is not."""

from __future__ import annotations

import typing as t

from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import cluster_id
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    Call,
    ManagementClient,
    path,
)

LOGS = "/trust/clusters/{cluster}/audit-logs"
HEADS = "/trust/clusters/{cluster}/audit-heads"

Rows: t.TypeAlias = "list[dict[str, t.Any]]"


def verified(client: ManagementClient, cluster: str) -> Rows:
    """Every log of the cluster, checked now."""
    found = cluster_id(client, cluster)
    call = Call("POST", path(LOGS, cluster=found), query=(("action", "verify"),), task=True)
    return t.cast("Rows", client.call(call))


def heads(client: ManagementClient, cluster: str) -> Rows:
    """Where every log stood when it was last in order; nothing is checked now."""
    call = Call("GET", path(HEADS, cluster=cluster_id(client, cluster)))
    return t.cast("Rows", client.call(call))


def shortcoming(log: dict[str, t.Any], kept_elsewhere: bool) -> str:
    """Why a log does not pass; empty when it does. kept_elsewhere: whether somebody must keep heads of it."""
    if log.get("intact") is None:
        return f"cannot be checked: {log.get('reason')}"
    if not log["intact"]:
        place = f" at record {log['record']}" if log.get("record") is not None else ""
        file = f" ({log['file']}, line {log['line']})" if log.get("line") is not None else ""
        return f"is broken{place}{file}: {log.get('reason')}"
    if kept_elsewhere and not log["keepers"]:
        return "has no heads that are kept elsewhere: a tail that was cut off would not show"
    return ""
