# SPDX-License-Identifier: GPL-3.0-or-later
"""The native key providers of this host: their keys in memory, and a copy of each sealed to the TPM.

The workload manager makes the keys and pushes them to every host of a cluster. A host keeps them sealed, so
that it has them again after a boot with the manager stopped, if the boot is one that a signed PCR policy
describes. States:

| state     | meaning                                                                              |
| --------- | ------------------------------------------------------------------------------------ |
| AVAILABLE | the keys are in memory; a code then says why there is no sealed copy, or none that opens |
| LOCKED    | there is a sealed copy, and the code says why it does not open                       |

A locked provider is tried again when the policies change, and a push always repairs it. Without a TPM the
keys are in memory alone, and a provider that requires one is refused: there is no copy in the clear.

Keys that a push does not have are kept, unless it says that they were removed: a manager that was restored
from an old backup knows fewer, and what this host wrapped under the others would be lost. A copy with such
keys stays where it does not open now.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from trusted_infrastructure.config.documents import PcrPolicy
from trusted_infrastructure.host import sealed_provider
from trusted_infrastructure.host.held_provider import HeldProvider, wipe_keys
from trusted_infrastructure.host.sealed_provider import (
    Described,
    Keys,
    SealedProvider,
    SealedProviders,
    is_key,
)
from trusted_infrastructure.host.tpm_worker import TpmWorker
from trusted_infrastructure.key_delivery import NativeProviderPush, NativeProviderState
from trusted_infrastructure.refusal import InvalidField, Refusal, Unavailable
from trusted_infrastructure.tpm.policy import policy_key_name

TICK = 1.0
TRY_AGAIN = 30.0  # after a fault of the moment, such as a TPM that was busy

Policies = Mapping[str, PcrPolicy]
log = structlog.get_logger("trusted_infrastructure.host")


class NativeProviders:
    """See the module. state_directory: of the agent. policies: the signed PCR policies of now, document id ->
    policy; may raise Refusal. host: this host's id. clock: Unix seconds."""

    def __init__(
        self,
        tpm: TpmWorker,
        state_directory: Path,
        policies: Callable[[], Policies],
        host: str,
        clock: Callable[[], float],
    ) -> None:
        self._tpm = tpm
        self._files = SealedProviders(state_directory)
        self._policies = policies
        self._host = host
        self._clock = clock
        self._providers: dict[str, HeldProvider] = {}
        self._changing = asyncio.Lock()
        self._seen: Policies | None = None
        self._tried = 0.0
        self._watching: asyncio.Task[None] | None = None

    # ---- life ---------------------------------------------------------------------------------------------

    def read(self) -> None:
        """Know what is stored, before anybody asks or pushes: a push may bring fewer keys than a copy has."""
        for sealed in self._files.read():
            described = sealed.described
            self._providers[described.provider] = HeldProvider(described, sealed=sealed)

    async def start(self) -> None:
        """Unseal what was read, and go on trying where it does not open. Raises nothing for a provider that
        stays locked: its state says why."""
        await self.refresh()
        self._watching = asyncio.create_task(self._watch())

    def close(self) -> None:
        """Wipe all keys. Nothing is to be asked of it after."""
        if self._watching is not None:
            self._watching.cancel()
        for provider in self._providers.values():
            provider.wipe()
        self._providers.clear()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            try:
                if self._due():
                    await self.refresh()
            except Exception:  # the boundary: a fault with one attempt must not end all others
                log.exception("native_providers_not_refreshed")

    def _due(self) -> bool:
        """Whether there are other policies than at the last attempt, or a fault of the moment may be over."""
        with contextlib.suppress(Refusal):
            if self._policies() != self._seen:
                return True
        passing = any(isinstance(one.problem, Unavailable) for one in self._providers.values())
        return passing and self._clock() - self._tried >= TRY_AGAIN

    async def refresh(self) -> None:
        """With the policies of now: open what is locked, store what is not, see whether the rest opens."""
        async with self._changing:
            self._tried = self._clock()
            try:
                policies = self._seen = dict(self._policies())
            except Refusal as refusal:
                for provider in self._providers.values():
                    provider.problem = refusal
                return
            for provider in list(self._providers.values()):
                if provider.locked:
                    await self._open(provider, policies)
                elif provider.waits_for_copy:
                    await self._join(provider, policies)
                elif provider.sealed is None or provider.stale:
                    await self._seal(provider, policies)
                else:
                    provider.problem = await self._closed(provider.sealed, policies)

    # ---- what the manager does ----------------------------------------------------------------------------

    async def receive(
        self, push: NativeProviderPush, open_key: Callable[[str, bytes], bytes]
    ) -> NativeProviderState:
        """Take over a provider, in place of what was held of it, but keep its keys that were not removed.
        open_key: opens a sealed key by its id.

        Raises InvalidField (keys, removed, policy_public_key); Refusal: key_mismatch (a key is not the one of
        its check value, or another one than is held under this id), tpm_required; Unavailable
        `state_unusable`; and what open_key raises. Then nothing changes.
        """
        described = _described(push)
        keys: Keys = {}
        try:
            for key in push.keys:
                opened = keys[key.key_id] = bytearray(open_key(key.key_id, key.sealed_key))
                if not is_key(bytes(opened), key.key_id, key.check_value):
                    raise _mismatch(push.provider, key.key_id, "is not the one of its check value")
            async with self._changing:
                return await self._take_over(HeldProvider(described, keys, frozenset(push.removed)))
        except BaseException:
            wipe_keys(keys)
            raise

    async def _take_over(self, provider: HeldProvider) -> NativeProviderState:
        name = provider.described.provider
        before = self._providers.get(name)
        for key_id, known in before.check_values().items() if before else ():
            # What this host has wrapped under the key would be lost.
            if provider.described.check_values.get(key_id, known) != known:
                raise _mismatch(name, key_id, "is another one than this host has under this id")
        try:
            policies = dict(self._policies())
        except Refusal:
            policies = {}
        more = before is not None and provider.keep(before)
        if provider.sealed is None:
            await self._seal(provider, policies)
        if provider.sealed is None:
            if provider.described.tpm_required:
                raise _tpm_required(name, provider.problem)
            # What is stored is of use after a start, unless the provider has other keys now; and never lose
            # what the manager could not bring back.
            if before is not None and (more or before.described == provider.described):
                provider.sealed = before.sealed
            else:
                self._files.remove(name)
        self._providers[name] = provider
        if before is not None:
            before.wipe()
        log.info("native_provider_received", provider=name, sealed=provider.sealed is not None)
        return provider.state()

    async def remove(self, provider: str) -> None:
        """Forget a provider; nothing where there is none. Raises Unavailable `state_unusable`."""
        async with self._changing:
            self._files.remove(provider)
            held = self._providers.pop(provider, None)
            if held is not None:
                held.wipe()
                log.info("native_provider_removed", provider=provider)

    # ---- what is asked ------------------------------------------------------------------------------------

    def states(self) -> list[NativeProviderState]:
        """All providers, by name."""
        return [provider.state() for _name, provider in sorted(self._providers.items())]

    def key(self, provider: str, key_id: str | None = None) -> tuple[str, bytes]:
        """Id and bytes (32) of a provider's key; without an id, of the current one.

        Raises Refusal: provider_unknown, native_key_unknown (404), native_provider_locked (409).
        """
        held = self._providers.get(provider)
        if held is None:
            raise Refusal(
                "provider_unknown",
                f"this host has no native provider {provider!r}",
                "see which providers the workload manager has for this cluster",
                status=404,
            )
        if held.locked:
            reason = f": {held.problem}" if held.problem else ""
            raise Refusal(
                "native_provider_locked",
                f"the keys of native provider {provider!r} are sealed to the TPM and do not open{reason}",
                "let the workload manager push the provider again, or sign a PCR policy for this boot",
                status=409,
            )
        wanted = key_id or held.described.key_id
        if wanted not in held.keys:
            raise Refusal(
                "native_key_unknown",
                f"native provider {provider!r} has no key {wanted!r}",
                "import the provider's backup that has this key",
                status=404,
            )
        return wanted, bytes(held.keys[wanted])

    # ---- the TPM ------------------------------------------------------------------------------------------

    async def _open(self, provider: HeldProvider, policies: Policies) -> None:
        if provider.sealed is None:
            return
        try:
            provider.keys = await self._unsealed(provider.sealed, policies)
        except Refusal as refusal:
            _report("native_provider_locked", provider, refusal)
        else:
            provider.problem = None
            log.info("native_provider_unsealed", provider=provider.described.provider)

    async def _join(self, provider: HeldProvider, policies: Policies) -> None:
        """Bring keys that only the stored copy has into memory, and store all anew."""
        if provider.sealed is None:
            return
        try:
            found = await self._unsealed(provider.sealed, policies)
        except Refusal as refusal:
            _report("native_provider_locked", provider, refusal)
            return
        provider.add(found, provider.sealed.described.check_values)
        await self._seal(provider, policies)

    async def _seal(self, provider: HeldProvider, policies: Policies) -> None:
        """Store a sealed copy; where that fails, `problem` says why."""
        described, now = provider.described, int(self._clock())
        try:
            sealed = await self._tpm.run(
                lambda tpm: sealed_provider.seal(tpm, self._host, described, provider.keys, now)
            )
            self._files.write(sealed)
        except Refusal as refusal:
            _report("native_provider_not_sealed", provider, refusal)
            return
        provider.sealed = sealed
        provider.problem = await self._closed(sealed, policies)

    async def _closed(self, sealed: SealedProvider, policies: Policies) -> Refusal | None:
        """Why a stored copy does not open now, and would not after a start like the last one; or None."""
        try:
            wipe_keys(await self._unsealed(sealed, policies))
        except Refusal as refusal:
            return refusal
        return None

    async def _unsealed(self, sealed: SealedProvider, policies: Policies) -> Keys:
        return await self._tpm.run(lambda tpm: sealed_provider.unseal(tpm, self._host, sealed, policies))


