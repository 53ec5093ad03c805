# SPDX-License-Identifier: GPL-3.0-or-later
"""Serving ASGI applications on unix sockets: several in one process, each with a list of who may connect.

The reverse proxy is the only way in from outside, so a socket takes connections of the proxy's user and of
root alone; the kernel says who connects (SO_PEERCRED, unix(7)), and others are closed before a byte is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
import socket
import struct
import time
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgspec
import structlog
import uvicorn
import uvloop
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.transport.notify import notify

log = structlog.get_logger("trusted_infrastructure.transport")

DEFAULT_USERS = ("root", "www-data")
HEAD_LIMIT = 64 * 1024
KEEP_ALIVE = 75
# Seconds after SIGTERM: requests may finish; then the kernel ends the process, whatever a task or a thread
# that does not listen is doing. A unit has 10 s (TimeoutStopSec), and what is stored survives a kill anyway.
GRACE = 6
HARD_STOP = 9.0
MODE_PROXY = 0o660
MODE_ROOT = 0o600
MODE_USERS = 0o666  # who connects is judged by the kernel's word, not by the file's mode

NotHttp = Callable[[str], object]
Background = Callable[[], Coroutine[Any, Any, None]]
Lifespan = Callable[[], AbstractAsyncContextManager[None]]


def error_body(text: str) -> object:
    """What a request that is not HTTP is answered with, in the form of the services."""
    return {"error": Refusal("malformed_request", text, status=400).as_dict()}


@dataclass(frozen=True)
class Program:
    """What one process serves. apps: socket path -> application. lifespan, background: see `serve`."""

    apps: Mapping[Path, ASGIApp]
    lifespan: Lifespan | None = None
    background: Sequence[Background] = ()


@dataclass(frozen=True)
class Doors:
    """The sockets of a service, and who may connect: what several processes have in common.

    paths: socket paths. root_only: those of them that only root may use (0600); own_uids: those that root and
    users of their own may use; the others are 0660 and open to `allowed_uids`. socket_group: see `listen`.
    not_http: from a reason to the JSON body of the 400 that
    answers what is not HTTP.
    """

    paths: Sequence[Path]
    root_only: frozenset[Path] = frozenset()
    allowed_uids: frozenset[int] = frozenset()
    socket_group: int | None = None
    not_http: NotHttp = error_body
    own_uids: Mapping[Path, frozenset[int]] = field(default_factory=dict)

    @contextlib.contextmanager
    def bound(self) -> Iterator[dict[Path, socket.socket]]:
        """The bound sockets, removed again on the way out. Raises Refusal `socket_unusable`."""
        bound: dict[Path, socket.socket] = {}
        try:
            for path in self.paths:
                bound[path] = listen(path, self.mode(path), self.socket_group)
            yield bound
        finally:
            for path, listener in bound.items():
                listener.close()
                path.unlink(missing_ok=True)

    def uids(self, path: Path) -> frozenset[int]:
        """Who may connect to `path`."""
        if path in self.own_uids:
            return self.own_uids[path] | {0}
        return frozenset({0}) if path in self.root_only else self.allowed_uids

    def mode(self, path: Path) -> int:
        """Mode of the socket."""
        if path in self.own_uids:
            return MODE_USERS
        return MODE_ROOT if path in self.root_only else MODE_PROXY


class RefusedCallers:
    """Some lines a minute about each user who may not connect: journald drops what a service writes too fast,
    so that whoever tries all the time would hide what others do."""

    LINES, SPAN, USERS = 10, 60.0, 1000

    def __init__(self) -> None:
        self._seen: dict[int, tuple[float, int]] = {}

    def worth_a_line(self, uid: int) -> bool:
        """Whether this attempt is to be told."""
        now = time.monotonic()
        begun, lines = self._seen.get(uid, (now, 0))
        if now - begun >= self.SPAN:
            begun, lines = now, 0
        if len(self._seen) >= self.USERS:
            self._seen.clear()
        self._seen[uid] = begun, lines + 1
        return lines < self.LINES


class CheckedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol, closed to callers who are not in `allowed_uids`, with a bounded head."""

    allowed_uids: frozenset[int] = frozenset()
    socket_path = ""
    not_http: NotHttp = error_body
    refused = RefusedCallers()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.head_bytes = 0
        uid = peer_uid(transport)
        self.admitted = uid in self.allowed_uids
        if self.admitted:
            # `request.state.peer_uid`: for sockets whose callers differ in what they may.
            self.app_state = {**self.app_state, "peer_uid": uid}
            super().connection_made(cast(asyncio.Transport, transport))
        else:
            if type(self).refused.worth_a_line(uid):
                log.warning("peer_refused", socket=self.socket_path, uid=uid)
            cast(asyncio.Transport, transport).abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.admitted:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.admitted:
            super().data_received(data)

    def on_message_begin(self) -> None:
        self.head_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def send_400_response(self, msg: str) -> None:
        """What is not HTTP gets our error answer too, and the connection is closed."""
        body = msgspec.json.encode(type(self).not_http(msg))
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _count(self, size: int) -> None:
        """httptools has no limit of its own; an exception in a callback is answered with 400 and a close."""
        self.head_bytes += size
        if self.head_bytes > HEAD_LIMIT:
            raise ValueError(f"request head larger than {HEAD_LIMIT} bytes")


