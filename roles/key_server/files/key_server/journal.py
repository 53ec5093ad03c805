# SPDX-License-Identifier: GPL-3.0-or-later
"""Which version of each object this server has, and objects as records that go to another server.

A version is a number of the whole database: the highest one so far, plus one, with the server's number as its
remainder. So it grows with every change, tells which of two copies is newer, and no two servers ever give the
same one. Triggers write it in the transaction of the change itself: a crash cannot come between.

A record is JSON: {"uid", "version", "rows": {table: [{column: value}]}}, bytes as {"base64": text}; a row as
PyKMIP stores it. Two copies become one by `merged`: a state never goes back, vendor attributes are never
lost, and of the rest the newer copy counts. Application specific information and object groups are not
replicated.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from kmip.core import enums
from kmip.pie import objects as _objects  # its tables belong to Base.metadata
from kmip.pie import sqltypes
from sqlalchemy import DDL, column, delete, func, insert, select, table, update
from sqlalchemy.exc import SQLAlchemyError

from .errors import KeyServerError

MAX_SERVERS = 16
DESTROYED = enums.State.DESTROYED.value
_COMPROMISED = enums.State.COMPROMISED.value
_DESTROYED_COMPROMISED = enums.State.DESTROYED_COMPROMISED.value
_NAMES, _OBJECTS, _STATES, _VENDOR = (
    "managed_object_names",
    _objects.ManagedObject.__tablename__,
    _objects.CryptographicObject.__tablename__,
    "vendor_attributes",
)

# Triggers' names are of the table and the event. The remainder of a version is the server's number.
_WATCH = """CREATE TRIGGER version_%(name)s_%(event)s AFTER %(event)s ON %(name)s BEGIN
INSERT OR REPLACE INTO versions
SELECT %(which)s.%(key)s, (coalesce(max(version), 0) / %(servers)s + 1) * %(servers)s + %(number)s
FROM versions; END"""

Record = dict[str, Any]
Row = dict[str, Any]


class Journal:
    """The versions and records of one database. Thread-safe: everything happens under the engine's lock."""

    def __init__(self, store: Any, lock: threading.RLock, number: int) -> None:
        """store: SQLAlchemy's engine, whose tables are there. number: of this server, below MAX_SERVERS."""
        self._store = store
        self._lock = lock
        self._tables = _tables()
        self._versions = table("versions", column("uid"), column("version"))
        with self._transaction() as connection:
            run = connection.exec_driver_sql
            run("CREATE TABLE IF NOT EXISTS versions (uid INTEGER PRIMARY KEY, version INTEGER NOT NULL)")
            run("CREATE INDEX IF NOT EXISTS versions_by_version ON versions (version)")
            for name, (key, _columns) in self._tables.items():
                for event, which in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")):
                    run(f"DROP TRIGGER IF EXISTS version_{name}_{event}")
                    context = {"name": name, "event": event, "which": which, "key": key.name}
                    if event != "DELETE" or name == _OBJECTS:
                        connection.execute(
                            DDL(_WATCH, context=context | {"servers": MAX_SERVERS, "number": number})
                        )
            # Of a database from before there were versions: an update writes them.
            run("UPDATE managed_objects SET uid = uid WHERE uid NOT IN (SELECT uid FROM versions)")

    def highest_id(self) -> int:
        """The highest id that was ever used here; 0 where there is none."""
        with self._transaction() as connection:
            return connection.execute(select(func.max(self._versions.c.uid))).scalar() or 0

    def knows(self, uid: int) -> bool:
        """Whether an id was ever used here."""
        return uid in self.versions()

    def versions(self) -> dict[int, int]:
        """Version by id, of every object."""
        with self._transaction() as connection:
            found = connection.execute(select(self._versions.c.uid, self._versions.c.version))
            return {row[0]: row[1] for row in found}

    def changed_since(self, version: int) -> tuple[int, list[int]]:
        """The highest version, and the ids of objects with a higher one than `version`, oldest first."""
        columns = self._versions.c
        newer = select(columns.uid, columns.version).where(columns.version > version)
        with self._transaction() as connection:
            found = connection.execute(newer.order_by(columns.version)).all()
        return (found[-1][1] if found else version), [row[0] for row in found]

    def records(self, uids: Iterable[int]) -> list[Record]:
        """Records of the objects that are here."""
        with self._transaction() as connection:
            found = [self._read(connection, uid) for uid in uids]
        return [record for record in found if record is not None]

    def take(self, record: Record) -> bool:
        """Take over another server's record; says whether this changed anything here.

        Raises KeyServerError, with nothing changed, where this server has another key under the id, and for a
        record that cannot be.
        """
        try:
            uid, version = int(record["uid"]), int(record["version"])
            theirs = {name: [_row(row) for row in rows] for name, rows in record["rows"].items()}
        except (KeyError, TypeError, ValueError, AttributeError):
            raise KeyServerError("a record of another server cannot be read") from None
        try:
            return self._merge(uid, version, theirs)
        except (SQLAlchemyError, LookupError, TypeError):
            raise KeyServerError(f"another server's record of {uid} cannot be stored") from None

    def _merge(self, uid: int, version: int, theirs: dict[str, list[Row]]) -> bool:
        with self._transaction() as connection:
            mine = self._read(connection, uid)
            if mine is None:
                self._write(connection, uid, theirs, version)
                return True
            if mine["version"] == version:
                return False
            held = {name: [_row(row) for row in rows] for name, rows in mine["rows"].items()}
            theirs_is_newer = version > mine["version"]
            result = merged(uid, theirs, held) if theirs_is_newer else merged(uid, held, theirs)
            if result == held and not theirs_is_newer:
                return False
            self._write(connection, uid, result, version if theirs_is_newer and result == theirs else None)
            return True

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Any]:
        with self._lock, self._store.begin() as connection:
            yield connection

    def _read(self, connection: Any, uid: int) -> Record | None:
        columns = self._versions.c
        version = connection.execute(select(columns.version).where(columns.uid == uid)).scalar()
        if version is None:
            return None
        rows = {}
        for name, (key, others) in self._tables.items():
            found = connection.execute(select(key, *others).where(key == uid).order_by(key, *others)).all()
            if found:
                rows[name] = [
                    {one.name: _plain(value) for one, value in zip(others, row[1:], strict=True)}
                    for row in found
                ]
        return {"uid": uid, "version": version, "rows": rows}

    def _write(self, connection: Any, uid: int, rows: dict[str, list[Row]], version: int | None) -> None:
        """version: the one to have; None leaves the new one that the triggers give."""
        for name, (key, others) in self._tables.items():
            connection.execute(delete(key.table).where(key == uid))
            for row in rows.get(name, []):
                values = {one.name: row.get(one.name) for one in others}
                connection.execute(insert(key.table).values({key.name: uid, **values}))
        if version is not None:
            of_object = update(self._versions).where(self._versions.c.uid == uid)
            connection.execute(of_object.values(version=version))


