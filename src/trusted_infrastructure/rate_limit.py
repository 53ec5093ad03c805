# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests per endorsement key: a host that may ask may still not use up a service."""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import struct
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from trusted_infrastructure.refusal import Refusal

# Keys that are remembered at once; the one that was quiet for longest is forgotten first.
REMEMBERED = 10_000


class Limit(Protocol):
    """What counts the requests of a key."""

    def take(self, key: str) -> None:
        """Count one request of `key` (EK digest). Raises Refusal `rate_limited` (429)."""


@dataclass(frozen=True)
class Bucket:
    """A token bucket's rule. per_second: sustained rate; burst: what may come at once."""

    per_second: float
    burst: int

    def level(self, level: float, seen: float, now: float) -> float:
        """How full a bucket is now that had `level` at `seen`. Times: seconds of a steady clock."""
        return min(float(self.burst), level + (now - seen) * self.per_second)

    def refusal(self) -> Refusal:
        """What a caller with an empty bucket gets."""
        return Refusal(
            "rate_limited",
            f"more than {self.per_second * 60:g} requests per minute for this endorsement key",
            "Ask again later.",
            status=429,
        )


class RateLimit:
    """A token bucket for each key. Thread-safe. per_second: sustained rate; burst: what may come at once."""

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float]) -> None:
        """clock: seconds of a steady clock."""
        self._bucket = Bucket(per_second, burst)
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> None:
        """Count one request of `key` (EK digest). Raises Refusal `rate_limited` (429)."""
        with self._lock:
            now = self._clock()
            level, seen = self._buckets.pop(key, (float(self._bucket.burst), now))
            level = self._bucket.level(level, seen, now)
            allowed = level >= 1.0
            self._buckets[key] = (level - 1.0 if allowed else level, now)
            while len(self._buckets) > REMEMBERED:
                self._buckets.popitem(last=False)
        if not allowed:
            raise self._bucket.refusal()


class SharedRateLimit:
    """A token bucket for each key, shared with every process that is forked after it was made. Thread-safe.

    The buckets lie in anonymous shared memory, in sets of WAYS; a set that is full forgets its quietest key.
    A set is changed under a lock that the kernel releases when its holder dies.
    """

    SETS, WAYS = 4096, 4
    _ENTRY = struct.Struct("<8sdd")  # tag of the key (zeros: free), level, when it was seen

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float]) -> None:
        """clock: seconds of a steady clock that all processes share (time.monotonic). Raises OSError."""
        self._bucket = Bucket(per_second, burst)
        self._clock = clock
        self._lock = threading.Lock()
        self._salt = os.urandom(16)  # or somebody could choose keys that fall into one set
        self._set_size = self.WAYS * self._ENTRY.size
        self._file = os.memfd_create("rate-limit", os.MFD_CLOEXEC)
        self._closed = weakref.finalize(self, os.close, self._file)
        os.ftruncate(self._file, self.SETS * self._set_size)
        self._memory = mmap.mmap(self._file, self.SETS * self._set_size)

    def take(self, key: str) -> None:
        """Count one request of `key` (EK digest). Raises Refusal `rate_limited` (429)."""
        digest = hashlib.blake2b(key.encode(), key=self._salt, digest_size=16).digest()
        tag, start = digest[:8], int.from_bytes(digest[8:]) % self.SETS * self._set_size
        with self._lock, self._locked(start):
            now = self._clock()
            offset, level, seen = self._find(start, tag, now)
            level = self._bucket.level(level, seen, now)
            allowed = level >= 1.0
            self._ENTRY.pack_into(self._memory, offset, tag, level - 1.0 if allowed else level, now)
        if not allowed:
            raise self._bucket.refusal()

    def close(self) -> None:
        """Give the memory back, in this process."""
        self._memory.close()
        self._closed()

    def _find(self, start: int, tag: bytes, now: float) -> tuple[int, float, float]:
        """Where the key's entry is or will be, its level, and when it was seen."""
        quietest, since = start, float("inf")
        for offset in range(start, start + self._set_size, self._ENTRY.size):
            found, level, seen = self._ENTRY.unpack_from(self._memory, offset)
            if found == tag:
                return offset, level, seen
            if seen < since:
                quietest, since = offset, seen
        return quietest, float(self._bucket.burst), now

    @contextmanager
    def _locked(self, start: int) -> Iterator[None]:
        fcntl.lockf(self._file, fcntl.LOCK_EX, self._set_size, start)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, self._set_size, start)
