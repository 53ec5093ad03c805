# SPDX-License-Identifier: GPL-3.0-or-later
"""What a command did, or in check mode would do."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Report:
    """Collects the actions, from several threads. `check`: nothing may be changed, only reported."""

    def __init__(self, check: bool) -> None:
        self.check = check
        self.actions: list[str] = []
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def act(self, action: str) -> bool:
        """Note an action ('create the host ta1'); True if it is to be done, False in check mode."""
        with self._lock:
            self.actions.append(action)
        if not self.check:
            print(action, file=sys.stderr, flush=True)
        return not self.check

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[what] = round(time.monotonic() - began, 1)

    def result(self) -> dict[str, Any]:
        return {
            "changed": bool(self.actions),
            "actions": self.actions,
            "seconds": self.seconds,
        }