def merged(uid: int, newer: dict[str, list[Row]], older: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """One object of two copies. Raises KeyServerError for two keys."""
    result = {name: [dict(row) for row in rows] for name, rows in newer.items()}
    states = [rows[_STATES][0]["state"] for rows in (newer, older) if rows.get(_STATES)]
    state = max(states, default=None)
    if state == DESTROYED and _COMPROMISED in states:
        state = _DESTROYED_COMPROMISED
    values = [rows[_OBJECTS][0]["value"] for rows in (newer, older) if rows.get(_OBJECTS)]
    if len({value for value in values if value}) > 1:
        raise KeyServerError(f"two servers have different keys under id {uid}")
    if state is not None and _STATES in result:
        result[_STATES][0]["state"] = state
        if state >= DESTROYED and _OBJECTS in result:
            result[_OBJECTS][0]["value"] = b""
    attributes = {row["name"]: row for rows in (older, newer) for row in rows.get(_VENDOR, [])}
    if attributes:
        result[_VENDOR] = [attributes[name] for name in sorted(attributes)]
    return result


def summary(versions: dict[int, int]) -> str:
    """A digest of all versions: two servers with the same one have the same objects."""
    digest = hashlib.sha256()
    for uid in sorted(versions):
        digest.update(b"%d:%d\n" % (uid, versions[uid]))
    return digest.hexdigest()


def _tables() -> dict[str, tuple[Any, list[Any]]]:
    """PyKMIP's tables with what belongs to one object: name -> (column of the object's id, the others).

    Without PyKMIP's types: values are as the database has them."""
    found = {}
    for known in sqltypes.Base.metadata.sorted_tables:
        key = "mo_uid" if known.name == _NAMES else "uid"
        if key in known.columns:
            others = [one.name for one in known.columns if one.name not in (key, "id")]
            plain = table(known.name, column(key), *(column(name) for name in others))
            found[known.name] = (plain.c[key], [plain.c[name] for name in others])
    return found


def _plain(value: Any) -> Any:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _row(row: Row) -> Row:
    return {
        column: base64.b64decode(value["base64"]) if isinstance(value, dict) else value
        for column, value in row.items()
    }
