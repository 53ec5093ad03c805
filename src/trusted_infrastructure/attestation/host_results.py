# SPDX-License-Identifier: GPL-3.0-or-later
"""The last result of each host, and how it came to it: the tables, and what is written to them.

Functions take a connection in a transaction that the caller began (`State`): what is decided is read in the
same transaction, so that several worker processes agree.

| table          | rows                                   | written                             |
| -------------- | -------------------------------------- | ----------------------------------- |
| `host_results` | the current result of (principal, host) | at every attestation                |
| `transitions`  | each state that began, numbered         | when state, reason or image changes |

A result is ATTESTED or FAILED. EXPIRED is nobody's verdict: it follows from the end of the token, and is
noted by whoever reads next, or with the next result (`settle`), with the time at which the token ended.

Bounds: KEPT_PER_HOST transitions of a host, and RESULT_KEPT seconds. A host that flaps, or is made to, fills
its own rows only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

RESULT_KEPT = 90 * 86_400  # a host that does not call any more leaves the list
KEPT_PER_HOST = 100
# Workers may finish in another order than they began. What is older than that is no order of workers: the
# clock was set back, and the newer result counts.
DISORDER = 60
EXPIRED_REASON = "token_expired"
EXPIRED_MESSAGE = "the token ended, and the host did not attest again"

ImageState = Literal["", "STAGED", "ACTIVE", "RETIRED"]
HostState = Literal["ATTESTED", "FAILED", "EXPIRED"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS host_results (
    principal TEXT NOT NULL, host TEXT NOT NULL, state TEXT NOT NULL, since INTEGER NOT NULL,
    last INTEGER NOT NULL, until INTEGER, reason TEXT NOT NULL, message TEXT NOT NULL,
    base_image TEXT, image_state TEXT NOT NULL, ek_digest TEXT, address TEXT NOT NULL,
    PRIMARY KEY (principal, host)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS transitions (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, principal TEXT NOT NULL, host TEXT NOT NULL,
    state TEXT NOT NULL, since INTEGER NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL,
    base_image TEXT, image_state TEXT NOT NULL, attested_until INTEGER, ek_digest TEXT
);
CREATE INDEX IF NOT EXISTS transitions_of_host ON transitions (host, principal, sequence);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO facts VALUES ('history', lower(hex(randomblob(16))));
DROP TABLE IF EXISTS results;
"""

_ALL = "SELECT * FROM host_results ORDER BY host, principal"
_ONE = "SELECT * FROM host_results WHERE principal = ? AND host = ?"
_OVER = "SELECT * FROM host_results WHERE state = 'ATTESTED' AND until <= ?"
_WRITE = """
INSERT OR REPLACE INTO host_results (principal, host, state, since, last, until, reason, message, base_image,
    image_state, ek_digest, address)
VALUES (:principal, :host, :state, :since, :last, :until, :reason, :message, :base_image, :image_state,
    :ek_digest, :address)
"""
_BEGIN = """
INSERT INTO transitions (principal, host, state, since, reason, message, base_image, image_state,
    attested_until, ek_digest)
VALUES (:principal, :host, :state, :since, :reason, :message, :base_image, :image_state, :until, :ek_digest)
"""
# The row that is over gets what the last attestation of its time said.
_END = """
UPDATE transitions SET message = :message, attested_until = :until WHERE sequence = (
    SELECT max(sequence) FROM transitions WHERE host = :host AND principal = :principal)
"""
_BOUND = """
DELETE FROM transitions WHERE host = :host AND principal = :principal AND sequence <= (
    SELECT sequence FROM transitions WHERE host = :host AND principal = :principal
    ORDER BY sequence DESC LIMIT 1 OFFSET :kept)
"""


class HostResult(msgspec.Struct, frozen=True, kw_only=True):
    """The last result of one host. Times: Unix seconds.

    since: when this state and reason began; last: the last attempt; until: when the token ends or ended
    (ATTESTED, EXPIRED). reason: "" or the reason code; image_state: of the base image when it was judged, ""
    without one; address: where the host called from.
    """

    principal: str
    host: str
    state: HostState
    since: int
    last: int
    until: int | None = None
    reason: str = ""
    message: str = ""
    base_image: str | None = None
    image_state: ImageState = ""
    ek_digest: str | None = None
    address: str = ""


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """One state of a host, from `since` on. Times: Unix seconds.

    sequence: rises with every transition of this service, never given twice. until: when the next state
    began, None for the current one. attested_until: end of the last token of this state.
    """

    sequence: int
    principal: str
    host: str
    state: HostState
    since: int
    until: int | None = None
    reason: str = ""
    message: str = ""
    base_image: str | None = None
    image_state: ImageState = ""
    attested_until: int | None = None
    ek_digest: str | None = None


class Feed(msgspec.Struct, frozen=True, kw_only=True):
    """Transitions in order. history: id of this database; with another one, sequences begin anew. last: the
    highest sequence there is; more: whether there are further ones after these."""

    history: str
    last: int
    transitions: list[Transition]
    more: bool


