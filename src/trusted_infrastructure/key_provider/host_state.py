# SPDX-License-Identifier: GPL-3.0-or-later
"""What the key provider service of one host knows, kept up to date: configuration, peers' keys, primary keys.

For use by one event loop, but for `primary_keys`, which is thread-safe. What blocks runs in threads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import structlog

from trusted_infrastructure import identity, tokens
from trusted_infrastructure.config.documents import KeyProvider, Peer, TrustAuthorityCluster
from trusted_infrastructure.config.snapshot import Snapshot, SnapshotReader
from trusted_infrastructure.identity.pem import certificate_pem
from trusted_infrastructure.key_provider.attestation_keys import AttestationKeys
from trusted_infrastructure.key_provider.authorization import CLUSTER_ID, Knowledge
from trusted_infrastructure.key_provider.provider_documents import configurations
from trusted_infrastructure.key_provider.providers import PrimaryKeys
from trusted_infrastructure.key_provider.release import ResponseKey
from trusted_infrastructure.key_provider.security_generations import SecurityGenerations
from trusted_infrastructure.peers.anchored import accepted_peers, read_anchors
from trusted_infrastructure.refusal import Refusal, Unavailable
from trusted_infrastructure.sealing import SealingKey
from trusted_infrastructure.tokens import PrivateKey

log = structlog.get_logger("trusted_infrastructure.key_provider")

KEY_SET_LIFETIME = 3600
KEY_SET_RENEWAL = 300
DEFAULT_MAX_AGE = 86400
# Looks at key servers wait for the network, one for each primary key: they must not wait for one another, nor
# take the threads of others.
CHECK_THREADS = 64


@dataclass(frozen=True)
class Intervals:
    """Seconds. watch: look for a new configuration; peers: read their key sets; servers: ask key servers."""

    watch: float = 2.0
    peers: float = 60.0
    servers: float = 60.0


@dataclass(frozen=True)
class IdentityFiles:
    """PEM files of this service's identity: the certificate with intermediates, leaf first, and its key."""

    certificate: Path
    key: Path

    def load(self) -> tuple[PrivateKey, list[str]]:
        """Key and certificates (PEM). Raises Refusal `certificate_invalid`."""
        try:
            chain = identity.load_certificates(self.certificate.read_bytes())
            key = identity.load_key(self.key.read_bytes())
        except OSError as error:
            raise Unavailable(
                "certificate_invalid", f"{error.filename}: {error.strerror}", "Run site.yml, which renews it."
            ) from None
        return key, [certificate_pem(certificate) for certificate in chain]


