# SPDX-License-Identifier: GPL-3.0-or-later
"""Encryption events: each has user, time, key id, operation and object. docs/events.md."""

from __future__ import annotations

import sqlalchemy as sql

from trusted_infrastructure.manager import events
from trusted_infrastructure.manager.context import Manager
from trusted_infrastructure.manager.events import Event


def record(
    manager: Manager,
    event_type: str,
    message: str,
    *,
    operation: str,
    user: str = "",
    key_id: str = "",
    provider: str = "",
    object_id: str = "",
    component: str = "",
    cluster: int | None = None,
    host: str = "",
    code: str = "",
    connection: sql.Connection | None = None,
) -> None:
    """Keep an encryption event, in the transaction of `connection` or, without one, in one of its own.

    event_type: a constant of `events`. operation: what was done or tried ("create", "get", "rewrap", ...).
    user: who asked for it; a host asks as "host:<name>". object_id: what the key is for. code: reason code of
    a failure. message: plain words, never a secret.
    """
    known = {
        "provider": provider,
        "component": component,
        "code": code,
    }
    event = Event(
        type=event_type,
        time=int(manager.clock()),
        message=message,
        host=host,
        cluster=cluster,
        object=object_id,
        user=user,
        operation=operation,
        key_id=key_id,
        details={name: value for name, value in known.items() if value},
    )
    if connection is not None:
        events.record(connection, event)
        return
    with manager.database.transaction() as own:
        events.record(own, event)
