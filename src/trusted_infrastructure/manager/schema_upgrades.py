# SPDX-License-Identifier: GPL-3.0-or-later
"""From the schema of an earlier release to the next: each step is plain SQL of its time.

A step runs before missing tables are made, in the transaction that also writes the new version: a manager
that is killed in the middle finds the database as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
import sqlalchemy as sql


def upgrade(connection: sql.Connection, found: str, wanted: str) -> None:
    """Brings the tables from version `found` to `wanted`. Raises RuntimeError where no way leads there, as
    for a database of a later release."""
    version = found
    while version != wanted:
        if version not in STEPS:
            raise RuntimeError(f"the database has schema {found}; this release needs {wanted}")
        version, step = STEPS[version]
        step(connection)


def to_2(connection: sql.Connection) -> None:
    """Events are found by operation and key id; one table has the defaults of all kinds of key providers."""
    run(connection, "ALTER TABLE events ADD COLUMN operation VARCHAR(64) NOT NULL DEFAULT ''")
    run(connection, "ALTER TABLE events ADD COLUMN key_id VARCHAR(255) NOT NULL DEFAULT ''")
    for number, details in connection.execute(sql.text("SELECT number, details FROM events")).all():
        known = msgspec.json.decode(details)
        values = {name: str(known.get(name, "")) for name in ("operation", "key_id")}
        if any(values.values()):
            statement = sql.text(
                "UPDATE events SET operation = :operation, key_id = :key_id WHERE number = :number"
            )
            connection.execute(statement, {**values, "number": number})
    run(
        connection,
        "CREATE TABLE provider_defaults "
        "(cluster INTEGER NOT NULL PRIMARY KEY, provider VARCHAR(200) NOT NULL)",
    )
    run(
        connection,
        "INSERT INTO provider_defaults (cluster, provider) "
        "SELECT 0, MIN(name) FROM trusted_key_providers WHERE is_default HAVING MIN(name) IS NOT NULL",
    )
    # Made anew: SQLite before 3.35 cannot drop a column.
    run(connection, "ALTER TABLE trusted_key_providers RENAME TO trusted_key_providers_of_1")
    run(
        connection,
        "CREATE TABLE trusted_key_providers "
        "(name VARCHAR(200) NOT NULL PRIMARY KEY, group_id VARCHAR(255) NOT NULL)",
    )
    run(
        connection,
        "INSERT INTO trusted_key_providers (name, group_id) "
        "SELECT name, group_id FROM trusted_key_providers_of_1",
    )
    run(connection, "DROP TABLE trusted_key_providers_of_1")


def to_3(connection: sql.Connection) -> None:
    """How many keys a host had made is counted: those of now count for nobody."""
    if not sql.inspect(connection).has_table("standard_keys"):
        return  # schema 1: it is made as it is now
    run(connection, "ALTER TABLE standard_keys ADD COLUMN asked_by VARCHAR(255) NOT NULL DEFAULT ''")
    run(connection, "CREATE INDEX ix_standard_keys_asked_by ON standard_keys (asked_by)")


def run(connection: sql.Connection, statement: str) -> None:
    """One statement without parameters."""
    connection.execute(sql.text(statement))


Step = Callable[[sql.Connection], None]
STEPS: Mapping[str, tuple[str, Step]] = {"1": ("2", to_2), "2": ("3", to_3)}
