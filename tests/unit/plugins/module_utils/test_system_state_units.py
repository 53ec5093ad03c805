# SPDX-License-Identifier: GPL-3.0-or-later
"""Systemd units: what systemd says, what is to be done, and what is done."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils import system_state
from ansible_collections.trusted.infrastructure.plugins.module_utils.system_state import (
    Absent,
    StateError,
    Unit,
    UnitNow,
    converge,
    units_now,
)

OWNER = pwd.getpwuid(os.getuid()).pw_name
NOW = 1_800_000_000.0
RUNNING = UnitNow(active=True, enabled=True, started=NOW, settled=NOW)
STOPPED = UnitNow(active=False, enabled=False, started=0.0, settled=0.0)
SHOWN = {
    "ActiveState": "active",
    "UnitFileState": "enabled",
    "ActiveEnterTimestamp": "Fri 2027-01-15 08:00:00.000000 UTC",
    "StateChangeTimestamp": "Fri 2027-01-15 08:00:00.250000 UTC",
    "NeedDaemonReload": "no",
}


class Systemd:
    """In place of systemctl: answers `show` with one block for each unit, and notes the rest."""

    def __init__(self, **units: dict[str, str]) -> None:
        self.units = units
        self.ran: list[str] = []
        self.failing = ""

    def __call__(self, command: list[str]) -> tuple[int, str, str]:
        if command[1] == "show":
            blocks = [self.units[name.split(".")[0]] for name in command if name.endswith(".service")]
            return (
                0,
                "\n".join("".join(f"{k}={v}\n" for k, v in {**SHOWN, **block}.items()) for block in blocks),
                "",
            )
        self.ran.append(" ".join(command[1:]))
        if command[1] == "daemon-reload":
            for block in self.units.values():
                block["NeedDaemonReload"] = "no"
        return int(bool(self.failing) and self.ran[-1].startswith(self.failing)), "", "no such unit\n"


def at(path: Path, moment: float) -> str:
    """A file that was changed at this moment."""
    path.write_text("x")
    os.utime(path, (moment, moment))
    return str(path)


@pytest.mark.parametrize(
    "wanted, now, calls",
    [
        (True, RUNNING, []),
        (True, STOPPED, ["enable", "reset-failed", "start"]),
        (True, UnitNow(True, False, NOW, NOW), ["enable"]),
        (True, UnitNow(False, True, NOW, NOW), ["reset-failed", "start"]),
        (True, UnitNow(True, None, NOW, NOW), []),
        (True, UnitNow(False, None, NOW, NOW), ["reset-failed", "start"]),
        (False, STOPPED, []),
        (False, RUNNING, ["disable", "stop"]),
        (False, UnitNow(False, True, NOW, NOW), ["disable"]),
        (False, UnitNow(True, False, NOW, NOW), ["stop"]),
        (False, UnitNow(False, None, NOW, NOW), []),
    ],
)
def test_enabled_and_active(wanted: bool, now: UnitNow, calls: list[str]) -> None:
    assert Unit("a.service", wanted).actions(now, []) == [["systemctl", call, "a.service"] for call in calls]


@pytest.mark.parametrize(
    "restart, reload, changed, expected",
    [
        (NOW - 1, NOW - 1, False, []),
        # An earlier run was cut off after it had written the file: it is newer than the last start.
        (NOW + 1, NOW - 1, False, ["restart"]),
        (NOW - 1, NOW + 1, False, ["reload"]),
        (NOW + 1, NOW + 1, False, ["restart"]),
        (None, None, False, []),
        # In check mode the file is not there yet, or is the old one.
        (NOW - 1, NOW - 1, True, ["restart"]),
        (None, NOW - 1, True, ["restart"]),
    ],
)
def test_restarted_or_reloaded_for_what_is_newer(
    tmp_path: Path, restart: float | None, reload: float | None, changed: bool, expected: list[str]
) -> None:
    paths = [tmp_path / "restart", tmp_path / "reload"]
    for path, moment in zip(paths, (restart, reload), strict=True):
        if moment is not None:
            at(path, moment)
    unit = Unit("a.service", True, (str(paths[0]),), (str(paths[1]),))
    calls = unit.actions(RUNNING, [str(paths[0])] if changed else [])
    assert [call[1] for call in calls] == expected


def test_a_reload_counts_from_the_last_change_of_state(tmp_path: Path) -> None:
    unit = Unit("a.service", True, (), (at(tmp_path / "f", NOW + 1),))
    assert [call[1] for call in unit.actions(RUNNING, [])] == ["reload"]
    assert unit.actions(UnitNow(True, True, NOW, NOW + 2), []) == []


def test_a_link_counts_by_its_own_time(tmp_path: Path) -> None:
    """The link to the environment in use is replaced; what it points to is older."""
    at(tmp_path / "target", NOW - 100)
    (tmp_path / "link").symlink_to("target")
    os.utime(tmp_path / "link", (NOW + 1, NOW + 1), follow_symlinks=False)
    assert Unit("a.service", True, (str(tmp_path / "link"),)).actions(RUNNING, []) != []


def test_a_stopped_unit_is_started_once(tmp_path: Path) -> None:
    unit = Unit("a.service", True, (at(tmp_path / "f", NOW + 1),))
    now = UnitNow(False, True, NOW, NOW)
    assert [call[1] for call in unit.actions(now, [str(tmp_path / "f")])] == ["reset-failed", "start"]


def test_a_unit_that_is_to_be_off_is_not_restarted(tmp_path: Path) -> None:
    unit = Unit("a.service", False, (at(tmp_path / "f", NOW + 1),))
    assert [call[1] for call in unit.actions(RUNNING, [])] == ["disable", "stop"]


@pytest.mark.parametrize(
    "shown, expected",
    [
        ({}, UnitNow(True, True, NOW, NOW + 0.25)),
        ({"ActiveState": "inactive"}, UnitNow(False, True, NOW, NOW + 0.25)),
        ({"ActiveState": "failed"}, UnitNow(False, True, NOW, NOW + 0.25)),
        ({"ActiveState": "activating"}, UnitNow(True, True, NOW, NOW + 0.25)),
        ({"UnitFileState": "disabled"}, UnitNow(True, False, NOW, NOW + 0.25)),
        ({"UnitFileState": "masked"}, UnitNow(True, False, NOW, NOW + 0.25)),
        ({"UnitFileState": "enabled-runtime"}, UnitNow(True, False, NOW, NOW + 0.25)),
        ({"UnitFileState": "static"}, UnitNow(True, None, NOW, NOW + 0.25)),
        ({"UnitFileState": "generated"}, UnitNow(True, None, NOW, NOW + 0.25)),
        ({"ActiveEnterTimestamp": ""}, UnitNow(True, True, 0.0, NOW + 0.25)),
        ({"ActiveEnterTimestamp": "n/a", "StateChangeTimestamp": ""}, UnitNow(True, True, 0.0, 0.0)),
        ({"NeedDaemonReload": "yes"}, UnitNow(True, True, NOW, NOW + 0.25, outdated=True)),
        ({"ActiveState": "inactive", "UnitFileState": ""}, UnitNow(False, False, NOW, NOW + 0.25)),
    ],
)
def test_what_systemd_says(shown: dict[str, str], expected: UnitNow) -> None:
    assert units_now(["a.service", "b.service"], Systemd(a=shown, b={})) == [
        expected,
        UnitNow(True, True, NOW, NOW + 0.25),
    ]


def test_systemd_is_not_asked_about_nothing() -> None:
    assert units_now([], lambda command: pytest.fail(str(command))) == []


@pytest.mark.parametrize(
    "answer, text",
    [
        ((1, "", "Failed to connect to bus\n"), "systemctl show: Failed to connect to bus"),
        ((0, "A=b\n", ""), "told of 1"),
    ],
)
def test_systemd_that_does_not_answer(answer: tuple[int, str, str], text: str) -> None:
    with pytest.raises(StateError, match=text):
        units_now(["a.service", "b.service"], lambda _command: answer)


def test_check_mode_runs_nothing(tmp_path: Path) -> None:
    systemd = Systemd(a={"NeedDaemonReload": "yes"}, b={"ActiveState": "inactive"})
    path = at(tmp_path / "f", NOW - 10)
    units = [Unit("a.service", True, (path,)), Unit("b.service")]
    _differences, calls = converge([Absent(path)], units, systemd, check=True)
    assert calls == [
        "systemctl daemon-reload",
        "systemctl restart a.service",
        "systemctl reset-failed b.service",
        "systemctl start b.service",
    ]
    assert systemd.ran == []
    assert Path(path).exists()


def test_units_in_their_order(tmp_path: Path) -> None:
    systemd = Systemd(a={}, b={"UnitFileState": "disabled", "ActiveState": "failed"})
    units = [Unit("a.service", True, (at(tmp_path / "f", NOW + 5),)), Unit("b.service")]
    _differences, calls = converge([], units, systemd, check=False)
    assert systemd.ran == [
        "restart a.service",
        "enable b.service",
        "reset-failed b.service",
        "start b.service",
    ]
    assert calls == [f"systemctl {call}" for call in systemd.ran]


def test_nothing_to_do() -> None:
    systemd = Systemd(a={})
    assert converge([], [Unit("a.service")], systemd, check=False) == ([], [])
    assert systemd.ran == []


def test_systemd_reads_unit_files_that_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_state, "UNIT_FILES", f"{tmp_path}/")
    path = tmp_path / "a.service"
    part = system_state.File(str(path), "[Unit]\n", OWNER, group_name(), "0644")
    systemd = Systemd(a={})
    units = [Unit("a.service", True, (str(path),))]
    _differences, calls = converge([part], units, systemd, check=False)
    assert systemd.ran == ["daemon-reload", "restart a.service"]
    assert calls[0] == "systemctl daemon-reload"


def test_a_run_that_was_cut_off_before_the_reload_is_made_good(tmp_path: Path) -> None:
    """The file is as wanted, but systemd has read the one before, and the unit runs with that."""
    path = at(tmp_path / "a.service", NOW + 5)
    systemd = Systemd(a={"NeedDaemonReload": "yes"})
    _differences, calls = converge([], [Unit("a.service", True, (path,))], systemd, check=False)
    assert systemd.ran == ["daemon-reload", "restart a.service"]
    assert calls == [f"systemctl {call}" for call in systemd.ran]


def group_name() -> str:
    import grp

    return grp.getgrgid(os.getgid()).gr_name


@pytest.mark.parametrize("failing", ["enable", "start", "daemon-reload"])
def test_a_unit_that_cannot_be_started(failing: str) -> None:
    systemd = Systemd(a={"UnitFileState": "disabled", "ActiveState": "failed", "NeedDaemonReload": "yes"})
    systemd.failing = failing
    with pytest.raises(StateError, match=": no such unit$"):
        converge([], [Unit("a.service")], systemd, check=False)


def test_what_was_never_loaded_has_nothing_to_reset() -> None:
    systemd: Any = Systemd(a={"ActiveState": "inactive"})
    systemd.failing = "reset-failed"
    converge([], [Unit("a.service")], systemd, check=False)
    assert systemd.ran == ["reset-failed a.service", "start a.service"]
