# SPDX-License-Identifier: GPL-3.0-or-later
"""Which host keeps wrapped keys under which primary key, as this Trust Authority host knows it.

Not configuration, and not replicated: the manager puts together what all hosts of its cluster know. Two kinds
of knowledge, of each host and provider:

- the last *report* of the host: how many keys it keeps under each primary key. It is complete, so it takes
  the place of all that was known before.
- *marks* since then: a key was wrapped for the host, so it keeps one (durable before the key leaves); or the
  host had one opened.

SQLite in the state directory (WAL, synchronous FULL), so that several processes may share it.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from trusted_infrastructure.refusal import Unavailable

log = structlog.get_logger("trusted_infrastructure.key_provider")

# Seconds between two times at which what is not durable yet is written.
FLUSH = 2.0
# Seconds for which it is not noted again that a host opened a key under the primary key of now. What a host
# opens it has reported, or was marked for; this is for keys that came with an object from elsewhere.
CURRENT_AGAIN = 3600.0
# The same for an earlier primary key, which may soon be given up.
PREVIOUS_AGAIN = 5.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS reports (
    scope TEXT NOT NULL, host TEXT NOT NULL, provider TEXT NOT NULL, reported REAL NOT NULL,
    keys TEXT NOT NULL, PRIMARY KEY (scope, host, provider)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS marks (
    scope TEXT NOT NULL, host TEXT NOT NULL, provider TEXT NOT NULL, primary_key_id TEXT NOT NULL,
    marked REAL NOT NULL, PRIMARY KEY (scope, host, provider, primary_key_id)
) WITHOUT ROWID;
PRAGMA user_version = 1;
"""
# A mark is later than the report before it, also where the clock was set back in between.
_MARK = """
INSERT INTO marks VALUES (?1, ?2, ?3, ?4, max(?5, coalesce(
    (SELECT reported + 0.001 FROM reports WHERE scope = ?1 AND host = ?2 AND provider = ?3), 0)))
ON CONFLICT DO UPDATE SET marked = max(marked, excluded.marked)
"""


@dataclass(frozen=True)
class Holder:
    """A host that keeps keys: its id is unique within a scope."""

    scope: str
    host: str


class HostUsage(msgspec.Struct, frozen=True):
    """What is known of one host and provider. Times: Unix seconds.

    reported: of the last report, None without one; keys: what it said. marks: primary key id -> when a key
    under it was last wrapped or opened for the host; those since the report alone.
    """

    scope: str
    host: str
    reported: float | None
    keys: dict[str, int]
    marks: dict[str, float]


