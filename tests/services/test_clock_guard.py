# SPDX-License-Identifier: GPL-3.0-or-later
"""A service that cannot trust its clock decides nothing; one that can is not stopped by a liar."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trusted_infrastructure import kernel_clock
from trusted_infrastructure.clock_guard import (
    MARK_STEP,
    PEER_KEPT,
    PEER_LIMIT,
    TOLERANCE,
    ClockGuard,
    Clocks,
    Measurement,
    accept_time,
    measured,
    off_peers,
    read_clock_state,
    unsynchronized,
    went_back,
)
from trusted_infrastructure.refusal import Unavailable

NOW = 1_800_000_000.0
DAY = 86_400


@dataclass
class Machine:
    """A machine whose wall clock can be set, as anybody with root can."""

    path: Path
    now: float = NOW
    since_boot: float = 1000.0
    boot: str = "boot-1"
    in_step: bool | None = True
    limit: int = DAY
    guard: ClockGuard = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self, last_record: int = 0) -> None:
        self.guard = self.another(last_record)

    def another(self, last_record: int = 0) -> ClockGuard:
        """The guard of another process of the service."""
        return ClockGuard(self.path, self.limit, last_record, self.clocks())

    def clocks(self) -> Clocks:
        return Clocks(lambda: self.now, lambda: self.since_boot, lambda: self.boot, lambda: self.in_step)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.since_boot += seconds

    def reboot(self) -> None:
        self.boot, self.since_boot = self.boot + "+", 5.0
        self.start()

    def code(self, guard: ClockGuard | None = None) -> str:
        """What a decision is refused with; "" when it is not."""
        try:
            (guard or self.guard).check()
        except Unavailable as refusal:
            assert refusal.status == 503 and refusal.remedy
            return refusal.code
        return ""

    def peers(self, **ahead: float) -> None:
        """What peers show now, in seconds ahead of the wall clock."""
        self.guard.peers_show(
            {host: Measurement(self.boot, self.since_boot, self.now + by, 0.6) for host, by in ahead.items()}
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "clock.json")


# ---- back ----


def test_a_clock_that_goes_on_is_trusted_and_its_mark_is_kept(machine: Machine) -> None:
    for _count in range(5):
        machine.wait(MARK_STEP)
        assert machine.code() == ""
        machine.guard.tick()
    assert read_clock_state(machine.path).mark == NOW + 5 * MARK_STEP
    assert machine.guard.problems() == ([], [])


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(
    ("back", "code"), [(TOLERANCE - 1, ""), (30, "clock_went_back"), (DAY, "clock_went_back")]
)
def test_a_clock_that_went_back(machine: Machine, restart: bool, back: float, code: str) -> None:
    machine.wait(100)
    assert machine.code() == ""
    machine.guard.tick()
    machine.now -= back
    if restart:
        machine.start()
    assert machine.code() == code
    assert bool(machine.guard.problems()[0]) == bool(code)
    machine.wait(back)
    assert machine.code() == ""


def test_it_stays_refused_over_restarts_and_reboots(machine: Machine) -> None:
    machine.now -= 3600
    for _count in range(3):
        machine.reboot()
        machine.guard.tick()
        assert machine.code() == "clock_went_back"
    assert read_clock_state(machine.path).mark == NOW


def test_the_last_audit_record_is_a_mark_too(machine: Machine) -> None:
    machine.start(last_record=int(NOW) + 500)
    assert machine.code() == "clock_went_back"


def test_an_idle_process_learns_the_mark_of_a_busy_one(machine: Machine) -> None:
    idle = machine.another()
    machine.wait(1000)
    assert machine.code() == ""
    machine.guard.tick()
    idle.tick()
    machine.now -= 500
    assert machine.code(idle) == "clock_went_back"


def test_an_administrator_accepts_the_time_and_running_processes_take_it(machine: Machine) -> None:
    idle = machine.another()
    machine.wait(DAY)
    machine.guard.tick()
    idle.tick()
    machine.now -= DAY / 2
    assert machine.code() == machine.code(idle) == "clock_went_back"
    assert accept_time(machine.path, machine.clocks()) == NOW + DAY
    assert machine.code() == machine.code(idle) == ""
    machine.guard.tick()
    machine.start()
    assert machine.code() == ""
    machine.now -= 60
    assert machine.code() == "clock_went_back"


def test_a_decision_writes_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    before = machine.path.read_bytes()
    machine.wait(5000)
    monkeypatch.setattr("trusted_infrastructure.clock_guard.write_state", None)
    monkeypatch.setattr("trusted_infrastructure.clock_guard.read_state", None)
    machine.peers(ta2=0, ta3=0)
    for _count in range(3):
        assert machine.code() == ""
    assert machine.path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"mark":"x"}'])
def test_a_mark_that_cannot_be_read_is_not_zero(machine: Machine, content: bytes) -> None:
    machine.path.write_bytes(content)
    with pytest.raises(Unavailable, match="clock.json") as refusal:
        machine.start()
    assert refusal.value.code == "state_unusable" and "clock accept" in refusal.value.remedy
    accept_time(machine.path, machine.clocks())
    machine.start()
    assert machine.code() == ""


# ---- out of step ----


def test_unsynchronized_for_longer_than_allowed(machine: Machine) -> None:
    machine.in_step = False
    machine.wait(DAY - 10)
    machine.guard.tick()
    assert machine.code() == ""
    assert "clock_unsynchronized" in machine.guard.problems()[1][0]
    machine.wait(20 + MARK_STEP)
    machine.guard.tick()
    assert machine.code() == "clock_unsynchronized"
    machine.reboot()
    assert machine.code() == "clock_unsynchronized"
    machine.in_step = True
    machine.guard.tick()
    assert machine.code() == ""


@pytest.mark.parametrize("in_step", [False, None], ids=["not", "cannot be told"])
def test_a_host_that_was_never_synchronized_has_the_time_from_its_first_start(
    tmp_path: Path, in_step: bool | None
) -> None:
    machine = Machine(tmp_path / "clock.json", in_step=in_step)
    assert machine.code() == ""
    machine.wait(DAY + 1)
    machine.guard.tick()
    assert machine.code() == "clock_unsynchronized"


def test_zero_does_not_look(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "clock.json", in_step=False, limit=0)
    machine.wait(400 * DAY)
    machine.guard.tick()
    assert machine.code() == "" and machine.guard.problems() == ([], [])


# ---- off its peers ----

FAR = PEER_LIMIT + 5


@pytest.mark.parametrize(
    ("ahead", "off"),
    [
        ({}, False),
        ({"ta2": 0}, False),
        ({"ta2": PEER_LIMIT - 1}, False),
        ({"ta2": FAR}, True),
        ({"ta2": -FAR}, True),
        ({"ta2": FAR, "ta3": 0}, False),
        ({"ta2": 1e9, "ta3": -1}, False),
        ({"ta2": FAR, "ta3": FAR}, True),
        ({"ta2": FAR, "ta3": -FAR}, True),
        ({"ta2": FAR, "ta3": 0, "ta4": 1}, False),
        ({"ta2": FAR, "ta3": FAR, "ta4": 0}, True),
        ({"ta2": FAR, "ta3": FAR, "ta4": 0, "ta5": 0}, False),
    ],
)
def test_a_majority_of_clocks_decides(machine: Machine, ahead: dict[str, float], off: bool) -> None:
    machine.peers(**ahead)
    assert machine.code() == ("clock_off_peers" if off else "")
    errors, warnings = machine.guard.problems()
    assert bool(errors) == off
    assert bool(warnings) == (not off and any(abs(by) >= FAR for by in ahead.values()))


def test_a_step_of_the_own_clock_shows_at_once_without_asking_again(machine: Machine) -> None:
    machine.peers(ta2=0, ta3=1)
    machine.wait(3600)
    assert machine.code() == ""
    machine.now += 120
    assert machine.code() == "clock_off_peers"
    # A time that was refused is no mark: set right, the clock is trusted again.
    machine.guard.tick()
    machine.now -= 120
    assert machine.code() == ""


def test_what_a_peer_showed_long_ago_or_in_another_boot_says_nothing(machine: Machine) -> None:
    machine.peers(ta2=FAR)
    machine.wait(PEER_KEPT + 1)
    assert machine.code() == ""
    machine.peers(ta2=FAR)
    known = {"ta2": Measurement(machine.boot, machine.since_boot, machine.now + FAR, 0.5)}
    machine.reboot()
    machine.guard.peers_show(known)
    assert machine.code() == ""


def test_an_administrator_can_go_on_without_the_peer_that_differs(machine: Machine) -> None:
    machine.peers(ta2=FAR)
    assert machine.code() == "clock_off_peers"
    machine.wait(1)
    accept_time(machine.path, machine.clocks())
    assert machine.code() == ""
    machine.peers(ta2=FAR)
    assert machine.code() == "clock_off_peers"  # as long as it is there and differs


def test_an_answer_that_took_long_is_no_measurement() -> None:
    assert measured("b", 10, 10 + PEER_LIMIT, NOW) is None
    assert measured("b", 10, 9, NOW) is None
    assert measured("b", 10, 12, NOW) == Measurement("b", 11, NOW + 0.5, 1.5)


# ---- properties ----


@given(mark=st.floats(0, 4e9), now=st.floats(0, 4e9))
def test_went_back_is_said_of_lower_times_alone(mark: float, now: float) -> None:
    assert bool(went_back(mark, now)) == (now < mark - TOLERANCE)


@given(last=st.floats(0, 4e9), now=st.floats(0, 4e9), limit=st.integers(0, 10**7))
def test_unsynchronized_never_fires_when_it_is_switched_off(last: float, now: float, limit: int) -> None:
    assert bool(unsynchronized(last, now, limit)) == (limit > 0 and now - last > limit)


@given(
    true=st.dictionaries(st.text(max_size=3), st.floats(-50, 50), max_size=8),
    lying=st.dictionaries(st.text(max_size=3), st.floats(allow_nan=False, width=32), max_size=8),
)
def test_a_minority_can_neither_stop_nor_move_a_service(
    true: dict[str, float], lying: dict[str, float]
) -> None:
    clocks = {f"t{host}": (by, 0.5) for host, by in true.items()}
    liars = {f"l{host}": (by, 0.5) for host, by in lying.items()}
    if len(liars) < 1 + len(clocks):
        assert off_peers(clocks | liars) == ""
    # And where our clock is wrong, and the liars are fewer than the others that are right, it is noticed.
    off = {host: (by + 200.0, uncertainty) for host, (by, uncertainty) in clocks.items()}
    agreeing = dict.fromkeys(liars, (0.0, 0.5))
    if len(agreeing) + 1 <= len(off):
        assert off_peers(off | agreeing)


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["wait", "set", "tick", "start"]), st.integers(-1000, 1000)), max_size=40
    )
)
def test_no_time_is_accepted_that_is_below_one_accepted_before(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    machine = Machine(tmp_path_factory.mktemp("clock") / "clock.json")
    highest = machine.now
    for step, by in steps:
        if step == "wait":
            machine.wait(abs(by))
        elif step == "set":
            machine.now += by
        elif step == "tick":
            machine.guard.tick()
        else:
            machine.guard.tick()
            machine.start()
        if machine.code() == "":
            assert machine.now >= highest - TOLERANCE - 1
            highest = max(highest, machine.now)
        else:
            assert machine.now < highest


def test_what_the_kernel_says() -> None:
    assert kernel_clock.synchronized() in (True, False)
    assert 0 < kernel_clock.seconds_since_boot() <= kernel_clock.seconds_since_boot()
    assert len(kernel_clock.boot_id()) == 36


def test_where_the_kernel_may_not_be_asked_timesyncd_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forbidden:
        def adjtimex(self, _buffer: object) -> int:
            return -1

    monkeypatch.setattr(kernel_clock.ctypes, "CDLL", lambda *_arguments, **_options: Forbidden())
    monkeypatch.setattr(kernel_clock, "TIMESYNCD_MARK", tmp_path / "synchronized")
    assert kernel_clock.synchronized() is None
    (tmp_path / "synchronized").touch()
    assert kernel_clock.synchronized() is True
    monkeypatch.setattr(kernel_clock, "TIMESYNCD_FRESH", -1)
    assert kernel_clock.synchronized() is False


def test_the_state_is_private(machine: Machine) -> None:
    assert machine.path.stat().st_mode & 0o777 == 0o600
    assert msgspec.json.decode(machine.path.read_bytes())["mark"] == NOW
