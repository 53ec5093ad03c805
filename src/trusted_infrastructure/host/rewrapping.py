# SPDX-License-Identifier: GPL-3.0-or-later
"""Wrapping many keys of this host again: after a rotation, after a leak, or under another provider.

It can be repeated: what is done stays done, and what could not be done is named with its reason.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from trusted_infrastructure.host.key_encryption_keys import PrimaryKeys
from trusted_infrastructure.host.key_registry import KeptKey
from trusted_infrastructure.host.object_keys import ROOT, ObjectKeys
from trusted_infrastructure.key_delivery import KeyRecord, LeftKey, RewrapKeys, RewrapReport
from trusted_infrastructure.refusal import Refusal, Unavailable

AT_ONCE = 8
# Seconds after which a request answers with what it has; the caller asks again for the rest.
TIME_BUDGET = 45.0


@dataclass
class _Work:
    """What is done. broken: provider -> why it is not asked any more in this run."""

    rewrapped: list[KeyRecord] = field(default_factory=list)
    left: list[LeftKey] = field(default_factory=list)
    broken: dict[str, Refusal] = field(default_factory=dict)


class Rewrapping:
    """One request. owner: who asks. monotonic: seconds."""

    def __init__(
        self,
        keys: ObjectKeys,
        asked: RewrapKeys,
        owner: int = ROOT,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self._asked = asked
        self._object_ids, self._key_ids = frozenset(asked.object_ids), frozenset(asked.key_ids)
        self._owner = owner
        self._monotonic = monotonic
        self._work = _Work()

    async def run(self) -> RewrapReport:
        """Do it. Raises Refusal `provider_unknown` for a target that is none; all else is in the report."""
        if self._asked.target is not None:
            self._keys.known().type_of(self._asked.target)
        deadline = self._monotonic() + TIME_BUDGET
        meant = [kept for kept in self._keys.list(self._owner) if self._meant(kept.record)]
        primary_keys = await self._primary_keys(meant)
        limit = asyncio.Semaphore(AT_ONCE)

        async def one(kept: KeptKey) -> None:
            async with limit:
                await self._one(kept, primary_keys.get(kept.record.provider), deadline)

        await asyncio.gather(*(one(kept) for kept in meant))
        after = {kept.record.key_id: kept.record for kept in self._keys.list(self._owner)}
        asked = [after[kept.record.key_id] for kept in meant if kept.record.key_id in after]
        return RewrapReport(
            rewrapped=_in_order(self._work.rewrapped),
            left=sorted(self._work.left, key=lambda left: (left.object_id, left.key_id)),
            deep_recrypt=[record for record in asked if record.deep_recrypt],
        )

    def _meant(self, record: KeyRecord) -> bool:
        asked = self._asked
        return (
            (asked.provider is None or record.provider == asked.provider)
            and (not self._object_ids or record.object_id in self._object_ids)
            and (not self._key_ids or record.key_id in self._key_ids)
        )

    async def _primary_keys(self, meant: list[KeptKey]) -> dict[str, PrimaryKeys]:
        """Of each provider whose keys are meant. One that does not say is asked about each key. But what
        moves stays then: nobody would say whether its primary key is compromised, and the mark would be
        missing."""
        found: dict[str, PrimaryKeys] = {}
        for provider, kind in {kept.record.provider: kept.record.type for kept in meant}.items():
            try:
                found[provider] = await self._keys.kinds[kind].primary_keys(provider)
            except Refusal as refusal:
                if self._asked.dry_run or isinstance(refusal, Unavailable) or self._moves(provider):
                    self._work.broken[provider] = refusal
        return found

    async def _one(self, kept: KeptKey, primary_keys: PrimaryKeys | None, deadline: float) -> None:
        record = kept.record
        compromised = primary_keys is not None and record.primary_key_id in primary_keys.compromised
        rests = primary_keys is not None and primary_keys.rests(record.primary_key_id)
        if rests and not self._moves(record.provider):
            return
        if record.provider in self._work.broken:
            self._leave(record, self._work.broken[record.provider])
        elif self._asked.dry_run:
            self._work.rewrapped.append(record)
        elif self._monotonic() > deadline:
            self._leave(record, _unfinished())
        else:
            try:
                changed = await self._keys.rewrap(
                    record.key_id,
                    self._asked.target,
                    replace=self._asked.replace,
                    compromised=compromised,
                    owner=self._owner,
                )
            except Refusal as refusal:
                self._failed(record, refusal)
            else:
                if changed is not None:
                    self._work.rewrapped.append(changed)

    def _moves(self, provider: str) -> bool:
        """Whether keys of a provider get other key encryption keys, compromised or not."""
        return self._asked.replace or self._asked.target not in (None, provider)

    def _failed(self, record: KeyRecord, refusal: Refusal) -> None:
        if refusal.code == "key_unknown":
            return  # forgotten in the meantime
        if isinstance(refusal, Unavailable) and self._asked.target in (None, record.provider):
            # Each further key would wait as long as this one did.
            self._work.broken.setdefault(record.provider, refusal)
        self._leave(record, refusal)

    def _leave(self, record: KeyRecord, refusal: Refusal) -> None:
        self._work.left.append(
            LeftKey(
                key_id=record.key_id,
                object_id=record.object_id,
                provider=record.provider,
                primary_key_id=record.primary_key_id,
                code=refusal.code,
                message=refusal.message,
            )
        )


def _in_order(records: list[KeyRecord]) -> list[KeyRecord]:
    return sorted(records, key=lambda record: (record.object_id, record.key_id))


def _unfinished() -> Refusal:
    return Unavailable(
        "rewrap_unfinished", f"there was no time for this key within {TIME_BUDGET:.0f} s", "ask again"
    )