class Usage:
    """The open database. Thread-safe."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        """Open or create the database (0600). clock: Unix seconds. Raises Unavailable `state_unusable`."""
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()  # of what is in memory: never held while the disk works
        self._writing = threading.Lock()
        # When it was last noted that a host keeps something: (scope, host, provider) -> primary key id ->
        # time.
        self._noted: dict[tuple[str, str, str], dict[str, float]] = {}
        self._pending: dict[tuple[str, str, str, str], float] = {}
        with self._errors():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            if self._database.execute("PRAGMA user_version").fetchone()[0] > 1:
                raise self._unusable("was written by a later release")
            self._database.executescript(_SCHEMA)
            self._learn()

    def made(self, holder: Holder, provider: str, primary_key_id: str) -> None:
        """A key was wrapped for the host. Durable on return. Raises Unavailable `state_unusable`."""
        mark = (holder.scope, holder.host, provider, primary_key_id)
        with self._transaction():
            self._database.execute(_MARK, (*mark, self._clock()))
        self._note(mark)

    def opened(self, holder: Holder, provider: str, primary_key_id: str, previous: bool) -> None:
        """A key was opened for the host. previous: under an earlier primary key: durable on return, else it
        is with the next `flush`. Raises Unavailable `state_unusable`."""
        mark, now = (holder.scope, holder.host, provider, primary_key_id), self._clock()
        noted = self._noted.get(mark[:3], {}).get(primary_key_id)
        if noted is not None and abs(now - noted) < (PREVIOUS_AGAIN if previous else CURRENT_AGAIN):
            return
        if previous:
            self.made(holder, provider, primary_key_id)
            return
        with self._lock:
            self._pending[mark] = now
        self._note(mark)

    def report(self, holder: Holder, provider: str, keys: Mapping[str, int]) -> None:
        """Take a host's report in the place of all that was known of it. Durable on return.

        Raises Unavailable `state_unusable`."""
        of_host, now = (holder.scope, holder.host, provider), self._clock()
        kept = {key_id: count for key_id, count in keys.items() if count}
        with self._transaction():
            self._database.execute("DELETE FROM marks WHERE scope = ? AND host = ? AND provider = ?", of_host)
            self._database.execute(
                "INSERT OR REPLACE INTO reports VALUES (?, ?, ?, ?, ?)",
                (*of_host, now, msgspec.json.encode(kept).decode()),
            )
        with self._lock:
            for mark in [mark for mark in self._pending if mark[:3] == of_host]:
                del self._pending[mark]
            self._noted[of_host] = dict.fromkeys(kept, now)

    def of(self, provider: str) -> list[HostUsage]:
        """What is known of all hosts that keep, or kept, keys of a provider. Raises Unavailable."""
        self.flush()
        with self._transaction():
            reports = self._database.execute(
                "SELECT scope, host, reported, keys FROM reports WHERE provider = ?", (provider,)
            ).fetchall()
            marks = self._database.execute(
                "SELECT scope, host, primary_key_id, marked FROM marks WHERE provider = ?", (provider,)
            ).fetchall()
        marked: dict[tuple[str, str], dict[str, float]] = {}
        for scope, host, key_id, time in marks:
            marked.setdefault((scope, host), {})[key_id] = time
        found = {
            (scope, host): HostUsage(
                scope,
                host,
                reported,
                msgspec.json.decode(keys, type=dict[str, int]),
                marked.pop((scope, host), {}),
            )
            for scope, host, reported, keys in reports
        }
        found |= {key: HostUsage(*key, None, {}, times) for key, times in marked.items()}
        return [found[key] for key in sorted(found)]

    def flush(self) -> None:
        """Write what is not written yet, and learn what other processes wrote. Raises Unavailable
        `state_unusable`; it is kept then."""
        self._write_pending()
        with self._writing, self._errors():
            if self._database.execute("PRAGMA data_version").fetchone()[0] != self._version:
                self._learn()

    async def watch(self) -> None:
        """Endless: `flush` every few seconds."""
        while True:
            await asyncio.sleep(FLUSH)
            try:
                await asyncio.to_thread(self.flush)
            except Unavailable as refusal:
                log.error("usage_not_written", reason=refusal.message)

    def close(self) -> None:
        """Write what is not written yet, and close."""
        try:
            self._write_pending()
        finally:
            self._database.close()

    def _write_pending(self) -> None:
        with self._lock:
            taken, self._pending = self._pending, {}
        if taken:
            try:
                with self._transaction():
                    self._database.executemany(_MARK, [(*mark, time) for mark, time in taken.items()])
            except Unavailable:
                with self._lock:
                    self._pending = taken | self._pending
                raise

    def _learn(self) -> None:
        """Know what the database has, and nothing else but what waits to be written."""
        self._version: int = self._database.execute("PRAGMA data_version").fetchone()[0]
        noted: dict[tuple[str, str, str], dict[str, float]] = {}
        for scope, host, provider, key_id, marked in self._database.execute("SELECT * FROM marks"):
            noted.setdefault((scope, host, provider), {})[key_id] = marked
        query = "SELECT scope, host, provider, reported, keys FROM reports"
        for scope, host, provider, reported, keys in self._database.execute(query):
            known = noted.setdefault((scope, host, provider), {})
            for key_id in msgspec.json.decode(keys, type=dict[str, int]):
                known[key_id] = max(reported, known.get(key_id, 0.0))
        with self._lock:
            for (scope, host, provider, key_id), time in self._pending.items():
                noted.setdefault((scope, host, provider), {})[key_id] = time
            self._noted = noted

    def _note(self, mark: tuple[str, str, str, str]) -> None:
        with self._lock:
            self._noted.setdefault(mark[:3], {})[mark[3]] = self._clock()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._writing, self._errors():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            finally:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error, msgspec.DecodeError) as error:
            raise self._unusable(str(error)) from None

    def _unusable(self, reason: str) -> Unavailable:
        return Unavailable(
            "state_unusable",
            f"{self._path}: {reason}",
            "Check the state directory's owner, mode and free space. If the file is damaged, put it back from"
            " a backup, or remove it: hosts that run report again, and those that do not are not counted.",
        )
