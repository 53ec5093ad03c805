# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys of trusted providers: the Key Provider Service makes, opens and wraps them for this attested host."""

from __future__ import annotations

from trusted_infrastructure.host.key_encryption_keys import (
    KeyEncryptionKey,
    ObjectOfKey,
    PrimaryKeys,
    made_and_got_again,
)
from trusted_infrastructure.host.keys import Counts, Keys
from trusted_infrastructure.host.native_keys import parsed_reference
from trusted_infrastructure.messages import PrimaryKeyIds
from trusted_infrastructure.refusal import Refusal


class TrustedKeys:
    """See the module. counts: what a usage report tells the services."""

    def __init__(self, keys: Keys, counts: Counts) -> None:
        self._keys = keys
        self._counts = counts

    async def create(self, provider: str, use: ObjectOfKey) -> KeyEncryptionKey:
        """A new KEK whose label is the object's id. Raises as `Keys.create`."""
        return await self._keys.create(provider, use.object_id)

    async def get(self, provider: str, kek_id: str, reference: bytes, use: ObjectOfKey) -> KeyEncryptionKey:
        """The KEK in `reference`. Raises as `Keys.unwrap`."""
        parsed_reference(provider, kek_id, reference)
        return await self._keys.unwrap(provider, reference, keep=use.arrives)

    async def rewrap(
        self, provider: str, kek_id: str, reference: bytes, use: ObjectOfKey
    ) -> KeyEncryptionKey:
        """See the protocol. Raises as `Keys.rewrap`."""
        parsed_reference(provider, kek_id, reference)
        return await self._keys.rewrap(provider, reference)

    async def primary_keys(self, provider: str) -> PrimaryKeys:
        """What the services say, on a usage report. Raises Refusal or Unavailable when none says anything."""
        answers, faults = await self._keys.report_usage(provider, self._counts)
        if not answers:
            raise faults[0]
        return merged(answers)

    async def report(self, provider: str) -> list[Refusal]:
        """Tell all services how many keys are kept; why some were not told. Raises Refusal, Unavailable."""
        _answers, faults = await self._keys.report_usage(provider, self._counts)
        return faults

    async def check(self, provider: str, use: ObjectOfKey) -> bool:
        """See the protocol."""
        return await made_and_got_again(self, provider, use)


def merged(answers: list[PrimaryKeyIds]) -> PrimaryKeys:
    """What several services say together. One that has an older configuration still names an older key as the
    current one; so a key is old as soon as one service says so."""
    return PrimaryKeys(
        current=frozenset(answer.primary_key_id for answer in answers),
        previous=frozenset(key for answer in answers for key in answer.previous),
        compromised=frozenset(key for answer in answers for key in answer.compromised),
    )
