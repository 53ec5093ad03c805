# SPDX-License-Identifier: GPL-3.0-or-later
"""Are the audit logs of a cluster whole? Each host checks its own against all heads that others keep of it.

A host reads its log itself, so one that was taken over can say what it likes; what it cannot do is rewrite
the heads that this manager and its peers keep. Where two keepers have different heads for one record,
somebody rewrote a log in between, and that is said without asking the host. docs/protocol.md 10.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from trusted_infrastructure.audit import Head
from trusted_infrastructure.manager import audit_heads
from trusted_infrastructure.manager.audit_heads import PATHS, Role
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.nodes import NodeError, ask, ask_all
from trusted_infrastructure.manager.service_reports import host_names
from trusted_infrastructure.manager.vapi.errors import ResourceInaccessible
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tokens import verify_kept_audit_head

MANAGER = "manager"
# A large log takes its time; a service gives up after 30 s.
LONG = 35.0


class PeerHead(msgspec.Struct, frozen=True):
    """What a service keeps of one peer's log."""

    signed: str
    problem: str = ""
    earlier: list[str] = []


class PeerHeads(msgspec.Struct, frozen=True):
    """A service's answer: by host."""

    peers: dict[str, PeerHead]


class HostVerification(msgspec.Struct, frozen=True):
    """A service's answer about its own log."""

    intact: bool
    records: int
    first: int
    head: Head
    reason: str = ""
    file: str | None = None
    broken_line: int | None = None
    record: int | None = None
    missing: Head | None = None


@dataclass(frozen=True)
class LogReport:
    """The result for one log. intact: None when its host did not answer. keepers: who keeps heads of it."""

    host: str
    role: Role
    intact: bool | None
    reason: str
    keepers: Mapping[str, int]
    verification: HostVerification | None = None


Kept = dict[str, list[Head]]
"""Keeper -> heads of one log."""


async def verify_all(context: Context) -> list[LogReport]:
    """All logs of the cluster's hosts, by host and role."""
    names = host_names(context)
    reports = await asyncio.gather(*(_verify_role(context, role, names) for role in PATHS))
    return sorted((one for found in reports for one in found), key=lambda one: (one.host, one.role))


async def _verify_role(context: Context, role: Role, names: list[str]) -> list[LogReport]:
    kept, problems = await heads_kept(context, role, names)
    return list(
        await asyncio.gather(
            *(_verify_one(context, role, name, kept[name], problems.get(name, "")) for name in names)
        )
    )


async def heads_kept(
    context: Context, role: Role, names: list[str]
) -> tuple[dict[str, Kept], dict[str, str]]:
    """By host, the heads of its log that this manager and its peers keep, and what they say is wrong."""
    kept: dict[str, Kept] = {name: {} for name in names}
    problems: dict[str, str] = {}
    with context.manager.database.transaction() as connection:
        for known in audit_heads.known(connection, names):
            if known.role == role:
                older = [Head(one.chain, one.seq, one.hash) for one in audit_heads.earlier(connection, known)]
                kept[known.host][MANAGER] = [Head(known.chain, known.seq, known.hash), *older]
                if known.problem:
                    problems[known.host] = known.problem
    ca_pem = context.manager.settings.side_ca.read_text()
    path = PATHS[role].removesuffix("head") + "peer-heads"
    answers = await ask_all(context.manager.nodes, names, "GET", path, PeerHeads)
    for keeper, answer in answers.items():
        if isinstance(answer, NodeError):
            continue
        for host, peer in answer.peers.items():
            if host in kept and host != keeper:
                kept[host][keeper] = verified(role, host, [peer.signed, *peer.earlier], ca_pem)
                if peer.problem:
                    problems.setdefault(host, f"{keeper} says: {peer.problem}")
    return kept, problems


def verified(role: Role, host: str, signed: list[str], ca_pem: str) -> list[Head]:
    """The heads that the host's own service signed; a peer's word alone makes no host look bad."""
    heads = []
    for jws in signed:
        try:
            claims = verify_kept_audit_head(jws, ca_pem, "trust_authority", role)
        except Refusal:
            continue
        if claims.service_id.partition("@")[2] == host:
            heads.append(Head(claims.chain, claims.seq, claims.hash))
    return heads


def contradiction(kept: Kept) -> str:
    """Which record the keepers remember differently; "" when they agree. Pure."""
    seen: dict[tuple[str, int], tuple[str, str]] = {}
    for keeper, heads in sorted(kept.items()):
        for head in heads:
            before = seen.setdefault((head.chain, head.seq), (head.hash, keeper))
            if before[0] != head.hash:
                return f"{before[1]} and {keeper} keep different heads for record {head.seq}"
    return ""


async def _verify_one(context: Context, role: Role, host: str, kept: Kept, problem: str) -> LogReport:
    keepers = {keeper: len(heads) for keeper, heads in kept.items() if heads}
    body = {"heads": [head for heads in kept.values() for head in heads]}
    path = PATHS[role].removesuffix("head") + "verify"
    try:
        found = await ask(context.manager.nodes, host, "POST", path, HostVerification, body, LONG)
    except NodeError as error:
        return LogReport(host, role, None, f"{error.code}: {error.text}", keepers)
    reason = found.reason
    if found.missing is not None:
        who = sorted(keeper for keeper, heads in kept.items() if found.missing in heads)
        reason += f" (kept by {', '.join(who)})"
    reason = reason or contradiction(kept) or problem
    return LogReport(host, role, not reason, reason, keepers, found)


async def accept(context: Context, host: str) -> bool:
    """Lets all keepers forget what they know of a host's logs. Whether any knew something.

    Raises ResourceInaccessible naming the keepers that did not answer."""
    names = [name for name in host_names(context) if name != host]
    failed: list[NodeError] = []
    changed = False
    for role in PATHS:
        path = PATHS[role].removesuffix("head") + f"peer-heads/{host}/accept"
        answers = await ask_all(context.manager.nodes, names, "POST", path, Changed)
        failed += [answer for answer in answers.values() if isinstance(answer, NodeError)]
        changed = changed or any(isinstance(one, Changed) and one.changed for one in answers.values())
    with context.manager.database.transaction() as connection:
        changed = audit_heads.forget(connection, host) or changed
    if failed:
        raise ResourceInaccessible(
            f"Not accepted by: {', '.join(sorted({one.host for one in failed}))}.",
            details=[one.message() for one in failed],
        )
    return changed


class Changed(msgspec.Struct, frozen=True):
    """A service's answer to an acceptance."""

    changed: bool
