# SPDX-License-Identifier: GPL-3.0-or-later
"""What the Attestation Service counts, for Prometheus: one answer for all workers.

With several workers each keeps its numbers in a file of its own in a folder on tmpfs (`share_metrics`), and
who is asked adds them up (prometheus_client, "Multiprocess Mode"). The library looks for the folder when it
is loaded, so `AttestationService` loads this module, and not its module.
"""

from __future__ import annotations

import os
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from trusted_infrastructure.attestation.shared import METRICS_VARIABLE

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """The counters of one worker, and the answer of all."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._decisions = Counter(
            "attestation_decisions", "Answers to hosts", ["operation", "code"], registry=self._registry
        )
        self._seconds = Histogram(
            "attestation_seconds", "Time to answer", ["operation"], registry=self._registry
        )

    def decided(self, operation: str, code: str, seconds: float) -> None:
        """Count one answer. code: "ok" or the reason code."""
        self._decisions.labels(operation, code).inc()
        self._seconds.labels(operation).observe(seconds)

    def text(self) -> bytes:
        """Prometheus' text format, of all workers."""
        if METRICS_VARIABLE not in os.environ:
            return generate_latest(self._registry)
        merged = CollectorRegistry()
        collector: Any = MultiProcessCollector  # which has no types
        collector(merged)
        return generate_latest(merged)
