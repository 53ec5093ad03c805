# SPDX-License-Identifier: GPL-3.0-or-later
"""The primary keys that a request needs: from memory at once, or from the key servers, once for all who wait.

Requests for a key in memory never wait for those whose key must be fetched: these wait in threads of their
own, one for each key however many hosts ask. For use by one event loop.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from trusted_infrastructure.key_provider.authorization import Authorization
from trusted_infrastructure.key_provider.providers import PrimaryKeys
from trusted_infrastructure.kmip.pool import PrimaryKey, require_active
from trusted_infrastructure.refusal import Unavailable

# Threads that wait for key servers; one for each primary key that is not in memory.
WAITING_THREADS = 64


@dataclass(frozen=True)
class KeysAtHand:
    """Primary keys for one request. Reading one that was not asked for is a fault of ours."""

    opens: PrimaryKey | None
    wraps: PrimaryKey | None

    @property
    def to_open(self) -> PrimaryKey:
        """The key that the wrapped key of the request is under."""
        return _there(self.opens)

    @property
    def to_wrap(self) -> PrimaryKey:
        """The provider's primary key of now, active."""
        return _there(self.wraps)


class Obtaining:
    """See the module."""

    def __init__(self, keys: PrimaryKeys) -> None:
        self._keys = keys
        self._threads = ThreadPoolExecutor(WAITING_THREADS, thread_name_prefix="obtain")
        self._under_way: dict[tuple[str, str], asyncio.Task[PrimaryKey]] = {}

    async def for_request(self, provider: str, authorization: Authorization) -> KeysAtHand:
        """What an authorized request needs.

        Raises Refusal `key_deactivated` when it is to wrap and the provider's primary key does not any more;
        Unavailable `primary_key_unavailable` when the provider was changed meanwhile; as
        `PrimaryKeys.obtain`.
        """
        opens = wraps = None
        if authorization.opened_with is not None:
            opens = await self._key(provider, authorization.opened_with, authorization.max_age)
        if authorization.wraps:
            wraps = await self._key(provider, authorization.provider.master_key_id, authorization.max_age)
            require_active(wraps)
            # Nothing more is wrapped under a key that the provider was rotated from a moment ago.
            if self._keys.wrapping_key_id(provider) != wraps.key_id:
                raise being_changed(provider)
        return KeysAtHand(opens, wraps)

    async def _key(self, provider: str, key_id: str, max_age: float) -> PrimaryKey:
        found = self._keys.current(provider, key_id, max_age)
        if found is not None:
            return found
        name = provider, key_id
        task = self._under_way.get(name)
        if task is None:
            task = self._under_way[name] = asyncio.create_task(self._obtain(provider, key_id, max_age))
            # Retrieved also when everybody who waited is gone.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        # A host that goes away does not end what others wait for.
        return await asyncio.shield(task)

    async def _obtain(self, provider: str, key_id: str, max_age: float) -> PrimaryKey:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, self._keys.obtain, provider, key_id, max_age)
        finally:
            del self._under_way[provider, key_id]


def being_changed(provider: str) -> Unavailable:
    """The provider has another primary key than when the request came."""
    return Unavailable(
        "primary_key_unavailable", f"the primary key of provider {provider!r} is being changed", "Ask again."
    )


def _there(key: PrimaryKey | None) -> PrimaryKey:
    if key is None:
        raise RuntimeError("the request did not ask for this primary key")
    return key
