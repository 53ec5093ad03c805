# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests per endorsement key: a host that may ask may still not use up a service. PROTOCOL 6."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from trusted_infrastructure.refusal import Refusal

# Keys that are remembered at once; the one that was quiet for longest is forgotten first.
REMEMBERED = 10_000


class RateLimit:
    """A token bucket for each key. Thread-safe. per_second: sustained rate; burst: what may come at once."""

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float]) -> None:
        """clock: seconds of a steady clock."""
        self._rate = per_second
        self._burst = float(burst)
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> None:
        """Count one request of `key` (EK digest). Raises Refusal `rate_limited` (429)."""
        with self._lock:
            now = self._clock()
            level, seen = self._buckets.pop(key, (self._burst, now))
            level = min(self._burst, level + (now - seen) * self._rate)
            allowed = level >= 1.0
            self._buckets[key] = (level - 1.0 if allowed else level, now)
            while len(self._buckets) > REMEMBERED:
                self._buckets.popitem(last=False)
        if not allowed:
            raise Refusal(
                "rate_limited",
                f"more than {self._rate * 60:g} requests per minute for this endorsement key",
                "Ask again later.",
                status=429,
            )
