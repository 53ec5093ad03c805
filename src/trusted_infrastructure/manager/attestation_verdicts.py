# SPDX-License-Identifier: GPL-3.0-or-later
"""What the Attestation Services of a Trust Authority Cluster say of hosts, and the events made of it.

Each service judges by itself and keeps its own history; the manager keeps none. It reads on in each service's
numbered transitions, so a round costs what happened since the last one, however many hosts there are. The
number up to which it has read is written in the transaction that writes the events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote

import msgspec
import sqlalchemy as sql

from trusted_infrastructure.manager import events
from trusted_infrastructure.manager.context import Manager
from trusted_infrastructure.manager.database import transition_cursors
from trusted_infrastructure.manager.inventory import Cluster, Host, hosts_of
from trusted_infrastructure.manager.nodes import NodeError, ask, ask_all
from trusted_infrastructure.times import Moment, rfc3339
from trusted_infrastructure.tokens.jws import Number

BASE = "/attestation/manage/v1"
PAGE = 500
# Pages in one round: what is left is read in the next, so that no service keeps the others waiting.
PAGES = 20

State = Literal["ATTESTED", "FAILED", "EXPIRED"]


class HostResult(msgspec.Struct, frozen=True, kw_only=True):
    """A service's last result of a host. Times: Unix seconds. until: end of the token."""

    principal: str
    host: str
    state: State
    since: Moment
    last: Moment
    until: Moment | None = None
    reason: str = ""
    message: str = ""
    base_image: str | None = None
    image_state: str = ""


class HostResults(msgspec.Struct, frozen=True):
    """A service's answer about all hosts."""

    hosts: list[HostResult]
    service: str = ""


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """A state of a host at a service, from `since` on."""

    sequence: Number
    principal: str
    host: str
    state: State
    since: Moment
    until: Moment | None = None
    reason: str = ""
    message: str = ""
    base_image: str | None = None
    image_state: str = ""
    attested_until: Moment | None = None


class Page(msgspec.Struct, frozen=True):
    """A service's answer about its transitions."""

    service: str
    history: str
    last: Number
    transitions: list[Transition]
    more: bool


class Past(msgspec.Struct, frozen=True):
    """A service's answer about one host, newest first."""

    service: str
    history: list[Transition]


async def verdicts(manager: Manager, hosts: Sequence[str]) -> Mapping[str, HostResults | NodeError]:
    """By Trust Authority host: what its service says of all hosts."""
    return await ask_all(manager.nodes, list(hosts), "GET", f"{BASE}/hosts", HostResults)


async def past(
    manager: Manager, authorities: Sequence[str], host: str, limit: int
) -> Mapping[str, Past | NodeError]:
    """By Trust Authority host: what its service knows of one host's past."""
    path = f"{BASE}/hosts/{quote(host, safe='')}/history?limit={limit}"
    return await ask_all(manager.nodes, list(authorities), "GET", path, Past)


async def collect(manager: Manager, cluster: Cluster) -> None:
    """Reads on in the transitions of every service of a cluster; those that do not answer, again later."""
    with manager.database.transaction() as connection:
        hosts = hosts_of(connection, cluster)
    await asyncio.gather(*(read_on(manager, cluster, host) for host in hosts))


async def read_on(manager: Manager, cluster: Cluster, host: Host) -> None:
    """Reads what one service noted since, and records the events."""
    for _page in range(PAGES):
        with manager.database.transaction() as connection:
            known, after = cursor(connection, host.name)
        path = f"{BASE}/transitions?after={after}&limit={PAGE}"
        try:
            page = await ask(manager.nodes, host.name, "GET", path, Page)
        except NodeError:
            return
        with manager.database.transaction() as connection:
            if known and page.history != known:
                # Another database: the host was set up anew, and its numbers begin again.
                set_cursor(connection, host.name, page.history, 0)
                continue
            for transition in page.transitions:
                events.record(connection, event(cluster, page, transition))
            read = page.transitions[-1].sequence if page.transitions else after
            if (known, after) != (page.history, read):
                set_cursor(connection, host.name, page.history, read)
        if not page.more:
            return


def cursor(connection: sql.Connection, host: str) -> tuple[str, int]:
    """Which history of a service was read, and how far; ("", 0) for none."""
    table = transition_cursors
    row = connection.execute(sql.select(table).where(table.c.host == host)).one_or_none()
    return ("", 0) if row is None else (row.history, row.sequence)


def set_cursor(connection: sql.Connection, host: str, history: str, sequence: int) -> None:
    """Remembers how far a service's history was read."""
    table = transition_cursors
    connection.execute(table.delete().where(table.c.host == host))
    connection.execute(table.insert().values(host=host, history=history, sequence=sequence))


def event(cluster: Cluster, page: Page, transition: Transition) -> events.Event:
    """The event of a transition. Its origin is the service's number, so it is recorded once."""
    host, service = transition.host, page.service
    staged = " (staged)" if transition.image_state == "STAGED" else ""
    said = {
        "ATTESTED": f"{service} attested {host} with base image {transition.base_image}{staged}",
        "FAILED": f"{service} refused {host}: {transition.reason}: {transition.message}",
        "EXPIRED": f"The attestation of {host} by {service} has expired",
    }
    details: dict[str, Any] = {
        "service": service,
        "principal": transition.principal,
        "state": transition.state,
        "since": rfc3339(transition.since),
        "reason": transition.reason,
        "message": transition.message,
        "base_image": transition.base_image,
        "base_image_state": transition.image_state,
    }
    return events.Event(
        type=events.OF_STATE[transition.state],
        time=transition.since,
        message=said[transition.state],
        host=host,
        cluster=cluster.number,
        details={name: value for name, value in details.items() if value not in ("", None)},
        origin=f"{service}:{page.history}:{transition.sequence}",
    )
