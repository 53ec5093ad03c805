# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that leaves takes the keys of native providers with it, in its memory and sealed to its TPM. So each
provider that was ever given to it gets a new key when it leaves, which is used at once: what the remaining
hosts encrypt from then on, the host that left cannot read. The new key wants a backup.

What was encrypted before stays readable for whoever has the old key and an old copy: to wrap those keys again
keeps them as they are. That ends the use of the old key, so that it can be removed; against a host that left
as an enemy, only new data keys help.
"""

from __future__ import annotations

import sqlalchemy as sql

from trusted_infrastructure.manager import crypto_events, events, native_providers, native_push
from trusted_infrastructure.manager.context import Manager
from trusted_infrastructure.manager.database import native_host_states
from trusted_infrastructure.manager.inventory import Host
from trusted_infrastructure.manager.native_providers import Provider
from trusted_infrastructure.manager.vapi.errors import NotAllowedInCurrentState


def departed(connection: sql.Connection, manager: Manager, host: Host) -> list[str]:
    """Gives every provider that the host may have a new key, in the transaction that removes the host.

    Returns what the host was given, for `withdraw_all`."""
    given = [name for name, row in native_push.rows_of(connection, host.name).items() if row.sent]
    table = native_host_states
    connection.execute(table.delete().where(table.c.host == host.name))
    for provider in native_providers.all_of(connection):
        if provider.name in given:
            replace_key(connection, manager, host, provider)
    return given


async def withdraw_all(manager: Manager, host: Host, given: list[str]) -> None:
    """Asks a host that has left to forget what it was given; it keeps it where it does not answer."""
    async with manager.push_locks[host.name]:
        for name in given:
            if not await native_push.asked_to_forget(manager, host.name, name):
                return


def replace_key(connection: sql.Connection, manager: Manager, host: Host, provider: Provider) -> None:
    """Another current key; an event says that it has no backup, or that there is no room for one."""
    key_id, code = native_providers.new_key_id(), ""
    text = (
        f"The native key provider {provider.name} has a new key, because {host.name} left with the old one. "
        "It has no backup: make one. Then wrap again what is under the old key, and remove it."
    )
    try:
        native_providers.rotate(connection, manager.secrets, provider, key_id, int(manager.clock()))
    except NotAllowedInCurrentState as error:
        key_id, code = provider.key_id, error.reason
        text = (
            f"The native key provider {provider.name} keeps the key that {host.name} left with: {error.text}"
        )
    crypto_events.record(
        manager,
        events.NATIVE_NOT_BACKED_UP_AFTER_UPDATE,
        text,
        operation="rotate",
        key_id=key_id,
        provider=provider.name,
        object_id=provider.name,
        host=host.name,
        cluster=host.cluster,
        code=code,
        connection=connection,
    )
