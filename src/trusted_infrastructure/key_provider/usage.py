# SPDX-License-Identifier: GPL-3.0-or-later
"""Which host keeps wrapped keys under which primary key, as this Trust Authority host knows it.

Not configuration, and not replicated: the manager puts together what all hosts of its cluster know. Two kinds
of knowledge, of each host and provider:

- the last *report* of the host: how many keys it keeps under each primary key. It is complete.
- *marks*: how many keys were wrapped for the host that no report covers yet. A mark is durable before the key
  leaves.

A report may have been counted before a key arrived that was wrapped before the report came here. So marks
have numbers, and a report says up to which number it knows all that became of the keys: what is above stays.
The answer to a report has the newest number; a host that was not as far waits for the keys that are on their
way to it, counts again, and reports again. The first number is random: one of a database that is gone covers
nothing here. No clock decides anything.

SQLite in the state directory (WAL, synchronous FULL), so that several processes may share it.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from trusted_infrastructure.refusal import Unavailable

VERSION = 2
# The first number is at most this: JSON has it exactly, and no host comes to the end.
FIRST_BELOW = 2**48
_SCHEMA = """
CREATE TABLE IF NOT EXISTS reports (
    scope TEXT NOT NULL, host TEXT NOT NULL, provider TEXT NOT NULL, reported REAL NOT NULL,
    keys TEXT NOT NULL, known INTEGER NOT NULL, PRIMARY KEY (scope, host, provider)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS marks (
    scope TEXT NOT NULL, host TEXT NOT NULL, provider TEXT NOT NULL, primary_key_id TEXT NOT NULL,
    wrapped INTEGER NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (scope, host, provider, primary_key_id)
) WITHOUT ROWID;
"""
# The first form counted no marks: what it has stays, as one key each, until the next report.
_FROM_1 = """
ALTER TABLE reports ADD COLUMN known INTEGER NOT NULL DEFAULT 0;
ALTER TABLE marks RENAME COLUMN marked TO wrapped;
UPDATE marks SET wrapped = 1;
ALTER TABLE marks ADD COLUMN number INTEGER NOT NULL DEFAULT 1;
"""
_KNOWN = "SELECT max(known) FROM reports WHERE scope = ? AND host = ? AND provider = ?"
_NEWEST = "SELECT max(number) FROM marks WHERE scope = ? AND host = ? AND provider = ?"
_MARK = """
INSERT INTO marks VALUES (?, ?, ?, ?, 1, ?)
ON CONFLICT DO UPDATE SET wrapped = wrapped + 1, number = excluded.number
"""
_COVERED = "DELETE FROM marks WHERE scope = ? AND host = ? AND provider = ? AND number <= ?"


@dataclass(frozen=True)
class Holder:
    """A host that keeps keys: its id is unique within a scope."""

    scope: str
    host: str


class HostUsage(msgspec.Struct, frozen=True):
    """What is known of one host and provider.

    reported: Unix seconds of the last report, None without one; keys: what it said. marks: primary key id ->
    how many keys were wrapped under it for the host that the report may not have; `unreported` on the wire.
    """

    scope: str
    host: str
    reported: float | None
    keys: dict[str, int]
    marks: dict[str, int] = msgspec.field(name="unreported")


class Usage:
    """The open database. Thread-safe."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        """Open or create the database (0600). clock: Unix seconds. Raises Unavailable `state_unusable`."""
        self._path = path
        self._clock = clock
        self._writing = threading.Lock()
        with self._errors():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
        with self._transaction():
            version = self._database.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise self._unusable("was written by a later release")
            for statement in (_FROM_1 if version == 1 else _SCHEMA).split(";"):
                self._database.execute(statement)
            self._database.execute(f"PRAGMA user_version = {VERSION}")

    def kept(self, holder: Holder, provider: str, primary_key_id: str) -> None:
        """The host is about to get a key under this primary key that it keeps. Durable on return.

        Raises Unavailable `state_unusable`."""
        of_host = (holder.scope, holder.host, provider)
        with self._transaction():
            newest = max(self._number(_KNOWN, of_host), self._number(_NEWEST, of_host))
            number = 1 + (newest or secrets.randbelow(FIRST_BELOW))
            self._database.execute(_MARK, (*of_host, primary_key_id, number))

    def report(self, holder: Holder, provider: str, keys: Mapping[str, int], known: int) -> int:
        """Take a host's report; durable on return. Answers the number of the newest mark. A report that was
        counted before one that is here already is not taken.

        known: up to this number, keys that were marked have arrived at the host, or never will.
        Raises Unavailable `state_unusable`."""
        of_host = (holder.scope, holder.host, provider)
        kept = {key_id: count for key_id, count in keys.items() if count}
        with self._transaction():
            before = self._number(_KNOWN, of_host)
            newest = max(before, self._number(_NEWEST, of_host))
            if known > newest:  # a number of a database that is gone
                known = 0
            if known >= before:
                self._database.execute(_COVERED, (*of_host, known))
                self._database.execute(
                    "INSERT OR REPLACE INTO reports VALUES (?, ?, ?, ?, ?, ?)",
                    (*of_host, self._clock(), msgspec.json.encode(kept).decode(), known),
                )
        return newest

    def of(self, provider: str) -> list[HostUsage]:
        """What is known of all hosts that keep, or kept, keys of a provider. Raises Unavailable."""
        with self._transaction():
            reports = self._database.execute(
                "SELECT scope, host, reported, keys FROM reports WHERE provider = ?", (provider,)
            ).fetchall()
            marks = self._database.execute(
                "SELECT scope, host, primary_key_id, wrapped FROM marks WHERE provider = ?", (provider,)
            ).fetchall()
        with self._errors():
            kept = {
                (str(scope), str(host)): (float(reported), msgspec.json.decode(keys, type=dict[str, int]))
                for scope, host, reported, keys in reports
            }
            marked: dict[tuple[str, str], dict[str, int]] = {}
            for scope, host, key_id, wrapped in marks:
                marked.setdefault((str(scope), str(host)), {})[str(key_id)] = int(wrapped)
        found = []
        for of_host in sorted({*kept, *marked}):
            reported, counts = kept.get(of_host, (None, {}))
            found.append(HostUsage(*of_host, reported, counts, marked.get(of_host, {})))
        return found

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _number(self, query: str, of_host: tuple[str, str, str]) -> int:
        return int(self._database.execute(query, of_host).fetchone()[0] or 0)

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
        except (OSError, sqlite3.Error, msgspec.DecodeError, TypeError, ValueError) as error:
            raise self._unusable(str(error)) from None

    def _unusable(self, reason: str) -> Unavailable:
        return Unavailable(
            "state_unusable",
            f"{self._path}: {reason}",
            "Check the state directory's owner, mode and free space. If the file is damaged, put it back from"
            " a backup, or remove it: hosts that run report again, and those that do not are not counted.",
        )
