# SPDX-License-Identifier: GPL-3.0-or-later
"""How the workload side's hosts stand and stood: what their agents say, kept by the manager.

Every host is asked once in a while (`poll`), some at once; nothing is written while nothing changes, and what
changed is written in one transaction. A host that does not answer is UNREACHABLE since the first question
that it did not answer. Each change is an event.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sql

from trusted_infrastructure.manager import events
from trusted_infrastructure.manager.context import Manager
from trusted_infrastructure.manager.database import attestation_states
from trusted_infrastructure.manager.inventory import Host, all_hosts
from trusted_infrastructure.times import LATEST, rfc3339

KEPT_PER_HOST = 100
KEPT = 90 * 86_400
# Questions at once: hosts that do not answer take a time-out each, and nobody else waits for them.
AT_ONCE = 32
TIMEOUT = 5.0
FEW = 100

table = attestation_states


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is said of a host now. Times: Unix seconds. since: as its agent says, None where nobody says."""

    state: str
    reason: str = ""
    message: str = ""
    base_image: str = ""
    base_image_state: str = ""
    since: int | None = None
    attested_until: int | None = None
    service: str = ""
    service_address: str = ""

    @property
    def change(self) -> tuple[str, str, str, str]:
        """What makes a new entry when it differs: renewed tokens and other words do not."""
        return (self.state, self.reason, self.base_image, self.base_image_state)


Look = Callable[[Host, float], Awaitable[Seen]]


async def poll(manager: Manager, look: Look) -> None:
    """One round over all hosts. look: asks one, with a time-out in seconds."""
    with manager.database.transaction() as connection:
        hosts = all_hosts(connection)
    places = asyncio.Semaphore(AT_ONCE)

    async def one(host: Host) -> Seen:
        async with places:
            return await look(host, TIMEOUT)

    seen = await asyncio.gather(*(one(host) for host in hosts))
    with manager.database.transaction() as connection:
        known = {host.number: host for host in all_hosts(connection)}
        note(
            connection,
            [(host, what) for host, what in zip(hosts, seen, strict=True) if host.number in known],
            int(manager.clock()),
        )
        forget(connection, [host.name for host in known.values()], int(manager.clock()))


def note(connection: sql.Connection, seen: Sequence[tuple[Host, Seen]], now: int) -> dict[str, int]:
    """Keep what was seen. Returns since when each host (name) is in its state."""
    query = sql.select(table).where(table.c.until.is_(None))
    if len(seen) <= FEW:
        query = query.where(table.c.host.in_([host.name for host, _what in seen]))
    current = {row.host: row for row in connection.execute(query)}
    found: dict[str, int] = {}
    for host, what in seen:
        before = current.get(host.name)
        if before is None or _of(before).change != what.change:
            found[host.name] = _begin(connection, host, before, what, now)
            continue
        found[host.name] = before.since
        later = {name: getattr(what, name) for name in ("message", "attested_until")}
        if what.state == "ATTESTED":
            later |= {"service": what.service, "service_address": what.service_address}
        if any(getattr(before, name) != value for name, value in later.items()):
            connection.execute(table.update().where(table.c.number == before.number).values(**later))
    return found


def history(connection: sql.Connection, host: str, limit: int) -> Sequence[sql.Row[Any]]:
    """States of a host (name), newest first."""
    query = sql.select(table).where(table.c.host == host).order_by(table.c.number.desc()).limit(limit)
    return connection.execute(query).all()


def forget(connection: sql.Connection, hosts: Sequence[str], now: int) -> None:
    """Forget states that ended long ago, and hosts that are no longer there."""
    connection.execute(table.delete().where(table.c.until < now - KEPT))
    there = {row.host for row in connection.execute(sql.select(table.c.host).where(table.c.until.is_(None)))}
    for gone in sorted(there - set(hosts)):
        connection.execute(table.delete().where(table.c.host == gone))


def seconds_of(text: str | None) -> int | None:
    """Unix seconds of an RFC 3339 time; None for none, and for what is none, or in no year that can be said:
    with its offset, a time of the year 9999 may be later than that."""
    try:
        moment = datetime.datetime.fromisoformat(text or "")
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    seconds = int(moment.timestamp())
    return seconds if 0 <= seconds <= LATEST else None


def _of(row: sql.Row[Any]) -> Seen:
    names = Seen.__dataclass_fields__
    return Seen(**{name: row._mapping[name] for name in names})


def _begin(connection: sql.Connection, host: Host, before: sql.Row[Any] | None, what: Seen, now: int) -> int:
    """End the entry before, begin a new one with its event; since when it is."""
    since = _since(before, what, now)
    if before is not None:
        connection.execute(table.update().where(table.c.number == before.number).values(until=since))
    values = {**what.__dict__, "since": since, "host": host.name}
    connection.execute(table.insert().values(**values))
    excess = (
        sql.select(table.c.number)
        .where(table.c.host == host.name)
        .order_by(table.c.number.desc())
        .offset(KEPT_PER_HOST)
        .limit(KEPT_PER_HOST)
    )
    connection.execute(table.delete().where(table.c.number.in_(excess)))
    number = before.number if before is not None else 0
    events.record(connection, _event(host, what, since, number))
    return since


def _since(before: sql.Row[Any] | None, what: Seen, now: int) -> int:
    """The agent's word where it fits between what was known before and now."""
    earliest = before.since if before is not None else 0
    same_state = before is not None and (before.state, before.reason) == (what.state, what.reason)
    if what.since is None or same_state or not earliest < what.since <= now:
        return now
    return what.since


def _event(host: Host, what: Seen, since: int, before: int) -> events.Event:
    image = f" with base image {what.base_image}" if what.base_image else ""
    staged = " (staged)" if what.base_image_state == "STAGED" else ""
    reason = f": {what.reason}: {what.message}" if what.reason else ""
    said = {
        "ATTESTED": f"{host.name} is attested{image}{staged}",
        "FAILED": f"{host.name} is not attested{reason}",
        "EXPIRED": f"The attestation of {host.name} has expired{reason}",
        "UNREACHABLE": f"The attestation of {host.name} is not known{reason}",
    }
    details = {name: value for name, value in what.__dict__.items() if value not in ("", None)}
    times = {name: rfc3339(details[name]) for name in ("attested_until",) if name in details}
    return events.Event(
        type=events.OF_STATE[what.state],
        time=since,
        message=said[what.state],
        host=host.name,
        cluster=host.cluster,
        details={**details, **times, "since": rfc3339(since)},
        origin=f"agent@{host.name}:{host.number}:{before}:{since}:{what.state}",
    )
