# SPDX-License-Identifier: GPL-3.0-or-later
"""The one interface to keys on this host, whatever kind of key provider they are of.

A key for an object is a random data key. A provider's key encryption key (KEK) wraps it, each data key has a
KEK of its own, and what is kept is one opaque wrapped data key (`data_keys`). A change is on the disk before
it is answered.

Each key belongs to the user who had it made: root sees all, others their own, and what they may not see is to
them as if it were not there.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import msgspec

from trusted_infrastructure import data_keys, wrapping
from trusted_infrastructure.config.documents import KeyProviderType
from trusted_infrastructure.data_keys import DataKeyHeader
from trusted_infrastructure.host.key_encryption_keys import (
    KeyEncryptionKey,
    KeyEncryptionKeys,
    ObjectOfKey,
    wipe,
)
from trusted_infrastructure.host.key_registry import KeptKey, KeyRegistry
from trusted_infrastructure.host.known_providers import KnownProviders
from trusted_infrastructure.key_delivery import KeyRecord
from trusted_infrastructure.messages import KEY_CHECK_LABEL
from trusted_infrastructure.refusal import InvalidField, Refusal

ROOT = 0


@dataclass
class ObjectKey:
    """A data key in use. A context manager that wipes it at its end.

    wrapped_key: what is kept of it. key: 32 bytes. Python may have copied the key before: SECURITY.md.
    """

    record: KeyRecord
    wrapped_key: bytes = field(repr=False)
    key: bytearray = field(repr=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        wipe(self.key)


class ObjectKeys:
    """See the module. kinds: by kind of provider. known: the providers of now; raises Unavailable. clock:
    Unix seconds. released: called with (provider, KEK id) when the last key under a standard provider's KEK
    went.
    """

    def __init__(
        self,
        registry: KeyRegistry,
        kinds: Mapping[KeyProviderType, KeyEncryptionKeys],
        known: Callable[[], KnownProviders],
        clock: Callable[[], float],
        released: Callable[[str, str], object] = lambda _provider, _kek_id: None,
    ) -> None:
        self.registry = registry
        self.kinds = kinds
        self.known = known
        self._clock = clock
        self._released = released
        # One change of a key at a time: a key that is forgotten must not come back with a late answer.
        self._changing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def generate(self, use: ObjectOfKey, provider: str | None = None, owner: int = ROOT) -> ObjectKey:
        """A new key for an object. provider: None means the default one.

        Raises InvalidField, Refusal `provider_unknown`, and what the provider refuses with.
        """
        _check_names(use)
        known = self.known()
        name = provider or known.default_provider()
        kind = known.type_of(name)
        self.registry.check_room()  # before a key server makes a key that nothing will be kept of
        key_id = str(uuid.uuid4())
        key = bytearray(os.urandom(data_keys.KEY_BYTES))
        with self.registry.arriving(name):
            with await self.kinds[kind].create(name, use) as kek:
                kept = KeptKey(
                    record=KeyRecord(
                        key_id=key_id,
                        object_id=use.object_id,
                        component=use.component,
                        name=use.name,
                        provider=name,
                        type=kind,
                        kek_id=kek.kek_id,
                        primary_key_id=_primary_key_id(kek.wrapped_key),
                        created=int(self._clock()),
                    ),
                    wrapped_key=_wrapped(kind, name, kek, key_id, use, key),
                    owner=owner,
                )
            try:
                await self.registry.put(kept)
            except Refusal:
                wipe(key)
                self._release(kept.record)
                raise
        return ObjectKey(kept.record, kept.wrapped_key, key)

    async def get(self, key_id: str, owner: int = ROOT) -> ObjectKey:
        """The key, by its id. Raises Refusal `key_unknown`, `wrapped_key_invalid`, and what the provider
        refuses with."""
        kept = self.kept(key_id, owner)
        key = await self._opened(kept.wrapped_key, _use_of(kept.record))
        return ObjectKey(kept.record, kept.wrapped_key, key)

    async def get_wrapped(self, wrapped_key: bytes, owner: int = ROOT) -> ObjectKey:
        """The key in a wrapped data key. What this host keeps of it counts, should that be newer. One that it
        does not keep, from another host of the cluster, say, is opened for root, and kept from then on; one
        under an earlier primary key is wrapped again for that.

        Raises as `get`.
        """
        header = data_keys.parse(wrapped_key).header
        if self.registry.get(header.key_id) is not None:
            own = self.kept(header.key_id, owner).header
            if (own.object_id, own.component) != (header.object_id, header.component):
                raise Refusal(
                    "wrapped_key_invalid",
                    f"the wrapped data key names another object than key {header.key_id} of this host",
                    "Use the wrapped data key as it was given.",
                )
            return await self.get(header.key_id, owner)
        if owner != ROOT:
            raise _unknown(header.key_id)
        use = ObjectOfKey(header.object_id, header.component, arrives=True)
        with self.registry.arriving(header.provider):
            try:
                key = await self._opened(wrapped_key, use)
            except Refusal as refusal:
                if refusal.code != "primary_key_previous":
                    raise
                return await self._wrapped_on_arrival(wrapped_key, refusal)
            async with self._changing[header.key_id]:
                kept = self.registry.get(header.key_id)
                if kept is None:  # else another call was first, and what it keeps may be newer by now
                    record = _record_of(header, int(self._clock()))
                    kept = KeptKey(record=record, wrapped_key=wrapped_key, owner=owner)
                    await self.registry.put(kept)
        return ObjectKey(kept.record, kept.wrapped_key, key)

    async def _wrapped_on_arrival(self, wrapped_key: bytes, refusal: Refusal) -> ObjectKey:
        """Keep it under the primary key of now alone: the one before may be given up at any time."""
        header = data_keys.parse(wrapped_key).header
        async with self._changing[header.key_id]:
            if self.registry.get(header.key_id) is None:
                record = _record_of(header, int(self._clock()))
                arrived = KeptKey(record=record, wrapped_key=wrapped_key, owner=ROOT)
                if await self._rewrapped(arrived, header.provider, False, False) is None:
                    raise refusal  # by a service that has not heard of the rotation
        return await self.get(header.key_id)

    async def rewrap(
        self,
        key_id: str,
        target: str | None = None,
        *,
        replace: bool = False,
        compromised: bool = False,
        owner: int = ROOT,
    ) -> KeyRecord | None:
        """Wrap a key under another provider, or under its own provider's newest primary key; the record as it
        is then, or None where nothing had to be done.

        replace: make a new KEK. compromised: the primary key that it rests on is: make a new KEK, and note
        that the object's data needs a new key. Raises as `get`; the key is then as it was.
        """
        async with self._changing[self.kept(key_id, owner).record.key_id]:
            kept = self.kept(key_id, owner)
            with self.registry.arriving(target or kept.header.provider):
                return await self._rewrapped(kept, target or kept.header.provider, replace, compromised)

    async def _rewrapped(
        self, kept: KeptKey, name: str, replace: bool, compromised: bool
    ) -> KeyRecord | None:
        before, use = kept.header, _use_of(kept.record)
        kind = before.type if name == before.provider else self.known().type_of(name)
        if name == before.provider and not replace and not compromised:
            try:
                with await self.kinds[kind].rewrap(name, before.kek_id, before.kek_reference, use) as same:
                    if same.wrapped_key == before.kek_reference:
                        return None
                    key = data_keys.unwrap(bytes(same.key), data_keys.parse(kept.wrapped_key))
                    return await self._replaced(kept, kind, name, same, bytearray(key))
            except Refusal as refusal:
                if refusal.code != "primary_key_compromised":
                    raise
                compromised = True
        opened = await self._opened(kept.wrapped_key, use)
        with await self.kinds[kind].create(name, use) as new:
            return await self._replaced(kept, kind, name, new, opened, deep_recrypt=compromised)

    async def forget(self, key_id: str, owner: int = ROOT) -> KeyRecord:
        """Forget a key: what it encrypts cannot be read any more, unless its wrapped data key is elsewhere.
        The record as it was. Raises Refusal `key_unknown`."""
        async with self._changing[self.kept(key_id, owner).record.key_id]:
            kept = self.kept(key_id, owner)
            await self.registry.remove(key_id)
            self._release(kept.record)
        self._changing.pop(key_id, None)
        return kept.record

    def list(self, owner: int = ROOT) -> list[KeptKey]:
        """The keys that a user may see."""
        return [kept for kept in self.registry.all() if owner in (ROOT, kept.owner)]

    def kept(self, key_id: str, owner: int = ROOT) -> KeptKey:
        """One of them. Raises Refusal `key_unknown` (404)."""
        kept = self.registry.get(key_id)
        if kept is None or owner not in (ROOT, kept.owner):
            raise _unknown(key_id)
        return kept

    async def check(self, provider: str, use: ObjectOfKey) -> bool:
        """Whether a key of this provider comes, and comes again as the same. Keeps nothing."""
        return await self.kinds[self.known().type_of(provider)].check(provider, use)

    async def _opened(self, wrapped_key: bytes, use: ObjectOfKey) -> bytearray:
        parsed = data_keys.parse(wrapped_key)
        header = parsed.header
        keys = self.kinds[header.type]
        with await keys.get(header.provider, header.kek_id, header.kek_reference, use) as kek:
            return bytearray(data_keys.unwrap(bytes(kek.key), parsed))

    async def _replaced(
        self,
        kept: KeptKey,
        kind: KeyProviderType,
        provider: str,
        kek: KeyEncryptionKey,
        key: bytearray,
        *,
        deep_recrypt: bool = False,
    ) -> KeyRecord:
        """Keep the same data key under another KEK, or the same KEK in another form."""
        record = msgspec.structs.replace(
            kept.record,
            provider=provider,
            type=kind,
            kek_id=kek.kek_id,
            primary_key_id=_primary_key_id(kek.wrapped_key),
            deep_recrypt=kept.record.deep_recrypt or deep_recrypt,
        )
        try:
            wrapped = _wrapped(kind, provider, kek, record.key_id, _use_of(record), key)
        finally:
            wipe(key)
        changed = KeptKey(record=record, wrapped_key=wrapped, owner=kept.owner)
        await self.registry.put(changed)
        self._release(kept.record)
        return record

    def _release(self, record: KeyRecord) -> None:
        """A KEK of a standard provider that no key of this host needs any more leaves its memory."""
        if record.type == "STANDARD" and not self.registry.uses_kek(record.provider, record.kek_id):
            self._released(record.provider, record.kek_id)


def _wrapped(
    kind: KeyProviderType,
    provider: str,
    kek: KeyEncryptionKey,
    key_id: str,
    use: ObjectOfKey,
    key: bytearray,
) -> bytes:
    header = DataKeyHeader(
        type=kind,
        provider=provider,
        key_id=key_id,
        object_id=use.object_id,
        component=use.component,
        kek_id=kek.kek_id,
        kek_reference=kek.wrapped_key,
        salt=os.urandom(data_keys.SALT_BYTES),
    )
    return data_keys.wrap(bytes(kek.key), header, bytes(key))


def _record_of(header: DataKeyHeader, now: int) -> KeyRecord:
    return KeyRecord(
        key_id=header.key_id,
        object_id=header.object_id,
        component=header.component,
        name="",
        provider=header.provider,
        type=header.type,
        kek_id=header.kek_id,
        primary_key_id=_primary_key_id(header.kek_reference),
        created=now,
    )


def _primary_key_id(reference: bytes) -> str | None:
    return wrapping.parse(reference).header.primary_key_id if reference else None


def _use_of(record: KeyRecord) -> ObjectOfKey:
    return ObjectOfKey(record.object_id, record.component, record.name)


def _check_names(use: ObjectOfKey) -> None:
    """Names that can be written into a header. Raises InvalidField."""
    if use.object_id == KEY_CHECK_LABEL:
        raise InvalidField("object_id", f"{KEY_CHECK_LABEL!r} is what key checks are made for")
    for field_name, value in (("object_id", use.object_id), ("component", use.component), ("name", use.name)):
        if not value.isprintable():
            raise InvalidField(field_name, "has characters that cannot be printed")


def _unknown(key_id: str) -> Refusal:
    return Refusal(
        "key_unknown",
        f"this host keeps no key {key_id!r} that the caller may use",
        "list the keys; a key that another user had made is that user's alone",
        status=404,
    )
