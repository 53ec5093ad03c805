# SPDX-License-Identifier: GPL-3.0-or-later
"""A native provider as this host holds it: its keys in memory, and the copy sealed to the TPM. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from trusted_infrastructure.host.key_encryption_keys import wipe
from trusted_infrastructure.host.sealed_provider import Described, Keys, SealedProvider
from trusted_infrastructure.key_delivery import NativeProviderState
from trusted_infrastructure.refusal import Refusal

_LONGEST_MESSAGE = 2000
_NEVER_OPENS = {"sealed_data_invalid", "sealed_data_outdated"}


@dataclass
class HeldProvider:
    """described: what is in memory, or locked in the copy. keys: empty where locked. removed: keys that the
    manager removed. sealed: the stored copy. problem: why it is locked, or not stored, or would not open."""

    described: Described
    keys: Keys = field(default_factory=dict, repr=False)
    removed: frozenset[str] = frozenset()
    sealed: SealedProvider | None = None
    problem: Refusal | None = None

    @property
    def locked(self) -> bool:
        """Whether no key can be used."""
        return not self.keys

    @property
    def stale(self) -> bool:
        """Whether the copy is not of what is in memory."""
        return self.sealed is not None and self.sealed.described != self.described

    @property
    def waits_for_copy(self) -> bool:
        """Whether the copy has keys that are not in memory, though others are."""
        return not self.locked and bool(self._stored().keys() - self.keys.keys())

    def check_values(self) -> dict[str, str]:
        """Those of the keys in memory, and in a copy that may open one day."""
        return {**self._stored(), **({} if self.locked else self.described.check_values)}

    def state(self) -> NativeProviderState:
        """As the manager is told."""
        described, problem = self.described, self.problem
        return NativeProviderState(
            provider=described.provider,
            key_id=described.key_id,
            keys=described.check_values | self.check_values(),
            state="LOCKED" if self.locked else "AVAILABLE",
            sealed=self.sealed is not None,
            tpm_required=described.tpm_required,
            code=problem.code if problem else "",
            message=problem.message[:_LONGEST_MESSAGE] if problem else "",
        )

    def keep(self, before: HeldProvider) -> bool:
        """Add what the host had before, unless it was removed. A copy with keys that are not in memory stays.
        Returns whether anything was added."""
        held = before.check_values()
        kept = held.keys() - self.keys.keys() - self.removed
        self.add({one: bytearray(before.keys[one]) for one in kept & before.keys.keys()}, held)
        if not kept <= self.keys.keys():
            self.sealed, self.problem = before.sealed, before.problem
        return bool(kept)

    def add(self, keys: Keys, check_values: Mapping[str, str]) -> None:
        """Further keys, behind the others; those that were removed are wiped."""
        for key_id in sorted(keys):
            if key_id in self.keys or key_id in self.removed:
                wipe(keys[key_id])
            else:
                self.keys[key_id] = keys[key_id]
        known = {**check_values, **self.described.check_values}
        self.described = msgspec.structs.replace(
            self.described, check_values={key_id: known[key_id] for key_id in self.keys}
        )

    def wipe(self) -> None:
        """Overwrite the keys in memory."""
        wipe_keys(self.keys)

    def _stored(self) -> dict[str, str]:
        if self.sealed is None or (self.problem is not None and self.problem.code in _NEVER_OPENS):
            return {}
        stored = self.sealed.described.check_values
        return {key_id: value for key_id, value in stored.items() if key_id not in self.removed}


def wipe_keys(keys: Keys) -> None:
    """Overwrite and forget keys."""
    for key in keys.values():
        wipe(key)
    keys.clear()
