# SPDX-License-Identifier: GPL-3.0-or-later
"""What of a scenario's log is worth showing: its plays, what each step took, and the tasks that made it fail.

The whole log is thousands of lines, in which a refusal that a scenario asks for looks like a failure. It is
kept in a file; this module reads it line by line.
"""

from __future__ import annotations

import re
from collections.abc import Callable

MATRIX = re.compile(r"\[(?P<scenario>\S+) > discovery\] scenario test matrix: (?P<steps>.+)")
STEP = re.compile(r"\[(?P<scenario>\S+) > (?P<action>\w+)\] (?P<what>Executing|Executed: (?P<how>\w+))")
PLAY = re.compile(r"PLAY \[(?P<title>.*?)\]")
HEADING = re.compile(r"(?:TASK|PLAY|RUNNING HANDLER) \[|PLAY RECAP|[A-Z]+ +\[\S+ > ")
UNHAPPY = re.compile(r"(?:fatal|failed): \[|\[ERROR\]|Traceback")
SHOWN_LINES = 60
OWNER = "default"


class Steps:
    """Times the steps of a scenario by what Molecule logs about them. `clock`: seconds of a steady clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left: list[str] = []
        self._began = clock()

    def line(self, text: str) -> str:
        """What to print for this line of the log; mostly nothing."""
        if matrix := MATRIX.search(text):
            self._left = matrix["steps"].split(", ")
        if play := PLAY.match(text):
            return f"    {play['title']}"
        step = STEP.search(text)
        if step is None:
            return ""
        if step["what"] == "Executing":
            self._began = self._clock()
            return ""
        # The log says 'verify'; the matrix also says which.
        name = step["action"]
        if self._left and self._left[0].split()[0] == name and step["scenario"] != OWNER:
            name = self._left.pop(0)
        seconds = self._clock() - self._began
        return f"--- {step['scenario']}: {name}: {step['how'].lower()}, {seconds:.1f} s"


class Failures:
    """Keeps the tasks of a log that failed without being forgiven by `ignore_errors`."""

    def __init__(self) -> None:
        self._task: list[str] = []
        self._tasks: list[list[str]] = []

    def line(self, text: str) -> None:
        """Take the next line of the log."""
        if HEADING.match(text):
            self._close()
        self._task.append(text.rstrip("\n"))

    def last(self, count: int) -> list[str]:
        """The last `count` failed tasks, each as one text of at most SHOWN_LINES lines."""
        self._close()
        return ["\n".join(task[:SHOWN_LINES]) for task in self._tasks[-count:]]

    def _close(self) -> None:
        task, self._task = self._task, []
        unhappy = any(UNHAPPY.match(line) for line in task)
        if unhappy and "...ignoring" not in task:
            self._tasks.append(task)
