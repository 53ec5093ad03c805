# SPDX-License-Identifier: GPL-3.0-or-later
"""The keys that attestation services sign tokens with: read from the peers, verified up to the anchors.

A peer counts when it is in the Trust Authority Cluster's document *and* in the anchors, which only local root
writes: a manager can take a peer away, but cannot bring in one of its own. The key sets are
signed and carry their end, so they are kept over restarts and outlast a peer that is down, up to a maximum
age that this host sets. A token with an unknown key id makes this host read the key sets again, at most every
few seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog

from trusted_infrastructure import tokens
from trusted_infrastructure.config.documents import Peer
from trusted_infrastructure.refusal import Refusal, Unavailable
from trusted_infrastructure.state_files import read_state, write_state
from trusted_infrastructure.tokens import KeySet, PublicKey

log = structlog.get_logger("trusted_infrastructure.key_provider")

SIDE = "trust_authority"
ROLE = "attestation-service"
# A key id that nobody knows makes us ask the peers at most this often (seconds).
UNKNOWN_KEY_INTERVAL = 5.0
# Seconds since a key set was signed, after which its keys verify nothing, whatever its own end.
MAX_AGE = 86_400

Fetch = Callable[[Peer], Awaitable[str]]
"""Reads a peer's key set (JWS). Raises Refusal when it cannot."""


@dataclass(frozen=True)
class KnownKeys:
    """Keys that tokens may be signed with: kid -> key, and kid -> ids of the services that publish it.

    outdated: kid -> id of the service, of key sets that are too old: their keys are known and verify nothing.
    """

    keys: Mapping[str, PublicKey]
    issuers: Mapping[str, Collection[str]]
    outdated: Mapping[str, str] = field(default_factory=dict)


class AttestationKeys:
    """The key sets of all peers. For use by one event loop."""

    def __init__(
        self, path: Path, ca: Path, fetch: Fetch, clock: Callable[[], float], max_age: int = MAX_AGE
    ) -> None:
        """path: file of the state directory. ca: PEM of the Trust Authority side's CA. max_age: seconds.

        clock: seconds of a steady clock. Raises Unavailable `state_unusable`.
        """
        self._max_age = max_age
        self._path = path
        self._ca = ca
        self._fetch = fetch
        self._clock = clock
        self._asked = -UNKNOWN_KEY_INTERVAL
        self._sets: dict[str, str] = {}
        self._verified: dict[str, KeySet] = {}
        self.problems: dict[str, str] = {}
        data = read_state(path)
        if data is not None:
            try:
                self._sets = msgspec.json.decode(data, type=dict[str, str])
            except (msgspec.DecodeError, UnicodeDecodeError):
                # Nothing is lost: the peers are asked at start anyway.
                log.warning("key_sets_unreadable", path=str(path))

    def known(self, peers: Sequence[Peer], now: int) -> KnownKeys:
        """What may sign tokens now: of accepted peers alone, and not after the end of their key sets."""
        keys: dict[str, PublicKey] = {}
        issuers: dict[str, set[str]] = {}
        outdated: dict[str, str] = {}
        for peer in peers:
            key_set = self._key_set(peer.host, now)
            if key_set is None:
                continue
            of_service = dict.fromkeys(key_set.keys, key_set.service_id)
            if now >= min(key_set.expires, key_set.issued + self._max_age):
                outdated.update(of_service)
                continue
            keys.update(key_set.keys)
            # A set proves nothing about private halves: a peer that publishes another's key does not take it.
            for kid in key_set.keys:
                issuers.setdefault(kid, set()).add(key_set.service_id)
        outdated = {kid: service for kid, service in outdated.items() if kid not in keys}
        return KnownKeys(keys, issuers, outdated)

    async def refresh(self, peers: Sequence[Peer], now: int) -> None:
        """Read every peer's key set. One that cannot be read, or is not good, leaves the one before."""
        changed = False
        # At once: a request with an unknown key waits for it, and a peer that is down takes its time.
        answers = await asyncio.gather(*(self._read(peer, now) for peer in peers))
        for peer, answer in zip(peers, answers, strict=True):
            if isinstance(answer, Refusal):
                self.problems[peer.host] = str(answer)
                continue
            jws, key_set = answer
            self.problems.pop(peer.host, None)
            changed = changed or self._sets.get(peer.host) != jws
            self._sets[peer.host], self._verified[peer.host] = jws, key_set
        for gone in set(self._sets) - {peer.host for peer in peers}:
            self._sets.pop(gone)
            self._verified.pop(gone, None)
            self.problems.pop(gone, None)
            changed = True
        if changed:
            write_state(self._path, msgspec.json.encode(self._sets))

    async def refresh_for_unknown(self, peers: Sequence[Peer], now: int) -> None:
        """`refresh`, unless that was done for another unknown key just now."""
        if self._clock() - self._asked >= UNKNOWN_KEY_INTERVAL:
            self._asked = self._clock()
            await self.refresh(peers, now)

    async def _read(self, peer: Peer, now: int) -> tuple[str, KeySet] | Refusal:
        try:
            jws = await self._fetch(peer)
            return jws, self._verify(jws, peer.host, now)
        except Refusal as refusal:
            return refusal

    def _key_set(self, host: str, now: int) -> KeySet | None:
        known = self._verified.get(host)
        if known is None and host in self._sets:
            try:
                known = self._verified[host] = self._verify(self._sets[host], host, now)
            except Refusal as refusal:
                self.problems[host] = str(refusal)
                del self._sets[host]
        return known

    def _verify(self, jws: str, host: str, now: int) -> KeySet:
        try:
            ca = self._ca.read_text()
        except OSError as error:
            raise Unavailable(
                "configuration_unavailable",
                f"{self._ca}: {error.strerror}",
                "let site.yml place the CA's certificate again",
            ) from None
        return tokens.verify_key_set(jws, ca, SIDE, ROLE, {host}, now)
