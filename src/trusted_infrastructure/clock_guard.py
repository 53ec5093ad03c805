# SPDX-License-Identifier: GPL-3.0-or-later
"""May this service trust its own clock? Everything it signs or accepts has a time in it.

Three rules, and what they refuse with (503; a service whose clock is not right decides nothing):

- `clock_went_back`: the clock is more than TOLERANCE behind the highest time that was seen. That mark is kept
  over restarts, and the audit log's last record counts with it. It heals when the clock has caught up, or by
  an administrator's `trusted-infrastructure clock accept`.
- `clock_off_peers`: the clock does not agree, within PEER_LIMIT, with a strict majority of the clocks that
  are known, its own among them. Of three hosts, one that lies stops nobody; of two hosts that differ, both
  stop, because nobody can tell which is right. What a peer's clock showed is carried on, for PEER_KEPT, by
  the time since boot, which nobody can set.
- `clock_unsynchronized`: no time service has kept the clock in step for longer than the setting allows.

The rules are pure functions. `check` is for every decision: it reads two clocks and no file. `tick` is for
every few seconds, in a thread: it keeps the mark and takes over what other processes of the service wrote.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from trusted_infrastructure import kernel_clock
from trusted_infrastructure.refusal import Refusal, Unavailable
from trusted_infrastructure.state_files import read_state, state_lock, write_state
from trusted_infrastructure.times import readable

log = structlog.get_logger("trusted_infrastructure.clock")

TOLERANCE = 5.0
PEER_LIMIT = 60.0
# A quartz is off by some 10 s a day at most: for so long a peer that is silent can be carried on.
PEER_KEPT = 86_400.0
TICK = 5.0
MARK_STEP = 10
ACCEPT = "Set the clock right; if it is right now, run `trusted-infrastructure clock accept` on this host."


class Measurement(msgspec.Struct, frozen=True):
    """What a peer's clock showed. time: Unix seconds, at `since_boot` of our boot `boot`.

    uncertainty: seconds by which it may differ, from the time that the answer took and from rounding.
    """

    boot: str
    since_boot: float
    time: float
    uncertainty: float


class ClockState(msgspec.Struct, frozen=True):
    """What is kept over restarts; Unix seconds. mark: the highest time seen. watched: when watching began.

    in_step: when the clock was last seen to be synchronized; 0 for never. accepted: how often an
    administrator accepted a lower time; accepted_boot, accepted_since: when, in time since boot. What peers
    showed before that is forgotten.
    """

    mark: int = 0
    watched: int = 0
    in_step: int = 0
    accepted: int = 0
    accepted_boot: str = ""
    accepted_since: float = 0.0


@dataclass(frozen=True)
class Clocks:
    """The machine's clocks. wall: Unix seconds; since_boot: seconds of a clock that nobody can set."""

    wall: Callable[[], float] = time.time
    since_boot: Callable[[], float] = kernel_clock.seconds_since_boot
    boot: Callable[[], str] = kernel_clock.boot_id
    synchronized: Callable[[], bool | None] = kernel_clock.synchronized


def went_back(mark: float, now: float) -> str:
    """What is wrong with `now` where `mark` has been seen; "" when nothing is."""
    if now >= mark - TOLERANCE:
        return ""
    return f"the clock went back: it was {readable(mark)} already, it shows {readable(now)}"


def unsynchronized(last: float, now: float, limit: float) -> str:
    """What is wrong with a clock that was last in step at `last`. limit: seconds; 0 allows everything."""
    if not limit or now - last <= limit:
        return ""
    return f"no time service has kept the clock in step since {readable(last)}; {limit:.0f} s are allowed"


def off_peers(offsets: Mapping[str, tuple[float, float]]) -> str:
    """What is wrong with a clock whose peers are ahead by (seconds, uncertainty); "" when nothing is."""
    off = {
        host: offset
        for host, (offset, uncertainty) in offsets.items()
        if abs(offset) - uncertainty > PEER_LIMIT
    }
    known, agreeing = 1 + len(offsets), 1 + len(offsets) - len(off)
    if 2 * agreeing > known:
        return ""
    said = ", ".join(f"{host} {_ahead(offset)}" for host, offset in sorted(off.items()))
    return f"the clock is off its peers by more than {PEER_LIMIT:.0f} s: {said}"


