# SPDX-License-Identifier: GPL-3.0-or-later
"""The trusted key providers of this host: their primary keys in memory, confirmed again and again.

`PrimaryKeys` does the I/O that `primary_keys` judges, for each primary key of a provider by itself: the one
that wraps, and those that it was rotated from. Requests for a key in memory touch no network and wait for
nobody who does; `check` runs in the background, well within `FRESH`, and when the configuration changes.
"""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable, Mapping

from trusted_infrastructure.key_provider.key_servers import (
    KeyServers,
    PoolFactory,
    ProviderConfiguration,
    Question,
    WantedKey,
    open_pools,
)
from trusted_infrastructure.key_provider.primary_keys import (
    HeldKey,
    Round,
    ServerAnswer,
    agreed_check_value,
    check_candidate,
    judge_round,
    judge_unasked,
)
from trusted_infrastructure.kmip.pool import PrimaryKey
from trusted_infrastructure.refusal import Refusal, Unavailable

# A key is good for this long after a server gave it, before it must be looked at again (seconds).
# `key_cache_max_age` is for what comes after: it says how long a key serves when no server answers.
FRESH = 300.0
# A key that cannot be had is asked for again for a request at most this often (seconds).
RETRY_AFTER = 5.0

Alarm = Callable[[str, Refusal], None]


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

    def configure(self, configurations: Mapping[str, ProviderConfiguration]) -> list[str]:
        """Take the providers as they are now; answers the names of those that must be checked anew.

        A key in memory stays where it is still meant, also when it is now one that a provider was rotated
        from.
        """
        changed, gone = [], []
        with self._lock:
            for name in self._providers.keys() - configurations.keys():
                gone.append(self._providers.pop(name))
            for name, configuration in configurations.items():
                known = self._providers.get(name)
                if known is not None and known.configuration == configuration:
                    continue
                changed.append(name)
                held = known.held() if known is not None else {}
                self._providers[name] = _Provider(configuration, held)
                if known is not None:
                    gone.append(known)
        for provider in gone:
            provider.close()
        return changed

    def wrapping_key_id(self, name: str) -> str | None:
        """Id of the primary key that wraps now; None where there is no such provider."""
        provider = self._providers.get(name)
        return None if provider is None else provider.configuration.primary_key_id

    def current(self, name: str, key_id: str, max_age: float) -> PrimaryKey | None:
        """The key in memory, if it may be used at this moment; None says that `obtain` must be asked."""
        provider = self._providers.get(name)
        key = None if provider is None else provider.keys.get(key_id)
        held = None if key is None else key.held
        if held is None or self._clock() - held.confirmed > max(max_age, FRESH):
            return None
        return held.key

    def obtain(self, name: str, key_id: str, max_age: float) -> PrimaryKey:
        """The key, asking the key servers where it is not in memory.

        Raises Refusal `provider_unknown`, `key_compromised`, `key_destroyed`, `key_missing`,
        `primary_key_state`, `primary_key_mismatch`, `primary_key_unavailable`, `key_server_unreachable`,
        `certificate_invalid`, as the last look at the key servers was judged.
        """
        while True:
            found = self.current(name, key_id, max_age)
            if found is not None:
                return found
            provider = self._known(name)
            key = provider.key(key_id)
            with key.checking:
                found = self.current(name, key_id, max_age)  # whoever was first may have asked
                if found is not None:
                    return found
                refusal = self._look(provider, key, max_age)
            # A provider that changed meanwhile is looked at again: what was asked is of no use.
            if refusal is not None and self._providers.get(name) is provider:
                raise refusal

    def key_ids(self, name: str) -> list[str]:
        """Ids of a provider's primary keys; none when it is gone."""
        provider = self._providers.get(name)
        return [] if provider is None else list(provider.keys)

    def names(self) -> list[str]:
        """Names of all providers."""
        return list(self._providers)

    def check(self, name: str, key_id: str, max_age: float) -> Round | None:
        """Ask all servers for a key and judge; None when it is gone. For the background task.

        Who waits for the key has it as soon as one server gave it; slow ones are waited for after that.
        """
        provider = self._providers.get(name)
        key = None if provider is None else provider.keys.get(key_id)
        if provider is None or key is None:
            return None
        with key.checking:
            judged, question = self._ask(provider, key, max_age)
        if question is not None and not question.answered:
            answers = question.answers()
            with key.checking:
                judged = self._judge(provider, key, answers, max_age)
        return judged

    def first_check_value(self, name: str, candidate: str | None = None) -> str:
        """The check value that all servers of a provider agree on. Raises Refusal that names the server.

        candidate: id of a key that is to wrap from now on, so it must be active and another one than before;
        None: the provider's own.
        """
        provider = self._known(name)
        key_id = provider.configuration.primary_key_id if candidate is None else candidate
        answers = self._opened(provider).ask(key_id).answers()
        if candidate is None:
            return agreed_check_value(name, answers)
        known = {key.key_id: key.check_value for key in provider.configuration.keys}
        return check_candidate(name, answers, known)

    def health(self) -> dict[str, dict[str, Round | None]]:
        """Name -> id of a primary key -> its last round, None where there was none yet."""
        with self._lock:
            providers = dict(self._providers)
        return {
            name: {key_id: key.round for key_id, key in provider.keys.items()}
            for name, provider in providers.items()
        }

    def certificate_ends(self) -> dict[str, dict[str, datetime.datetime]]:
        """Name -> key server -> when the certificate ends that it presented, as far as it is known."""
        with self._lock:
            servers = {name: provider.servers for name, provider in self._providers.items()}
        return {name: known.certificate_ends() for name, known in servers.items() if known is not None}

    def close(self) -> None:
        """Close all connections and forget all keys."""
        self.configure({})

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

    def _look(self, provider: _Provider, key: _Key, max_age: float) -> Refusal | None:
        """Ask, unless that was in vain a moment ago; why the key cannot be used, None where it can.

        The caller holds `key.checking`."""
        last = key.round
        if last is None or last.refusal is None or self._clock() - key.checked > RETRY_AFTER:
            last, _question = self._ask(provider, key, max_age)
        return last.refusal

    def _ask(self, provider: _Provider, key: _Key, max_age: float) -> tuple[Round, Question | None]:
        """One round, which ends soon after a server gave the right key. The caller holds `key.checking`."""
        try:
            question = self._opened(provider).ask(key.wanted.key_id)
        except Refusal as problem:
            servers = [server.name for server in provider.configuration.servers]
            judged = judge_unasked(problem, servers, key.held, self._clock(), max_age)
            key.took(judged, self._clock())
            return judged, None
        expected = key.wanted.check_value

        def enough(answer: ServerAnswer) -> bool:
            return expected is not None and answer.check_value == expected

        return self._judge(provider, key, question.answers(enough), max_age), question

    def _judge(self, provider: _Provider, key: _Key, answers: list[ServerAnswer], max_age: float) -> Round:
        name, before = provider.configuration.name, key.round
        expected = key.wanted.check_value
        judged = judge_round(name, expected, answers, key.held, self._clock(), max_age)
        key.took(judged, self._clock())
        known = {alarm.message for alarm in before.alarms} if before is not None else set()
        for alarm in judged.alarms:
            if alarm.message not in known:
                self._alarm(name, alarm)
        return judged

    def _opened(self, provider: _Provider) -> KeyServers:
        with provider.opening:
            if provider.configuration.problem is not None:
                raise provider.configuration.problem
            if provider.servers is None:
                provider.servers = KeyServers(self._open_pools(provider.configuration))
                if provider.closed:
                    provider.servers.close()
            return provider.servers