class HostState:
    """See the module."""

    def __init__(
        self,
        host: str,
        service_id: str,
        snapshot: SnapshotReader,
        anchors: Path,
        attestation_keys: AttestationKeys,
        generations: SecurityGenerations,
        sealing_key: SealingKey,
        primary_keys: PrimaryKeys,
        identity_files: IdentityFiles,
        clock: Callable[[], float] = time.time,
        intervals: Intervals | None = None,
        problems: Callable[[], tuple[list[str], list[str]]] = lambda: ([], []),
    ) -> None:
        """anchors: anchors/peers.json. clock: Unix seconds. problems: of `Oversight`."""
        self.problems = problems
        self.host = host
        self.service_id = service_id
        self.attestation_keys = attestation_keys
        self.sealing_key = sealing_key
        self.primary_keys = primary_keys
        self.identity_files = identity_files
        self.clock = clock
        self._reader = snapshot
        self._anchors = anchors
        self._generations = generations
        self._intervals = intervals or Intervals()
        self._configured = ""
        self._unchecked: set[str] = set()
        self._checks = ThreadPoolExecutor(CHECK_THREADS, thread_name_prefix="check")
        self._key_set: tuple[str, int, tuple[int, ...]] = ("", 0, ())
        self._peers: tuple[list[Peer], list[str]] = ([], [])
        self._peers_version: tuple[object, ...] = ()

    def snapshot(self) -> Snapshot:
        """The configuration as it is published now. Raises Unavailable `configuration_unavailable`."""
        snapshot = self._reader.current()
        self._generations.observe(snapshot.security_generation, int(self.clock()))
        return snapshot

    def peers(self, snapshot: Snapshot) -> tuple[list[Peer], list[str]]:
        """The peers that are also anchors, and what is wrong with the others.

        Raises Unavailable `configuration_unavailable` when the anchors cannot be read.
        """
        version = (snapshot.digest, *file_version(self._anchors))
        if version != self._peers_version:
            cluster = snapshot.get("trust_authority_cluster", CLUSTER_ID, TrustAuthorityCluster)
            anchors = read_anchors(self._anchors)
            self._peers = accepted_peers(cluster.peers if cluster is not None else [], anchors)
            self._peers_version = version
        return self._peers

    def knowledge(self, now: int) -> Knowledge:
        """What a decision rests on at this moment. Raises Unavailable `configuration_unavailable`."""
        snapshot = self.snapshot()
        self._configure(snapshot)
        peers, _problems = self.peers(snapshot)
        known = self.attestation_keys.known(peers, now)
        return Knowledge(snapshot, known.keys, known.issuers, self._generations.superseded, known.outdated)

    async def ask_peers_for_unknown_key(self, now: int) -> None:
        """A token names a key that no key set has: maybe a peer has a new one."""
        peers, _problems = self.peers(self.snapshot())
        await self.attestation_keys.refresh_for_unknown(peers, now)

    def response_key_set(self, response_key: ResponseKey, now: int) -> str:
        """The response key, certified by this service's identity (JWS).

        Raises Refusal `certificate_invalid`.
        """
        jws, made, version = self._key_set
        current = file_version(self.identity_files.certificate)
        if jws and now - made < KEY_SET_RENEWAL and version == current:
            return jws
        key, chain = self.identity_files.load()
        jws = tokens.sign_key_set(
            {response_key.key_id: response_key.public_key},
            self.service_id,
            key,
            chain,
            now,
            KEY_SET_LIFETIME,
        )
        self._key_set = (jws, now, current)
        return jws

    async def watch_configuration(self) -> None:
        """Endless: take changed providers at once, and ask their key servers."""
        while True:
            await self.take_configuration()
            await asyncio.sleep(self._intervals.watch)

    async def take_configuration(self) -> None:
        """Configure the providers as the snapshot has them, and check those that changed."""
        try:
            snapshot = self.snapshot()
        except Refusal as refusal:
            log.warning("configuration_unavailable", reason=refusal.message)
            return
        self._configure(snapshot)
        unchecked, self._unchecked = self._unchecked, set()
        await self._check(sorted(unchecked), snapshot)

    def _configure(self, snapshot: Snapshot) -> None:
        """Take the providers of a new snapshot, so that no request is answered by an older one."""
        if snapshot.digest == self._configured:
            return
        documents = snapshot.documents("key_provider", KeyProvider)
        wanted = configurations(documents, self.host, self.sealing_key)
        self._unchecked |= set(self.primary_keys.configure(wanted))
        self._configured = snapshot.digest

    async def watch_key_servers(self) -> None:
        """Endless: ask the key servers of all providers, and read the state of their primary keys."""
        while True:
            await asyncio.sleep(self._intervals.servers)
            try:
                snapshot = self.snapshot()
            except Refusal:
                continue  # take_configuration says so; keys in memory go on until they are too old
            await self._check(self.primary_keys.names(), snapshot)

    async def watch_peers(self) -> None:
        """Endless: read the peers' key sets. The first seconds ask more often: peers start together."""
        pause = min(2.0, self._intervals.peers)
        while True:
            try:
                peers, _problems = self.peers(self.snapshot())
                await self.attestation_keys.refresh(peers, int(self.clock()))
            except Refusal as refusal:
                log.warning("peers_not_read", reason=refusal.message)
            await asyncio.sleep(pause)
            pause = min(pause * 2, self._intervals.peers)

    async def _check(self, names: Sequence[str], snapshot: Snapshot) -> None:
        cluster = snapshot.get("trust_authority_cluster", CLUSTER_ID, TrustAuthorityCluster)
        max_age = cluster.key_cache_max_age if cluster is not None else DEFAULT_MAX_AGE
        loop, keys = asyncio.get_running_loop(), self.primary_keys
        checks = [
            loop.run_in_executor(self._checks, keys.check, name, key_id, max_age)
            for name in names
            for key_id in keys.key_ids(name)
        ]
        for result in await asyncio.gather(*checks, return_exceptions=True):
            if isinstance(result, Refusal):
                # An alarm that could not be audited: its key is refused anyway, and requests say why.
                log.error("check_failed", code=result.code, reason=result.message)
            elif isinstance(result, BaseException):
                raise result


def file_version(path: Path) -> tuple[int, ...]:
    """What changes when a file is replaced or written; empty where there is none."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_ino, status.st_mtime_ns, status.st_size)
