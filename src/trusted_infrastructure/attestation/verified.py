# SPDX-License-Identifier: GPL-3.0-or-later
"""What was verified before, so that it need not be verified again at once: bounded, and honest about time.

A signature that verified once verifies again; what changes is time, and the configuration. So an entry holds
until the next moment at which an answer could be another one (a certificate or list begins or ends), and the
whole cache belongs to one state of the configuration: a new one begins with an empty cache. Only acceptance
is kept; a refusal is judged anew each time, in words of its own.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from typing import Generic, TypeVar

from trusted_infrastructure.messages import length_prefixed

# Hosts that a Trust Authority host remembers at once; an entry takes 1 to 3 kB.
MAXIMUM = 10_000

Key = TypeVar("Key")
Value = TypeVar("Value")


class BoundedMemory(Generic[Key, Value]):
    """Values by key. Thread-safe. When it is full, what was put in first goes."""

    def __init__(self, maximum: int = MAXIMUM) -> None:
        self._maximum = maximum
        self._lock = threading.Lock()
        self._values: dict[Key, Value] = {}

    def get(self, key: Key) -> Value | None:
        """The value, None where there is none."""
        return self._values.get(key)

    def put(self, key: Key, value: Value) -> Value:
        """Keep `value`, and answer it."""
        with self._lock:
            self._values.pop(key, None)
            while len(self._values) >= self._maximum:
                del self._values[next(iter(self._values))]
            self._values[key] = value
        return value

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._values.clear()


class Verified(Generic[Value]):
    """Values by what they were verified from. Thread-safe and bounded."""

    def __init__(self, maximum: int = MAXIMUM) -> None:
        self._entries: BoundedMemory[bytes, tuple[Value, int, int]] = BoundedMemory(maximum)

    def get(self, key: bytes, now: int) -> Value | None:
        """What was verified for `key`, where it still holds at `now` (Unix seconds)."""
        entry = self._entries.get(key)
        # A clock that went back says nothing of what held then.
        if entry is None or not entry[1] <= now < entry[2]:
            return None
        return entry[0]

    def put(self, key: bytes, value: Value, now: int, boundaries: Iterable[float]) -> Value:
        """Keep `value`, verified at `now`, until the first of the `boundaries` (Unix seconds) after `now`."""
        until = min((int(boundary) for boundary in boundaries if boundary > now), default=now)
        self._entries.put(key, (value, now, until))
        return value

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()


def key_of(*parts: bytes) -> bytes:
    """The key of what was verified: SHA-256 over all of its exact bytes."""
    return hashlib.sha256(length_prefixed(parts)).digest()
