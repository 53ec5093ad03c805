# SPDX-License-Identifier: GPL-3.0-or-later
"""One service in several processes: a parent binds the sockets, forks workers, and replaces those that die.

The parent holds what the workers share because they are forked from it (sockets, secrets in memory), serves
nothing itself, and has neither threads nor an event loop: a fork would copy their locks, and nothing that
ever releases them. The kernel gives each connection to one worker.

- A worker opens files, databases and threads itself, after the fork: none of them survives one.
- READY goes to the service manager when every worker accepts. A worker that cannot start before that ends the
  service, with its own reason; later on it is started again, after a pause that doubles up to MAX_PAUSE.
- SIGTERM to the parent stops all; who has not ended before systemd would kill it is killed by the parent.
- A worker whose parent is gone ends by itself: it sees the other end of a pipe close.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import msgspec
import structlog
import uvloop

from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.transport.notify import notify
from trusted_infrastructure.transport.unix_server import (
    Doors,
    Program,
    opened,
    serve_alone,
    serve_bound,
    until_told,
)

log = structlog.get_logger("trusted_infrastructure.transport")

# Seconds: from the first death of a worker to its replacement, and at most. Who lived for STEADY was good:
# the next pause is the first again.
FIRST_PAUSE, MAX_PAUSE, STEADY = 0.1, 30.0, 30.0
# A worker ends itself 9 s after SIGTERM at the latest, and a unit has 10 (TimeoutStopSec).
LAST_CALL = 9.4
POLL = 0.02

_STOP = frozenset({signal.SIGTERM, signal.SIGINT})
_HEARD = _STOP | {signal.SIGCHLD}
_READY = b"ready"

Start = Callable[[int], Program]
"""Opens a worker's own part of the service, after the fork. The argument is the worker's number, from 0."""


@dataclass
class _Place:
    """A place among the workers, and the process in it (pid 0: none, until `due`, of time.monotonic)."""

    number: int
    pid: int = 0
    report: int = -1  # reading end of the pipe on which the worker says that it is ready, or why not
    said: bytes = b""
    ready: bool = False
    began: float = 0.0
    pause: float = FIRST_PAUSE
    due: float = 0.0


def serve_workers(doors: Doors, start: Start, workers: int) -> None:
    """Serve until SIGTERM or SIGINT in `workers` processes; with one, in this process and without a parent.

    Blocks; the last act of a process. Raises Refusal: what `start` or a lifespan raised at first,
    `socket_unusable`, `service_part_ended`, `worker_failed`.
    """
    if workers == 1:
        serve_alone(doors, start(0))
    else:
        _Parent(doors, start, workers).run()


class _Parent:
    """The parent. Signals are blocked and asked for, so there is no handler that could come at a bad time."""

    def __init__(self, doors: Doors, start: Start, workers: int) -> None:
        self._doors = doors
        self._start = start
        self._places = [_Place(number) for number in range(workers)]
        self._serving = False

    def run(self) -> None:
        """Serve until told to stop."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
        # Nobody writes to this pipe: its writing end closes with the parent, however that ends.
        alive, self._life = os.pipe()
        gc.freeze()  # what the workers share stays shared: a collection would write to all of it
        try:
            with self._doors.bound() as bound:
                try:
                    self._supervise(lambda place: self._fork(place, bound, alive, before))
                finally:
                    notify("STOPPING=1")
                    self._end_all()
        finally:
            os.close(alive)
            os.close(self._life)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        log.info("stopped")

    def _supervise(self, fork: Callable[[_Place], None]) -> None:
        while True:
            now = time.monotonic()
            for place in self._places:
                if place.pid == 0 and place.due <= now:
                    fork(place)
            heard = signal.sigtimedwait(_HEARD, self._patience())
            if heard is not None and heard.si_signo in _STOP:
                return
            self._hear_reports()
            self._bury()
            if not self._serving and all(place.ready for place in self._places):
                self._serving = True
                notify("READY=1")
                log.info("serving", workers=len(self._places), sockets=[str(p) for p in self._doors.paths])

    def _patience(self) -> float:
        """Seconds until something is to be done, unless a signal comes first."""
        if any(place.pid and not place.ready for place in self._places):
            return POLL
        waiting = [place.due for place in self._places if place.pid == 0]
        return max(0.0, min(waiting) - time.monotonic()) if waiting else 3600.0

    def _fork(self, place: _Place, bound: Mapping[Path, socket.socket], alive: int, mask: set[int]) -> None:
        report, reporting = os.pipe()
        os.set_blocking(report, False)
        place.began = time.monotonic()
        place.pid = os.fork()
        if place.pid == 0:
            for unneeded in (report, self._life, *(other.report for other in self._places)):
                with contextlib.suppress(OSError):
                    os.close(unneeded)
            _worker(self._doors, bound, self._start, place.number, alive, reporting, mask)
        os.close(reporting)
        place.report = report

    def _hear_reports(self) -> None:
        for place in self._places:
            if place.ready or not place.pid:
                continue
            place.said += _read(place.report)
            if place.said == _READY:
                place.ready = True
                log.info("worker_ready", worker=place.number, pid=place.pid)

    def _bury(self) -> None:
        """Take note of workers that died. Raises Refusal where one could not even start, the first time."""
        for place in self._places:
            pid, status = os.waitpid(place.pid, os.WNOHANG) if place.pid else (0, 0)
            if not pid:
                continue
            reason = place.said + _read(place.report)
            os.close(place.report)
            place.pid, place.report, place.ready, place.said = 0, -1, False, b""
            code = os.waitstatus_to_exitcode(status)
            if not self._serving:
                raise _first_refusal(reason, code)
            if time.monotonic() - place.began >= STEADY:
                place.pause = FIRST_PAUSE
            place.due = time.monotonic() + place.pause
            log.error("worker_died", worker=place.number, pid=pid, status=code, next_in=place.pause)
            place.pause = min(2 * place.pause, MAX_PAUSE)

    def _end_all(self) -> None:
        for place in self._living():
            os.kill(place.pid, signal.SIGTERM)
        last_call = time.monotonic() + LAST_CALL
        while self._living() and time.monotonic() < last_call:
            signal.sigtimedwait({signal.SIGCHLD}, max(0.0, last_call - time.monotonic()))
            self._reap(os.WNOHANG)
        for place in self._living():
            log.error("worker_killed", worker=place.number, pid=place.pid)
            os.kill(place.pid, signal.SIGKILL)
        self._reap(0)

    def _reap(self, options: int) -> None:
        for place in self._living():
            if os.waitpid(place.pid, options)[0]:
                place.pid = 0

    def _living(self) -> Sequence[_Place]:
        return [place for place in self._places if place.pid]


