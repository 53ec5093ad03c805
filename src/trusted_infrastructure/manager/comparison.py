# SPDX-License-Identifier: GPL-3.0-or-later
"""Desired documents against what a host has applied: health, and what must be sent to repair it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from trusted_infrastructure.config.documents import Document, Generation

Health = Literal["NONE", "OK", "WARNING", "ERROR"]
Key = tuple[str, str]


class AppliedDocument(msgspec.Struct, frozen=True):
    """A line of a configuration service's list of documents."""

    kind: str
    id: str
    generation: Generation
    digest: str
    deleted: bool


class Applied(msgspec.Struct, frozen=True):
    """What a host has applied."""

    documents: list[AppliedDocument]
    security_generation: int = 0

    def by_key(self) -> dict[Key, AppliedDocument]:
        """By kind and id."""
        return {(item.kind, item.id): item for item in self.documents}


class Deviation(msgspec.Struct, frozen=True):
    """How one document on a host is not as desired. reason: plain words after "host: "."""

    host: str
    kind: str
    id: str
    reason: str

    def __str__(self) -> str:
        return f"{self.host}: {self.kind} {self.id!r} {self.reason}"


def deviations(host: str, desired: Iterable[Document], applied: Applied) -> list[Deviation]:
    """All that differs, documents included that the host has and should not have."""
    found = []
    present = applied.by_key()
    for document in desired:
        reason = difference(document, present.pop((document.kind, document.id), None))
        if reason:
            found.append(Deviation(host, document.kind, document.id, reason))
    found += [
        Deviation(host, item.kind, item.id, "is on the host and not in the desired state")
        for item in present.values()
        if not item.deleted
    ]
    return found


def difference(document: Document, applied: AppliedDocument | None) -> str:
    """Why the host's document is not the desired one; empty when it is."""
    if applied is None:
        return "" if document.content is None else "is missing"
    if applied.digest == document.digest and applied.generation == document.generation:
        return ""
    if applied.deleted and document.content is None:
        return ""
    if document.content is None:
        return "should be deleted"
    if applied.deleted:
        return "was deleted on the host"
    if applied.generation > document.generation:
        return "is newer on the host than the manager's: restored or second manager?"
    return "has an older version" if applied.generation < document.generation else "has other content"


def to_send(desired: Sequence[Document], applied: Applied) -> list[Document]:
    """What brings the host to the desired state: documents that differ, and deletions of what is too much."""
    present = applied.by_key()
    sent = []
    for document in desired:
        if difference(document, present.pop((document.kind, document.id), None)):
            sent.append(document)
    sent += [deletion(item) for item in present.values() if not item.deleted]
    return sent


def deletion(applied: AppliedDocument) -> Document:
    """The document that deletes one which the manager never had."""
    generation = Generation(applied.generation.epoch, applied.generation.counter + 1)
    return Document(applied.kind, applied.id, generation, None)


def worst(values: Iterable[Health]) -> Health:
    """The worst of several; NONE of none."""
    order: Mapping[Health, int] = {"NONE": 0, "OK": 1, "WARNING": 2, "ERROR": 3}
    return max(values, key=order.__getitem__, default="NONE")
