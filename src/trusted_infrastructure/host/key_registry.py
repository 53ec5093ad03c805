# SPDX-License-Identifier: GPL-3.0-or-later
"""The wrapped data keys that this host keeps: one file for each, in the agent's state directory.

Nothing in a file is secret. A file is replaced as a whole and durably (`state_files`), so a crash leaves the
old or the new one, never neither; a change counts only when it is on the disk.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import structlog

from trusted_infrastructure import data_keys
from trusted_infrastructure.decoding import decode_json
from trusted_infrastructure.key_delivery import KeyRecord
from trusted_infrastructure.refusal import Refusal, Unavailable
from trusted_infrastructure.state_files import read_state, write_state

MAX_KEYS = 65_536

_FILE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.json")

log = structlog.get_logger("trusted_infrastructure.host")


class KeptKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One file. wrapped_key: see `data_keys`. owner: user id of who had the key made on this host."""

    record: KeyRecord
    wrapped_key: bytes
    owner: int

    @property
    def header(self) -> data_keys.DataKeyHeader:
        """The header of the wrapped key, which decides; the record is for people."""
        return data_keys.parse(self.wrapped_key).header


class KeyRegistry:
    """See the module. directory: made where it is not there. changed: called after each change.

    A file that cannot be understood is left alone and told in the journal; the others are used. What it
    rests on is not known then, and must not look like nothing: see `unreadable`.
    Raises Unavailable `state_unusable`.
    """

    def __init__(self, directory: Path, changed: Callable[[], None] = lambda: None) -> None:
        self._directory = directory
        self.changed = changed
        self._kept: dict[str, KeptKey] = {}
        self.unreadable = 0
        self._arriving: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            names = sorted(os.listdir(directory))
        except OSError as error:
            raise _unusable(directory, error) from None
        for name in names:
            if name.startswith("."):  # what a crash left of a write; the file itself is whole
                (directory / name).unlink(missing_ok=True)
            elif _FILE.fullmatch(name):
                self._load(directory / name)

    def all(self) -> list[KeptKey]:
        """Every key, by object and key id."""
        return sorted(self._kept.values(), key=lambda kept: (kept.record.object_id, kept.record.key_id))

    def get(self, key_id: str) -> KeptKey | None:
        """The key, or None."""
        return self._kept.get(key_id)

    async def put(self, kept: KeptKey) -> None:
        """Keep a key, or keep it in another form. On the disk when this returns. Raises Unavailable
        `state_unusable`, Refusal `too_many_keys`; then it is as it was."""
        key_id = kept.record.key_id
        if key_id not in self._kept:
            self.check_room()
        arrived = self._arrives(kept.record.provider)

        async def write() -> None:
            try:
                await asyncio.to_thread(write_state, self._path(key_id), msgspec.json.encode(kept))
                self._kept[key_id] = kept
                self.changed()
            finally:
                arrived()

        # Whoever asked may go away; what is known must not differ from what is on the disk.
        await asyncio.shield(write())

    def check_room(self) -> None:
        """Whether a further key can be kept. Raises Refusal `too_many_keys`."""
        if len(self._kept) >= MAX_KEYS:
            raise Refusal(
                "too_many_keys",
                f"this host keeps {MAX_KEYS} keys, which is the most that it can",
                "forget keys of objects that are gone",
                status=409,
            )

    async def remove(self, key_id: str) -> None:
        """Forget a key. Raises Unavailable `state_unusable`."""

        async def remove() -> None:
            await asyncio.to_thread(self._unlink, self._path(key_id))
            self._kept.pop(key_id, None)
            self.changed()

        await asyncio.shield(remove())

    def counts(self, provider: str) -> dict[str, int]:
        """How many keys of a provider rest on each primary key, by its id.

        Raises Refusal `state_unusable` where there are files that cannot be read: a primary key that one of
        them rests on would count as unused, and be taken away."""
        if self.unreadable:
            raise Refusal(
                "state_unusable",
                f"{self.unreadable} files in {self._directory} cannot be read: which primary keys they rest"
                " on is not known",
                "See the agent's journal. Restore the files, or remove them, and start the agent again.",
                status=503,
            )
        records = [kept.record for kept in self._kept.values() if kept.record.provider == provider]
        return dict(Counter(one.primary_key_id for one in records if one.primary_key_id is not None))

    @contextmanager
    def arriving(self, provider: str) -> Iterator[None]:
        """While a provider is asked for a key that will be kept here."""
        arrived = self._arrives(provider)
        try:
            yield
        finally:
            arrived()

    async def settled(self, provider: str) -> dict[str, int]:
        """`counts`, when the keys that are on their way now have arrived or failed. Raises as `counts`."""
        for arrival in list(self._arriving[provider]):
            await arrival.wait()
        return self.counts(provider)

    def _arrives(self, provider: str) -> Callable[[], None]:
        """A key is on its way, until what is returned is called."""
        arrival, arriving = asyncio.Event(), self._arriving[provider]
        arriving.add(arrival)

        def arrived() -> None:
            arriving.discard(arrival)
            arrival.set()

        return arrived

    def providers(self, kind: str) -> set[str]:
        """Names of providers of a kind whose keys are kept."""
        return {kept.record.provider for kept in self._kept.values() if kept.record.type == kind}

    def uses_kek(self, provider: str, kek_id: str) -> bool:
        """Whether any key is wrapped under this key encryption key."""
        return any(
            (kept.record.provider, kept.record.kek_id) == (provider, kek_id) for kept in self._kept.values()
        )

    def _path(self, key_id: str) -> Path:
        return self._directory / f"{key_id}.json"

    def _unlink(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
            descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _unusable(self._directory, error) from None

    def _load(self, path: Path) -> None:
        try:
            kept = decode_json(read_state(path) or b"", KeptKey)
            if kept.record.key_id != path.stem or kept.header.key_id != path.stem:
                raise Refusal("wrapped_key_invalid", "it holds another key than its name says")
        except Refusal as refusal:
            self.unreadable += 1
            log.error("key_record_unusable", path=str(path), code=refusal.code, reason=refusal.message)
            return
        self._kept[path.stem] = kept


def _unusable(path: Path, error: OSError) -> Unavailable:
    return Unavailable(
        "state_unusable",
        f"{path}: {error.strerror or 'cannot be used'}",
        "Check the state directory's owner, mode and free space.",
    )
