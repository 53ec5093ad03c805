# SPDX-License-Identifier: GPL-3.0-or-later
"""Events of certificates between this side and key servers that end soon: one a day for each."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass

from trusted_infrastructure.manager import events
from trusted_infrastructure.manager.context import Manager
from trusted_infrastructure.manager.events import Event
from trusted_infrastructure.manager.inventory import Cluster
from trusted_infrastructure.times import rfc3339

WARN_BEFORE = datetime.timedelta(days=30)


@dataclass(frozen=True)
class Ending:
    """A certificate. kind: the event of its end. server: whose it is; "" for the client's."""

    kind: str
    end: datetime.datetime
    server: str = ""


def remind(
    manager: Manager, provider: str, certificates: Iterable[Ending], cluster: Cluster | None = None
) -> None:
    """The events of those that end within 30 days, or have ended. cluster: whose provider it is; None: the
    manager's own."""
    now = manager.clock()
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
    number = None if cluster is None else cluster.number
    for one in certificates:
        if one.end - moment >= WARN_BEFORE:
            continue
        whose = one.server or "client"
        what = f"The certificate of key server {one.server}" if one.server else "The client certificate"
        ends = rfc3339(one.end.timestamp())
        event = Event(
            type=one.kind,
            time=int(now),
            message=f"{what} of provider {provider} ends at {ends}.",
            cluster=number,
            object=provider,
            details={"provider": provider, "server": whose, "ends": ends},
            origin=f"kms-certificate/{moment:%Y-%m-%d}/{one.kind}/{number or ''}/{provider}/{whose}"[:512],
        )
        with manager.database.transaction() as connection:
            events.record(connection, event)
