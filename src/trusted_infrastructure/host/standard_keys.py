# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys of standard providers: the workload manager gets them from the key server and passes them on.

They are in this process' memory alone: after a restart the manager passes them again.
"""

from __future__ import annotations

import asyncio
import hmac
from pathlib import Path

import msgspec

from trusted_infrastructure.host.delivery import DeliveryKey
from trusted_infrastructure.host.key_encryption_keys import (
    KeyEncryptionKey,
    ObjectOfKey,
    PrimaryKeys,
    wipe,
)
from trusted_infrastructure.host.key_queue import KeyQueue, not_delivered
from trusted_infrastructure.key_delivery import StandardKeyName, StandardKeyNames
from trusted_infrastructure.key_delivery import StandardKeys as Delivery
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.state_files import read_state, write_state

CHECK_KEYS = "standard_check_keys.json"


class StandardKeys:
    """See the module. state_directory: keeps the ids of the keys that `check` uses; no key is stored."""

    def __init__(self, delivery: DeliveryKey, queue: KeyQueue, state_directory: Path) -> None:
        self._delivery = delivery
        self._queue = queue
        self._check_keys = state_directory / CHECK_KEYS
        self._checking = asyncio.Lock()
        self._held: dict[tuple[str, str], bytearray] = {}

    # ---- for objects of this host -------------------------------------------------------------------------

    async def create(self, provider: str, use: ObjectOfKey) -> KeyEncryptionKey:
        """A new KEK, put to use for `use` on the key server.

        Raises Unavailable `key_not_delivered`, `service_busy`, and the manager's Refusal.
        """
        return self._taken(provider, await self._queue.ask("create", provider, None, use))

    async def get(self, provider: str, kek_id: str, reference: bytes, use: ObjectOfKey) -> KeyEncryptionKey:
        """The KEK, from memory or by the manager. Raises as `create`."""
        if not self.holds(provider, kek_id):
            await self._queue.ask("get", provider, kek_id, use)
        return self._taken(provider, kek_id)

    async def rewrap(
        self, provider: str, kek_id: str, reference: bytes, use: ObjectOfKey
    ) -> KeyEncryptionKey:
        """As `get`: such a KEK is not wrapped."""
        return await self.get(provider, kek_id, reference, use)

    async def primary_keys(self, provider: str) -> PrimaryKeys:
        """None: each KEK is a key of its own on the key server."""
        return PrimaryKeys()

    async def check(self, provider: str, use: ObjectOfKey) -> bool:
        """Whether a key comes, and comes again. The key is made once and its id kept: it stays on the key
        server, and each further one would, too. One check at a time: it forgets what another would use."""
        async with self._checking:
            return await self._checked(provider, use)

    async def _checked(self, provider: str, use: ObjectOfKey) -> bool:
        known = self._known_check_keys()
        key_id = known.get(provider)
        if key_id is None or not await self._comes(provider, key_id, use):
            with await self.create(provider, use) as made:
                key_id = made.kek_id
            write_state(self._check_keys, msgspec.json.encode(known | {provider: key_id}))
        with await self.get(provider, key_id, b"", use) as before:
            self.forget(provider, key_id)
            with await self.get(provider, key_id, b"", use) as again:
                return before.key == again.key

    # ---- for the manager ----------------------------------------------------------------------------------

    def receive(self, delivery: Delivery) -> None:
        """Take keys and answers, all or nothing.

        Raises Refusal `delivery_stale`, `sealed_value_invalid`, `key_mismatch` (409: another key is held
        under the id; it stays).
        """
        self._delivery.check(delivery.instance)
        opened: dict[tuple[str, str], bytearray] = {}
        for key in delivery.keys:
            name = (key.provider, key.key_id)
            value = self._delivery.open("standard", key.provider, key.key_id, key.sealed_key)
            held = self._held.get(name) or opened.get(name)
            if held is not None and not hmac.compare_digest(held, value):
                raise Refusal(
                    "key_mismatch",
                    f"key {key.key_id!r} of provider {key.provider!r} is held with other bytes",
                    "see which key is on the key server; forget the one on this host if it is wrong",
                    status=409,
                )
            opened.setdefault(name, bytearray(value))
        self._held = opened | self._held
        for answer in delivery.answers:
            self._queue.answer(answer, self.holds)
        for provider, key_id in opened:
            self._queue.delivered(provider, key_id)

    def holds(self, provider: str, key_id: str) -> bool:
        """Whether the key is in memory."""
        return (provider, key_id) in self._held

    def forget(self, provider: str, key_id: str) -> bool:
        """Overwrite a key and drop it; whether there was one."""
        held = self._held.pop((provider, key_id), None)
        if held is not None:
            wipe(held)
        return held is not None

    def names(self) -> StandardKeyNames:
        """What is held."""
        names = sorted(self._held)
        return StandardKeyNames(keys=[StandardKeyName(provider=one, key_id=key) for one, key in names])

    def close(self) -> None:
        """Overwrite all keys."""
        for provider, key_id in list(self._held):
            self.forget(provider, key_id)

    def _taken(self, provider: str, key_id: str) -> KeyEncryptionKey:
        held = self._held.get((provider, key_id))
        if held is None:  # forgotten in the moment between
            raise not_delivered(provider, f"key {key_id!r} was taken away again")
        return KeyEncryptionKey(key_id, b"", bytearray(held))

    async def _comes(self, provider: str, key_id: str, use: ObjectOfKey) -> bool:
        """Whether the manager still delivers this key; false where it says that there is none."""
        try:
            (await self.get(provider, key_id, b"", use)).wipe()
        except Refusal as refusal:
            if refusal.status >= 500:
                raise
            return False
        return True

    def _known_check_keys(self) -> dict[str, str]:
        """provider -> key id. What cannot be read counts as none: a key more is made, and nothing is lost."""
        try:
            return msgspec.json.decode(read_state(self._check_keys) or b"{}", type=dict[str, str])
        except (msgspec.DecodeError, UnicodeDecodeError):
            return {}
