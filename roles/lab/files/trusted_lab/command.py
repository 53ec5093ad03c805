# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs of the machine, run without a shell."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

from .errors import LabError


def run(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    accepted: Sequence[int] = (0,),
    timeout: float = 900,
) -> str:
    """Standard output of a program. LabError with what it printed if its exit code is not an accepted one."""
    finished = attempt(arguments, environment=environment, timeout=timeout)
    if finished.returncode not in accepted:
        said = (finished.stderr.strip() or finished.stdout.strip() or "nothing").splitlines()
        raise LabError(
            f"'{' '.join(arguments[:3])} ...' ended with code {finished.returncode}: " + " / ".join(said[-6:])
        )
    return finished.stdout


def attempt(
    arguments: Sequence[str], *, environment: Mapping[str, str] | None = None, timeout: float = 900
) -> subprocess.CompletedProcess[str]:
    """The finished program, whatever its exit code. LabError if it is not installed or takes too long."""
    try:
        return subprocess.run(
            list(arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, **(environment or {})},
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as problem:
        raise LabError(f"the program '{arguments[0]}' is not installed") from problem
    except subprocess.TimeoutExpired as problem:
        raise LabError(f"'{' '.join(arguments[:3])} ...' took more than {timeout:.0f} s") from problem
