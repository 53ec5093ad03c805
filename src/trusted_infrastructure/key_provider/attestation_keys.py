# SPDX-License-Identifier: GPL-3.0-or-later
"""The keys that attestation services sign tokens with: read from the peers, verified up to the anchors.

A peer counts when it is in the Trust Authority Cluster's document *and* in the anchors, which only local root
writes: a manager can take a peer away, but cannot bring in one of its own. PROTOCOL 1. The key sets are
signed and carry their end, so they are kept over restarts and outlast a peer that is down. A token with an
unknown key id makes this host read the key sets again, at most every few seconds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from trusted_infrastructure import tokens
from trusted_infrastructure.config.documents import Peer
from trusted_infrastructure.key_provider.state_files import read_state, write_state
from trusted_infrastructure.refusal import Refusal, Unavailable
from trusted_infrastructure.tokens import KeySet, PublicKey

log = structlog.get_logger("trusted_infrastructure.key_provider")

SIDE = "trust_authority"
ROLE = "attestation-service"
# A key id that nobody knows makes us ask the peers at most this often (seconds).
UNKNOWN_KEY_INTERVAL = 5.0

Fetch = Callable[[Peer], Awaitable[str]]
"""Reads a peer's key set (JWS). Raises Refusal when it cannot."""


class Anchor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of anchors/peers.json: a Trust Authority host that this one accepts."""

    host: str
    public_name: str


@dataclass(frozen=True)
class KnownKeys:
    """Keys that tokens may be signed with: kid -> key, and kid -> id of the service whose key it is."""

    keys: Mapping[str, PublicKey]
    issuers: Mapping[str, str]


def accepted_peers(peers: Sequence[Peer], anchors: Sequence[Anchor]) -> tuple[list[Peer], list[str]]:
    """The peers that are also anchors, and what is wrong with the others, for people."""
    accepted, problems = [], []
    names = {anchor.host: anchor.public_name for anchor in anchors}
    for peer in peers:
        if names.get(peer.host) == peer.public_name:
            accepted.append(peer)
        else:
            problems.append(
                f"peer {peer.host!r} ({peer.public_name}) is not in this host's anchors: not used"
            )
    return accepted, problems


def read_anchors(path: Path) -> list[Anchor]:
    """anchors/peers.json. Raises Unavailable `configuration_unavailable`."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Anchor])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not a list of peers"
        raise Unavailable(
            "configuration_unavailable", f"{path}: {reason}", "Deploy the Trust Authority host again."
        ) from None


class AttestationKeys:
    """The key sets of all peers. For use by one event loop."""

    def __init__(self, path: Path, ca: Path, fetch: Fetch, clock: Callable[[], float]) -> None:
        """path: file of the state directory. ca: PEM of the Trust Authority side's CA.

        clock: seconds of a steady clock. Raises Unavailable `state_unusable`.
        """
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
        issuers: dict[str, str] = {}
        for peer in peers:
            key_set = self._key_set(peer.host, now)
            if key_set is None:
                continue
            keys.update(key_set.keys)
            issuers.update(dict.fromkeys(key_set.keys, key_set.service_id))
        return KnownKeys(keys, issuers)

    async def refresh(self, peers: Sequence[Peer], now: int) -> None:
        """Read every peer's key set. One that cannot be read, or is not good, leaves the one before."""
        changed = False
        for peer in peers:
            try:
                jws = await self._fetch(peer)
                key_set = self._verify(jws, peer.host, now)
            except Refusal as refusal:
                self.problems[peer.host] = str(refusal)
                continue
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

    def _key_set(self, host: str, now: int) -> KeySet | None:
        known = self._verified.get(host)
        if known is None and host in self._sets:
            try:
                known = self._verified[host] = self._verify(self._sets[host], host, now)
            except Refusal as refusal:
                self.problems[host] = str(refusal)
                del self._sets[host]
        return known if known is not None and now < known.expires else None

    def _verify(self, jws: str, host: str, now: int) -> KeySet:
        try:
            ca = self._ca.read_text()
        except OSError as error:
            raise Unavailable("configuration_unavailable", f"{self._ca}: {error.strerror}") from None
        return tokens.verify_key_set(jws, ca, SIDE, ROLE, {host}, now)
