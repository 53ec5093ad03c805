# SPDX-License-Identifier: GPL-3.0-or-later
"""What this Attestation Service learns itself: clock histories of TPMs, which host has which, and how each
host stood.

Not configuration, and not replicated: each Trust Authority host judges by its own history. SQLite in the
state directory; a history is durable before a token is signed, a result may be lost with the power.

Within one boot only the clock moves, and it is written once in CLOCK_STEP: a power cut ends the boot anyway,
and an attestation then costs one sync (the audit log's), not two.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from trusted_infrastructure.attestation import host_results, identity_bindings
from trusted_infrastructure.attestation.clock_history import ClockRecord, check_clock
from trusted_infrastructure.attestation.host_results import Feed, HostResult, Transition
from trusted_infrastructure.attestation.identity_bindings import HostIdentity
from trusted_infrastructure.refusal import Unavailable
from trusted_infrastructure.tpm.quote import ClockInfo

CLOCK_STEP = 600_000  # ms
FORGETTING = 3600  # seconds between looks for results that are too old

_SCHEMA = """
CREATE TABLE IF NOT EXISTS clock_history (
    ek_digest TEXT PRIMARY KEY, host TEXT NOT NULL, reset_count INTEGER NOT NULL,
    restart_count INTEGER NOT NULL, clock INTEGER NOT NULL, safe INTEGER NOT NULL,
    firmware_version TEXT NOT NULL, seen INTEGER NOT NULL
) WITHOUT ROWID;
PRAGMA user_version = 1;
"""


class State:
    """The open database. Thread-safe."""

    def __init__(self, path: Path) -> None:
        """Open or create the database (0600). Raises Unavailable `state_unavailable`."""
        self._lock = threading.Lock()
        self._forgotten = 0
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
            self._database.row_factory = sqlite3.Row
            self._database.execute("PRAGMA journal_mode = WAL")
            version = self._database.execute("PRAGMA user_version").fetchone()[0]
            if version > 1:
                raise _unavailable(f"{path} was written by a later release (schema {version})")
            self._database.executescript(_SCHEMA)
            self._database.executescript(host_results.SCHEMA)
            self._database.executescript(identity_bindings.SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise _unavailable(f"{path} cannot be opened: {error}") from None

    def advance(self, identity: HostIdentity, clock: ClockInfo, now: int) -> None:
        """Compare a host's endorsement key with the one it is bound to, and the TPM's clock with its history;
        make both what is known, in one transaction; durable.

        Raises Refusal `ek_other_host`, `ek_changed`, `tpm_cleared`, `clock_unsafe` (nothing is written then),
        Unavailable `state_unavailable`.
        """
        ek_digest = identity.ek_digest
        # Nearly always nothing is new: then no process waits for another's write lock.
        with self._reading():
            known = self._clock_record(ek_digest)
            if known is not None and identity_bindings.is_bound(self._database, identity):
                check_clock(clock, known)
                if _same_boot(clock, known):
                    return
        with self._transaction():
            identity_bindings.bind(self._database, identity)
            before = self._clock_record(ek_digest)
            check_clock(clock, before)
            if before is not None and _same_boot(clock, before):
                return
            self._database.execute(
                "INSERT OR REPLACE INTO clock_history VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    ek_digest,
                    identity.host,
                    clock.reset_count,
                    clock.restart_count,
                    clock.clock,
                    clock.safe,
                    str(clock.firmware_version),  # 64 bits without a sign; SQLite's integers have one
                    now,
                ),
            )

    def clock_record(self, ek_digest: str) -> ClockRecord | None:
        """The history of one TPM, None when it was never seen. Raises Unavailable `state_unavailable`."""
        with self._reading():
            return self._clock_record(ek_digest)

    def accept(self, ek_digest: str) -> bool:
        """Forget the history of a TPM: its next attestation begins a new one. For an administrator who
        cleared it.

        Returns whether there was one. Raises Unavailable `state_unavailable`.
        """
        with self._transaction():
            cursor = self._database.execute("DELETE FROM clock_history WHERE ek_digest = ?", (ek_digest,))
            return cursor.rowcount > 0

    def identity(self, principal: str, host: str) -> HostIdentity | None:
        """What a host is bound to, None when nothing. Raises Unavailable `state_unavailable`."""
        with self._reading():
            return identity_bindings.identity_of(self._database, principal, host)

    def identities(self, host: str | None = None) -> list[HostIdentity]:
        """What hosts, or those of one name, are bound to. Raises Unavailable `state_unavailable`."""
        with self._reading():
            return identity_bindings.identities(self._database, host)

    def release(self, principal: str, host: str) -> bool:
        """Forget what a host is bound to: its next attestation binds it anew. For an administrator who
        replaced its TPM.

        Returns whether it was bound. Raises Unavailable `state_unavailable`.
        """
        with self._transaction():
            return identity_bindings.release(self._database, principal, host)

    def record(self, result: HostResult) -> None:
        """Keep the last result of a host, and a transition where its state changed. Old ones go.

        `since` is set here. Raises Unavailable `state_unavailable`.
        """
        with self._transaction("NORMAL"):
            host_results.note(self._database, result)
            if abs(result.last - self._forgotten) >= FORGETTING:
                host_results.forget(self._database, result.last)
                self._forgotten = result.last

    def results(self, now: int) -> list[HostResult]:
        """The last result of each host, by name. Raises Unavailable `state_unavailable`."""
        self._settle(now)
        with self._reading():
            return host_results.results(self._database)

    def history(self, host: str, limit: int, now: int) -> list[Transition]:
        """The last transitions of a host, newest first. Raises Unavailable `state_unavailable`."""
        self._settle(now)
        with self._reading():
            return host_results.history(self._database, host, limit)

    def transitions(self, after: int, limit: int, now: int) -> Feed:
        """Transitions of all hosts above a sequence number, oldest first. Raises Unavailable
        `state_unavailable`."""
        self._settle(now)
        with self._reading():
            return host_results.feed(self._database, after, limit)

    def _settle(self, now: int) -> None:
        """Note tokens that have ended. The write lock is taken only when there are any."""
        with self._reading():
            waiting = host_results.unsettled(self._database, now)
        if waiting:
            with self._transaction("NORMAL"):
                host_results.settle(self._database, now)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _clock_record(self, ek_digest: str) -> ClockRecord | None:
        row = self._database.execute(
            "SELECT * FROM clock_history WHERE ek_digest = ?", (ek_digest,)
        ).fetchone()
        if row is None:
            return None
        return ClockRecord(
            reset_count=row["reset_count"],
            restart_count=row["restart_count"],
            clock=row["clock"],
            safe=bool(row["safe"]),
            firmware_version=int(row["firmware_version"]),
        )

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except sqlite3.Error as error:
            raise _unavailable(f"the state cannot be read: {error}") from None

    @contextmanager
    def _transaction(self, synchronous: Literal["FULL", "NORMAL"] = "FULL") -> Iterator[None]:
        """synchronous: FULL is durable on return, NORMAL with the next sync (SQLite, PRAGMA synchronous)."""
        try:
            with self._lock:
                self._database.execute(f"PRAGMA synchronous = {synchronous}")
                self._database.execute("BEGIN IMMEDIATE")
                try:
                    yield
                except BaseException:
                    self._database.execute("ROLLBACK")
                    raise
                self._database.execute("COMMIT")
        except sqlite3.Error as error:
            raise _unavailable(f"the state cannot be written: {error}") from None


def _same_boot(clock: ClockInfo, before: ClockRecord) -> bool:
    """Whether `before` says all that has to be kept of `clock`, which was checked against it."""
    return (
        before.boot == (clock.reset_count, clock.restart_count)
        and before.firmware_version == clock.firmware_version
        and before.safe == clock.safe
        and clock.clock < before.clock + CLOCK_STEP
    )


def _unavailable(message: str) -> Unavailable:
    return Unavailable(
        "state_unavailable",
        message,
        "Check the state directory of the attestation service: its owner, and the space on its disk.",
    )
