# SPDX-License-Identifier: GPL-3.0-or-later
"""ConfigStore: the documents of one host, in SQLite (WAL, synchronous=FULL), with one writer.

A batch is applied whole or not at all. A document's generation never goes back: deleting leaves a tombstone,
so that an old copy cannot return. What is acknowledged is on disk.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from trusted_infrastructure.config.documents import SIDE_KINDS, Content, Document, Generation, typed
from trusted_infrastructure.config.withdrawals import withdraws_trust
from trusted_infrastructure.refusal import InvalidField, Refusal, Unavailable

SCHEMA_VERSION = 1
APPLICATION_ID = 0x74693031  # "ti01": tells our file from any other database
GENERATION_LIMIT = 2**53 - 1  # the largest integer that every JSON reader keeps exact

SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE documents (
  kind TEXT NOT NULL, id TEXT NOT NULL, epoch INTEGER NOT NULL, counter INTEGER NOT NULL,
  content BLOB, PRIMARY KEY (kind, id)
) STRICT, WITHOUT ROWID;
CREATE TABLE security_generation (only INTEGER PRIMARY KEY CHECK (only = 1), value INTEGER NOT NULL) STRICT;
INSERT INTO security_generation VALUES (1, 0);
PRAGMA application_id = 1953050673;
PRAGMA user_version = 1;
COMMIT;
"""

# An id that a kind's documentation fixes: there is one of it on a host, or none.
ONLY_IDS = {"trust_authority_cluster": "cluster", "tpm2_settings": "settings", "host_assertion": "assertion"}


@dataclass(frozen=True)
class Applied:
    """What a batch changed: (kind, id) of the changed documents, and the security generation after it."""

    changed: tuple[tuple[str, str], ...]
    security_generation: int


class ConfigStore:
    """The store of one side's host. Not for use by two threads at once."""

    def __init__(self, path: Path, side: str) -> None:
        """Open, or make, the store at `path`. Raises Refusal `configuration_store_unusable`."""
        self._kinds = SIDE_KINDS[side]
        self._side = side
        try:
            create_private(path)
            self._database = sqlite3.connect(path, isolation_level=None, timeout=5, check_same_thread=False)
            self._prepare(path)
        except (sqlite3.Error, OSError) as error:
            raise unusable(path, str(error)) from None

    def _prepare(self, path: Path) -> None:
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
            "trusted_schema = OFF",
        ):
            self._database.execute(f"PRAGMA {pragma}")
        version = self._one("PRAGMA user_version")
        if version == 0 and self._one("SELECT count(*) FROM sqlite_master") == 0:
            self._database.executescript(SCHEMA)
            return
        if self._one("PRAGMA application_id") != APPLICATION_ID or version != SCHEMA_VERSION:
            raise unusable(path, f"schema version {version}; expected {SCHEMA_VERSION}")
        if (problem := self._one("PRAGMA quick_check")) != "ok":
            raise unusable(path, f"damaged: {problem}")

    @property
    def security_generation(self) -> int:
        """Rises with every batch that withdraws trust; survives restarts."""
        return int(self._one("SELECT value FROM security_generation"))

    def documents(self) -> list[Document]:
        """All documents, the deleted ones too, by kind and id."""
        rows = self._database.execute(
            "SELECT kind, id, epoch, counter, content FROM documents ORDER BY kind, id"
        )
        return [_document(row) for row in rows]

    def get(self, kind: str, document_id: str) -> Document | None:
        """One document (content None when deleted), or None when it never was."""
        row = self._database.execute(
            "SELECT kind, id, epoch, counter, content FROM documents WHERE kind = ? AND id = ?",
            (kind, document_id),
        ).fetchone()
        return None if row is None else _document(row)

    def apply(self, documents: Sequence[Document], at_least: int = 0) -> Applied:
        """Apply a batch in one transaction, durably; all or nothing.

        at_least: the security generation that the cluster has reached; this host's is raised to it, so that a
        host that joined later, or missed batches, judges as the others do. It is never lowered.
        Raises InvalidField `invalid_document` (kind, id, field), Refusal `stale_generation` (409).
        """
        contents = self._check(documents)
        if not 0 <= at_least <= GENERATION_LIMIT:
            raise InvalidField("security_generation", f"must be between 0 and {GENERATION_LIMIT}")
        with self._transaction():
            changes = [
                (document, content, before)
                for index, (document, content) in enumerate(zip(documents, contents, strict=True))
                if not _is_current(before := self.get(document.kind, document.id), document, index)
            ]
            withdrawn = any(
                withdraws_trust(document.kind, _content(before), content)
                for document, content, before in changes
            )
            for document, _new, _before in changes:
                self._write(document)
            generation = max(self.security_generation + withdrawn, at_least)
            if generation != self.security_generation:
                self._database.execute("UPDATE security_generation SET value = ?", (generation,))
        return Applied(tuple((document.kind, document.id) for document, _new, _old in changes), generation)

    def close(self) -> None:
        """Close the database; an open transaction is lost."""
        self._database.close()

    def _check(self, documents: Sequence[Document]) -> list[Content | None]:
        """The typed contents of a batch. Raises InvalidField naming kind, id and field."""
        seen: set[tuple[str, str]] = set()
        contents: list[Content | None] = []
        for index, document in enumerate(documents):
            field = f"documents[{index}]"
            named = f"{document.kind} '{document.id}'"
            if document.kind not in self._kinds:
                raise _invalid(f"{field}.kind", f"{document.kind!r} is not a kind of side {self._side}")
            if (only := ONLY_IDS.get(document.kind)) and document.id != only:
                raise _invalid(
                    f"{field}.id", f"{document.id!r}; the only {document.kind} has the id {only!r}"
                )
            if (document.kind, document.id) in seen:
                raise _invalid(f"{field}.id", f"{named} is in the batch twice")
            if max(document.generation.epoch, document.generation.counter) > GENERATION_LIMIT:
                raise _invalid(f"{field}.generation", f"{named}: larger than {GENERATION_LIMIT}")
            seen.add((document.kind, document.id))
            content = document.content
            contents.append(None if content is None else typed(document.kind, content, f"{field}.content"))
        return contents

    def _write(self, document: Document) -> None:
        content = None if document.content is None else msgspec.json.encode(document.content)
        self._database.execute(
            "INSERT OR REPLACE INTO documents (kind, id, epoch, counter, content) VALUES (?, ?, ?, ?, ?)",
            (document.kind, document.id, document.generation.epoch, document.generation.counter, content),
        )

    def _one(self, statement: str) -> Any:
        return self._database.execute(statement).fetchone()[0]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """IMMEDIATE: the write lock is taken before anything is read, so that nothing changes in between."""
        try:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise Unavailable(
                "configuration_store_failed",
                f"the batch was not stored: {error}",
                "check the file system of the state directory, then send the batch again",
            ) from None


