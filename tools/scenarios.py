# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the Molecule scenarios one after the other on a lab of their own, and remove it, whatever happened.

    tools/run python tools/scenarios.py [--keep] LAB [SCENARIO ...]

The lab's name reaches the scenarios as the environment variable LAB. Each scenario starts from the state that
`trusted` converges to, so that one runs first; when it fails, the others mean nothing and are not run. After
another one that failed, its `cleanup` is run, which puts back what it changed. `default` owns making and
removing the lab and is none itself. Each step's seconds are printed; the last line says how many passed and
failed. With --keep, a lab that is there is used as it is, and stays: for work on a scenario.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable

from collection_tree import ROOT

FIRST = "trusted"
OWNER = "default"
# What Molecule remembers of a lab lies apart for each: `molecule reset` would forget that of others too.
MEMORY = ROOT / "build" / "molecule"


def scenario_names() -> list[str]:
    """All scenarios: `trusted`, then the others by name."""
    found = {path.parent.name for path in (ROOT / "extensions" / "molecule").glob("*/molecule.yml")} - {OWNER}
    return sorted(found, key=lambda name: (name != FIRST, name))


class Stages:
    """Times the steps of a scenario by what Molecule logs about them. `clock`: seconds of a steady clock."""

    MATRIX = re.compile(r"\[(?P<scenario>\S+) > discovery\] scenario test matrix: (?P<steps>.+)")
    STEP = re.compile(r"\[(?P<scenario>\S+) > (?P<action>\w+)\] (?P<what>Executing|Executed: (?P<how>\w+))")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left: list[str] = []
        self._began = clock()

    def line(self, text: str) -> str:
        """What to print after this line of the log; mostly nothing."""
        if matrix := self.MATRIX.search(text):
            self._left = matrix["steps"].split(", ")
        step = self.STEP.search(text)
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


def run(lab: str, *command: str) -> int:
    """Run a command with LAB in its environment and without standard input. Returns the exit code."""
    environment = {
        **os.environ,
        # A result of a module that gets to be taken for a template is an error here, not a warning.
        "_ANSIBLE_TEMPLAR_UNTRUSTED_TEMPLATE_BEHAVIOR": "error",
        "LAB": lab,
        "MOLECULE_EPHEMERAL_DIRECTORY": str(MEMORY / lab),
        # Borders break the lines of the output after 80 columns.
        "MOLECULE_COMMAND_BORDERS": "false",
        "NO_COLOR": "1",
        "ANSIBLE_NOCOLOR": "1",
        "PYTHONUNBUFFERED": "1",
    }
    stages = Stages(time.monotonic)
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        try:
            for line in process.stdout or ():
                said = stages.line(line)
                print(line, end=f"{said}\n" if said else "", flush=True)
        except BaseException:
            process.kill()
            raise
        return process.wait()


def left_behind(lab: str) -> list[str]:
    """Containers and networks of this lab that are still there."""
    names = []
    for listing in (["ps", "--all", "--format", "{{.Names}}"], ["network", "ls", "--format", "{{.Name}}"]):
        done = subprocess.run(["podman", *listing], capture_output=True, text=True, check=True)
        names += [name for name in done.stdout.split() if name == lab or name.startswith(f"{lab}-")]
    return names


def destroy(lab: str) -> bool:
    """Remove the lab. Returns whether nothing of it is left."""
    status = run(lab, "ansible-playbook", "trusted.infrastructure.lab_destroy", "-e", f"lab_name={lab}")
    shutil.rmtree(MEMORY / lab, ignore_errors=True)
    left = left_behind(lab)
    if left:
        print(f"left after the lab was removed: {', '.join(left)}", flush=True)
    return status == 0 and not left


def run_scenarios(lab: str, names: list[str]) -> dict[str, tuple[str, float]]:
    """Run the scenarios. Returns, for each, 'passed', 'failed' or 'not run', and its seconds."""
    results: dict[str, tuple[str, float]] = {}
    for name in names:
        if results.get(FIRST, ("passed", 0.0))[0] == "failed":
            results[name] = ("not run", 0.0)
            continue
        print(f"\n=== scenario {name}", flush=True)
        started = time.monotonic()
        # The lab stays for the next scenario; it is removed at the end, by the same playbook that users call.
        status = run(lab, "molecule", "test", "--destroy", "never", "--scenario-name", name)
        if status and name != FIRST:
            print(f"--- scenario {name} failed: putting back what it changed", flush=True)
            run(lab, "molecule", "cleanup", "--scenario-name", name)
        results[name] = ("failed" if status else "passed", time.monotonic() - started)
        print(f"--- scenario {name}: {results[name][0]}, {results[name][1]:.1f} s", flush=True)
    return results


def stop(_signal: int, _frame: object) -> None:
    """Leave by the way that removes the lab."""
    raise KeyboardInterrupt


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description="Run the Molecule scenarios on a lab of their own")
    parser.add_argument("--keep", action="store_true", help="use the lab as it is, and do not remove it")
    parser.add_argument("lab", metavar="LAB", help="name of the lab")
    parser.add_argument("scenarios", metavar="SCENARIO", nargs="*", help="these alone, in this order")
    given = parser.parse_args()
    lab, names = given.lab, given.scenarios or scenario_names()
    unknown = set(names) - set(scenario_names())
    if unknown:
        raise SystemExit(f"no such scenario: {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, stop)
    results: dict[str, tuple[str, float]] = {}
    removed = False
    try:
        # What a run that was killed may have left behind.
        if not given.keep and (ROOT / "build" / "labs" / lab).exists():
            destroy(lab)
        results = run_scenarios(lab, names)
    finally:
        removed = given.keep or destroy(lab)
    print()
    for name, (result, seconds) in results.items():
        print(f"{name:<16} {result:<8} {seconds:>8.1f} s")
    passed = sum(result == "passed" for result, _seconds in results.values())
    print(f"{passed} passed, {len(results) - passed + int(not removed)} failed")
    return int(passed < len(results) or not removed)


if __name__ == "__main__":
    raise SystemExit(main())
