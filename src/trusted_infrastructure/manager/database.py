# SPDX-License-Identifier: GPL-3.0-or-later
"""The manager's database: inventory, desired documents, registrations, tasks, sessions.

SQLite by default (file 0600, WAL, synchronous FULL: what was committed survives SIGKILL and power loss);
any other SQLAlchemy URL where several instances serve one manager. Transactions are short and run on the
event loop's thread, so one instance never sees half of another request's change.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy import event

from trusted_infrastructure.manager.schema_upgrades import upgrade

SCHEMA_VERSION = "3"

metadata = sql.MetaData()

clusters = sql.Table(
    "clusters",
    metadata,
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=True),
    sql.Column("name", sql.String(200), nullable=False, unique=True),
    sql.Column("group_id", sql.String(64), nullable=False),
    sqlite_autoincrement=True,  # an id is never given twice
)

hosts = sql.Table(
    "hosts",
    metadata,
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=True),
    sql.Column("cluster", sql.ForeignKey("clusters.number"), nullable=False),
    sql.Column("name", sql.String(255), nullable=False, unique=True),
    sql.Column("public_name", sql.String(255), nullable=False),
    sql.Column("port", sql.Integer, nullable=False),
    sql.Column("ek_digest", sql.String(64), nullable=True),
    sql.Column("scope", sql.String(200), nullable=True),
    sqlite_autoincrement=True,
)

documents = sql.Table(
    "documents",
    metadata,
    sql.Column("cluster", sql.Integer, primary_key=True),
    sql.Column("host", sql.String(255), primary_key=True),  # "" for every host of the cluster
    sql.Column("kind", sql.String(64), primary_key=True),
    sql.Column("id", sql.String(255), primary_key=True),
    sql.Column("epoch", sql.Integer, nullable=False),
    sql.Column("counter", sql.Integer, nullable=False),
    sql.Column("content", sql.Text, nullable=True),
)

registrations = sql.Table(
    "registrations",
    metadata,
    sql.Column("service", sql.String(64), primary_key=True),
    sql.Column("kind", sql.String(32), nullable=False),
    sql.Column("hostname", sql.String(255), nullable=False),
    sql.Column("port", sql.Integer, nullable=False),
    sql.Column("trusted_ca", sql.Text, nullable=False),
    sql.Column("group_id", sql.String(255), nullable=False),
    sql.Column("trust_authority_cluster", sql.String(255), nullable=False),
    sql.UniqueConstraint("kind", "hostname", "port"),
)

trusted_key_providers = sql.Table(
    "trusted_key_providers",
    metadata,
    sql.Column("name", sql.String(200), primary_key=True),
    sql.Column("group_id", sql.String(255), nullable=False),
)

provider_defaults = sql.Table(
    "provider_defaults",
    metadata,
    sql.Column("cluster", sql.Integer, primary_key=True, autoincrement=False),  # 0: the manager's
    sql.Column("provider", sql.String(200), nullable=False),
)

standard_key_providers = sql.Table(
    "standard_key_providers",
    metadata,
    sql.Column("name", sql.String(200), primary_key=True),
    sql.Column("content", sql.Text, nullable=False),  # JSON: standard_providers; its secrets are encrypted
)

standard_keys = sql.Table(
    "standard_keys",
    metadata,
    sql.Column("provider", sql.String(200), primary_key=True),
    sql.Column("key_id", sql.String(255), primary_key=True),
    sql.Column("cluster", sql.Integer, nullable=False),
    sql.Column("check_value", sql.String(64), nullable=False),
    sql.Column("component", sql.String(255), nullable=False),
    sql.Column("name", sql.String(255), nullable=False),
    sql.Column("identifier", sql.String(255), nullable=False),
    sql.Column("created", sql.BigInteger, nullable=False),
    sql.Column("used_since", sql.BigInteger, nullable=True),
    sql.Column("state", sql.String(32), nullable=False),
    sql.Column("checked", sql.BigInteger, nullable=False),
    sql.Column("request", sql.String(512), nullable=False, index=True),  # of a host that it was made for
    sql.Column("asked_by", sql.String(255), nullable=False, index=True),  # that host
)

standard_key_hosts = sql.Table(
    "standard_key_hosts",
    metadata,
    sql.Column("provider", sql.String(200), primary_key=True),
    sql.Column("key_id", sql.String(255), primary_key=True),
    sql.Column("host", sql.String(255), primary_key=True),
)

native_key_providers = sql.Table(
    "native_key_providers",
    metadata,
    sql.Column("name", sql.String(200), primary_key=True),
    sql.Column("key_id", sql.String(36), nullable=False),
    sql.Column("tpm_required", sql.Boolean, nullable=False),
    sql.Column("usable", sql.Boolean, nullable=False),  # it was backed up once
    sql.Column("backed_up", sql.Boolean, nullable=False),  # its present key was
    sql.Column("reminded", sql.BigInteger, nullable=False),
)

native_provider_keys = sql.Table(
    "native_provider_keys",
    metadata,
    sql.Column("provider", sql.String(200), primary_key=True),
    sql.Column("key_id", sql.String(36), primary_key=True),
    sql.Column("secret", sql.Text, nullable=False),  # encrypted: database_secrets
    sql.Column("check_value", sql.String(64), nullable=False),
    sql.Column("created", sql.BigInteger, nullable=False),
)

native_removed_keys = sql.Table(
    "native_removed_keys",  # keys that were removed on purpose: a host that still has one forgets it
    metadata,
    sql.Column("provider", sql.String(200), primary_key=True),
    sql.Column("key_id", sql.String(36), primary_key=True),
)

native_host_states = sql.Table(
    "native_host_states",
    metadata,
    sql.Column("host", sql.String(255), primary_key=True),
    sql.Column("provider", sql.String(200), primary_key=True),
    sql.Column("sent", sql.Boolean, nullable=False),
    sql.Column("pushed", sql.String(64), nullable=False),
    sql.Column("locked", sql.String(64), nullable=False),
    sql.Column("failed", sql.String(64), nullable=False),
)

native_downloads = sql.Table(
    "native_downloads",
    metadata,
    sql.Column("download", sql.String(32), primary_key=True),
    sql.Column("token", sql.String(64), nullable=False),
    sql.Column("provider", sql.String(200), nullable=False),
    sql.Column("key_id", sql.String(36), nullable=False),
    sql.Column("user", sql.String(255), nullable=False),
    sql.Column("expires", sql.BigInteger, nullable=False),
    sql.Column("secret", sql.Text, nullable=False),  # the file, encrypted: database_secrets
)

key_provider_health = sql.Table(
    "key_provider_health",
    metadata,
    sql.Column("provider", sql.String(200), primary_key=True),
    sql.Column("health", sql.String(16), nullable=False),
    sql.Column("code", sql.String(128), nullable=False),
    sql.Column("message", sql.Text, nullable=False),
    sql.Column("checked", sql.BigInteger, nullable=False),
)

tasks = sql.Table(
    "tasks",
    metadata,
    sql.Column("task", sql.String(255), primary_key=True),
    sql.Column("instance", sql.String(255), nullable=False),
    sql.Column("service", sql.String(255), nullable=False),
    sql.Column("operation", sql.String(64), nullable=False),
    sql.Column("description", sql.Text, nullable=False),
    sql.Column("user", sql.String(255), nullable=False),
    sql.Column("target_type", sql.String(64), nullable=True),
    sql.Column("target_id", sql.String(255), nullable=True),
    sql.Column("status", sql.String(16), nullable=False),
    sql.Column("completed", sql.Integer, nullable=False),
    sql.Column("progress", sql.Text, nullable=False),
    sql.Column("result", sql.Text, nullable=True),
    sql.Column("error", sql.Text, nullable=True),
    sql.Column("start_time", sql.Float, nullable=True),
    sql.Column("end_time", sql.Float, nullable=True, index=True),
)

audit_heads = sql.Table(
    "audit_heads",
    metadata,
    sql.Column("host", sql.String(255), primary_key=True),
    sql.Column("role", sql.String(32), primary_key=True),
    sql.Column("chain", sql.String(64), nullable=False),
    sql.Column("seq", sql.BigInteger, nullable=False),
    sql.Column("hash", sql.String(64), nullable=False),
    sql.Column("signed", sql.Text, nullable=False),
    sql.Column("seen", sql.BigInteger, nullable=False),
    sql.Column("problem", sql.Text, nullable=False),
)

earlier_audit_heads = sql.Table(
    "earlier_audit_heads",
    metadata,
    sql.Column("host", sql.String(255), primary_key=True),
    sql.Column("role", sql.String(32), primary_key=True),
    sql.Column("seen", sql.BigInteger, primary_key=True),
    sql.Column("chain", sql.String(64), nullable=False),
    sql.Column("seq", sql.BigInteger, nullable=False),
    sql.Column("hash", sql.String(64), nullable=False),
    sql.Column("signed", sql.Text, nullable=False),
)

events = sql.Table(
    "events",
    metadata,
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=True),
    sql.Column("time", sql.BigInteger, nullable=False, index=True),
    sql.Column("type", sql.String(255), nullable=False),
    sql.Column("user", sql.String(255), nullable=False),
    sql.Column("cluster", sql.Integer, nullable=True),
    sql.Column("host", sql.String(255), nullable=False),
    sql.Column("object", sql.String(255), nullable=False),
    sql.Column("message", sql.Text, nullable=False),
    sql.Column("details", sql.Text, nullable=False),
    sql.Column("origin", sql.String(512), nullable=True, unique=True),
    sql.Column("operation", sql.String(64), nullable=False, server_default=""),
    sql.Column("key_id", sql.String(255), nullable=False, server_default=""),
    sql.Index("events_of_host", "host", "number"),
    sqlite_autoincrement=True,  # whoever reads on from an id misses nothing
)

attestation_states = sql.Table(
    "attestation_states",
    metadata,
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=True),
    sql.Column("host", sql.String(255), nullable=False),
    sql.Column("state", sql.String(16), nullable=False),
    sql.Column("since", sql.BigInteger, nullable=False),
    sql.Column("until", sql.BigInteger, nullable=True),  # NULL: it lasts
    sql.Column("reason", sql.String(128), nullable=False),
    sql.Column("message", sql.Text, nullable=False),
    sql.Column("base_image", sql.String(255), nullable=False),
    sql.Column("base_image_state", sql.String(16), nullable=False),
    sql.Column("attested_until", sql.BigInteger, nullable=True),
    sql.Column("service", sql.String(255), nullable=False),
    sql.Column("service_address", sql.String(320), nullable=False),
    sql.Index("attestation_states_of_host", "host", "number"),
    sql.Index("attestation_states_now", "until"),
    sqlite_autoincrement=True,
)

transition_cursors = sql.Table(
    "transition_cursors",
    metadata,
    sql.Column("host", sql.String(255), primary_key=True),
    sql.Column("history", sql.String(64), nullable=False),
    sql.Column("sequence", sql.BigInteger, nullable=False),
)

sessions = sql.Table(
    "sessions",
    metadata,
    sql.Column("digest", sql.String(64), primary_key=True),
    sql.Column("user", sql.String(255), nullable=False),
    sql.Column("password", sql.String(64), nullable=False),
    sql.Column("created", sql.Float, nullable=False),
    sql.Column("last_accessed", sql.Float, nullable=False),
)

accounts = sql.Table(
    "accounts",
    metadata,
    sql.Column("name", sql.String(200), primary_key=True),
    sql.Column("password", sql.Text, nullable=False),
    sql.Column("description", sql.Text, nullable=False),
)

groups = sql.Table(
    "account_groups",
    metadata,
    sql.Column("name", sql.String(200), primary_key=True),
    sql.Column("description", sql.Text, nullable=False),
)

group_members = sql.Table(
    "group_members",
    metadata,
    sql.Column("group", sql.String(200), primary_key=True),
    sql.Column("user", sql.String(255), primary_key=True),
)

roles = sql.Table(
    "roles",
    metadata,
    sql.Column("name", sql.String(200), primary_key=True),
    sql.Column("description", sql.Text, nullable=False),
    sql.Column("privileges", sql.Text, nullable=False),
)

permissions = sql.Table(
    "permissions",
    metadata,
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=True),
    sql.Column("principal_type", sql.String(8), nullable=False),
    sql.Column("principal", sql.String(255), nullable=False),
    sql.Column("role", sql.String(200), nullable=False),
    sql.Column("cluster", sql.Integer, nullable=False),  # 0: the root
    sql.Column("propagate", sql.Boolean, nullable=False),
    sql.UniqueConstraint("principal_type", "principal", "cluster"),
    sqlite_autoincrement=True,
)

facts = sql.Table(
    "facts",
    metadata,
    sql.Column("name", sql.String(64), primary_key=True),
    sql.Column("value", sql.Text, nullable=False),
)


class Database:
    """Connections and transactions."""

    def __init__(self, url: str) -> None:
        """Opens and, where needed, creates the database. Raises RuntimeError for another schema version."""
        parsed = sql.make_url(url)
        self._engine: sql.Engine
        if parsed.get_backend_name() == "sqlite":
            if parsed.database and parsed.database != ":memory:":
                create_private(Path(parsed.database))
            self._engine = sql.create_engine(parsed, hide_parameters=True)
            event.listen(self._engine, "connect", prepare_sqlite)
            event.listen(self._engine, "begin", begin_immediate)
        else:
            self._engine = sql.create_engine(parsed, pool_pre_ping=True, hide_parameters=True)
        with self.transaction() as connection:
            prepare(connection)

    @contextmanager
    def transaction(self) -> Iterator[sql.Connection]:
        """A transaction: committed at the end, rolled back by an exception."""
        with self._engine.begin() as connection:
            yield connection

    def close(self) -> None:
        """Closes all connections."""
        self._engine.dispose()


def prepare(connection: sql.Connection) -> None:
    """Brings the tables to this release's schema, or makes them. Raises RuntimeError for a later one."""
    found = fact(connection, "schema_version") if sql.inspect(connection).has_table("facts") else None
    if found is not None:
        upgrade(connection, found, SCHEMA_VERSION)
    metadata.create_all(connection)
    set_fact(connection, "schema_version", SCHEMA_VERSION)
    if fact(connection, "epoch") is None:
        set_fact(connection, "epoch", "1")


def fact(connection: sql.Connection, name: str) -> str | None:
    """A single value that the manager keeps about itself."""
    return connection.execute(sql.select(facts.c.value).where(facts.c.name == name)).scalar_one_or_none()


def set_fact(connection: sql.Connection, name: str, value: str) -> None:
    """Sets or replaces a fact."""
    connection.execute(facts.delete().where(facts.c.name == name))
    connection.execute(facts.insert().values(name=name, value=value))


def create_private(path: Path) -> None:
    """The database file, 0600 from the first byte; SQLite gives its -wal and -shm files the same mode."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.close(descriptor)
    path.chmod(0o600)


def prepare_sqlite(connection: Any, _record: Any) -> None:
    """Durable and strict; transactions are begun by us, not by the driver."""
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
        connection.execute(f"PRAGMA {pragma}")


def begin_immediate(connection: sql.Connection) -> None:
    """Takes the write lock at once: a transaction that reads and then writes cannot fail in between."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")
