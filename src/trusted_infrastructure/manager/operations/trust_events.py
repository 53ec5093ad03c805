# SPDX-License-Identifier: GPL-3.0-or-later
"""trust/events: what happened, with vSphere's event ids; listed, and exported."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
import sqlalchemy as sql

from trusted_infrastructure.manager import event_export, events
from trusted_infrastructure.manager.context import Context, Manager
from trusted_infrastructure.manager.operations.structures import TRUST, TRUST_PATH
from trusted_infrastructure.manager.vapi.download import Download
from trusted_infrastructure.manager.vapi.errors import InvalidArgument
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import FieldError, Structure, Timestamp, timestamp

PAGE = 1000
EXPORTED = 100_000
VALUES = 100
LISTS = ("types", "hosts", "users", "objects", "key_ids", "operations")

Limit = Annotated[int, msgspec.Meta(ge=1, le=PAGE)]
ExportLimit = Annotated[int, msgspec.Meta(ge=1, le=EXPORTED)]
EventId = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class Filters(Structure, frozen=True):
    """Which events: those that have one of the values of each list that is given. hosts: names. since, until:
    RFC 3339 with an offset; since <= time < until. after: events with a higher id, in order; unset: the
    latest ones."""

    types: list[str] | None = None
    hosts: list[str] | None = None
    users: list[str] | None = None
    objects: list[str] | None = None
    key_ids: list[str] | None = None
    operations: list[str] | None = None
    since: str | None = None
    until: str | None = None
    after: EventId | None = None

    def __post_init__(self) -> None:
        for name in ("since", "until"):
            moment(name, getattr(self, name))
        for name in LISTS:
            if len(getattr(self, name) or []) > VALUES:
                raise FieldError(name, f"must not have more than {VALUES} values")


class ListInput(Filters, frozen=True):
    """Input of list."""

    limit: Limit = 100


class ExportInput(Filters, frozen=True, kw_only=True):
    """Input of export. format: JSON lines, or CSV."""

    format: Literal["jsonl", "csv"]
    limit: ExportLimit = EXPORTED


class Event(Structure, frozen=True):
    """An event. id: rises with each; whoever reads on asks with `after`. type: vSphere's event id. host: name
    of the host that it is about; object: of another thing. user: who caused it. operation, key_id: of
    encryption events. details: by type."""

    id: int
    time: Timestamp
    type: str
    message: str
    host: str | None = None
    object: str | None = None
    user: str | None = None
    operation: str | None = None
    key_id: str | None = None
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


def wanted_of(context: Context, given: ListInput | ExportInput) -> events.Wanted:
    """What is asked for, of what the caller may see."""
    return events.Wanted(
        **{name: getattr(given, name) or () for name in LISTS},
        since=moment("since", given.since),
        until=moment("until", given.until),
        after=given.after,
        limit=given.limit,
        clusters=context.limited_to(),
    )


async def list_events(context: Context, given: ListInput) -> list[Event]:
    wanted = wanted_of(context, given)
    with context.manager.database.transaction() as connection:
        return [event_of(row) for row in events.find(connection, wanted)]


async def export(context: Context, given: ExportInput) -> Download:
    return Download(
        pieces(context.manager, wanted_of(context, given), event_export.FORMATS[given.format]),
        event_export.MEDIA_TYPES[given.format],
        f"events.{given.format}",
    )


async def pieces(manager: Manager, wanted: events.Wanted, form: event_export.Format) -> AsyncIterator[bytes]:
    """The events page by page: nobody else waits for a long export, and it is never whole in memory."""
    yield form.head
    with manager.database.transaction() as connection:
        after, left = events.before_first(connection, wanted), wanted.limit
    while left > 0:
        with manager.database.transaction() as connection:
            rows = events.find(connection, replace(wanted, after=after, limit=min(PAGE, left)))
        if not rows:
            return
        yield form.lines([event_of(row) for row in rows])
        after, left = rows[-1].number, left - len(rows)
        await asyncio.sleep(0)


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
        operation=row.operation or None,
        key_id=row.key_id or None,
        details=msgspec.json.decode(row.details),
    )


OPERATIONS: Table = (
    Operation(
        service=f"{TRUST}.events",
        operation="list",
        method="GET",
        path=f"{TRUST_PATH}/events",
        summary="What happened: attestation of hosts, and encryption",
        input=ListInput,
        output=list[Event],
        handler=list_events,
        privileges=privileges("System.View"),
        errors=(InvalidArgument,),
    ),
    Operation(
        service=f"{TRUST}.events",
        operation="export",
        method="GET",
        path=f"{TRUST_PATH}/events/export",
        summary="What happened, as a file",
        input=ExportInput,
        output=Download,
        handler=export,
        privileges=privileges("System.View"),
        errors=(InvalidArgument,),
        media_types=tuple(event_export.MEDIA_TYPES.values()),
    ),
)