def create_private(path: Path) -> None:
    """Make the database 0600 before SQLite opens it: SQLite gives -wal and -shm the same mode.

    Raises OSError; Refusal `configuration_store_unusable` when the file is open to others.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        mode = path.lstat().st_mode & 0o7777
        if mode & 0o077 or path.is_symlink():
            raise unusable(path, f"mode {mode:04o}, or a link; expected a file of mode 0600") from None


def unusable(path: Path, reason: str) -> Refusal:
    """The store cannot be opened. The service does not start: an empty store in its place would fail open."""
    return Refusal(
        "configuration_store_unusable",
        f"{path}: {reason}",
        "restore the state directory, or remove the file and let the manager send the documents again",
        status=500,
    )


def _is_current(before: Document | None, document: Document, index: int) -> bool:
    """Whether exactly this document is stored already. Raises Refusal `stale_generation` (409)."""
    if before is None or document.generation > before.generation:
        return False
    if document.generation == before.generation and document.digest == before.digest:
        return True
    same = document.generation == before.generation
    raise Refusal(
        "stale_generation",
        f"documents[{index}].generation: {document.kind} '{document.id}' is stored with generation "
        f"{_text(before.generation)}{' and other content' if same else ''}; got {_text(document.generation)}",
        "read the stored document, and send the change with a higher generation",
        status=409,
    )


def _document(row: tuple[str, str, int, int, bytes | None]) -> Document:
    kind, document_id, epoch, counter, content = row
    decoded = None if content is None else msgspec.json.decode(content, type=dict[str, Any])
    return Document(kind, document_id, Generation(epoch, counter), decoded)


def _content(document: Document | None) -> Content | None:
    if document is None or document.content is None:
        return None
    return typed(document.kind, document.content)


def _text(generation: Generation) -> str:
    return f"{generation.epoch}.{generation.counter}"


def _invalid(field: str, message: str) -> InvalidField:
    return InvalidField(field, message, code="invalid_document")
