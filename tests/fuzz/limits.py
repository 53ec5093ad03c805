# SPDX-License-Identifier: GPL-3.0-or-later
"""What one input may cost: 2 s of a core, and 64 MB beyond what the process had.

Time is that of this process, so that a busy machine makes no finding.
"""

from __future__ import annotations

import resource
import time
import tracemalloc
from collections.abc import Callable

SECONDS = 2.0
BYTES = 64 << 20


class TooExpensive(Exception):
    """An input took too long, or too much memory."""


def measured(call: Callable[[], object]) -> tuple[float, int]:
    """Seconds of `call`, and the bytes of memory by which the process had to grow for it.

    The process's peak is what is looked at, so it costs nothing; what fits into memory that an earlier input
    needed is not seen: see `allocated`.
    """
    before, began = _peak(), time.process_time()
    try:
        call()
    finally:
        seconds, grown = time.process_time() - began, _peak() - before
        require(seconds, grown)
    return seconds, grown


def allocated(call: Callable[[], object]) -> tuple[float, int]:
    """As `measured`, but with every byte that Python allocates counted; slower."""
    tracemalloc.start()
    began = time.process_time()
    try:
        call()
    finally:
        seconds, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        require(seconds, peak)
    return seconds, peak


def require(seconds: float, grown: int) -> None:
    if seconds > SECONDS or grown > BYTES:
        raise TooExpensive(f"{seconds:.1f} s and {grown >> 20} MB")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
