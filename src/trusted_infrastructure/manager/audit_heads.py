# SPDX-License-Identifier: GPL-3.0-or-later
"""Heads of the audit logs of Trust Authority hosts, kept here so that cutting a log's tail shows.

A log that lost records, or was replaced, is a warning in service-status until an administrator accepts it, or
removes its host from the cluster. The head that was seen before is kept; beside it older ones, one an hour
and then one a day, as the peers of the host keep them (`peers.heads`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import sqlalchemy as sql

from trusted_infrastructure.audit import Head, why_not_successor
from trusted_infrastructure.manager.context import Manager
from trusted_infrastructure.manager.database import audit_heads, earlier_audit_heads
from trusted_infrastructure.manager.inventory import Cluster, Host, hosts_of
from trusted_infrastructure.manager.nodes import NodeError, ask
from trusted_infrastructure.manager.vapi.errors import LocalizableMessage, message
from trusted_infrastructure.peers.heads import KeptHead, thinned
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tokens import AuditHeadClaims, verify_audit_head

Role = Literal["attestation-service", "key-provider-service"]
PATHS: dict[Role, str] = {
    "attestation-service": "/attestation/manage/v1/audit/head",
    "key-provider-service": "/kms/manage/v1/audit/head",
}


class SignedHead(msgspec.Struct, frozen=True):
    """A service's answer: the head as a JWS of its identity."""

    signed: str


@dataclass(frozen=True)
class KnownHead:
    """The last head that was in order. problem: what was wrong with one that came after it."""

    host: str
    role: str
    chain: str
    seq: int
    hash: str
    signed: str
    seen: int
    problem: str


async def collect(manager: Manager, cluster: Cluster) -> None:
    """Asks all services of a cluster's hosts for their heads; those that do not answer, again later."""
    with manager.database.transaction() as connection:
        hosts = hosts_of(connection, cluster)
    ca_pem = manager.settings.side_ca.read_text()
    await asyncio.gather(*(one(manager, host, role, ca_pem) for host in hosts for role in PATHS))


async def one(manager: Manager, host: Host, role: Role, ca_pem: str) -> None:
    """Asks one service, and records its head or what is wrong with it."""
    now = int(manager.clock())
    try:
        answer = await ask(manager.nodes, host.name, "GET", PATHS[role], SignedHead)
    except NodeError:
        return
    with manager.database.transaction() as connection:
        before = find(connection, host.name, role)
        try:
            claims = verify_audit_head(answer.signed, ca_pem, "trust_authority", role, now)
            problem = judge(before, claims, host.name)
        except Refusal as refusal:
            claims, problem = None, str(refusal)
        if claims is not None and not problem:
            head = KnownHead(
                host.name, role, claims.chain, claims.seq, claims.hash, answer.signed, now, problem
            )
            store(connection, head)
            if before is not None:
                remember(connection, before)
        elif before is not None:
            store(connection, KnownHead(**{**before.__dict__, "problem": problem}))


def judge(before: KnownHead | None, claims: AuditHeadClaims, host: str) -> str:
    """What is wrong with a head that comes after `before`; empty when nothing is. Pure."""
    if not claims.service_id.endswith(f"@{host}"):
        return f"{claims.service_id} answered for {host}"
    if before is None:
        return ""
    return why_not_successor(
        Head(before.chain, before.seq, before.hash), Head(claims.chain, claims.seq, claims.hash)
    )


def find(connection: sql.Connection, host: str, role: str) -> KnownHead | None:
    """The last head of a service that was in order."""
    condition = (audit_heads.c.host == host) & (audit_heads.c.role == role)
    row = connection.execute(sql.select(audit_heads).where(condition)).one_or_none()
    return None if row is None else KnownHead(**row._mapping)


def store(connection: sql.Connection, head: KnownHead) -> None:
    """Inserts or replaces a head."""
    condition = (audit_heads.c.host == head.host) & (audit_heads.c.role == head.role)
    connection.execute(audit_heads.delete().where(condition))
    connection.execute(audit_heads.insert().values(**head.__dict__))


def remember(connection: sql.Connection, head: KnownHead) -> None:
    """Keeps a head that is the last no more, as one of the earlier ones."""
    table = earlier_audit_heads
    mine = (table.c.host == head.host) & (table.c.role == head.role)
    heads = [KeptHead(head.chain, head.seq, head.hash, head.signed, head.seen), *earlier(connection, head)]
    kept = {one.seen: one for one in thinned(heads)}
    connection.execute(table.delete().where(mine & table.c.seen.not_in(list(kept))))
    if head.seen in kept and all(one.seen != head.seen for one in heads[1:]):
        row = msgspec.structs.asdict(kept[head.seen])
        connection.execute(table.insert().values(host=head.host, role=head.role, **row))


def earlier(connection: sql.Connection, head: KnownHead) -> list[KeptHead]:
    """Earlier heads of the same log, newest first."""
    table = earlier_audit_heads
    query = sql.select(table.c.chain, table.c.seq, table.c.hash, table.c.signed, table.c.seen)
    rows = connection.execute(
        query.where((table.c.host == head.host) & (table.c.role == head.role)).order_by(table.c.seen.desc())
    )
    return [KeptHead(**row._mapping) for row in rows]


def forget(connection: sql.Connection, host: str) -> bool:
    """Forgets the heads of a host that leaves, or whose log is accepted. Whether there were any."""
    found = connection.execute(audit_heads.delete().where(audit_heads.c.host == host))
    connection.execute(earlier_audit_heads.delete().where(earlier_audit_heads.c.host == host))
    return found.rowcount > 0


def known(connection: sql.Connection, hosts: Sequence[str]) -> list[KnownHead]:
    """The heads of hosts."""
    query = sql.select(audit_heads).where(audit_heads.c.host.in_(hosts))
    rows = connection.execute(query.order_by(audit_heads.c.host, audit_heads.c.role))
    return [KnownHead(**row._mapping) for row in rows]


def problems(connection: sql.Connection, hosts: Sequence[str], role: Role) -> list[LocalizableMessage]:
    """What is wrong with the audit logs of a service, for service-status."""
    return [
        message(f"{head.host}: {head.problem}", "audit_log", head.host)
        for head in known(connection, hosts)
        if head.role == role and head.problem
    ]
