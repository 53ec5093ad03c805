# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory of a service: no dumps; locked, or the service says that it is not."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from trusted_infrastructure import process_hardening
from trusted_infrastructure.process_hardening import forbid_dumps, lock_memory
from trusted_infrastructure.refusal import Refusal

PR_GET_DUMPABLE = 3


def in_child(work: Callable[[], str]) -> str:
    """What `work` returns in a process of its own: hardening cannot be taken back."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, work().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer


def test_no_dumps_and_no_look_from_outside() -> None:
    def work() -> str:
        forbid_dumps()
        dumpable = ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0)
        return f"{dumpable} {resource.getrlimit(resource.RLIMIT_CORE)}"

    assert in_child(work) == "0 (0, 0)"


def test_memory_is_locked_or_refused() -> None:
    def work() -> str:
        try:
            lock_memory()
        except Refusal as refusal:
            return f"refused {refusal.code} {bool(refusal.remedy)}"
        status = Path("/proc/self/status").read_text()
        return next(line for line in status.splitlines() if line.startswith("VmLck"))

    answer = in_child(work)
    locked = answer.startswith("VmLck") and int(answer.split()[1]) > 0
    assert locked or answer == "refused hardening_failed True"


def test_a_kernel_that_says_no_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        @staticmethod
        def mlockall(_flags: ctypes.c_ulong) -> int:
            ctypes.set_errno(12)
            return -1

    monkeypatch.setattr(process_hardening.ctypes, "CDLL", lambda *_a, **_k: Library)
    with pytest.raises(Refusal, match="mlockall: Cannot allocate memory") as refused:
        lock_memory()
    assert "LimitMEMLOCK" in refused.value.remedy
