# SPDX-License-Identifier: GPL-3.0-or-later
"""How many wrapped keys hosts keep under a primary key, out of what each Trust Authority host knows. Pure.

A trusted host reports to the Trust Authority hosts that it reaches, and each of these marks what it wrapped
or opened for it since its last report there. Of several reports of one host the newest counts, which is
complete. A mark that is newer than that says that the host keeps at least one key.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec


class KnownUsage(msgspec.Struct, frozen=True):
    """What one Trust Authority host knows of one trusted host. reported, marks: Unix seconds."""

    scope: str
    host: str
    reported: float | None
    keys: dict[str, int]
    marks: dict[str, float]


class UsageAnswer(msgspec.Struct, frozen=True):
    """What one Trust Authority host knows of a provider."""

    usage: list[KnownUsage]


@dataclass(frozen=True)
class HostKeys:
    """A trusted host that keeps keys under a primary key. keys: at least that many. reported: Unix seconds of
    its newest report; None without one."""

    scope: str
    host: str
    keys: int
    reported: float | None


def holders(answers: Iterable[UsageAnswer], primary_key_id: str) -> list[HostKeys]:
    """The hosts that keep keys under the primary key, by scope and name."""
    of_host: dict[tuple[str, str], list[KnownUsage]] = {}
    for answer in answers:
        for known in answer.usage:
            of_host.setdefault((known.scope, known.host), []).append(known)
    found = [host_keys(of_host[host], primary_key_id) for host in sorted(of_host)]
    return [keys for keys in found if keys.keys]


def host_keys(known: list[KnownUsage], primary_key_id: str) -> HostKeys:
    """What all Trust Authority hosts together know of one host. known: not empty."""
    reports = [one for one in known if one.reported is not None]
    newest = max(reports, key=lambda one: one.reported or 0.0, default=None)
    reported = None if newest is None else newest.reported
    keys = 0 if newest is None else newest.keys.get(primary_key_id, 0)
    marked = max((one.marks.get(primary_key_id, 0.0) for one in known), default=0.0)
    if marked > (reported or 0.0):
        keys = max(keys, 1)
    return HostKeys(known[0].scope, known[0].host, keys, reported)