def peer_uid(transport: asyncio.BaseTransport) -> int:
    """User id of the process at the other end of a unix socket, from the kernel (SO_PEERCRED)."""
    connection = transport.get_extra_info("socket")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _pid, uid, _gid = struct.unpack("3i", credentials)
    return int(uid)


def user_ids(users: Iterable[str | int]) -> frozenset[int]:
    """Numeric ids of users. A name that this machine does not know is left out: nobody can connect as it."""
    ids = set()
    for user in users:
        with contextlib.suppress(KeyError):
            ids.add(user if isinstance(user, int) else pwd.getpwnam(user).pw_uid)
    return frozenset(ids)


def listen(path: Path, mode: int, group: int | None = None) -> socket.socket:
    """A listening unix socket at `path` that never has a wider mode than `mode`.

    group: id of the group that may connect; None takes the group of the directory, which is how the unit says
    it. A socket left by a killed process is replaced; anything else at `path` is refused.
    Raises Refusal `socket_unusable`.
    """
    try:
        if path.exists() and not path.is_socket():
            raise Refusal("socket_unusable", f"{path} exists and is not a socket", "remove it", status=500)
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o777 & ~mode)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        wanted = path.parent.stat().st_gid if group is None else group
        if mode & 0o070 and path.stat().st_gid != wanted:
            os.chown(path, -1, wanted)
    except OSError as error:
        raise Refusal(
            "socket_unusable",
            f"cannot listen on {path}: {error.strerror}",
            "check the run directory's owner, and that the service's user is in the directory's group",
            status=500,
        ) from None
    listener.setblocking(False)
    return listener


class SocketServer(uvicorn.Server):
    """uvicorn's server without its signal handling: one process runs several, and `serve` stops them all."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def server_for(
    path: Path, app: ASGIApp, allowed_uids: frozenset[int], not_http: NotHttp = error_body
) -> SocketServer:
    """A server for one socket: no access log, no server header, no websockets, limits set."""
    protocol = type(
        "SocketProtocol",
        (CheckedProtocol,),
        {"allowed_uids": allowed_uids, "socket_path": str(path), "not_http": staticmethod(not_http)},
    )
    return SocketServer(
        uvicorn.Config(
            cast(Any, app),
            http=protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            access_log=False,
            log_config=None,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=GRACE,
        )
    )


def serve(
    apps: Mapping[Path, ASGIApp],
    *,
    root_only: Collection[Path] = (),
    allowed_users: Iterable[str | int] = DEFAULT_USERS,
    own_users: Mapping[Path, Iterable[str | int]] | None = None,
    socket_group: int | None = None,
    lifespan: Lifespan | None = None,
    background: Sequence[Background] = (),
    not_http: NotHttp = error_body,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish requests and return. Blocks; the last act of a process,
    which the kernel ends 9 s after the signal at the latest.

    apps: socket path -> application. root_only: those of the paths that only root may use (0600); own_users:
    those that root and the users given there may use; the others are 0660 and open to `allowed_users`.
    socket_group: see `listen`.
    lifespan: entered before the first connection is accepted, left after the last answer.
    background: endless tasks that run beside the applications. One that ends, or fails, ends the service:
    a service whose renewal died must not look healthy; systemd starts it again.
    not_http: from a reason to the JSON body of the 400 that answers what is not HTTP.
    Raises Refusal (`socket_unusable`, what lifespan raises, `service_part_ended`).
    """
    doors = Doors(
        tuple(apps),
        frozenset(root_only),
        user_ids(allowed_users),
        socket_group,
        not_http,
        {path: user_ids(users) for path, users in (own_users or {}).items()},
    )
    serve_alone(doors, Program(apps, lifespan, background))


