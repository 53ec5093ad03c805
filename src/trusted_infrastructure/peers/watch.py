# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks the peers of one service, keeps what they say, and judges this service by it.

Every process of a service asks once at its start, before it serves: it must not serve under an older
security generation than a peer that can be reached. After that one process of them asks for all,
whichever holds a lock, and the others read what it wrote.

A peer's word can only make this service more careful: refuse (an older generation, a clock that is off) or
warn (a log that was cut).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
import structlog

from trusted_infrastructure import tokens
from trusted_infrastructure.clock_guard import ClockGuard, Clocks, measured
from trusted_infrastructure.config.documents import Peer
from trusted_infrastructure.config.snapshot import Snapshot
from trusted_infrastructure.peers.anchored import other_members, url_of
from trusted_infrastructure.peers.heads import (
    SHORTENED,
    Heard,
    KnownPeer,
    PeerState,
    after_hearing,
    highest_generation,
    of_members,
)
from trusted_infrastructure.refusal import Refusal, Unavailable
from trusted_infrastructure.state_files import read_state, state_lock, unusable, write_state
from trusted_infrastructure.transport import answer_of, public_client, unreachable

log = structlog.get_logger("trusted_infrastructure.peers")

SIDE = "trust_authority"
INTERVAL = 60.0
# At the start nothing is served while the peers are asked: a peer that is down must not delay it for long.
START_LIMIT = 4.0

FetchHead = Callable[[Peer], Awaitable[str]]
"""Reads the signed audit head (JWS) of a peer's service. Raises Refusal when it cannot."""


@dataclass(frozen=True)
class Service:
    """Which service watches. role: of its certificate."""

    host: str
    role: str


