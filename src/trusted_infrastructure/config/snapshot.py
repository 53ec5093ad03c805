# SPDX-License-Identifier: GPL-3.0-or-later
"""The published snapshot: what the services of a host read instead of the ConfigStore.

One JSON file on tmpfs, replaced by rename, so that a reader sees one committed state or the one before it,
never a mixture. It holds a digest of itself: a file that is not whole is not used.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import msgspec

from trusted_infrastructure.config.documents import Content, Document, typed
from trusted_infrastructure.refusal import Refusal, Unavailable

SNAPSHOT_MODE = 0o640

T = TypeVar("T", bound=Content)


class PublishedSnapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file's content. digest: SHA-256 (hex) of the rest, see `sealed_digest`."""

    version: Literal[1] = 1
    host: str
    side: str
    security_generation: int
    documents: list[Document]
    digest: str = ""


def sealed_digest(snapshot: PublishedSnapshot) -> str:
    """SHA-256 (hex) over the canonical JSON of the snapshot with an empty digest."""
    plain = msgspec.structs.replace(snapshot, digest="")
    return hashlib.sha256(msgspec.json.encode(plain, order="sorted")).hexdigest()


class Snapshot:
    """One state of the configuration, typed. Never changes."""

    def __init__(self, published: PublishedSnapshot) -> None:
        self.host = published.host
        self.side = published.side
        self.security_generation = published.security_generation
        self.digest = published.digest
        self._contents: dict[str, dict[str, Content]] = {}
        self._checked: set[tuple[str, type]] = set()
        for index, document in enumerate(published.documents):
            if document.content is not None:
                content = typed(document.kind, document.content, f"documents[{index}].content")
                self._contents.setdefault(document.kind, {})[document.id] = content

    @overload
    def documents(self, kind: str) -> Mapping[str, Any]: ...

    @overload
    def documents(self, kind: str, content: type[T]) -> Mapping[str, T]: ...

    def documents(self, kind: str, content: type[Content] = Content) -> Mapping[str, Any]:
        """All documents of a kind, id -> content.

        content: the kind's struct (config.documents.KINDS), where the caller wants its type checked.
        """
        found = self._contents.get(kind, {})
        # Once for each kind and type: nothing here ever changes, and services ask for every request.
        if (kind, content) not in self._checked:
            if not all(isinstance(item, content) for item in found.values()):
                raise TypeError(f"documents of kind {kind} are not {content.__name__}")
            self._checked.add((kind, content))
        return found

    @overload
    def get(self, kind: str, document_id: str) -> Any: ...

    @overload
    def get(self, kind: str, document_id: str, content: type[T]) -> T | None: ...

    def get(self, kind: str, document_id: str, content: type[Content] = Content) -> Any:
        """One document's content, or None when it is not there."""
        return self.documents(kind, content).get(document_id)


def publish(path: Path, published: PublishedSnapshot, group: int | None = None) -> str:
    """Replace the snapshot at `path`, durably, and return its digest.

    group: id of the group that may read it (None: what the directory gives). Raises OSError.
    """
    digest = sealed_digest(published)
    data = msgspec.json.encode(msgspec.structs.replace(published, digest=digest))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, SNAPSHOT_MODE)
    try:
        with open(descriptor, "wb") as file:
            if group is not None:
                os.fchown(descriptor, -1, group)
            os.fchmod(descriptor, SNAPSHOT_MODE)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_directory(path.parent)
    return digest


def remove_leftovers(path: Path) -> None:
    """Remove temporary files of `publish` that a killed process left. Call before the first `publish`."""
    for leftover in path.parent.glob(f".{path.name}.*"):
        leftover.unlink(missing_ok=True)


class SnapshotReader:
    """Reads the published snapshot again when the file was replaced. One reader per thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int, int] | None = None
        self._snapshot: Snapshot | None = None

    def current(self) -> Snapshot:
        """The snapshot as it is published now.

        Raises Unavailable `configuration_unavailable` when there is none, or it is not whole: a service that
        does not know its configuration decides nothing.
        """
        try:
            if self._snapshot is not None and _which(os.stat(self._path)) == self._seen:
                return self._snapshot
            with open(self._path, "rb") as file:
                seen = _which(os.fstat(file.fileno()))
                data = file.read()
        except OSError as error:
            raise _unavailable(f"cannot read {self._path}: {error.strerror}") from None
        self._snapshot = parse_snapshot(data)
        self._seen = seen
        return self._snapshot


def _which(status: os.stat_result) -> tuple[int, int, int, int]:
    """Tells one published file from another."""
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def parse_snapshot(data: bytes) -> Snapshot:
    """A snapshot from the file's bytes. Raises Unavailable `configuration_unavailable`."""
    try:
        published = msgspec.json.decode(data, type=PublishedSnapshot)
        whole = sealed_digest(published) == published.digest
        snapshot = Snapshot(published) if whole else None
    except (msgspec.DecodeError, Refusal, UnicodeDecodeError, RecursionError):
        snapshot = None
    if snapshot is None:
        raise _unavailable("the published configuration is not whole, or of another release")
    return snapshot


def snapshot_of(
    host: str, side: str, security_generation: int, documents: Sequence[Document]
) -> PublishedSnapshot:
    """The snapshot to publish: documents without the deleted ones, by kind and id."""
    present = sorted(
        (document for document in documents if document.content is not None), key=lambda d: (d.kind, d.id)
    )
    return PublishedSnapshot(
        host=host, side=side, security_generation=security_generation, documents=list(present)
    )


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unavailable(message: str) -> Unavailable:
    return Unavailable("configuration_unavailable", message, "check ti-config.service on this host")