class ClockGuard:
    """Judges the machine's clock for one process of a service. Thread-safe where it says so."""

    def __init__(
        self, path: Path, max_unsynchronized: int, last_record: int = 0, clocks: Clocks | None = None
    ) -> None:
        """path: file of the state directory. max_unsynchronized: seconds; 0 does not look.

        last_record: time of the audit log's last record. Raises Unavailable `state_unusable`.
        """
        self._path = path
        self._limit = max_unsynchronized
        self._clocks = clocks or Clocks()
        self._boot = self._clocks.boot()
        self._peers: dict[str, Measurement] = {}
        self._state = read_clock_state(path)
        self._mark = float(max(self._state.mark, last_record))
        self._unsynchronized = ""
        self._out_of_step = False
        self.tick()

    def check(self) -> None:
        """For every decision. Raises Unavailable `clock_went_back`, `clock_off_peers`,
        `clock_unsynchronized`. Thread-safe."""
        now = self._clocks.wall()
        found = self._wrong(now)
        if found is not None and self._accepted():
            found = self._wrong(now)
        if found is not None:
            raise found
        # A time that is refused is no mark: a clock that jumped ahead and was set right again is no harm.
        self._mark = max(self._mark, now)

    def peers_show(self, clocks: Mapping[str, Measurement]) -> None:
        """What the peers' clocks showed last, by host; replaces what was known. Thread-safe."""
        self._peers = dict(clocks)

    def tick(self) -> None:
        """Keep the mark, and take over what other processes kept. Writes the file every MARK_STEP seconds.

        Blocks. Raises Unavailable `state_unusable`.
        """
        now = self._clocks.wall()
        in_step = self._clocks.synchronized() is True if self._limit else True
        with state_lock(self._path):
            self._take(read_clock_state(self._path))
            if not self._wrong(now):
                self._mark = max(self._mark, now)
            self._keep(int(now), in_step)
        self._out_of_step = not in_step
        last = self._state.in_step or self._state.watched
        self._unsynchronized = "" if in_step else unsynchronized(last, now, self._limit)

    async def watch(self) -> None:
        """Endless: `tick`, every few seconds."""
        while True:
            try:
                await asyncio.to_thread(self.tick)
            except Refusal as refusal:
                log.error("clock_mark_not_kept", reason=refusal.message)
            await asyncio.sleep(TICK)

    def problems(self) -> tuple[list[str], list[str]]:
        """For the status: what makes this service refuse, and what will if it stays."""
        now = self._clocks.wall()
        found = self._wrong(now)
        warnings = []
        if found is None and self._out_of_step and self._limit:
            last = self._state.in_step or self._state.watched
            warnings.append(
                f"clock_unsynchronized: no time service keeps the clock in step since {readable(last)};"
                f" from {readable(last + self._limit)} on this service refuses"
            )
        if found is None:
            for host, (offset, uncertainty) in sorted(self._offsets(now).items()):
                if abs(offset) - uncertainty > PEER_LIMIT:
                    warnings.append(
                        f"clock_off_peers: {host} {_ahead(offset)}; most clocks agree with this one"
                    )
        return ([str(found)] if found is not None else []), warnings

    def _wrong(self, now: float) -> Unavailable | None:
        reason = went_back(self._mark, now)
        if reason:
            return Unavailable("clock_went_back", reason, ACCEPT)
        if self._peers:
            reason = off_peers(self._offsets(now))
            if reason:
                return Unavailable(
                    "clock_off_peers", reason, "Look at the time service of this host and of its peers."
                )
        if self._unsynchronized:
            return Unavailable(
                "clock_unsynchronized",
                self._unsynchronized,
                "Let a time service (chrony, systemd-timesyncd) keep the clock, or raise"
                " trust_authority_host_clock_max_unsynchronized.",
            )
        return None

    def _offsets(self, now: float) -> dict[str, tuple[float, float]]:
        """By how many seconds each peer's clock is ahead of `now`, and how sure that is."""
        since_boot = self._clocks.since_boot()
        from_when = self._state.accepted_since if self._state.accepted_boot == self._boot else 0.0
        return {
            host: (known.time + since_boot - known.since_boot - now, known.uncertainty)
            for host, known in self._peers.items()
            if known.boot == self._boot
            and known.since_boot >= from_when
            and 0 <= since_boot - known.since_boot < PEER_KEPT
        }

    def _accepted(self) -> bool:
        """Whether an administrator accepted the time, which is then taken over."""
        try:
            return self._take(read_clock_state(self._path))
        except Refusal:
            return False

    def _take(self, kept: ClockState) -> bool:
        """Take over what is in the file; whether an administrator accepted a time since."""
        accepted = kept.accepted != self._state.accepted
        if accepted:
            self._mark = float(kept.mark)
        else:
            self._mark = max(self._mark, float(kept.mark))
        self._state = kept
        return accepted

    def _keep(self, now: int, in_step: bool) -> None:
        kept = self._state
        mark = int(self._mark)
        due = (
            not kept.watched or mark - kept.mark >= MARK_STEP or (in_step and now - kept.in_step >= MARK_STEP)
        )
        if not due:
            return
        self._state = msgspec.structs.replace(
            kept,
            mark=max(mark, kept.mark),
            watched=kept.watched or now,
            in_step=now if in_step and not self._wrong(now) else kept.in_step,
        )
        if self._state != kept:
            write_state(self._path, msgspec.json.encode(self._state))


def read_clock_state(path: Path) -> ClockState:
    """What was kept. Raises Unavailable `state_unusable`: a mark that cannot be read is no mark of zero."""
    data = read_state(path)
    if data is None:
        return ClockState()
    try:
        return msgspec.json.decode(data, type=ClockState)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Unavailable(
            "state_unusable",
            f"{path} cannot be read",
            "Run `trusted-infrastructure clock accept` on this host.",
        ) from None


def accept_time(path: Path, clocks: Clocks | None = None) -> int:
    """An administrator says that the clock is right now: it becomes the mark. Returns the mark before.

    Raises Unavailable `state_unusable`.
    """
    clocks = clocks or Clocks()
    now = int(clocks.wall())
    with state_lock(path):
        try:
            kept = read_clock_state(path)
        except Unavailable:
            kept = ClockState()
        accepted = ClockState(
            mark=now,
            watched=now,
            accepted=kept.accepted + 1,
            accepted_boot=clocks.boot(),
            accepted_since=clocks.since_boot(),
        )
        write_state(path, msgspec.json.encode(accepted))
    return kept.mark


def measured(boot: str, before: float, after: float, shown: float) -> Measurement | None:
    """What a peer's clock showed in an answer; None for one that took too long to say anything.

    before, after: seconds since boot around the request. shown: Unix seconds, rounded down.
    """
    took = after - before
    if took < 0 or took > PEER_LIMIT / 2:
        return None
    return Measurement(boot, (before + after) / 2, shown + 0.5, took / 2 + 0.5)


def _ahead(offset: float) -> str:
    return f"is {abs(offset):.0f} s {'ahead' if offset > 0 else 'behind'}"
