# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeping a process's memory to itself: no swap, no core dump, no tracing by its own user."""

from __future__ import annotations

import ctypes
import errno
import os
import resource

from trusted_infrastructure.refusal import Refusal

PR_SET_DUMPABLE = 4  # prctl(2)
# mlockall(2). ONFAULT: a page is locked when it is used; without it all of a thread's stack is made resident.
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4


def forbid_dumps() -> None:
    """No core dump, and /proc/self belongs to root: other processes of the same user cannot read memory.

    Raises Refusal `hardening_failed`.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _call("prctl(PR_SET_DUMPABLE)", "prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)


def lock_memory() -> None:
    """Keep all pages, present and future, out of swap. Raises Refusal `hardening_failed`."""
    _call("mlockall", "mlockall", MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT)


def _call(name: str, function: str, *arguments: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, function)(*(ctypes.c_ulong(argument) for argument in arguments)) != 0:
        number = ctypes.get_errno()
        remedy = "set LimitMEMLOCK=infinity in the unit, or lock_memory to false where swap is not used"
        raise Refusal(
            "hardening_failed",
            f"{name}: {os.strerror(number)}",
            remedy if function == "mlockall" and number in (errno.ENOMEM, errno.EPERM, errno.EAGAIN) else "",
            status=500,
        )
