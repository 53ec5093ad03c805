# SPDX-License-Identifier: GPL-3.0-or-later
"""How many keys of standard providers a host can have made: one that was taken over fills no key server."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trusted_infrastructure.rate_limit import RateLimit
from trusted_infrastructure.refusal import Refusal


class KeyQuota:
    """limit: keys of a host that are known at once. per_minute: keys of a host that are made within a minute.
    clock: seconds of a steady clock."""

    def __init__(self, limit: int, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._per_minute = per_minute
        self._rate = RateLimit(per_minute / 60, per_minute, clock)
        self._under_way: Counter[str] = Counter()

    @contextmanager
    def one_more(self, host: str, made: int) -> Iterator[None]:
        """While a key is made that a host asked for. made: how many of its keys are known.

        Raises Refusal `key_quota_exceeded`, `rate_limited`."""
        if made + self._under_way[host] >= self._limit:
            raise Refusal(
                "key_quota_exceeded",
                f"host {host!r} had {self._limit} keys made, and may have no more",
                "Let the manager forget keys that nothing needs, or raise manager_host_key_limit.",
                status=409,
            )
        try:
            self._rate.take(host)
        except Refusal:
            raise Refusal(
                "rate_limited",
                f"host {host!r} has more than {self._per_minute} keys made within a minute",
                "Ask again later, or raise manager_host_key_rate.",
                status=429,
            ) from None
        self._under_way[host] += 1
        try:
            yield
        finally:
            self._under_way[host] -= 1
