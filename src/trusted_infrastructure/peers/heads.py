# SPDX-License-Identifier: GPL-3.0-or-later
"""What a service keeps of its peers' audit heads, and when one does not follow the one before. Pure.

The last head that was in order is kept, never a lower one and never one of another chain: that takes an
administrator's act. Beside it, older ones are kept, one an hour and then one a day: a log that was cut, and
has grown beyond the last head since, still does not hold those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from trusted_infrastructure.audit import Head, why_not_successor
from trusted_infrastructure.clock_guard import Measurement
from trusted_infrastructure.tokens import AuditHeadClaims

HOURLY, HOURS = 3600, 12
DAILY, DAYS = 86_400, 14
SHORTENED = "audit_log_shortened"


class KeptHead(msgspec.Struct, frozen=True):
    """A head of a peer, signed by it. seen: Unix seconds."""

    chain: str
    seq: int
    hash: str
    signed: str
    seen: int

    @property
    def head(self) -> Head:
        """Without the signature."""
        return Head(self.chain, self.seq, self.hash)


class KnownPeer(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one peer. last: its last head that was in order. earlier: older ones, newest first.

    problem: what is wrong with the head that it answered with since; "" when nothing is. asked: when it last
    answered with a head of its own (Unix seconds). security_generation: as it said then; clock: as it showed.
    """

    last: KeptHead
    earlier: list[KeptHead] = []
    problem: str = ""
    asked: int = 0
    security_generation: int | None = None
    clock: Measurement | None = None


class PeerState(msgspec.Struct, frozen=True):
    """The state file: host -> what is known of it."""

    version: int = 1
    peers: dict[str, KnownPeer] = {}


@dataclass(frozen=True)
class Heard:
    """A verified answer of a peer. now: Unix seconds. clock: None where it took too long."""

    claims: AuditHeadClaims
    signed: str
    now: int
    clock: Measurement | None


def after_hearing(before: KnownPeer | None, heard: Heard) -> KnownPeer:
    """What is known of a peer after its answer."""
    claims = heard.claims
    kept = KeptHead(claims.chain, claims.seq, claims.hash, heard.signed, heard.now)
    if before is None:
        return KnownPeer(
            last=kept,
            asked=heard.now,
            security_generation=claims.security_generation,
            clock=heard.clock,
        )
    problem = why_not_successor(before.last.head, kept.head)
    known = msgspec.structs.replace(
        before,
        problem=problem,
        asked=heard.now,
        security_generation=claims.security_generation,
        clock=heard.clock or before.clock,
    )
    if problem:
        return known
    return msgspec.structs.replace(known, last=kept, earlier=thinned([before.last, *before.earlier]))


def thinned(heads: Sequence[KeptHead]) -> list[KeptHead]:
    """One head for each of the last hours, and one for each of the days before; newest first.

    Of each hour and day the oldest stays: it is the one that was there before whatever came later.
    """
    kept: list[KeptHead] = []
    for step, number in ((HOURLY, HOURS), (DAILY, DAYS)):
        by_time = {head.seen // step: head for head in heads}  # heads are newest first: the oldest stays
        kept += [by_time[slot] for slot in sorted(by_time, reverse=True)[:number]]
    unique = {head.seen: head for head in kept}
    return [unique[seen] for seen in sorted(unique, reverse=True)]


def of_members(peers: Mapping[str, KnownPeer], members: Sequence[str]) -> dict[str, KnownPeer]:
    """Without hosts that left the cluster: one that comes back begins anew."""
    return {host: known for host, known in peers.items() if host in members}


def highest_generation(generations: Mapping[str, int], own: int) -> tuple[str, int] | None:
    """The peer that judges under the highest security generation, if that is above our own."""
    above = {host: number for host, number in generations.items() if number > own}
    host = max(above, key=lambda name: above[name], default=None)
    return None if host is None else (host, above[host])
