# SPDX-License-Identifier: GPL-3.0-or-later
"""What happened, for people and for other systems: a table of events with vSphere's ids, for both sides.

General on purpose: an event has a type, a time, and whom and what it is about; anything else is in `details`.
`origin` names what an event came from: the same origin is recorded once, however often it is seen, by
whichever instance, before and after a restart.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import sqlalchemy as sql

from trusted_infrastructure.manager.database import events

HOST_ATTESTED = "com.vmware.vc.TaHostAttestPassEvent"
HOST_NOT_ATTESTED = "com.vmware.vc.TaHostAttestFailEvent"
HOST_ATTESTATION_UNSET = "com.vmware.vc.TaHostAttestUnsetEvent"
OF_STATE = {
    "ATTESTED": HOST_ATTESTED,
    "FAILED": HOST_NOT_ATTESTED,
    "EXPIRED": HOST_ATTESTATION_UNSET,
    "UNREACHABLE": HOST_ATTESTATION_UNSET,
}
# Encryption events (docs/events.md).
CRYPTO_OPERATION = "com.vmware.vc.crypto.Operation"
SEND_KEY_HOST_ERROR = "com.vmware.vc.host.Crypto.SendKeyError.HostError"
SEND_KEY_MISSING_ON_KMS = "com.vmware.vc.kms.crypto.SendKeyError.KeyMissingOnKMS"
SEND_KEY_KMS_CLUSTER_ERROR = "com.vmware.vc.kms.crypto.SendKeyError.KMSClusterError"
KEY_GENERATE_FAIL = "com.vmware.vc.kms.crypto.KeyGenerateFail"
KMS_UNREACHABLE = "com.vmware.vc.kms.crypto.Unreachable"
KMS_VENDOR = "com.vmware.vc.kms.crypto.Vendor"
NATIVE_NOT_BACKED_UP = "com.vmware.vc.kms.crypto.NotBackedUp"
NATIVE_NOT_BACKED_UP_AFTER_UPDATE = "com.vmware.vc.kms.crypto.NotBackedUpAfterUpdate"
NATIVE_ALL_BACKED_UP = "com.vmware.vc.kms.crypto.AllBackedUp"
TRUST_AUTHORITY_UNHEALTHY = "com.vmware.vc.kms.crypto.TrustAuthority.ClusterUnhealthy"
TRUST_AUTHORITY_KMS_UNHEALTHY = "com.vmware.vc.kms.crypto.TrustAuthority.KmsUnhealthy"
TRUST_AUTHORITY_UNAVAILABLE = "com.vmware.vc.kms.crypto.TrustAuthority.ClusterNotAvailable"
HOST_TPM_CONFIG_ENCRYPTION = "com.vmware.vc.HostTpmConfigEncryptionEvent"
KMS_CLIENT_CERTIFICATE_EXPIRES = "com.vmware.vc.vecs.KMSClientCertExpirationEvent"
KMS_SERVER_CERTIFICATE_EXPIRES = "com.vmware.vc.vecs.KMSServerCertExpirationEvent"
TRUSTED_CLIENT_CERTIFICATE_EXPIRES = "com.vmware.vc.TrustAuthority.KMSClientCertExpirationEvent"
TRUSTED_SERVER_CERTIFICATE_EXPIRES = "com.vmware.vc.TrustAuthority.KMSServerCertExpirationEvent"
# SQLite deletes that many in a few milliseconds; the rest goes in the next round.
FORGET_AT_ONCE = 10_000


@dataclass(frozen=True, kw_only=True)
class Event:
    """type: vSphere event id. time: when it happened, Unix seconds. message: plain words, no secrets.

    host: name of the host that it is about, "" for none. cluster: number of the cluster, for who may see it;
    None: only who may see everything. object: of other things. user: who caused it, "" for nobody.
    operation, key_id: of encryption events, "" for others.
    """

    type: str
    time: int
    message: str
    host: str = ""
    cluster: int | None = None
    object: str = ""
    user: str = ""
    operation: str = ""
    key_id: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    origin: str | None = None


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which events: those with one of the values of each field (empty: all), since <= time < until (Unix
    seconds).

    after: those with a higher id, in order; None: the latest. clusters: numbers; None: everything.
    """

    types: Collection[str] = ()
    hosts: Collection[str] = ()
    users: Collection[str] = ()
    objects: Collection[str] = ()
    key_ids: Collection[str] = ()
    operations: Collection[str] = ()
    since: int | None = None
    until: int | None = None
    after: int | None = None
    limit: int = 100
    clusters: Collection[int] | None = None


