# SPDX-License-Identifier: GPL-3.0-or-later
"""What the manager keeps of keys of standard providers: ids, states, uses, and which hosts were passed
them. No key is here, but for a check value by which another one under the same id shows."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sql

from trusted_infrastructure import wrapping
from trusted_infrastructure.kmip.servers import ServedKey
from trusted_infrastructure.manager.context import Manager
from trusted_infrastructure.manager.database import standard_key_hosts as key_hosts
from trusted_infrastructure.manager.database import standard_keys as table


@dataclass(frozen=True)
class Use:
    """What a key is put to use for, as KMIP's vendor attributes have it: component ("Virtual Machine"), name
    and identifier (instance UUID) of the object; each may be empty."""

    component: str = ""
    name: str = ""
    identifier: str = ""

    @property
    def attributes(self) -> dict[str, str]:
        """Vendor attributes, those that have a value."""
        values = {"x-Component": self.component, "x-Name": self.name, "x-Identifier": self.identifier}
        return {name: value for name, value in values.items() if value}

    def after(self, before: Use) -> Use:
        """This use of a key that was put to use before: of the same object, what is not said now stays. A
        host that got the object from another one knows no name of it."""
        if self.identifier not in ("", before.identifier):
            return self
        return Use(
            self.component or before.component,
            self.name or before.name,
            self.identifier or before.identifier,
        )


@dataclass(frozen=True)
class Asker:
    """For whom a key is made or got. user: of the event; host: name of a host that asked, or ""; request: by
    which that host knows what it asked for."""

    cluster: int
    user: str
    host: str = ""
    request: str = ""


@dataclass(frozen=True)
class KnownKey:
    """A key as the manager knows it. Times: Unix seconds. hosts: those that it was passed to, by name."""

    provider: str
    key_id: str
    cluster: int
    state: str
    use: Use
    created: int
    used_since: int | None
    checked: int
    check_value: str
    hosts: tuple[str, ...]


def insert(
    connection: sql.Connection, provider: str, key: ServedKey, asker: Asker, use: Use, now: int
) -> None:
    """Keep a key's id, in place of what was known of it."""
    forget(connection, provider, key.key_id)
    connection.execute(
        table.insert().values(
            provider=provider,
            key_id=key.key_id,
            cluster=asker.cluster,
            request=asker.request,
            check_value=wrapping.check_value(key.material, key.key_id),
            component=use.component,
            name=use.name,
            identifier=use.identifier,
            created=now,
            used_since=now if use.attributes else None,
            state=key.state,
            checked=now,
        )
    )


def forget(connection: sql.Connection, provider: str, key_id: str) -> None:
    """Know the key no more; the key servers keep it."""
    for one in (table, key_hosts):
        connection.execute(one.delete().where(one.c.provider == provider, one.c.key_id == key_id))


def forget_all(connection: sql.Connection, provider: str) -> int:
    """Know no key of a provider any more; how many there were."""
    connection.execute(key_hosts.delete().where(key_hosts.c.provider == provider))
    return connection.execute(table.delete().where(table.c.provider == provider)).rowcount


def keys(
    connection: sql.Connection, provider: str | None = None, key_id: str | None = None
) -> list[KnownKey]:
    """Keys that are known, by provider and id: all, or those of a provider, or of an id."""
    query, hosts = sql.select(table), sql.select(key_hosts)
    if provider is not None:
        query, hosts = (
            query.where(table.c.provider == provider),
            hosts.where(key_hosts.c.provider == provider),
        )
    if key_id is not None:
        query, hosts = query.where(table.c.key_id == key_id), hosts.where(key_hosts.c.key_id == key_id)
    passed: dict[tuple[str, str], list[str]] = {}
    for row in connection.execute(hosts.order_by(key_hosts.c.host)):
        passed.setdefault((row.provider, row.key_id), []).append(row.host)
    return [
        KnownKey(
            provider=row.provider,
            key_id=row.key_id,
            cluster=row.cluster,
            state=row.state,
            use=Use(row.component, row.name, row.identifier),
            created=row.created,
            used_since=row.used_since,
            checked=row.checked,
            check_value=row.check_value,
            hosts=tuple(passed.get((row.provider, row.key_id), ())),
        )
        for row in connection.execute(query.order_by(table.c.provider, table.c.key_id))
    ]


def ids(connection: sql.Connection) -> frozenset[str]:
    """Ids of all keys that are known, of any provider."""
    return frozenset(connection.execute(sql.select(table.c.key_id)).scalars())


def checked_longest_ago(connection: sql.Connection, provider: str, limit: int) -> list[str]:
    """Ids of keys of a provider, those first whose state was learned longest ago."""
    own = sql.select(table.c.key_id).where(table.c.provider == provider)
    return list(connection.execute(own.order_by(table.c.checked, table.c.key_id).limit(limit)).scalars())


def count(connection: sql.Connection, provider: str) -> int:
    """How many keys of a provider are known."""
    query = sql.select(sql.func.count()).select_from(table).where(table.c.provider == provider)
    return connection.execute(query).scalar_one()


def known(manager: Manager, provider: str, key_id: str) -> KnownKey | None:
    """What is known of a key."""
    with manager.database.transaction() as connection:
        found = keys(connection, provider, key_id)
    return found[0] if found else None


def made_for(manager: Manager, asker: Asker, provider: str) -> str | None:
    """Id of the key that was made for this request before: its answer was lost, or the manager restarted."""
    query = sql.select(table.c.key_id).where(
        table.c.request == asker.request, table.c.provider == provider, table.c.cluster == asker.cluster
    )
    with manager.database.transaction() as connection:
        return connection.execute(query).scalars().first()


def note_state(manager: Manager, provider: str, key_id: str, state: str | None) -> None:
    """Keep what state a key is in; None: it was not learned."""
    if state is not None:
        change(manager, provider, key_id, state=state, checked=int(manager.clock()))


def note_use(manager: Manager, provider: str, key_id: str, use: Use) -> None:
    """Keep what a key is used for."""
    change(
        manager,
        provider,
        key_id,
        component=use.component,
        name=use.name,
        identifier=use.identifier,
        used_since=int(manager.clock()),
    )


def note_host(manager: Manager, host: str, passed: list[tuple[str, str]]) -> None:
    """Keep that a host was passed keys: provider and key id of each."""
    with manager.database.transaction() as connection:
        for provider, key_id in passed:
            here = (
                (key_hosts.c.provider == provider)
                & (key_hosts.c.key_id == key_id)
                & (key_hosts.c.host == host)
            )
            connection.execute(key_hosts.delete().where(here))
            connection.execute(key_hosts.insert().values(provider=provider, key_id=key_id, host=host))


def departed(connection: sql.Connection, host: str) -> list[tuple[str, str]]:
    """A host left its cluster: the keys that it was passed, provider and key id of each."""
    query = sql.select(key_hosts).where(key_hosts.c.host == host)
    found = [(row.provider, row.key_id) for row in connection.execute(query)]
    connection.execute(key_hosts.delete().where(key_hosts.c.host == host))
    return found


def change(manager: Manager, provider: str, key_id: str, **values: object) -> None:
    """Other values in a key's row."""
    with manager.database.transaction() as connection:
        here = (table.c.provider == provider) & (table.c.key_id == key_id)
        connection.execute(table.update().where(here).values(**values))
