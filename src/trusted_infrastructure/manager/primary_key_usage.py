# SPDX-License-Identifier: GPL-3.0-or-later
"""How many wrapped keys hosts keep under a primary key, out of what each Trust Authority host knows. Pure.

A trusted host reports to the Trust Authority hosts that it reaches, and each of these counts what it wrapped
for it that the report there does not cover. What one of them wrapped, its own report or count has. So the
report with the most, and all that was wrapped since, are never fewer than there are. No clock is compared.
A Trust Authority host can count too much, and cannot take from what another one counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import msgspec

from trusted_infrastructure.times import LATEST
from trusted_infrastructure.tokens.jws import ReadableName

Count = Annotated[int, msgspec.Meta(ge=0)]


class KnownUsage(msgspec.Struct, frozen=True):
    """What one Trust Authority host knows of one trusted host. reported: Unix seconds. keys: what the host
    reported; marks: what was wrapped for it and is in no report (`unreported` on the wire)."""

    scope: ReadableName
    host: ReadableName
    reported: Annotated[float, msgspec.Meta(ge=0, le=LATEST)] | None
    keys: dict[str, Count]
    marks: dict[str, Count] = msgspec.field(name="unreported")


class UsageAnswer(msgspec.Struct, frozen=True):
    """What one Trust Authority host knows of a provider."""

    usage: list[KnownUsage]


@dataclass(frozen=True)
class HostKeys:
    """A trusted host that keeps keys under a primary key. keys: never fewer than it has; until its next
    report it may be more. reported: Unix seconds of its newest report; None without one."""

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
    keys = max(one.keys.get(primary_key_id, 0) for one in known)
    keys += sum(one.marks.get(primary_key_id, 0) for one in known)
    reported = max((one.reported for one in known if one.reported is not None), default=None)
    return HostKeys(known[0].scope, known[0].host, keys, reported)
