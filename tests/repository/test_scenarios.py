# SPDX-License-Identifier: GPL-3.0-or-later
"""The scenarios' lab is removed, whatever happens, and what did not run has not passed."""

import sys
from collections.abc import Callable

import pytest
import scenarios

Start = Callable[..., int]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    """Run the scenarios with commands that only answer: `failing` names those that fail."""

    def started(*failing: str, left: tuple[str, ...] = (), interrupt: str = "", keep: bool = False) -> int:
        def run(lab: str, log: str, *command: str) -> tuple[int, list[str]]:
            assert lab == "test-lab"
            calls.append(command[-1])
            if interrupt == command[-1]:
                raise KeyboardInterrupt
            failed = bool(set(failing) & set(command))
            return int(failed), [f"TASK [what {log} does]"] if failed else []

        monkeypatch.setattr(scenarios.shutil, "which", lambda name: f"/bin/{name}")
        monkeypatch.setattr(scenarios, "run", run)
        monkeypatch.setattr(scenarios, "left_behind", lambda lab: list(left))
        monkeypatch.setattr(scenarios, "scenario_names", lambda: ["trusted", "failover", "tamper"])
        monkeypatch.setattr(sys, "argv", ["scenarios.py", *(["--keep"] if keep else []), "test-lab"])
        return scenarios.main()

    return started


calls: list[str] = []
DESTROYED = ["lab_name=test-lab"]


@pytest.fixture(autouse=True)
def no_calls() -> None:
    calls.clear()


def test_without_molecule_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["scenarios.py", "--keep", "test-lab", "trusted"])
    monkeypatch.setattr(scenarios.shutil, "which", lambda _name: None)
    with pytest.raises(SystemExit, match="make bootstrap"):
        scenarios.main()


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.splitlines()[-1]


def test_all_pass(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    assert start() == 0
    assert calls == ["trusted", "failover", "tamper", *DESTROYED]
    assert last_line(capsys) == "3 passed, 0 failed"


def test_one_fails_is_put_back_and_the_next_still_runs(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start("failover") == 1
    assert calls == ["trusted", "failover", "failover", "tamper", *DESTROYED]
    assert last_line(capsys) == "2 passed, 1 failed"


def test_end_says_which_task_failed(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    start("failover")
    end = capsys.readouterr().out.partition("scenario failover failed; its log is build/scenarios")[2]
    assert "TASK [what failover does]" in end


def test_without_the_trusted_state_nothing_else_passes(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start("trusted") == 1
    assert calls == ["trusted", *DESTROYED]
    assert last_line(capsys) == "0 passed, 3 failed"


def test_lab_that_is_not_removed_is_a_failure(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    assert start("lab_name=test-lab") == 1
    assert last_line(capsys) == "3 passed, 1 failed"


def test_what_is_left_of_the_lab_is_named(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(left=("test-lab-ta1",)) == 1
    assert "left after the lab was removed: test-lab-ta1" in capsys.readouterr().out


def test_interrupt_removes_the_lab(start: Start) -> None:
    with pytest.raises(KeyboardInterrupt):
        start(interrupt="failover")
    assert calls == ["trusted", "failover", *DESTROYED]


def test_lab_is_kept_where_that_is_asked(start: Start) -> None:
    assert start("failover", keep=True) == 1
    assert calls == ["trusted", "failover", "failover", "tamper"]
