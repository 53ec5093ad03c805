# SPDX-License-Identifier: GPL-3.0-or-later
"""Native providers that are not backed up, said again every day (as vCenter Server's alarm comes back)."""

from __future__ import annotations

import sqlalchemy as sql

from trusted_infrastructure.manager import crypto_events, events, native_providers
from trusted_infrastructure.manager.context import Manager
from trusted_infrastructure.manager.native_providers import Provider

EVERY = 86400


def remind(manager: Manager) -> None:
    """An event for each provider that is not backed up, once a day."""
    now = int(manager.clock())
    with manager.database.transaction() as connection:
        due = [
            provider
            for provider in native_providers.all_of(connection)
            if not provider.backed_up and provider.reminded + EVERY <= now
        ]
        native_providers.reminded(connection, [provider.name for provider in due], now)
        for provider in due:
            not_backed_up(manager, connection, provider)


def not_backed_up(manager: Manager, connection: sql.Connection, provider: Provider, user: str = "") -> None:
    """The event of a provider that has no backup, or none of its current key."""
    text = f"The native key provider {provider.name} is not backed up, and cannot be used until it is."
    if provider.usable:
        text = f"The native key provider {provider.name} has a new key that is not backed up."
    crypto_events.record(
        manager,
        events.NATIVE_NOT_BACKED_UP_AFTER_UPDATE if provider.usable else events.NATIVE_NOT_BACKED_UP,
        text,
        operation="backup",
        user=user,
        key_id=provider.key_id,
        provider=provider.name,
        object_id=provider.name,
        connection=connection,
    )


def backed_up(manager: Manager, connection: sql.Connection, provider: Provider, user: str) -> None:
    """The events of a backup that has left: the operation, and whether all are backed up now."""
    crypto_events.record(
        manager,
        events.CRYPTO_OPERATION,
        f"The native key provider {provider.name} was backed up.",
        operation="backup",
        user=user,
        key_id=provider.key_id,
        provider=provider.name,
        object_id=provider.name,
        connection=connection,
    )
    if all(item.backed_up for item in native_providers.all_of(connection)):
        crypto_events.record(
            manager,
            events.NATIVE_ALL_BACKED_UP,
            "All native key providers are backed up.",
            operation="backup",
            user=user,
            connection=connection,
        )
