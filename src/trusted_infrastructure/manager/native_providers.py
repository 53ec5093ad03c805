# SPDX-License-Identifier: GPL-3.0-or-later
"""Native key providers as this manager keeps them: names, keys, and whether they were backed up.

Rules
1. A provider has one current key derivation key (KDK, 32 bytes) and any number of previous ones: a new key id
   is a new KDK, the old one goes on opening what hosts wrapped under it until it is removed. Ids of removed
   ones are kept, also those of a removed provider, of which a host that was off has them still: hosts keep
   what they are not told to forget, as this database may be an old backup.
2. A provider is usable, and pushed to hosts, from its first backup on: what nobody can restore encrypts
   nothing. A new key of a usable provider is used at once, and wants a backup of its own.
3. `tpm_required` is said when a provider is made or imported, and stays.
4. KDKs are in the database encrypted only (`database_secrets`), and leave it sealed to a host or in a backup.

Functions here work in the caller's transaction; nothing is sent to hosts (`native_push`).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sql

from trusted_infrastructure import key_delivery, wrapping
from trusted_infrastructure.manager.database import (
    native_key_providers,
    native_provider_keys,
    native_removed_keys,
)
from trusted_infrastructure.manager.database_secrets import DatabaseSecrets
from trusted_infrastructure.manager.vapi.errors import NotAllowedInCurrentState, NotFound

KEY_BYTES = wrapping.KEY_BYTES


@dataclass(frozen=True)
class Key:
    """A key derivation key. secret: 32 bytes. created: Unix seconds, when this manager first had it."""

    key_id: str
    secret: bytes = field(repr=False)
    check_value: str
    created: int


@dataclass(frozen=True)
class Provider:
    """A native provider. key_id: of its current key. usable: it was backed up once. backed_up: its current
    key was. reminded: when an event last said that it is not (Unix seconds)."""

    name: str
    key_id: str
    tpm_required: bool
    usable: bool
    backed_up: bool
    reminded: int


def all_of(connection: sql.Connection) -> list[Provider]:
    """All native providers, by name."""
    query = sql.select(native_key_providers).order_by(native_key_providers.c.name)
    return [of_row(row) for row in connection.execute(query)]


def find(connection: sql.Connection, name: str) -> Provider:
    """A provider. Raises NotFound."""
    query = sql.select(native_key_providers).where(native_key_providers.c.name == name)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"This manager has no native key provider {name!r}.", name, reason="no_provider")
    return of_row(row)


def of_row(row: sql.Row[Any]) -> Provider:
    """A row of `native_key_providers`."""
    return Provider(row.name, row.key_id, row.tpm_required, row.usable, row.backed_up, row.reminded)


def keys_of(connection: sql.Connection, secrets: DatabaseSecrets, provider: Provider) -> list[Key]:
    """The keys of a provider, the current one first, then the latest. Raises Unavailable `state_unusable`."""
    table = native_provider_keys
    query = sql.select(table).where(table.c.provider == provider.name).order_by(table.c.created.desc())
    keys = [
        Key(
            row.key_id,
            secrets.decrypt(purpose(provider.name, row.key_id), row.secret),
            row.check_value,
            row.created,
        )
        for row in connection.execute(query)
    ]
    return sorted(keys, key=lambda key: key.key_id != provider.key_id)


def check_values(connection: sql.Connection, provider: Provider) -> dict[str, str]:
    """Key id -> check value of a provider's keys: what hosts say that they have is compared with it."""
    table = native_provider_keys
    query = sql.select(table.c.key_id, table.c.check_value).where(table.c.provider == provider.name)
    return {row.key_id: row.check_value for row in connection.execute(query)}


def removed_keys(connection: sql.Connection, name: str) -> frozenset[str]:
    """Ids of the keys of a provider that were removed."""
    table = native_removed_keys
    query = sql.select(table.c.key_id).where(table.c.provider == name)
    return frozenset(connection.execute(query).scalars())


def purpose(provider: str, key_id: str) -> str:
    """What a key is encrypted for in the database: it opens as no other."""
    return f"native_provider/{provider}/{key_id}"


def add(
    connection: sql.Connection,
    secrets: DatabaseSecrets,
    provider: Provider,
    keys: Mapping[str, bytes],
    now: int,
) -> None:
    """A new provider with its keys (key id -> 32 bytes); a backup may bring back what was removed. The caller
    has checked that the name is free."""
    connection.execute(native_key_providers.insert().values(**provider.__dict__))
    table = native_removed_keys
    back = (table.c.provider == provider.name) & table.c.key_id.in_(list(keys))
    connection.execute(table.delete().where(back))
    for key_id, secret in keys.items():
        add_key(connection, secrets, provider.name, key_id, secret, now)


