# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the gates one after the other, print what each took, and end with a table.

    tools/run python tools/gates.py [--only NAME[,NAME...]] [--list]

A failed gate does not stop the others; the exit code is 0 only if none failed. The last line counts tests
where a gate says how many it ran, and the gate itself otherwise. What a gate printed is kept in
build/gates/NAME.log.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from collection_tree import ROOT, make_tree

LOGS = ROOT / "build" / "gates"
TREE = ROOT / "build" / "tree"
PYTHON = sys.executable
NO_SUITES = {"tests/unit", "tests/sanity"}
HEARTBEAT_SECONDS = 30
TIDY_SECONDS = 300
ENDING_LINES = 40


@dataclass(frozen=True)
class Gate:
    """One stage: its name and its command.

    `in_copy`: it runs in the copy of the working tree that collection_tree.py makes.
    `checks`: a glob of what has to be there for it to mean anything.
    `limit`: seconds after which it is stopped, and has failed.
    """

    name: str
    command: Sequence[str]
    in_copy: bool = False
    checks: str = ""
    limit: float = 1800


@dataclass
class Outcome:
    """What came of a gate, its tests, and the last lines of its output."""

    name: str
    result: str
    seconds: float
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    ending: str = ""


def test_lab_name() -> str:
    """The lab of this checkout's tests: always the same, so that what a killed run left is found again."""
    return "test-" + hashlib.sha256(str(ROOT).encode()).hexdigest()[:6]


def tool(name: str, *arguments: str) -> list[str]:
    """The command line of one of the project's own tools."""
    return [PYTHON, str(ROOT / "tools" / name), *arguments]


def gates() -> list[Gate]:
    """All gates, the quick ones first."""
    scripts = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "tools").glob("*.sh"))]
    # The tests of modules need Ansible's loader, and are run by ansible-test units.
    suites = sorted(
        {str(path.relative_to(ROOT)) for path in (ROOT / "tests").iterdir() if path.is_dir()} - NO_SUITES
    )
    refs = ["--validate-collection-refs=all", "--disallow-unknown-collection-refs"]
    return [
        Gate("ruff", ["ruff", "check", "."]),
        Gate("format", ["ruff", "format", "--check", "."]),
        Gate(
            "types",
            ["mypy", "--strict", "--cache-dir", "build/cache/mypy", "src", "tools"],
            checks="src/**/*.py",
        ),
        Gate("layers", ["lint-imports", "--cache-dir", "build/cache/imports"], checks="src/**/*.py"),
        Gate("shell", ["shellcheck", "tools/run", ".ci/run", *scripts]),
        *[
            Gate(folder, ["pytest", "--color=no", folder], checks=f"{folder}/**/test_*.py")
            for folder in suites
        ],
        Gate("sanity", tool("ansible_tests.py", "sanity")),
        Gate("units", tool("ansible_tests.py", "units"), checks="tests/unit/**/test_*.py"),
        Gate(
            "integration",
            tool("ansible_tests.py", "integration"),
            checks="tests/integration/targets/*/tasks/main.yml",
        ),
        Gate(
            "ansible-lint",
            ["ansible-lint", "--profile", "production", "--offline", "--nocolor"],
            in_copy=True,
        ),
        Gate(
            "docs",
            ["antsibull-docs", "lint-collection-docs", "--plugin-docs", "--skip-rstcheck", *refs, "."],
            in_copy=True,
        ),
        Gate("changelog", ["antsibull-changelog", "lint"], in_copy=True),
        Gate("importer", tool("import_collection.py")),
        Gate(
            "scenarios",
            tool("scenarios.py", test_lab_name()),
            checks="extensions/molecule/*/molecule.yml",
            limit=5400,
        ),
    ]


