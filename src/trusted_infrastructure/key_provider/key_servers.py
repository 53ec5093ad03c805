# SPDX-License-Identifier: GPL-3.0-or-later
"""The key servers of one trusted key provider: all of them asked at once, and none of them waited for in
vain.

A server that hangs costs whoever waits for it the provider's timeout at most. Whoever has the right key from
another server waits for the slow ones `SETTLE` seconds more: one of them may say that the key must not be
used. A question that is still open is not asked a second time: its answer counts when it comes.
"""

from __future__ import annotations

import contextlib
import datetime
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, InvalidStateError, wait
from dataclasses import dataclass
from typing import Protocol

import structlog

from trusted_infrastructure.key_provider.primary_keys import ServerAnswer
from trusted_infrastructure.kmip.connection import (
    ClientCredentials,
    KeyServer,
    KeyServerFailure,
    client_context,
)
from trusted_infrastructure.kmip.pool import KeyServerPool, PrimaryKey
from trusted_infrastructure.refusal import Refusal, Unavailable

log = structlog.get_logger("trusted_infrastructure.key_provider")

# Seconds for the other servers to object, once one has given the right key.
SETTLE = 1.0
# What a server's own timeout does not cover: resolving its name, say (seconds).
MARGIN = 1.0


@dataclass(frozen=True)
class WantedKey:
    """A primary key of a provider. check_value: None where none was recorded yet."""

    key_id: str
    check_value: str | None


@dataclass(frozen=True)
class ProviderConfiguration:
    """What of a provider's document its primary keys depend on, with its secrets opened.

    previous: primary keys that it was rotated from, which still open. withheld: names of servers that the
    password was not set for; they are not asked. problem: why the document cannot be used as it is (secrets
    not sealed for this host, say); then the rest is without meaning, and the provider refuses with it.
    """

    name: str
    primary_key_id: str
    check_value: str | None
    servers: tuple[KeyServer, ...]
    credentials: ClientCredentials | None
    trusted_certificates: tuple[str, ...]
    withheld: tuple[str, ...] = ()
    problem: Refusal | None = None
    previous: tuple[WantedKey, ...] = ()

    @property
    def keys(self) -> tuple[WantedKey, ...]:
        """All primary keys, the one that wraps first."""
        return (WantedKey(self.primary_key_id, self.check_value), *self.previous)


class KeySource(Protocol):
    """One key server of one provider: `kmip.pool.KeyServerPool`."""

    @property
    def server(self) -> KeyServer: ...

    @property
    def certificate_end(self) -> datetime.datetime | None: ...

    def primary_key(self, key_id: str) -> PrimaryKey: ...

    def close(self) -> None: ...


class WithheldServer:
    """A key server that came into the document after the password was set: it gets neither."""

    certificate_end: datetime.datetime | None = None

    def __init__(self, server: KeyServer) -> None:
        self.server = server

    def primary_key(self, key_id: str) -> PrimaryKey:
        """Raises KeyServerFailure."""
        raise KeyServerFailure(
            self.server,
            f"not asked for {key_id!r}: the provider's password was set for other addresses or another proxy",
            "If this key server was added on purpose, set the provider's password again.",
        )

    def close(self) -> None:
        """Nothing is open."""


PoolFactory = Callable[[ProviderConfiguration], Sequence[KeySource]]


def open_pools(configuration: ProviderConfiguration) -> Sequence[KeySource]:
    """A pool for each key server of a provider. Raises Refusal when certificates or keys cannot be used."""
    if configuration.credentials is None:
        raise Unavailable(
            "primary_key_unavailable",
            f"provider {configuration.name!r} has no client certificate for its key servers",
            "Make one, or import one, and make it known to the key servers.",
        )
    context = client_context(configuration.credentials, configuration.trusted_certificates)
    return [
        WithheldServer(server)
        if server.name in configuration.withheld
        else KeyServerPool(server, configuration.credentials, context)
        for server in configuration.servers
    ]


