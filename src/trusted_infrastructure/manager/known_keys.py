# SPDX-License-Identifier: GPL-3.0-or-later
"""What the manager keeps of keys of standard providers: ids, states, uses, and which hosts were passed
them. No key is here, but for a check value by which another one under the same id shows."""

from __future__ import annotations

from collections.abc import Collection
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


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which keys: those with one of the values of each field (None: all). clusters: numbers. hosts: names of
    those that were passed the key. objects: names or identifiers. in_use: put to use for an object. after:
    those that follow this provider and key id. limit: at most so many."""

    providers: Collection[str] | None = None
    key_ids: Collection[str] | None = None
    states: Collection[str] | None = None
    clusters: Collection[int] | None = None
    hosts: Collection[str] | None = None
    objects: Collection[str] | None = None
    in_use: bool | None = None
    after: tuple[str, str] | None = None
    limit: int | None = None

    def conditions(self) -> list[sql.ColumnElement[bool]]:
        """All but `limit`."""
        chosen = {
            table.c.provider: self.providers,
            table.c.key_id: self.key_ids,
            table.c.state: self.states,
            table.c.cluster: self.clusters,
        }
        found: list[sql.ColumnElement[bool]] = [
            column.in_(values) for column, values in chosen.items() if values is not None
        ]
        if self.hosts is not None:
            same = (key_hosts.c.provider == table.c.provider) & (key_hosts.c.key_id == table.c.key_id)
            found.append(sql.exists().where(same, key_hosts.c.host.in_(self.hosts)))
        if self.objects is not None:
            found.append(table.c.name.in_(self.objects) | table.c.identifier.in_(self.objects))
        if self.in_use is not None:
            found.append(table.c.used_since.is_not(None) if self.in_use else table.c.used_since.is_(None))
        if self.after is not None:
            provider, key_id = self.after
            following = (table.c.provider == provider) & (table.c.key_id > key_id)
            found.append((table.c.provider > provider) | following)
        return found


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
            asked_by=asker.host,
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


def keys(connection: sql.Connection, wanted: Wanted) -> list[KnownKey]:
    """Keys that are known, in the order of provider and id."""
    query = sql.select(table).where(*wanted.conditions()).order_by(table.c.provider, table.c.key_id)
    rows = connection.execute(query.limit(wanted.limit)).all()
    hosts = sql.select(key_hosts).where(key_hosts.c.key_id.in_({row.key_id for row in rows}))
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
        for row in rows
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


def made_by(connection: sql.Connection, host: str) -> int:
    """How many keys are known that were made because a host asked for them."""
    query = sql.select(sql.func.count()).select_from(table).where(table.c.asked_by == host)
    return connection.execute(query).scalar_one()


def known(manager: Manager, provider: str, key_id: str) -> KnownKey | None:
    """What is known of a key."""
    with manager.database.transaction() as connection:
        found = keys(connection, Wanted(providers=[provider], key_ids=[key_id]))
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
