# SPDX-License-Identifier: GPL-3.0-or-later
"""trust/events: what happened, with vSphere's event ids."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Annotated, Any

import msgspec
import sqlalchemy as sql

from trusted_infrastructure.manager import events
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.operations.structures import TRUST, TRUST_PATH
from trusted_infrastructure.manager.vapi.errors import InvalidArgument
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import FieldError, Structure, Timestamp, timestamp

PAGE = 1000
VALUES = 100

Limit = Annotated[int, msgspec.Meta(ge=1, le=PAGE)]
EventId = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class ListInput(Structure, frozen=True):
    """Input of list. types, hosts (names): one of these, where given. since, until: RFC 3339 with an offset;
    since <= time < until. after: events with a higher id, in order; unset: the latest ones."""

    types: list[str] | None = None
    hosts: list[str] | None = None
    since: str | None = None
    until: str | None = None
    after: EventId | None = None
    limit: Limit = 100

    def __post_init__(self) -> None:
        for name in ("since", "until"):
            moment(name, getattr(self, name))
        for name in ("types", "hosts"):
            if len(getattr(self, name) or []) > VALUES:
                raise FieldError(name, f"must not have more than {VALUES} values")


class Event(Structure, frozen=True):
    """An event. id: rises with each; whoever reads on asks with `after`. type: vSphere's event id. host: name
    of the host that it is about; object: of another thing. user: who caused it. details: by type."""

    id: int
    time: Timestamp
    type: str
    message: str
    host: str | None = None
    object: str | None = None
    user: str | None = None
    details: dict[str, Any] = {}


def moment(field: str, text: str | None) -> int | None:
    """Unix seconds, rounded up: events have whole ones. Raises FieldError."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is None:
            raise ValueError
        return math.ceil(found.timestamp())
    except (ValueError, OverflowError):
        raise FieldError(field, "must be a time with its offset, such as 2026-01-31T12:00:00Z") from None


async def list_events(context: Context, given: ListInput) -> list[Event]:
    limited = context.caller.user.cluster is not None
    wanted = events.Wanted(
        types=given.types or (),
        hosts=given.hosts or (),
        since=moment("since", given.since),
        until=moment("until", given.until),
        after=given.after,
        limit=given.limit,
        clusters=[cluster.number for cluster in context.clusters()] if limited else None,
    )
    with context.manager.database.transaction() as connection:
        return [event_of(row) for row in events.find(connection, wanted)]


def event_of(row: sql.Row[Any]) -> Event:
    """As the API gives it."""
    return Event(
        id=row.number,
        time=timestamp(row.time),
        type=row.type,
        message=row.message,
        host=row.host or None,
        object=row.object or None,
        user=row.user or None,
        details=msgspec.json.decode(row.details),
    )


OPERATIONS: Table = (
    Operation(
        service=f"{TRUST}.events",
        operation="list",
        method="GET",
        path=f"{TRUST_PATH}/events",
        summary="What happened: attestation of hosts",
        input=ListInput,
        output=list[Event],
        handler=list_events,
        privileges=privileges("System.View"),
        errors=(InvalidArgument,),
    ),
)