def serve_alone(doors: Doors, program: Program) -> None:
    """`serve`, in its two parts."""

    async def run() -> None:
        async with until_told() as stop, opened(program.lifespan):
            with doors.bound() as bound:
                await serve_bound(doors, bound, program, stop, lambda: notify("READY=1"))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


@contextlib.asynccontextmanager
async def until_told() -> AsyncIterator[asyncio.Event]:
    """An event that SIGTERM and SIGINT set, from here on."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    yield stop


def opened(lifespan: Lifespan | None) -> AbstractAsyncContextManager[None]:
    """The lifespan, or nothing."""
    return lifespan() if lifespan else contextlib.nullcontext()


async def serve_bound(
    doors: Doors,
    bound: Mapping[Path, socket.socket],
    program: Program,
    stop: asyncio.Event,
    ready: Callable[[], object],
) -> None:
    """Serve sockets that are bound until `stop` is set; `ready` is called once all accept.

    Raises Refusal `service_part_ended` when a server or a background task ends before.
    """
    async with _listening(doors, bound, program.apps) as servers:
        tasks = [asyncio.create_task(task()) for task in program.background]
        stopping = asyncio.create_task(stop.wait())
        ready()
        log.info("serving", sockets=[str(path) for path in program.apps])
        ended, _running = await asyncio.wait(
            [stopping, *tasks, *servers], return_when=asyncio.FIRST_COMPLETED
        )
        notify("STOPPING=1")
        _arm_hard_stop()
        await _cancel(tasks)
    if stopping not in ended:
        raise Refusal(
            "service_part_ended",
            f"a part of the service ended: {_reason(ended)}",
            "the unit starts the service again; look above in the journal",
            status=500,
        )
    log.info("stopped")


@contextlib.asynccontextmanager
async def _listening(
    doors: Doors, bound: Mapping[Path, socket.socket], apps: Mapping[Path, ASGIApp]
) -> AsyncIterator[list[asyncio.Task[None]]]:
    """The servers' tasks, all accepting; stopped gracefully on the way out."""
    servers: list[SocketServer] = []
    tasks: list[asyncio.Task[None]] = []
    try:
        for path, app in apps.items():
            server = server_for(path, app, doors.uids(path), doors.not_http)
            servers.append(server)
            tasks.append(asyncio.create_task(server.serve(sockets=[bound[path]])))
        while not all(server.started for server in servers) and not any(task.done() for task in tasks):
            await asyncio.sleep(0.01)
        yield tasks
    finally:
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*tasks, return_exceptions=True)


def _arm_hard_stop() -> None:
    """SIGALRM with its default action ends the process even where Python waits for a thread at exit."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, HARD_STOP)


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel and wait at most a second: a task that ignores it must not hold the service."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=1)


def _reason(ended: set[asyncio.Task[Any]]) -> str:
    """Why the first of the ended tasks ended: type and text for refusals, type alone for the rest."""
    error = next((task.exception() for task in ended if not task.cancelled()), None)
    if isinstance(error, Refusal):
        return str(error)
    return type(error).__name__ if error else "it returned"
