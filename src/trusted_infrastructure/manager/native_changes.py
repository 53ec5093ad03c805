# SPDX-License-Identifier: GPL-3.0-or-later
"""What changes of native key providers have in common, whoever asks for them: registry, events, hosts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import sqlalchemy as sql
import structlog

from trusted_infrastructure.manager import (
    crypto_events,
    events,
    native_providers,
    native_push,
    provider_registry,
)
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.native_providers import Provider
from trusted_infrastructure.manager.vapi.errors import ResourceInaccessible

log = structlog.get_logger("trusted_infrastructure.manager")


def add(
    context: Context,
    connection: sql.Connection,
    provider: Provider,
    keys: Mapping[str, bytes],
    operation: str,
) -> None:
    """A new provider in database, registry and events. Raises AlreadyExists, UnableToAllocateResource."""
    manager = context.manager
    provider_registry.check_new(connection, provider.name)
    native_providers.add(connection, manager.secrets, provider, keys, int(manager.clock()))
    provider_registry.added(connection, provider.name)
    record(context, connection, provider, operation, "was imported" if provider.usable else "was made")


async def change(context: Context, work: Callable[[sql.Connection], None]) -> None:
    """Changes the providers, tells hosts which there are, and gives and takes keys.

    What is committed stays: a host that does not take it shows in the provider's health, and maintenance
    brings it up to date."""
    try:
        await provider_registry.change(context.manager, work)
    except ResourceInaccessible as error:
        log.warning("key_providers_not_published", reason=error.reason, text=error.text)
    await native_push.push_all(context.manager)


def record(
    context: Context, connection: sql.Connection, provider: Provider, operation: str, what: str
) -> None:
    """The encryption event of what a user did."""
    context.audit_detail.setdefault("key_id", provider.key_id)
    crypto_events.record(
        context.manager,
        events.CRYPTO_OPERATION,
        f"The native key provider {provider.name} {what}.",
        operation=operation,
        user=context.caller.user.name,
        key_id=provider.key_id,
        provider=provider.name,
        object_id=provider.name,
        connection=connection,
    )