def note(database: sqlite3.Connection, result: HostResult) -> None:
    """Keep a result, and a transition where something changed."""
    before = _current(database, result.principal, result.host)
    if before is not None and before.state == "ATTESTED" and _ended(before, result.last):
        before = _expire(database, before)
    if before is not None and before.last - DISORDER < result.last < before.last:
        return  # judged before the one that is known
    same = before is not None and (before.state, before.reason) == (result.state, result.reason)
    if before is not None and same:
        result = msgspec.structs.replace(result, since=before.since)
    if before is None or not same or _image(before) != _image(result):
        if before is not None:
            _end(database, before)
        began = msgspec.structs.replace(result, since=result.last)
        _begin(database, began)
    database.execute(_WRITE, msgspec.structs.asdict(result))


def settle(database: sqlite3.Connection, now: int) -> None:
    """Note every token that has ended."""
    for result in _results(database, _OVER, (now,)):
        database.execute(_WRITE, msgspec.structs.asdict(_expire(database, result)))


def unsettled(database: sqlite3.Connection, now: int) -> bool:
    """Whether `settle` has something to note."""
    query = "SELECT 1 FROM host_results WHERE state = 'ATTESTED' AND until <= ? LIMIT 1"
    return database.execute(query, (now,)).fetchone() is not None


def forget(database: sqlite3.Connection, now: int) -> None:
    """Forget what is older than RESULT_KEPT."""
    database.execute("DELETE FROM host_results WHERE last < ?", (now - RESULT_KEPT,))
    # The current state of a host that still calls stays, however long it lasts.
    database.execute(
        "DELETE FROM transitions WHERE since < ? AND EXISTS (SELECT 1 FROM transitions AS later WHERE"
        " later.host = transitions.host AND later.principal = transitions.principal"
        " AND later.sequence > transitions.sequence AND later.since < ?)",
        (now - RESULT_KEPT, now - RESULT_KEPT),
    )
    database.execute(
        "DELETE FROM transitions WHERE since < ? AND NOT EXISTS (SELECT 1 FROM host_results AS known WHERE"
        " known.host = transitions.host AND known.principal = transitions.principal)",
        (now - RESULT_KEPT,),
    )


def results(database: sqlite3.Connection) -> list[HostResult]:
    """The last result of each host, by name."""
    return _results(database, _ALL, ())


def history(database: sqlite3.Connection, host: str, limit: int) -> list[Transition]:
    """The last transitions of a host name, newest first; of all principals that vouch for one of the name."""
    rows = database.execute(
        "SELECT * FROM transitions WHERE host = ? ORDER BY sequence DESC LIMIT ?", (host, limit)
    ).fetchall()
    current = {
        row["principal"]: row
        for row in database.execute("SELECT * FROM host_results WHERE host = ?", (host,)).fetchall()
    }
    began: dict[str, int] = {}
    found = []
    for row in rows:
        values = {**dict(row), "until": began.get(row["principal"])}
        known = current.get(row["principal"])
        if row["principal"] not in began and known is not None:
            values |= {"message": known["message"], "attested_until": known["until"]}
        began[row["principal"]] = row["since"]
        found.append(Transition(**values))
    return found


def feed(database: sqlite3.Connection, after: int, limit: int) -> Feed:
    """Transitions above a sequence number, oldest first."""
    rows = database.execute(
        "SELECT * FROM transitions WHERE sequence > ? ORDER BY sequence LIMIT ?", (after, limit + 1)
    ).fetchall()
    identifier = database.execute("SELECT value FROM facts WHERE name = 'history'").fetchone()[0]
    last = database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'transitions'").fetchone()
    return Feed(
        history=identifier,
        last=last[0] if last is not None else 0,
        transitions=[Transition(**dict(row)) for row in rows[:limit]],
        more=len(rows) > limit,
    )


def _image(result: HostResult) -> tuple[str | None, str]:
    return result.base_image, result.image_state


def _ended(result: HostResult, now: int) -> bool:
    return result.until is not None and result.until <= now


def _expire(database: sqlite3.Connection, result: HostResult) -> HostResult:
    """The result as it is since its token ended; its transition is written."""
    expired = msgspec.structs.replace(
        result,
        state="EXPIRED",
        since=result.until or result.last,
        reason=EXPIRED_REASON,
        message=EXPIRED_MESSAGE,
    )
    _end(database, result)
    _begin(database, expired)
    return expired


def _begin(database: sqlite3.Connection, result: HostResult) -> None:
    database.execute(_BEGIN, msgspec.structs.asdict(result))
    database.execute(_BOUND, {"host": result.host, "principal": result.principal, "kept": KEPT_PER_HOST})


def _end(database: sqlite3.Connection, result: HostResult) -> None:
    database.execute(_END, msgspec.structs.asdict(result))


def _current(database: sqlite3.Connection, principal: str, host: str) -> HostResult | None:
    found = _results(database, _ONE, (principal, host))
    return found[0] if found else None


def _results(database: sqlite3.Connection, query: str, values: Sequence[Any]) -> list[HostResult]:
    return [HostResult(**dict(row)) for row in database.execute(query, values).fetchall()]