def _described(push: NativeProviderPush) -> Described:
    check_values = {key.key_id: key.check_value for key in push.keys}
    if len(check_values) != len(push.keys):
        raise InvalidField("keys", "has a key id twice")
    if push.keys[0].key_id != push.key_id:
        raise InvalidField("keys", "must begin with the current key, key_id")
    if not check_values.keys().isdisjoint(push.removed):
        raise InvalidField("removed", "has a key that is in keys")
    if push.policy_public_key is not None:
        policy_key_name(push.policy_public_key)
    return Described(
        provider=push.provider,
        key_id=push.key_id,
        check_values=check_values,
        tpm_required=push.tpm_required,
        policy_public_key=push.policy_public_key,
        policy_reference=push.policy_reference,
    )


def _report(event: str, provider: HeldProvider, refusal: Refusal) -> None:
    """Note why. Logged once: the same is found every time that is tried."""
    known, provider.problem = provider.problem, refusal
    if known is None or known.message != refusal.message:
        log.warning(event, provider=provider.described.provider, code=refusal.code, reason=refusal.message)


def _mismatch(provider: str, key_id: str, what: str) -> Refusal:
    return Refusal(
        "key_mismatch",
        f"native provider {provider!r}: key {key_id!r} {what}",
        "find out which of the keys is right; remove the provider from this host to take the manager's",
        status=409,
    )


def _tpm_required(provider: str, problem: Refusal | None) -> Refusal:
    return Refusal(
        "tpm_required",
        f"native provider {provider!r} is for hosts that seal it to a TPM; this one cannot"
        + (f": {problem}" if problem else ""),
        "see the reason; or allow hosts without a TPM for this provider",
        status=409,
    )
