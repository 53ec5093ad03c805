# SPDX-License-Identifier: GPL-3.0-or-later
"""A database of an earlier release: what it holds is there afterwards; a step that fails changes nothing."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sql

from trusted_infrastructure.manager import events, known_keys, provider_registry, schema_upgrades
from trusted_infrastructure.manager.database import SCHEMA_VERSION, Database, fact, metadata

# What the tables that changed since were made with.
SCHEMA_1 = """
CREATE TABLE facts (name VARCHAR(64) NOT NULL PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO facts VALUES ('schema_version', '1'), ('epoch', '3');
CREATE TABLE trusted_key_providers (
    name VARCHAR(200) NOT NULL PRIMARY KEY,
    group_id VARCHAR(255) NOT NULL,
    is_default BOOLEAN NOT NULL
);
CREATE TABLE events (
    number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    time BIGINT NOT NULL,
    type VARCHAR(255) NOT NULL,
    user VARCHAR(255) NOT NULL,
    cluster INTEGER,
    host VARCHAR(255) NOT NULL,
    object VARCHAR(255) NOT NULL,
    message TEXT NOT NULL,
    details TEXT NOT NULL,
    origin VARCHAR(512) UNIQUE
);
CREATE INDEX ix_events_time ON events (time);
CREATE INDEX events_of_host ON events (host, number);
"""


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A database of schema 1 with two providers and two events."""
    path = tmp_path / "manager.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(SCHEMA_1)
        rows = [("finance", "group-1", False), ("sales", "group-2", True)]
        connection.executemany("INSERT INTO trusted_key_providers VALUES (?, ?, ?)", rows)
        details = ({"state": "ATTESTED"}, {"operation": "create", "key_id": "k1", "provider": "p"})
        values = [(number, json.dumps(one)) for number, one in enumerate(details, start=5)]
        connection.executemany(
            "INSERT INTO events VALUES (?, 1, 't', 'u', NULL, 'h', '', 'm', ?, NULL)", values
        )
    connection.close()
    return path


def opened(path: Path) -> Database:
    """The database as a manager opens it."""
    return Database(f"sqlite:///{path}")


@pytest.mark.parametrize("version", ["0", "3000", "", "2x"])
def test_another_schema_is_refused_and_left_alone(earlier: Path, version: str) -> None:
    with sqlite3.connect(earlier) as connection:
        connection.execute("UPDATE facts SET value = ? WHERE name = 'schema_version'", (version,))
    connection.close()
    with pytest.raises(RuntimeError, match="has schema"):
        opened(earlier)
    with sqlite3.connect(earlier) as connection:
        tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()
    connection.close()
    assert tables == (4,)  # sqlite_sequence is one


def test_a_step_that_fails_changes_nothing(earlier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(connection: sql.Connection) -> None:
        schema_upgrades.to_2(connection)
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr(schema_upgrades, "STEPS", {"1": ("2", broken)})
        with pytest.raises(OSError):
            opened(earlier)
    with sqlite3.connect(earlier) as connection:
        query = "SELECT count(*) FROM trusted_key_providers WHERE is_default"
        assert connection.execute(query).fetchone() == (1,)
    connection.close()
    opened(earlier).close()


def test_what_was_there_is_kept(earlier: Path) -> None:
    for _start in range(2):
        database = opened(earlier)
        with database.transaction() as connection:
            assert fact(connection, "schema_version") == SCHEMA_VERSION
            assert fact(connection, "epoch") == "3"
            assert provider_registry.names(connection) == {"finance": "TRUSTED", "sales": "TRUSTED"}
            assert provider_registry.default_of(connection, None) == "sales"
            found = events.find(connection, events.Wanted(key_ids=["k1"]))
            assert [(row.number, row.operation) for row in found] == [(6, "create")]
            assert len(events.find(connection, events.Wanted(operations=[""]))) == 1
        database.close()


def test_keys_of_schema_2_are_kept_and_count_for_nobody(tmp_path: Path) -> None:
    path = tmp_path / "manager.db"
    opened(path).close()
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "DROP INDEX ix_standard_keys_asked_by; ALTER TABLE standard_keys DROP COLUMN asked_by;"
            "INSERT INTO standard_keys VALUES ('p', 'k1', 1, 'cv', '', 'db1', '', 1, 1, 'ACTIVE', 1, 'r');"
            "UPDATE facts SET value = '2' WHERE name = 'schema_version';"
        )
    connection.close()
    for _start in range(2):
        database = opened(path)
        with database.transaction() as connection:
            assert fact(connection, "schema_version") == SCHEMA_VERSION
            (key,) = known_keys.keys(connection, known_keys.Wanted(objects=["db1"]))
            assert (key.key_id, known_keys.made_by(connection, "host1")) == ("k1", 0)
            assert "ix_standard_keys_asked_by" in str(sql.inspect(connection).get_indexes("standard_keys"))
        database.close()


def test_ids_of_events_go_on(earlier: Path) -> None:
    database = opened(earlier)
    with database.transaction() as connection:
        event = events.Event(type="t", time=2, message="m", operation="get", key_id="k2")
        assert events.record(connection, event)
        assert [row.number for row in events.find(connection, events.Wanted(operations=["get"]))] == [7]
    database.close()


def test_without_a_default_there_is_none(earlier: Path) -> None:
    with sqlite3.connect(earlier) as connection:
        connection.execute("UPDATE trusted_key_providers SET is_default = 0")
    connection.close()
    database = opened(earlier)
    with database.transaction() as connection:
        assert provider_registry.default_of(connection, None) is None
    database.close()


def shape(inspected: sql.Inspector, table: str) -> list[list[str]]:
    """Columns, indices and the primary key of a table."""
    columns = [f"{one['name']} {one['type']} {one['nullable']}" for one in inspected.get_columns(table)]
    indices = [f"{one['name']} {one['column_names']}" for one in inspected.get_indexes(table)]
    return [sorted(columns), sorted(indices), inspected.get_pk_constraint(table)["constrained_columns"]]


def test_an_upgraded_database_has_the_tables_of_a_new_one(earlier: Path, tmp_path: Path) -> None:
    shapes = []
    for path in (earlier, tmp_path / "new.db"):
        opened(path).close()
        engine = sql.create_engine(f"sqlite:///{path}")
        inspected = sql.inspect(engine)
        shapes.append({name: shape(inspected, name) for name in inspected.get_table_names()})
        engine.dispose()
    assert shapes[0] == shapes[1]
    assert set(shapes[0]) == set(metadata.tables)
