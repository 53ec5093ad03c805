# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys that hosts keep for objects, wrapped: which there are, and having them wrapped again."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

import msgspec

from trusted_infrastructure.key_delivery import (
    MAX_OBJECTS,
    MAX_PAGE,
    KeyRecord,
    KeyRecords,
    LeftKey,
    RewrapKeys,
    RewrapReport,
)
from trusted_infrastructure.manager import crypto_events, events
from trusted_infrastructure.manager.context import Manager
from trusted_infrastructure.manager.inventory import Host, is_member
from trusted_infrastructure.manager.nodes import AGENT, TEXT_LIMIT, NodeError, ask

KEYS = f"{AGENT}/keys"
# An agent answers a request to wrap keys again after 45 s with what it has, and the last key may take longer.
REWRAP_TIMEOUT = 100.0
# Seconds for all keys of one host. The most that a host keeps take about an hour at the rate of one host.
REWRAP_LIMIT = 6 * 3600.0
UNFINISHED = "rewrap_unfinished"
# More than this a host does not keep: what says so is no report, and would be asked for ever.
MOST_KEYS = 65_536
# Events in one transaction: others wait for it.
EVENTS_AT_ONCE = 200


@dataclass(frozen=True)
class Use:
    """What a host keeps under the primary keys of a provider. counts: id of a primary key -> keys of objects.
    complete: there are no further ones."""

    counts: Counter[str]
    complete: bool


@dataclass(frozen=True)
class Rewrapped:
    """What came of a request at one host. failure: why nothing, or nothing more, was done there."""

    host: Host
    report: RewrapReport
    failure: NodeError | None = None


async def page(manager: Manager, host: Host, after: str, limit: int = MAX_PAGE) -> KeyRecords:
    """The keys that a host keeps, by their ids: those after one, at most `limit`. Raises NodeError."""
    path = f"{KEYS}?{urlencode({'after': after, 'limit': limit})}"
    found = await ask(manager.nodes, host.name, "GET", path, KeyRecords)
    # Whatever the host says: who reads on with the last one must get on.
    later = sorted((key for key in found.keys if key.key_id > after), key=lambda key: key.key_id)
    return msgspec.structs.replace(found, keys=later[:limit])


async def use_of(manager: Manager, host: Host, provider: str) -> Use:
    """What a host keeps under the primary keys of a provider, read page by page. Raises NodeError."""
    counts: Counter[str] = Counter()
    unreadable, read, after = 0, 0, ""
    while read < MOST_KEYS:
        found = await page(manager, host, after)
        counts.update(key.primary_key_id or "" for key in found.keys if key.provider == provider)
        unreadable = max(unreadable, found.unreadable)
        if len(found.keys) < MAX_PAGE:
            return Use(counts, complete=not unreadable)
        read += len(found.keys)
        after = found.keys[-1].key_id
    return Use(counts, complete=False)


async def rewrap(
    manager: Manager, hosts: Sequence[Host], asked: RewrapKeys, user: str, done: Callable[[int], None]
) -> list[Rewrapped]:
    """Have all hosts wrap keys again, at once; what came of it, with events. A host that does not answer does
    not keep the others. done: told how many hosts are through."""
    finished = 0

    async def one(host: Host) -> Rewrapped:
        nonlocal finished
        result = await rewrap_on(manager, host, asked)
        if not asked.dry_run:
            await record(manager, result, user)
        finished += 1
        done(finished)
        return result

    return list(await asyncio.gather(*(one(host) for host in hosts)))


async def rewrap_on(manager: Manager, host: Host, asked: RewrapKeys) -> Rewrapped:
    """One host. Keys for which it had no time are asked for again, as long as it gets on and is a member; and
    those alone, because with `replace` each of the others would get another key encryption key."""
    end = time.monotonic() + REWRAP_LIMIT
    rewrapped: list[KeyRecord] = []
    left: list[LeftKey] = []
    deep: dict[str, KeyRecord] = {}
    rest: list[LeftKey] = []
    failure = None
    while True:
        try:
            report = await ask(
                manager.nodes, host.name, "POST", f"{KEYS}/rewrap", RewrapReport, asked, REWRAP_TIMEOUT
            )
        except NodeError as error:
            failure = error
            break
        rewrapped += report.rewrapped
        deep |= {key.key_id: key for key in report.deep_recrypt}
        refused = [msgspec.structs.replace(key, message=key.message[:TEXT_LIMIT]) for key in report.left]
        left += [key for key in refused if key.code != UNFINISHED]
        rest = [key for key in refused if key.code == UNFINISHED] + rest[MAX_OBJECTS:]
        told = max(len(rewrapped) + len(left) + len(rest), len(deep))
        if not rest or not report.rewrapped or told > MOST_KEYS or time.monotonic() > end:
            break
        with manager.database.transaction() as connection:
            if not is_member(connection, host):
                break
        asked = msgspec.structs.replace(asked, key_ids=[key.key_id for key in rest[:MAX_OBJECTS]])
    return Rewrapped(
        host,
        RewrapReport(
            rewrapped=rewrapped[:MOST_KEYS],
            left=(left + rest)[:MOST_KEYS],
            deep_recrypt=list(deep.values())[:MOST_KEYS],
        ),
        failure,
    )


async def record(manager: Manager, result: Rewrapped, user: str) -> None:
    """An event for each key that was wrapped again, and one for all that were not."""
    rewrapped = result.report.rewrapped
    for first in range(0, len(rewrapped), EVENTS_AT_ONCE):
        record_rewrapped(manager, result.host, rewrapped[first : first + EVENTS_AT_ONCE], user)
        await asyncio.sleep(0)
    if result.report.left or result.failure is not None:
        record_left(manager, result, user)


def record_rewrapped(manager: Manager, host: Host, keys: Sequence[KeyRecord], user: str) -> None:
    """An event for each of these keys."""
    with manager.database.transaction() as connection:
        for key in keys:
            crypto_events.record(
                manager,
                events.CRYPTO_OPERATION,
                f"Host {host.name} wrapped the key of object {key.object_id!r} again, under provider"
                f" {key.provider!r}" + ("; its data needs a new key." if key.deep_recrypt else "."),
                operation="rewrap",
                user=user,
                key_id=key.key_id,
                provider=key.provider,
                object_id=key.object_id,
                component=key.component,
                cluster=host.cluster,
                host=host.name,
                connection=connection,
            )


def record_left(manager: Manager, result: Rewrapped, user: str) -> None:
    """One event for all that were not wrapped again."""
    host = result.host
    codes = Counter(left.code[:64] for left in result.report.left)
    reasons = ", ".join(f"{count} {code}" for code, count in codes.most_common(20))
    code = result.failure.code if result.failure is not None else codes.most_common(1)[0][0]
    crypto_events.record(
        manager,
        events.CRYPTO_OPERATION,
        f"Host {host.name} did not wrap all keys again: "
        + (reasons if result.failure is None else result.failure.text),
        operation="rewrap",
        user=user,
        cluster=host.cluster,
        host=host.name,
        code=code,
    )