def say(text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(text, flush=True)


class Overtime(Exception):
    """A gate took longer than its limit."""


def pump(process: subprocess.Popen[bytes], gate: Gate) -> str:
    """Pass a process's output on as it comes, with a sign of life where there is none. Returns all of it."""
    started = shown = time.monotonic()
    output = bytearray()
    source = process.stdout
    if source is None:
        raise ValueError("the process has no pipe to read from")
    log_path = LOGS / f"{gate.name.replace('/', '-')}.log"
    with selectors.DefaultSelector() as selector, log_path.open("wb") as log:
        selector.register(source, selectors.EVENT_READ)
        while True:
            now = time.monotonic()
            if now - started > gate.limit:
                raise Overtime(f"{gate.name}: stopped after {gate.limit:.0f} s")
            if not selector.select(timeout=1):
                # What a gate left running in the background may hold the pipe open for ever.
                if process.poll() is not None:
                    break
                if now - shown >= HEARTBEAT_SECONDS:
                    say(f"    ... {gate.name} is running, {now - started:.0f} s")
                    shown = now
                continue
            chunk = os.read(source.fileno(), 65536)
            if not chunk:
                break
            shown = now
            output += chunk
            log.write(chunk)
            log.flush()
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
    return output.decode("utf-8", "replace")


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a gate with all that it started; it gets the time to tidy up: the scenarios remove their lab."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=TIDY_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    except ProcessLookupError:
        process.wait()


def execute(gate: Gate) -> tuple[int, str]:
    """Run a gate's command in its own process group, without standard input. Returns exit code, output."""
    with subprocess.Popen(
        list(gate.command),
        cwd=make_tree(TREE) if gate.in_copy else ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        try:
            output = pump(process, gate)
            return process.wait(), output
        except Overtime as error:
            end(process)
            say(f"\n{error}")
            return 124, str(error)
        except BaseException:
            end(process)
            raise


def count_tests(output: str) -> dict[str, int]:
    """Sum up the summary lines of pytest and of the scenarios: '12 passed, 1 failed, 2 skipped'."""
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for line in output.splitlines():
        if not re.fullmatch(r"=*\s*(?:\d+ [a-z]+(?:, )?)+(?: in [0-9.]+s.*)?\s*=*", line.strip()):
            continue
        for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", line):
            counts["failed" if word == "error" else word] += int(number)
    return counts


def run_gate(gate: Gate) -> Outcome:
    """Run one gate and print its name, its output and its seconds."""
    say(f"\n=== {gate.name}: {' '.join(gate.command).replace(str(ROOT) + '/', '')}")
    if gate.checks and not any(ROOT.glob(gate.checks)):
        say(f"--- {gate.name}: FAILED, there is nothing to check: {gate.checks}")
        return Outcome(gate.name, "failed", 0.0, failed=1)
    started = time.monotonic()
    try:
        status, output = execute(gate)
    except OSError as error:
        say(f"{gate.command[0]}: {error.strerror} (run `make bootstrap`)")
        status, output = 127, ""
    seconds = time.monotonic() - started
    counts = count_tests(output)
    if status == 0 and not counts["passed"]:
        counts["passed"] = 1
    if status != 0 and not counts["failed"]:
        counts["failed"] = 1
    result = "ok" if status == 0 else "failed"
    say(f"--- {gate.name}: {result if status == 0 else f'FAILED, exit code {status}'}, {seconds:.1f} s")
    ending = "\n".join(output.rstrip().splitlines()[-ENDING_LINES:])
    return Outcome(gate.name, result, seconds, **counts, ending=ending)


def table(outcomes: list[Outcome]) -> str:
    """All stages with result, seconds and tests."""
    rows = [("stage", "result", "seconds", "passed", "failed", "skipped")]
    for item in outcomes:
        counts = (str(item.passed), str(item.failed), str(item.skipped))
        rows.append((item.name, item.result, f"{item.seconds:.1f}", *counts))
    rows.append(("all", "", f"{sum(item.seconds for item in outcomes):.1f}", "", "", ""))
    return "\n".join("{:<18} {:<8} {:>8} {:>7} {:>7} {:>7}".format(*row).rstrip() for row in rows)


def summary(outcomes: list[Outcome]) -> str:
    """The last line."""
    passed, failed, skipped = (
        sum(getattr(item, key) for item in outcomes) for key in ("passed", "failed", "skipped")
    )
    return f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else "")


def chosen(only: str | None) -> list[Gate]:
    """The gates named in `only`, comma separated, in the order of the gates; all of them for None."""
    known = gates()
    if only is None:
        return known
    wanted = {name.strip() for name in only.split(",") if name.strip()}
    unknown = wanted - {gate.name for gate in known}
    if unknown or not wanted:
        raise SystemExit(
            f"no such gate: {', '.join(sorted(unknown))}; there are {', '.join(g.name for g in known)}"
        )
    return [gate for gate in known if gate.name in wanted]


def stop(_signal: int, _frame: object) -> None:
    """Turn SIGTERM into the way out that an interrupt takes."""
    raise KeyboardInterrupt


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description="Run the gates.")
    parser.add_argument("--only", help="names, comma separated")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    options = parser.parse_args()
    selected = chosen(options.only)
    if options.list:
        print("\n".join(gate.name for gate in selected))
        return 0
    LOGS.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, stop)
    outcomes: list[Outcome] = []
    interrupted = False
    try:
        for gate in selected:
            outcomes.append(run_gate(gate))
    except KeyboardInterrupt:
        interrupted = True
    for outcome in outcomes:
        if outcome.result != "ok":
            say(f"\n=== {outcome.name} failed; its log is in build/gates, and it ends with\n{outcome.ending}")
    say("\n" + table(outcomes))
    last = summary(outcomes)
    (LOGS / "summary.txt").write_text(last + "\n", encoding="utf-8")
    say(f"interrupted; until then: {last}" if interrupted else last)
    return 130 if interrupted else int(any(item.result != "ok" for item in outcomes))


if __name__ == "__main__":
    raise SystemExit(main())