def record(connection: sql.Connection, event: Event) -> bool:
    """Keep an event, unless its origin is known. Returns whether it is new."""
    if event.origin is not None:
        known = sql.select(events.c.number).where(events.c.origin == event.origin)
        if connection.execute(known).first() is not None:
            return False
    connection.execute(
        events.insert().values(
            **{
                **event.__dict__,
                "details": msgspec.json.encode(event.details).decode(),
            }
        )
    )
    return True


def find(connection: sql.Connection, wanted: Wanted) -> Sequence[sql.Row[Any]]:
    """Events in the order of their ids: the next ones after an id, or the latest."""
    query = sql.select(events).where(*conditions(wanted))
    if wanted.after is not None:
        query = query.where(events.c.number > wanted.after).order_by(events.c.number).limit(wanted.limit)
        return connection.execute(query).all()
    latest = connection.execute(query.order_by(events.c.number.desc()).limit(wanted.limit)).all()
    return list(reversed(latest))


def before_first(connection: sql.Connection, wanted: Wanted) -> int:
    """The id after which `find` begins: for who reads page by page what `find` would give at once."""
    if wanted.after is not None:
        return wanted.after
    query = sql.select(events.c.number).where(*conditions(wanted)).order_by(events.c.number.desc())
    first = connection.execute(query.offset(wanted.limit - 1).limit(1)).scalar_one_or_none()
    return 0 if first is None else first - 1


def conditions(wanted: Wanted) -> list[sql.ColumnElement[bool]]:
    """Of what is wanted, all but `after` and `limit`."""
    chosen = {
        events.c.type: wanted.types,
        events.c.host: wanted.hosts,
        events.c.user: wanted.users,
        events.c.object: wanted.objects,
        events.c.key_id: wanted.key_ids,
        events.c.operation: wanted.operations,
    }
    found: list[sql.ColumnElement[bool]] = [column.in_(values) for column, values in chosen.items() if values]
    if wanted.since is not None:
        found.append(events.c.time >= wanted.since)
    if wanted.until is not None:
        found.append(events.c.time < wanted.until)
    if wanted.clusters is not None:
        found.append(events.c.cluster.in_(wanted.clusters))
    return found


def forget(connection: sql.Connection, now: int, retention: int, limit: int) -> None:
    """Forget events that are too old (retention: seconds), and what is above `limit`.

    Of too many, hosts with more than twice their share lose their oldest first: one that is refused again and
    again, for ever other reasons, does not push out what happened to the others."""
    connection.execute(events.delete().where(events.c.time < now - retention))
    excess = (connection.execute(sql.select(sql.func.count()).select_from(events)).scalar() or 0) - limit
    if excess <= 0:
        return
    excess = min(excess, FORGET_AT_ONCE)
    total = sql.func.count().label("total")
    hosts = connection.execute(sql.select(events.c.host, total).group_by(events.c.host)).all()
    share = max(1, limit // len(hosts))
    for row in sorted(hosts, key=lambda row: -int(row.total)):
        if row.total <= 2 * share or excess <= 0:
            break
        going = min(excess, row.total - share)
        forget_oldest(connection, going, events.c.host == row.host)
        excess -= going
    if excess > 0:
        forget_oldest(connection, excess, sql.true())


def forget_oldest(connection: sql.Connection, count: int, which: sql.ColumnElement[bool]) -> None:
    """Forget the oldest events of those that fit."""
    batch = sql.select(events.c.number).where(which).order_by(events.c.number).limit(count)
    connection.execute(events.delete().where(events.c.number.in_(batch)))
