# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel says of the machine's clock: a clock that nobody can set, and whether the other is in step.

Reads only. `adjtimex` with modes 0 needs no privilege; a sandbox that forbids it makes the answer None.
"""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# systemd-timesyncd touches it whenever it has set the clock (systemd-timesyncd.service(8)).
TIMESYNCD_MARK = Path("/run/systemd/timesync/synchronized")
TIMESYNCD_FRESH = 3 * 2048  # three of its longest polling intervals (timesyncd.conf(5)), seconds

STA_UNSYNC = 0x0040
TIME_ERROR = 5
# struct timex has 208 bytes on 64-bit Linux; before `status` are modes (padded) and four numbers (long).
_TIMEX_SIZE = 512
_STATUS_OFFSET = 5 * ctypes.sizeof(ctypes.c_long)


def seconds_since_boot() -> float:
    """CLOCK_BOOTTIME: goes on in sleep, and nobody can set it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Random id of this boot, "" where the kernel does not say: times since boot are of one boot only."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def synchronized() -> bool | None:
    """Whether the kernel's clock is kept in step by a time service; None when it cannot be told.

    adjtimex(2): STA_UNSYNC is cleared by chrony, ntpd and systemd-timesyncd, and set by the kernel when the
    estimated error grows beyond 16 s, some nine hours after the time service fell silent.
    """
    buffer = ctypes.create_string_buffer(_TIMEX_SIZE)
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    except (OSError, AttributeError):
        state = -1
    if state >= 0:
        status = ctypes.c_int.from_buffer(buffer, _STATUS_OFFSET).value
        return state != TIME_ERROR and not status & STA_UNSYNC
    return _timesyncd()


def _timesyncd() -> bool | None:
    try:
        age = time.time() - os.stat(TIMESYNCD_MARK).st_mtime
    except OSError:
        return None
    return age < TIMESYNCD_FRESH