class _Key:
    """One primary key's state. `checking` is held while servers are asked for it."""

    def __init__(self, wanted: WantedKey, held: HeldKey | None) -> None:
        self.wanted = wanted
        self.held = held
        self.round: Round | None = None
        self.checked = 0.0
        self.checking = threading.Lock()

    def took(self, judged: Round, now: float) -> None:
        self.held, self.round, self.checked = judged.held, judged, now


class _Provider:
    """One provider's state, for one configuration."""

    def __init__(self, configuration: ProviderConfiguration, held: Mapping[WantedKey, HeldKey]) -> None:
        """held: keys in memory of the configuration before."""
        self.configuration = configuration
        self.keys: dict[str, _Key] = {}
        for wanted in configuration.keys:
            self.keys.setdefault(wanted.key_id, _Key(wanted, held.get(wanted)))
        self.servers: KeyServers | None = None
        self.opening = threading.Lock()
        self.closed = False

    def key(self, key_id: str) -> _Key:
        """Raises Unavailable `primary_key_unavailable`."""
        key = self.keys.get(key_id)
        if key is None:
            name = self.configuration.name
            raise Unavailable(
                "primary_key_unavailable",
                f"provider {name!r} does not use primary key {key_id!r} at this moment; it is being changed",
                "Ask again.",
            )
        return key

    def held(self) -> dict[WantedKey, HeldKey]:
        """The keys in memory, by id and check value: only these two together say that it is the same key."""
        return {key.wanted: key.held for key in self.keys.values() if key.held is not None}

    def close(self) -> None:
        with self.opening:
            self.closed = True
            servers, self.servers = self.servers, None
        for key in self.keys.values():
            key.held = None
        if servers is not None:
            servers.close()
