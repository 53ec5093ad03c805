# SPDX-License-Identifier: GPL-3.0-or-later
"""The runner of the gates: a failure shows, and nothing passes that did not run."""

import os
import signal
import sys
from pathlib import Path

import gates
import pytest


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(gates, "LOGS", tmp_path)
    return tmp_path


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def run_main(monkeypatch: pytest.MonkeyPatch, known: list[gates.Gate], *arguments: str) -> int:
    monkeypatch.setattr(gates, "gates", lambda: known)
    monkeypatch.setattr(sys, "argv", ["gates.py", *arguments])
    return gates.main()


@pytest.mark.parametrize(
    ("output", "passed", "failed", "skipped"),
    [
        ("451 passed in 8.42s", 451, 0, 0),
        ("===== 3 failed, 12 passed, 1 skipped, 2 errors in 0.1s =====", 12, 5, 1),
        ("===== 3 failed, 12 passed in 61.00s (0:01:01) =====", 12, 3, 0),
        ("7 passed, 0 failed", 7, 0, 0),
        ("the host said: 5 passed through it", 0, 0, 0),
        ("2 passed in 1.0s\nlater\n3 passed in 2.0s", 5, 0, 0),
        ("", 0, 0, 0),
    ],
)
def test_tests_are_counted(output: str, passed: int, failed: int, skipped: int) -> None:
    assert gates.count_tests(output) == {"passed": passed, "failed": failed, "skipped": skipped}


def test_failure_decides_the_exit_code_and_the_rest_still_runs(
    monkeypatch: pytest.MonkeyPatch, logs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    known = [
        gates.Gate("bad", python("print('2 passed, 1 failed'); raise SystemExit(1)")),
        gates.Gate("good", python("print('3 passed in 0.1s')")),
    ]
    assert run_main(monkeypatch, known) == 1
    assert capfd.readouterr().out.splitlines()[-1] == "5 passed, 1 failed"
    assert (logs / "summary.txt").read_text() == "5 passed, 1 failed\n"
    assert (logs / "good.log").read_text() == "3 passed in 0.1s\n"


def test_all_well_is_zero(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_main(monkeypatch, [gates.Gate("good", python(""))]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "1 passed, 0 failed"


@pytest.mark.parametrize(
    "gate",
    [
        gates.Gate("crash", python("raise SystemExit(3)")),
        gates.Gate("absent program", ["no-such-program-anywhere"]),
        gates.Gate("hangs", python("import time; print('9 passed', flush=True); time.sleep(60)"), limit=1.5),
        gates.Gate("nothing to check", python("print('9 passed')"), checks="no/such/folder/*.py"),
    ],
    ids=lambda gate: gate.name,
)
def test_gate_that_did_not_run_fails(gate: gates.Gate) -> None:
    outcome = gates.run_gate(gate)
    assert (outcome.result, outcome.passed, outcome.failed) == ("failed", 0, 1)


def test_gate_has_no_standard_input() -> None:
    outcome = gates.run_gate(
        gates.Gate("reads", python("import sys; raise SystemExit(len(sys.stdin.read()))"))
    )
    assert outcome.result == "ok"


def test_what_stays_in_the_background_does_not_hold_the_gates(logs: Path) -> None:
    code = "import subprocess; print(subprocess.Popen(['sleep', '600']).pid, flush=True); print('4 passed')"
    outcome = gates.run_gate(gates.Gate("daemon", python(code)))
    # It is still there, holding the pipe: this raises where it is not.
    os.kill(int((logs / "daemon.log").read_text().split()[0]), signal.SIGKILL)
    assert (outcome.result, outcome.passed) == ("ok", 4)


@pytest.mark.parametrize("only", ["no-such-gate", "good,no-such-gate", ""])
def test_unknown_gate_is_refused(monkeypatch: pytest.MonkeyPatch, only: str) -> None:
    with pytest.raises(SystemExit, match="no such gate"):
        run_main(monkeypatch, [gates.Gate("good", python(""))], "--only", only)


def test_every_suite_of_tests_is_a_gate() -> None:
    suites = {path.name for path in (gates.ROOT / "tests").iterdir() if any(path.glob("**/test_*.py"))} - {
        "unit"
    }
    assert {f"tests/{name}" for name in suites} <= {gate.name for gate in gates.gates()}