def add_key(
    connection: sql.Connection, secrets: DatabaseSecrets, name: str, key_id: str, secret: bytes, now: int
) -> None:
    """A further key of a provider."""
    connection.execute(
        native_provider_keys.insert().values(
            provider=name,
            key_id=key_id,
            secret=secrets.encrypt(purpose(name, key_id), secret),
            check_value=wrapping.check_value(secret, key_id),
            created=now,
        )
    )


def check_unused(connection: sql.Connection, name: str, key_id: str) -> None:
    """Hosts that were off may have an earlier key of this id. Raises NotAllowedInCurrentState
    `native_key_used`."""
    if key_id in removed_keys(connection, name):
        raise used_before(name, key_id)


def rotate(
    connection: sql.Connection, secrets: DatabaseSecrets, provider: Provider, key_id: str, now: int
) -> Provider:
    """The provider with a new current key of this id, which is not backed up; the present one is a previous
    key from now on.

    Raises NotAllowedInCurrentState `native_key_used` (an id that it had before), `too_many_native_keys`."""
    known = check_values(connection, provider)
    if key_id in known.keys() | removed_keys(connection, provider.name):
        raise used_before(provider.name, key_id)
    if len(known) > key_delivery.MAX_PREVIOUS_KEYS:
        raise NotAllowedInCurrentState(
            f"The native key provider {provider.name!r} has {len(known)} keys. Wrap what is under the "
            "previous ones again, and remove them.",
            provider.name,
            reason="too_many_native_keys",
        )
    add_key(connection, secrets, provider.name, key_id, new_key(), now)
    connection.execute(where(provider.name).values(key_id=key_id, backed_up=False, reminded=now))
    return find(connection, provider.name)


def used_before(name: str, key_id: str) -> NotAllowedInCurrentState:
    """The refusal of an id for a new key."""
    return NotAllowedInCurrentState(
        f"The native key provider {name!r} had the key {key_id} before; give another id.",
        key_id,
        reason="native_key_used",
    )


def remove_key(connection: sql.Connection, provider: Provider, key_id: str) -> None:
    """Removes a previous key, or one that only hosts have. Raises NotAllowedInCurrentState
    `native_key_current`."""
    if key_id == provider.key_id:
        raise is_current(provider.name, key_id)
    forget_key(connection, provider.name, key_id)


def is_current(name: str, key_id: str) -> NotAllowedInCurrentState:
    """The refusal of removing a provider's current key."""
    return NotAllowedInCurrentState(
        f"{key_id} is the current key of {name!r}; give the provider another one first.",
        key_id,
        reason="native_key_current",
    )


def forget_key(connection: sql.Connection, name: str, key_id: str) -> None:
    """Deletes a key, and remembers that this was meant."""
    table = native_provider_keys
    connection.execute(table.delete().where((table.c.provider == name) & (table.c.key_id == key_id)))
    if key_id not in removed_keys(connection, name):
        connection.execute(native_removed_keys.insert().values(provider=name, key_id=key_id))


def remove(connection: sql.Connection, name: str) -> None:
    """Removes a provider and its keys. Raises NotFound."""
    provider = find(connection, name)
    for key_id in check_values(connection, provider):
        forget_key(connection, name, key_id)
    connection.execute(native_key_providers.delete().where(native_key_providers.c.name == name))


def mark_backed_up(connection: sql.Connection, name: str, key_id: str) -> bool:
    """Notes that a backup with this current key has left the manager. Returns whether that is still the
    provider's current key; otherwise nothing changes."""
    table = native_key_providers
    changed = connection.execute(
        table.update()
        .where((table.c.name == name) & (table.c.key_id == key_id))
        .values(usable=True, backed_up=True)
    )
    return changed.rowcount == 1


def reminded(connection: sql.Connection, names: Sequence[str], now: int) -> None:
    """Notes that events have said that these are not backed up."""
    connection.execute(
        native_key_providers.update().where(native_key_providers.c.name.in_(names)).values(reminded=now)
    )


def where(name: str) -> sql.Update:
    """An update of one provider."""
    return native_key_providers.update().where(native_key_providers.c.name == name)


def new_key() -> bytes:
    """A new key derivation key."""
    return os.urandom(KEY_BYTES)


def new_key_id() -> str:
    """Id of a new key: a random UUID."""
    return str(uuid.uuid4())