class Question:
    """One key, asked of all servers of a provider."""

    def __init__(self, asked: Sequence[tuple[KeyServer, Future[ServerAnswer]]]) -> None:
        self._asked = asked
        longest = max((server.timeout for server, _future in asked), default=0.0)
        self._end = time.monotonic() + longest + MARGIN

    @property
    def answered(self) -> bool:
        """Whether every server has answered."""
        return all(future.done() for _server, future in self._asked)

    def answers(self, enough: Callable[[ServerAnswer], bool] | None = None) -> list[ServerAnswer]:
        """The answers, in the order of the servers; of who has not answered in time, a KeyServerFailure.

        enough: of an answer, whether it will do; then the others get SETTLE seconds more. None waits for all.
        """
        end = self._end
        pending = {future for _server, future in self._asked}
        while pending and (left := end - time.monotonic()) > 0:
            done, pending = wait(pending, left, FIRST_COMPLETED)
            if enough is not None and any(enough(future.result()) for future in done):
                end = min(end, time.monotonic() + SETTLE)
        return [
            future.result() if future.done() else ServerAnswer(server.name, refusal=_silent(server))
            for server, future in self._asked
        ]


class KeyServers:
    """The opened key servers of one provider. Thread-safe."""

    def __init__(self, sources: Sequence[KeySource]) -> None:
        self._sources = sources
        self._lock = threading.Lock()
        self._open: dict[tuple[str, str], Future[ServerAnswer]] = {}
        self._closed = False

    def ask(self, key_id: str) -> Question:
        """Ask all servers for a key, but for those that are still busy with the same question."""
        with self._lock:
            return Question([(source.server, self._future(source, key_id)) for source in self._sources])

    def certificate_ends(self) -> dict[str, datetime.datetime]:
        """When the certificates end that servers presented, by the server's name; without those not known."""
        ends = {source.server.name: source.certificate_end for source in self._sources}
        return {name: end for name, end in ends.items() if end is not None}

    def close(self) -> None:
        """Close all connections; who waits for an answer gets one now."""
        with self._lock:
            self._closed = True
            asked, self._open = self._open, {}
        servers = {source.server.name: source.server for source in self._sources}
        for (name, _key_id), future in asked.items():
            _settle(future, _closed(servers[name]))
        for source in self._sources:
            source.close()

    def _future(self, source: KeySource, key_id: str) -> Future[ServerAnswer]:
        name = source.server.name, key_id
        future = self._open.get(name)
        if future is not None and not future.done():
            return future
        future = Future()
        if self._closed:
            _settle(future, _closed(source.server))
            return future
        self._open[name] = future
        # A thread of its own, one at most for each server and key: servers of one provider that hang hold up
        # no other provider, and (as a daemon) not the end of the service.
        threading.Thread(target=_ask, args=(source, key_id, future), name="kmip", daemon=True).start()
        return future


def _ask(source: KeySource, key_id: str, future: Future[ServerAnswer]) -> None:
    name = source.server.name
    try:
        answer = ServerAnswer(name, key=source.primary_key(key_id))
    except Refusal as refusal:
        answer = ServerAnswer(name, refusal=refusal)
    except (
        Exception
    ) as error:  # ours: whoever waits must not wait for ever, and must not take it for an answer
        log.exception("key_server_fault", server=name)
        failure = KeyServerFailure(source.server, f"it could not be asked ({type(error).__name__})")
        answer = ServerAnswer(name, refusal=failure)
    _settle(future, answer)


def _settle(future: Future[ServerAnswer], answer: ServerAnswer) -> None:
    with contextlib.suppress(InvalidStateError):  # it was answered already, or closed
        future.set_result(answer)


def _silent(server: KeyServer) -> KeyServerFailure:
    return KeyServerFailure(server, "no answer in time")


def _closed(server: KeyServer) -> ServerAnswer:
    failure = KeyServerFailure(server, "the provider's configuration changed meanwhile", "Ask again.")
    return ServerAnswer(server.name, refusal=failure)
