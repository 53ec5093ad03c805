# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys on this host, put together: the three kinds of provider, the registry, and what tells of their use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from trusted_infrastructure.config.documents import KeyProviderType, PcrPolicy
from trusted_infrastructure.config.snapshot import Snapshot
from trusted_infrastructure.host.delivery import DeliveryKey
from trusted_infrastructure.host.key_encryption_keys import (
    KeyEncryptionKeys,
    ObjectOfKey,
)
from trusted_infrastructure.host.key_queue import KeyQueue
from trusted_infrastructure.host.key_registry import KeyRegistry
from trusted_infrastructure.host.keys import Keys
from trusted_infrastructure.host.known_providers import KnownProviders, known_providers
from trusted_infrastructure.host.native_keys import NativeKeys
from trusted_infrastructure.host.native_providers import NativeProviders
from trusted_infrastructure.host.object_keys import ObjectKeys
from trusted_infrastructure.host.standard_keys import StandardKeys
from trusted_infrastructure.host.tpm_worker import TpmWorker
from trusted_infrastructure.host.trusted_keys import TrustedKeys
from trusted_infrastructure.host.usage_reports import UsageReports
from trusted_infrastructure.messages import KEY_CHECK_LABEL
from trusted_infrastructure.refusal import Refusal


class KeyCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What a key check gave. result: "OK" or a reason code. checked: Unix seconds."""

    result: str
    message: str = ""
    provider: str | None = None
    checked: int = 0


class HostKeys:
    """See the module. host: this host's id. suite: HPKE suite of what the manager seals to it. snapshot: the
    published configuration of now; raises Unavailable. clock: Unix seconds. dice: 0 to 1.

    Raises Unavailable `state_unusable`, InvalidField for an unknown suite.
    """

    def __init__(
        self,
        host: str,
        state_directory: Path,
        suite: str,
        keys: Keys,
        tpm: TpmWorker,
        snapshot: Callable[[], Snapshot],
        clock: Callable[[], float],
        dice: Callable[[], float],
    ) -> None:
        self._host = host
        self._snapshot = snapshot
        self._clock = clock
        self.last_check: KeyCheck | None = None
        self.delivery = DeliveryKey(host, suite)
        self.queue = KeyQueue()
        self.registry = KeyRegistry(state_directory / "keys")
        self.standard = StandardKeys(self.delivery, self.queue, state_directory)
        self.native = NativeProviders(tpm, state_directory, self._pcr_policies, host, clock)
        self.trusted = TrustedKeys(keys, self.registry.settled)
        kinds: dict[KeyProviderType, KeyEncryptionKeys] = {
            "STANDARD": self.standard,
            "TRUSTED": self.trusted,
            "NATIVE": NativeKeys(self.native, lambda: self.known().scope),
        }
        self.objects = ObjectKeys(self.registry, kinds, self.known, clock, self.standard.forget)
        self.reports = UsageReports(self.trusted.report, self._trusted_names, self.registry.counts, dice)
        self.registry.changed = self.reports.changed

    def known(self) -> KnownProviders:
        """The providers of now. Raises Unavailable `configuration_unavailable`."""
        return known_providers(self._snapshot())

    async def check(self, provider: str | None) -> KeyCheck:
        """Whether a key of the provider (None: of the default one) comes, and comes again as the same."""
        name = provider
        try:
            name = provider or self.known().default_provider()
            use = ObjectOfKey(KEY_CHECK_LABEL, "Host", self._host)
            equal = await self.objects.check(name, use)
            code, message = ("OK", "") if equal else ("answer_invalid", "the key that came again is another")
        except Refusal as refusal:
            code, message = refusal.code, refusal.message
        self.last_check = KeyCheck(result=code, message=message, provider=name, checked=int(self._clock()))
        return self.last_check

    async def run(self) -> None:
        """Open what is sealed to the TPM, and tell of the use of keys, until cancelled: the service is being
        stopped then, and nobody is to wait for what does not come any more."""
        try:
            await self.native.start()
            await self.reports.run()
        finally:
            self.queue.close()

    def close(self) -> None:
        """Overwrite all keys in memory."""
        self.standard.close()
        self.native.close()

    def _pcr_policies(self) -> Mapping[str, PcrPolicy]:
        return self._snapshot().documents("pcr_policy", PcrPolicy)

    def _trusted_names(self) -> set[str]:
        return {*self.known().trusted(), *self.registry.providers("TRUSTED")}