def _worker(
    doors: Doors,
    bound: Mapping[Path, socket.socket],
    start: Start,
    number: int,
    alive: int,
    reporting: int,
    mask: set[int],
) -> NoReturn:
    """A worker's life, from the fork on; it never returns into what the parent was doing."""
    status = 1
    os.environ.pop("NOTIFY_SOCKET", None)  # the service manager listens to the parent alone
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve_as_worker(doors, bound, start, number, alive, reporting, mask))
        status = 0
    except Refusal as refusal:
        with contextlib.suppress(OSError):
            os.write(reporting, msgspec.json.encode([refusal.code, refusal.message, refusal.remedy]))
        log.error("worker_refused", worker=number, code=refusal.code, reason=refusal.message)
    except BaseException as error:  # the end of the process, whatever it was; the text may hold a secret
        log.error("worker_failed", worker=number, type=type(error).__name__)
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(status)


async def _serve_as_worker(
    doors: Doors,
    bound: Mapping[Path, socket.socket],
    start: Start,
    number: int,
    alive: int,
    reporting: int,
    mask: set[int],
) -> None:
    async with until_told() as stop:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        asyncio.get_running_loop().add_reader(alive, stop.set)
        program = start(number)
        async with opened(program.lifespan):
            try:
                await serve_bound(doors, bound, program, stop, lambda: _report_ready(reporting))
            finally:
                asyncio.get_running_loop().remove_reader(alive)


def _report_ready(reporting: int) -> None:
    os.write(reporting, _READY)


def _read(report: int) -> bytes:
    """What a worker has written, at most once; empty where it has written nothing (yet)."""
    try:
        return os.read(report, 65536)
    except (BlockingIOError, OSError):
        return b""


def _first_refusal(reason: bytes, code: int) -> Refusal:
    try:
        name, message, remedy = msgspec.json.decode(reason, type=tuple[str, str, str])
    except msgspec.DecodeError:
        return Refusal(
            "worker_failed",
            f"a worker ended before it could serve, with status {code}",
            "look above in the journal of the service",
            status=500,
        )
    return Refusal(name, message, remedy, status=500)
