# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the Molecule scenarios one after the other on a lab of their own, and remove it, whatever happened.

    tools/run python tools/scenarios.py [--keep] LAB [SCENARIO ...]

The lab's name reaches the scenarios as the environment variable LAB. Each scenario starts from the state that
`trusted` converges to, so that one runs first; when it fails, the others mean nothing and are not run. After
another one that failed, its `cleanup` is run, which puts back what it changed. `default` owns making and
removing the lab and is none itself. Plays, and each step's seconds, are printed; everything is kept in
build/scenarios/SCENARIO.log. The end says which tasks failed, and how many scenarios passed and failed. With
--keep, a lab that is there is used as it is, and stays: for work on a scenario.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from collection_tree import ROOT
from scenario_log import OWNER, Failures, Steps

FIRST = "trusted"
# What Molecule remembers of a lab lies apart for each: `molecule reset` would forget that of others too.
MEMORY = ROOT / "build" / "molecule"
LOGS = ROOT / "build" / "scenarios"


def scenario_names() -> list[str]:
    """All scenarios: `trusted`, then the others by name."""
    found = {path.parent.name for path in (ROOT / "extensions" / "molecule").glob("*/molecule.yml")} - {OWNER}
    return sorted(found, key=lambda name: (name != FIRST, name))


@dataclass(frozen=True)
class Outcome:
    """What came of a scenario: 'passed', 'failed' or 'not run', its seconds, and the tasks that failed."""

    result: str
    seconds: float = 0.0
    failures: Sequence[str] = ()


def run(lab: str, log: str, *command: str) -> tuple[int, list[str]]:
    """Run a command with LAB in its environment and without standard input; its output is added to a log.

    `log`: the name of the log in build/scenarios. Returns the exit code and the tasks that failed last.
    """
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
    steps, failures = Steps(time.monotonic), Failures()
    LOGS.mkdir(parents=True, exist_ok=True)
    with (
        (LOGS / f"{log}.log").open("a", encoding="utf-8") as kept,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        try:
            for line in process.stdout or ():
                kept.write(line)
                kept.flush()
                failures.line(line)
                if said := steps.line(line):
                    print(said, flush=True)
        except BaseException:
            process.kill()
            raise
        return process.wait(), failures.last(2)


def left_behind(lab: str) -> list[str]:
    """Containers and networks of this lab that are still there."""
    names = []
    for listing in (["ps", "--all", "--format", "{{.Names}}"], ["network", "ls", "--format", "{{.Name}}"]):
        done = subprocess.run(["podman", *listing], capture_output=True, text=True, check=True)
        names += [name for name in done.stdout.split() if name == lab or name.startswith(f"{lab}-")]
    return names


def destroy(lab: str) -> bool:
    """Remove the lab. Returns whether nothing of it is left."""
    status, failures = run(
        lab, "lab_destroy", "ansible-playbook", "trusted.infrastructure.lab_destroy", "-e", f"lab_name={lab}"
    )
    for failure in failures if status else ():
        print(failure, flush=True)
    shutil.rmtree(MEMORY / lab, ignore_errors=True)
    left = left_behind(lab)
    if left:
        print(f"left after the lab was removed: {', '.join(left)}", flush=True)
    return status == 0 and not left


def run_scenarios(lab: str, names: list[str]) -> dict[str, Outcome]:
    """Run the scenarios. Returns what came of each."""
    outcomes: dict[str, Outcome] = {}
    for name in names:
        if FIRST in outcomes and outcomes[FIRST].result == "failed":
            outcomes[name] = Outcome("not run")
            continue
        print(f"\n=== scenario {name}", flush=True)
        (LOGS / f"{name}.log").unlink(missing_ok=True)
        started = time.monotonic()
        # The lab stays for the next scenario; it is removed at the end, by the same playbook that users call.
        status, failures = run(lab, name, "molecule", "test", "--destroy", "never", "--scenario-name", name)
        if status:
            print("\n".join(failures), flush=True)
        if status and name != FIRST:
            print(f"--- scenario {name} failed: putting back what it changed", flush=True)
            run(lab, name, "molecule", "cleanup", "--scenario-name", name)
        outcomes[name] = Outcome("failed" if status else "passed", time.monotonic() - started, failures)
        print(f"--- scenario {name}: {outcomes[name].result}, {outcomes[name].seconds:.1f} s", flush=True)
    return outcomes


def report(outcomes: dict[str, Outcome]) -> None:
    """Print what failed, each with the task and the log, and then a table."""
    for name, outcome in outcomes.items():
        if outcome.result == "failed":
            print(f"\nscenario {name} failed; its log is build/scenarios/{name}.log, and it ends with")
            print("\n".join(outcome.failures[-1:]) or "    no failed task")
    print()
    for name, outcome in outcomes.items():
        print(f"{name:<22} {outcome.result:<8} {outcome.seconds:>8.1f} s")


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
    if shutil.which("molecule") is None:
        raise SystemExit("Molecule is not installed: run `make bootstrap`, and again with tools/run")
    signal.signal(signal.SIGTERM, stop)
    outcomes: dict[str, Outcome] = {}
    removed = False
    try:
        # What a run that was killed may have left behind.
        if not given.keep and (ROOT / "build" / "labs" / lab).exists():
            destroy(lab)
        outcomes = run_scenarios(lab, names)
    finally:
        removed = given.keep or destroy(lab)
    report(outcomes)
    passed = sum(outcome.result == "passed" for outcome in outcomes.values())
    print(f"{passed} passed, {len(outcomes) - passed + int(not removed)} failed")
    return int(passed < len(outcomes) or not removed)


if __name__ == "__main__":
    raise SystemExit(main())