class PeerWatch:
    """See the module. For one event loop; `check` may be called from any thread."""

    def __init__(
        self,
        service: Service,
        snapshot: Callable[[], Snapshot],
        anchors: Path,
        side_ca: Path,
        state: Path,
        guard: ClockGuard,
        fetch: FetchHead,
        wall: Callable[[], float] = time.time,
        clocks: Clocks | None = None,
        interval: float = INTERVAL,
    ) -> None:
        """anchors: anchors/peers.json. side_ca: PEM. state: file of the state directory. interval: seconds.

        Raises Unavailable `state_unusable`.
        """
        self._service = service
        self._snapshot = snapshot
        self._anchors = anchors
        self._ca = side_ca
        self._path = state
        self._guard = guard
        self._fetch = fetch
        self._wall = wall
        self._clocks = clocks or Clocks()
        self._boot = self._clocks.boot()
        self._interval = interval
        self._started = int(wall())
        self._leader = -1
        self._peers: dict[str, KnownPeer] = {}
        self._first: dict[str, int] = {}
        self._silent: dict[str, str] = {}
        self._required: tuple[str, int] | None = None
        self._asked = False
        self._adopt(self._read())

    # ---- asking -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Ask all peers once, for START_LIMIT seconds at most. Call it before anything is served."""
        try:
            await self.ask()
        except Refusal as refusal:
            log.warning("peers_not_asked", reason=refusal.message)

    async def watch(self) -> None:
        """Endless: ask them again, in one process of this service; the first seconds more often."""
        pause = min(2.0, self._interval)
        try:
            while True:
                await asyncio.sleep(pause)
                try:
                    if self._leads():
                        await self.ask()
                    else:
                        self._adopt(await asyncio.to_thread(self._read))
                except Refusal as refusal:
                    log.warning("peers_not_asked", reason=refusal.message)
                pause = min(pause * 2, self._interval)
        finally:
            if self._leader >= 0:
                os.close(self._leader)
                self._leader = -1

    async def ask(self) -> None:
        """One round. Raises Refusal where configuration or state cannot be used; a silent peer is none."""
        peers = self.members()
        answers = await asyncio.gather(*(self._ask(peer) for peer in peers))
        heard = {peer.host: answer for peer, answer in zip(peers, answers, strict=True)}
        members = [peer.host for peer in peers]
        self._silent = {host: str(answer) for host, answer in heard.items() if isinstance(answer, Refusal)}
        good = {host: answer for host, answer in heard.items() if isinstance(answer, Heard)}
        self._asked = True
        for host, answer in good.items():
            if answer.claims.security_generation is not None:
                self._first.setdefault(host, answer.claims.security_generation)
        self._adopt(await asyncio.to_thread(self._merge, good, members))

    async def _ask(self, peer: Peer) -> Heard | Refusal:
        before = self._clocks.since_boot()
        try:
            async with asyncio.timeout(START_LIMIT):
                signed = await self._fetch(peer)
            after, now = self._clocks.since_boot(), int(self._wall())
            claims = await asyncio.to_thread(self._verified, signed, peer.host, now)
        except TimeoutError:
            return Unavailable("peer_unreachable", f"{peer.host} did not answer in {START_LIMIT:g} s")
        except Refusal as refusal:
            return refusal
        return Heard(claims, signed, now, measured(self._boot, before, after, claims.iat))

    def _verified(self, signed: str, host: str, now: int) -> tokens.AuditHeadClaims:
        """The claims, of that host's service. The peer's clock may be off, so its certificate is judged by
        ours."""
        try:
            ca = self._ca.read_text()
        except OSError as error:
            raise Unavailable(
                "configuration_unavailable",
                f"{self._ca}: {error.strerror}",
                "let site.yml place the CA's certificate again",
            ) from None
        claims = tokens.verify_audit_head(signed, ca, SIDE, self._service.role, now)
        if claims.service_id.partition("@")[2] != host:
            raise Refusal("audit_head_invalid", f"{claims.service_id} answered for {host}", status=401)
        return claims

    def members(self) -> list[Peer]:
        """The other hosts of the cluster that are also anchors; none without a configuration.

        Raises Unavailable `configuration_unavailable`.
        """
        return other_members(self._snapshot(), self._anchors, self._service.host)

    # ---- what is kept -------------------------------------------------------------------------------------

    def _read(self) -> dict[str, KnownPeer]:
        data = read_state(self._path)
        if data is None:
            return {}
        try:
            return msgspec.json.decode(data, type=PeerState).peers
        except (msgspec.DecodeError, UnicodeDecodeError):
            # Losing what is known of the peers must not go unnoticed, nor stop this host.
            log.error("peer_heads_unreadable", path=str(self._path))
            return {}

    def _merge(self, heard: dict[str, Heard], members: list[str]) -> dict[str, KnownPeer]:
        with state_lock(self._path):
            before = self._read()
            known = of_members(before, members)
            for host, answer in heard.items():
                known[host] = after_hearing(known.get(host), answer)
            if known != before:
                write_state(self._path, msgspec.json.encode(PeerState(peers=known)))
        return known

    def _adopt(self, known: dict[str, KnownPeer]) -> None:
        """Judge this service by what is known now."""
        for host, peer in known.items():
            if peer.problem and (host not in self._peers or self._peers[host].problem != peer.problem):
                log.error(SHORTENED, peer=host, problem=peer.problem)
        self._peers = known
        self._guard.peers_show({host: peer.clock for host, peer in known.items() if peer.clock is not None})
        for host, peer in known.items():  # what another process of this service heard since
            if peer.asked > self._started and peer.security_generation is not None:
                self._first.setdefault(host, peer.security_generation)
        self._first = {host: number for host, number in self._first.items() if host in known}
        self._required = highest_generation(self._first, 0)

    def _leads(self) -> bool:
        """Whether this process asks for all processes of the service."""
        if self._leader >= 0:
            return True
        name = self._path.with_name(self._path.name + ".leader")
        try:
            descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise unusable(name, error.strerror) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._leader = descriptor
        return True

    # ---- what follows from it -----------------------------------------------------------------------------

    def check(self, generation: int) -> None:
        """May this service decide under its security generation? Raises Unavailable `configuration_stale`.

        What counts is the first that each peer said since this process started: later differences are a
        change that is under way, and the manager's to level.
        """
        required = self._required
        if required is not None and generation < required[1]:
            raise Unavailable(
                "configuration_stale",
                f"this host has security generation {generation}, its peer {required[0]} had {required[1]}"
                " when this service started: trust was withdrawn that this host does not know of",
                "The manager brings the host up to date within a minute; see that it reaches it.",
            )

    def known(self) -> dict[str, KnownPeer]:
        """What is known of each peer."""
        return self._peers

    def problems(self, generation: int) -> tuple[list[str], list[str]]:
        """For the status: what makes this service refuse, and what somebody should look at."""
        errors, warnings = [], []
        try:
            self.check(generation)
        except Refusal as refusal:
            errors.append(str(refusal))
        warnings += [
            f"{SHORTENED}: peer {host!r}: {peer.problem}"
            for host, peer in self._peers.items()
            if peer.problem
        ]
        warnings += [
            f"peer {host!r} does not say where its audit log is: {text}"
            for host, text in self._silent.items()
        ]
        if self._asked and self._silent and not self._first:
            warnings.append("no peer has told its security generation since this service started")
        if not errors:
            now = {host: peer.security_generation or 0 for host, peer in self._peers.items()}
            ahead = highest_generation(now, generation)
            if ahead is not None:
                warnings.append(
                    f"peer {ahead[0]!r} has security generation {ahead[1]}, this host {generation}"
                )
        return errors, warnings

    def accept(self, host: str) -> bool:
        """Forget what is known of a peer: its next head begins anew. Whether there was something. Blocks."""
        with state_lock(self._path):
            known = self._read()
            if known.pop(host, None) is None:
                return False
            write_state(self._path, msgspec.json.encode(PeerState(peers=known)))
        self._peers = known
        return True


def fetch_over_https(side_ca: Path, path: str, field: str = "signed") -> tuple[FetchHead, httpx.AsyncClient]:
    """Read `field` of a peer's JSON answer at its public name, trusting the side's CA alone."""
    client = public_client(side_ca)

    async def fetch(peer: Peer) -> str:
        try:
            response = await client.get(url_of(peer, path))
        except httpx.HTTPError as error:
            raise unreachable(peer.host, error) from None
        found = answer_of(response, peer.host)
        if not isinstance(found, dict) or not isinstance(found.get(field), str):
            raise Unavailable("peer_answer_invalid", f"{peer.host} answered without {field!r}")
        text: str = found[field]
        return text

    return fetch, client
