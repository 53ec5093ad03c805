# SPDX-License-Identifier: GPL-3.0-or-later
"""The trusted key providers of this host: their key servers, asked again and again, and the keys in memory.

`PrimaryKeys` does the I/O that `primary_keys` judges. Requests for a key in memory touch no network; `check`
runs in the background, well within the five minutes of PROTOCOL 5, and when the configuration changes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from trusted_infrastructure.key_provider.primary_keys import (
    HeldKey,
    Round,
    ServerAnswer,
    agreed_check_value,
    judge_round,
    judge_unasked,
)
from trusted_infrastructure.kmip.connection import (
    ClientCredentials,
    KeyServer,
    KeyServerFailure,
    client_context,
)
from trusted_infrastructure.kmip.pool import KeyServerPool, PrimaryKey
from trusted_infrastructure.refusal import Refusal, Unavailable

MAX_WORKERS = 16
# A key is good for this long after a server gave it, before it must be looked at again (PROTOCOL 5, seconds).
# `key_cache_max_age` is for what comes after: it says how long a key serves when no server answers.
FRESH = 300.0
# A provider without a usable key is asked again for a request at most this often (seconds).
RETRY_AFTER = 5.0


@dataclass(frozen=True)
class ProviderConfiguration:
    """What of a provider's document its primary key depends on, with its secrets opened.

    withheld: names of servers that the password was not set for; they are not asked.
    problem: why the document cannot be used as it is (secrets not sealed for this host, say); then the rest
    is without meaning, and the provider refuses with it.
    """

    name: str
    primary_key_id: str
    check_value: str | None
    servers: tuple[KeyServer, ...]
    credentials: ClientCredentials | None
    trusted_certificates: tuple[str, ...]
    withheld: tuple[str, ...] = ()
    problem: Refusal | None = None


class KeySource(Protocol):
    """One key server of one provider: `kmip.pool.KeyServerPool`."""

    @property
    def server(self) -> KeyServer: ...

    def primary_key(self, key_id: str) -> PrimaryKey: ...

    def close(self) -> None: ...


class WithheldServer:
    """A key server that came into the document after the password was set: it gets neither."""

    def __init__(self, server: KeyServer) -> None:
        self.server = server

    def primary_key(self, key_id: str) -> PrimaryKey:
        """Raises KeyServerFailure."""
        raise KeyServerFailure(
            self.server,
            f"not asked for {key_id!r}: the provider's password was set for other addresses or another proxy",
            "If this key server was added on purpose, set the provider's password again.",
        )

    def close(self) -> None:
        """Nothing is open."""


PoolFactory = Callable[[ProviderConfiguration], Sequence[KeySource]]
Alarm = Callable[[str, Refusal], None]


def open_pools(configuration: ProviderConfiguration) -> Sequence[KeySource]:
    """A pool for each key server of a provider. Raises Refusal when certificates or keys cannot be used."""
    if configuration.credentials is None:
        raise Unavailable(
            "primary_key_unavailable",
            f"provider {configuration.name!r} has no client certificate for its key servers",
            "Make one, or import one, and make it known to the key servers.",
        )
    context = client_context(configuration.credentials, configuration.trusted_certificates)
    return [
        WithheldServer(server)
        if server.name in configuration.withheld
        else KeyServerPool(server, configuration.credentials, context)
        for server in configuration.servers
    ]


class PrimaryKeys:
    """The primary keys of all providers. Thread-safe; `current` never blocks, the rest does."""

    def __init__(
        self,
        alarm: Alarm,
        clock: Callable[[], float],
        pools: PoolFactory = open_pools,
    ) -> None:
        """alarm: called with provider and `primary_key_mismatch` when a server begins to give another key.

        clock: seconds of a steady clock.
        """
        self._alarm = alarm
        self._clock = clock
        self._open_pools = pools
        self._lock = threading.Lock()
        self._providers: dict[str, _Provider] = {}
        self._workers = ThreadPoolExecutor(MAX_WORKERS, thread_name_prefix="kmip")

    def configure(self, configurations: Mapping[str, ProviderConfiguration]) -> list[str]:
        """Take the providers as they are now; answers the names of those that must be checked anew."""
        changed = []
        with self._lock:
            for name in self._providers.keys() - configurations.keys():
                self._providers.pop(name).close()
            for name, configuration in configurations.items():
                known = self._providers.get(name)
                if known is not None and known.configuration == configuration:
                    continue
                changed.append(name)
                held = known.held_for(configuration) if known is not None else None
                if known is not None:
                    known.close()
                self._providers[name] = _Provider(configuration, held)
        return changed

    def current(self, name: str, max_age: float) -> PrimaryKey | None:
        """The key in memory, if it may be used at this moment; None says that `obtain` must be asked."""
        provider = self._providers.get(name)
        held = provider.held if provider is not None else None
        if held is None or self._clock() - held.confirmed > max(max_age, FRESH):
            return None
        return held.key

    def obtain(self, name: str, max_age: float) -> PrimaryKey:
        """The key, asking the key servers where it is not in memory.

        Raises Refusal `provider_unknown`, `primary_key_state`, `primary_key_mismatch`,
        `primary_key_unavailable`, `key_server_unreachable`, `certificate_invalid`.
        """
        provider = self._known(name)
        with provider.checking:
            key = self.current(name, max_age)
            if key is not None:
                return key
            last = provider.round
            if last is None or last.refusal is None or self._clock() - provider.checked > RETRY_AFTER:
                self._check(provider, max_age)
            key = self.current(name, max_age)
            if key is not None:
                return key
        if provider.round is not None and provider.round.refusal is not None:
            raise provider.round.refusal
        raise Unavailable("primary_key_unavailable", f"the primary key of provider {name!r} is not at hand")

    def check(self, name: str, max_age: float) -> Round | None:
        """Ask all servers of a provider and judge; None when it is gone. For the background task."""
        provider = self._providers.get(name)
        if provider is None:
            return None
        with provider.checking:
            return self._check(provider, max_age)

    def first_check_value(self, name: str) -> str:
        """The check value that all servers of a provider agree on. Raises Refusal that names the server."""
        provider = self._known(name)
        with provider.checking:
            self._open(provider)
            return agreed_check_value(name, self._ask(provider))

    def health(self) -> dict[str, Round | None]:
        """Name -> last round, None where there was none yet."""
        with self._lock:
            return {name: provider.round for name, provider in self._providers.items()}

    def close(self) -> None:
        """Close all connections and forget all keys."""
        self.configure({})
        self._workers.shutdown(wait=False, cancel_futures=True)

    def _known(self, name: str) -> _Provider:
        provider = self._providers.get(name)
        if provider is None:
            raise Refusal(
                "provider_unknown",
                f"there is no trusted key provider {name!r}",
                "Use the name of a provider of this Trust Authority Cluster.",
                status=404,
            )
        return provider

    def _check(self, provider: _Provider, max_age: float) -> Round:
        configuration = provider.configuration
        before = provider.round
        try:
            self._open(provider)
        except Refusal as problem:
            servers = [server.name for server in configuration.servers]
            judged = judge_unasked(problem, servers, provider.held, self._clock(), max_age)
        else:
            answers = self._ask(provider)
            judged = judge_round(
                configuration.name,
                configuration.check_value,
                answers,
                provider.held,
                self._clock(),
                max_age,
            )
        provider.held, provider.round, provider.checked = judged.held, judged, self._clock()
        known = {alarm.message for alarm in before.alarms} if before is not None else set()
        for alarm in judged.alarms:
            if alarm.message not in known:
                self._alarm(configuration.name, alarm)
        return judged

    def _open(self, provider: _Provider) -> None:
        if provider.configuration.problem is not None:
            raise provider.configuration.problem
        if provider.pools is None:
            provider.pools = self._open_pools(provider.configuration)

    def _ask(self, provider: _Provider) -> list[ServerAnswer]:
        key_id = provider.configuration.primary_key_id
        return list(self._workers.map(lambda pool: _answer(pool, key_id), provider.pools or []))


class _Provider:
    """One provider's state. `checking` is held while its servers are asked."""

    def __init__(self, configuration: ProviderConfiguration, held: HeldKey | None) -> None:
        self.configuration = configuration
        self.held = held
        self.pools: Sequence[KeySource] | None = None
        self.round: Round | None = None
        self.checked = 0.0
        self.checking = threading.Lock()

    def held_for(self, configuration: ProviderConfiguration) -> HeldKey | None:
        """The key in memory, where it is still the one that the new configuration means."""
        ours = self.configuration
        same = (ours.primary_key_id, ours.check_value) == (
            configuration.primary_key_id,
            configuration.check_value,
        )
        return self.held if same else None

    def close(self) -> None:
        self.held = None
        for pool in self.pools or []:
            pool.close()


def _answer(pool: KeySource, key_id: str) -> ServerAnswer:
    try:
        return ServerAnswer(pool.server.name, key=pool.primary_key(key_id))
    except Refusal as refusal:
        return ServerAnswer(pool.server.name, refusal=refusal)
