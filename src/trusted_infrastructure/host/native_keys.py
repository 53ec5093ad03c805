# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys of native providers: this host makes them, and wraps them with the key that the manager pushed to it.

No service is asked, so they work while the manager is away.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from typing import Protocol

from trusted_infrastructure import wrapping
from trusted_infrastructure.host.key_encryption_keys import (
    KeyEncryptionKey,
    ObjectOfKey,
    PrimaryKeys,
    made_and_got_again,
)
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.wrapping import WrappedKeyHeader


class KeyDerivationKeys(Protocol):
    """The keys of native providers on this host: `native_providers.NativeProviders`."""

    def key(self, provider: str, key_id: str | None = None) -> tuple[str, bytes]:
        """Id and 32 bytes of a key; without an id, of the current one. Raises Refusal
        `native_provider_locked`, `provider_unknown`."""


class NativeKeys:
    """See the module. scope: of this host's assertion; what a wrapped key says of where it was made."""

    def __init__(self, providers: KeyDerivationKeys, scope: Callable[[], str]) -> None:
        self._providers = providers
        self._scope = scope

    async def create(self, provider: str, use: ObjectOfKey) -> KeyEncryptionKey:
        """A new random KEK. Raises Refusal `native_provider_locked`, `provider_unknown`."""
        return self._wrapped(provider, str(uuid.uuid4()), use, bytearray(os.urandom(wrapping.KEY_BYTES)))

    async def get(self, provider: str, kek_id: str, reference: bytes, use: ObjectOfKey) -> KeyEncryptionKey:
        """The KEK in `reference`. Also raises Refusal `wrapped_key_invalid`.

        The scope is not compared: whoever has the provider's key can open it anyway, and a host that joins a
        trusted cluster later must not lose its keys.
        """
        parsed = parsed_reference(provider, kek_id, reference)
        _key_id, key = self._providers.key(provider, parsed.header.primary_key_id)
        return KeyEncryptionKey(kek_id, reference, bytearray(wrapping.unwrap_parsed(key, parsed)))

    async def rewrap(
        self, provider: str, kek_id: str, reference: bytes, use: ObjectOfKey
    ) -> KeyEncryptionKey:
        """The KEK under the provider's current key. Raises as `get`."""
        held = await self.get(provider, kek_id, reference, use)
        current, _key = self._providers.key(provider)
        if wrapping.parse(reference).header.primary_key_id == current:
            return held
        return self._wrapped(provider, kek_id, use, held.key)

    async def primary_keys(self, provider: str) -> PrimaryKeys:
        """The current one. Raises as `create`."""
        key_id, _key = self._providers.key(provider)
        return PrimaryKeys(current=frozenset({key_id}))

    async def check(self, provider: str, use: ObjectOfKey) -> bool:
        """See the protocol."""
        return await made_and_got_again(self, provider, use)

    def _wrapped(self, provider: str, kek_id: str, use: ObjectOfKey, kek: bytearray) -> KeyEncryptionKey:
        key_id, key = self._providers.key(provider)
        header = WrappedKeyHeader(
            provider=provider,
            primary_key_id=key_id,
            kek_id=kek_id,
            object_label=use.object_id,
            scope=self._scope(),
            salt=os.urandom(wrapping.SALT_BYTES),
        )
        return KeyEncryptionKey(kek_id, wrapping.wrap(key, header, bytes(kek)), kek)


def parsed_reference(provider: str, kek_id: str, reference: bytes) -> wrapping.WrappedKey:
    """The wrapped KEK, if it is this one. Raises Refusal `wrapped_key_invalid`."""
    parsed = wrapping.parse(reference)
    if (parsed.header.provider, parsed.header.kek_id) != (provider, kek_id):
        raise Refusal(
            "wrapped_key_invalid",
            f"the wrapped key is {parsed.header.kek_id!r} of provider {parsed.header.provider!r}; expected"
            f" {kek_id!r} of {provider!r}",
            "Use the wrapped key as it was given.",
        )
    return parsed
