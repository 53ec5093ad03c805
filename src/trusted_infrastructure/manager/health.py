# SPDX-License-Identifier: GPL-3.0-or-later
"""Health of configuration objects: the same on all hosts of the cluster, or not. Pure."""

from __future__ import annotations

from trusted_infrastructure.manager.comparison import Health
from trusted_infrastructure.manager.replication import Comparison
from trusted_infrastructure.manager.vapi.errors import LocalizableMessage, message

Verdict = tuple[Health, list[LocalizableMessage]]


def document_health(comparison: Comparison, kind: str, identifier: str) -> Verdict:
    """OK: every host has the desired document. ERROR: one has not, or was not reached. NONE: no hosts."""
    if not comparison.hosts:
        text = "The cluster has no hosts; the configuration waits for the first."
        return "NONE", [message(text, "no_hosts")]
    details = [
        message(str(item), "differs", item.host)
        for item in comparison.deviations
        if (item.kind, item.id) == (kind, identifier)
    ]
    details += [failure.message() for failure in comparison.failures]
    return ("ERROR", details) if details else ("OK", [])
