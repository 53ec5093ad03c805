# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes of standard key providers. All are made here: so none is without its encryption events, which are
in the transaction of the change."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sql

from trusted_infrastructure.manager import crypto_events, events, key_provider_events, standard_providers
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.standard_providers import StandardProvider


def write(context: Context, connection: sql.Connection, name: str, after: StandardProvider | None) -> None:
    """Keeps a provider in place of what was there; None forgets it."""
    before = standard_providers.providers(connection).get(name)
    if after is None:
        standard_providers.delete(connection, name)
    else:
        standard_providers.store(connection, name, after)
    for done in key_provider_events.differences(before, after):
        crypto_events.record(
            context.manager,
            events.CRYPTO_OPERATION,
            f"The standard key provider {name} {done.said}.",
            operation=done.operation,
            user=context.caller.user.name,
            provider=name,
            object_id=name,
            connection=connection,
        )


def change(context: Context, name: str, edit: Callable[[StandardProvider], StandardProvider]) -> None:
    """Changes a provider. Raises NotFound, and what `edit` raises."""
    with context.manager.database.transaction() as connection:
        write(context, connection, name, edit(standard_providers.find(connection, name)))
