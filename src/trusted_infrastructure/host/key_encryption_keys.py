# SPDX-License-Identifier: GPL-3.0-or-later
"""Key encryption keys (KEKs), whatever kind of key provider they are of: what this host asks, and gets.

One implementation for each kind: `trusted_keys`, `standard_keys`, `native_keys`. `object_keys` uses them and
does not tell them apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self


@dataclass
class KeyEncryptionKey:
    """A KEK and what it is kept as. A context manager that wipes the key at its end.

    key: 32 bytes. wrapped_key: what leads to it; empty where the id alone does (a standard provider). Python
    may have copied the key before: SECURITY.md.
    """

    kek_id: str
    wrapped_key: bytes
    key: bytearray = field(repr=False)

    def wipe(self) -> None:
        """Overwrite the key."""
        wipe(self.key)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wipe()


@dataclass(frozen=True)
class ObjectOfKey:
    """What a key is for. object_id: the machine's instance UUID, say. component: "Virtual Machine" or "Host",
    or what the caller says. name: for people. The last two may be empty. arrives: its key is not kept here so
    far, and is from now on."""

    object_id: str
    component: str = ""
    name: str = ""
    arrives: bool = False


@dataclass(frozen=True)
class PrimaryKeys:
    """Ids of a provider's primary keys, as far as this host was told. Empty for a standard provider.

    current: wraps new keys. previous: opens what it wrapped. compromised: those of the previous ones whose
    KEKs must be replaced.
    """

    current: frozenset[str] = frozenset()
    previous: frozenset[str] = frozenset()
    compromised: frozenset[str] = frozenset()

    def rests(self, primary_key_id: str | None) -> bool:
        """Whether what is wrapped under this key can stay as it is."""
        if primary_key_id is None:
            return True
        return primary_key_id in self.current and primary_key_id not in self.previous


class KeyEncryptionKeys(Protocol):
    """The KEKs of one kind of provider. Every method raises the provider's Refusal or Unavailable."""

    async def create(self, provider: str, use: ObjectOfKey) -> KeyEncryptionKey:
        """A new KEK for an object."""

    async def get(self, provider: str, kek_id: str, reference: bytes, use: ObjectOfKey) -> KeyEncryptionKey:
        """The KEK again. reference: the `wrapped_key` that it was kept as."""

    async def rewrap(
        self, provider: str, kek_id: str, reference: bytes, use: ObjectOfKey
    ) -> KeyEncryptionKey:
        """The same KEK, kept under the provider's newest primary key. Where it is already, nothing changes.

        Also raises Refusal `primary_key_compromised`: this KEK must not be kept; make a new one.
        """

    async def primary_keys(self, provider: str) -> PrimaryKeys:
        """Which primary keys the provider has now."""

    async def check(self, provider: str, use: ObjectOfKey) -> bool:
        """Get a key, and get it again from what it is kept as; whether they are equal. Keeps nothing here."""


def wipe(key: bytearray) -> None:
    """Overwrite a key."""
    for index in range(len(key)):
        key[index] = 0


async def made_and_got_again(keys: KeyEncryptionKeys, provider: str, use: ObjectOfKey) -> bool:
    """`check`, where a new KEK costs nothing: make one, get it from its wrapped form, forget both."""
    with await keys.create(provider, use) as made:
        with await keys.get(provider, made.kek_id, made.wrapped_key, use) as again:
            return made.key == again.key and made.kek_id == again.kek_id
