# SPDX-License-Identifier: GPL-3.0-or-later
"""Daemons that the lab started, known by a pid file and by what stands in their command line."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from .errors import LabError


def running_pid(pid_file: Path, mark: str) -> int | None:
    """The process in the pid file, if it lives and its command line has the argument `mark`; otherwise None.

    The mark tells it from a stranger that got the same number later.
    """
    try:
        pid = int(pid_file.read_text(encoding="ascii"))
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if os.fsencode(mark) in arguments else None


def stop(pid_file: Path, mark: str, patience: float = 5) -> bool:
    """Terminate the process and remove its pid file; True if there was one. LabError if it does not end."""
    pid = running_pid(pid_file, mark)
    if pid is None:
        pid_file.unlink(missing_ok=True)
        return False
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + patience
    killed = False
    while running_pid(pid_file, mark) is not None:
        if time.monotonic() > deadline:
            if killed:
                raise LabError(f"the process {pid} ({mark}) cannot be ended")
            os.kill(pid, signal.SIGKILL)
            killed, deadline = True, deadline + patience
        time.sleep(0.02)
    pid_file.unlink(missing_ok=True)
    return True
