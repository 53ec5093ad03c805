# SPDX-License-Identifier: GPL-3.0-or-later
"""Desired documents of a cluster and their generations. What runs lives on the hosts; this is what they
are compared with and brought to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import sqlalchemy as sql

from trusted_infrastructure.config.documents import (
    KINDS,
    Content,
    Document,
    Generation,
    content_of,
    typed,
)
from trusted_infrastructure.config.withdrawals import withdraws_trust
from trusted_infrastructure.manager.database import documents, fact, set_fact
from trusted_infrastructure.manager.inventory import Cluster

EVERY_HOST = ""
AnyContent = TypeVar("AnyContent", bound=Content)


@dataclass(frozen=True)
class Change:
    """A document to be written: its content, or None to delete it. host: name of the one host that gets it,
    EVERY_HOST for all of the cluster."""

    kind: str
    id: str
    content: Content | None
    host: str = EVERY_HOST


@dataclass(frozen=True)
class Desired:
    """A desired document and who gets it."""

    host: str
    document: Document

    @property
    def content(self) -> Content | None:
        """Typed content, None when deleted."""
        if self.document.content is None:
            return None
        return typed(self.document.kind, self.document.content)


def write(connection: sql.Connection, cluster: Cluster, changes: Iterable[Change]) -> list[Desired]:
    """Writes changes with new generations and returns them. An unchanged content keeps its generation. The
    cluster's security generation rises when trust is withdrawn."""
    written = []
    withdrawn = False
    for change in changes:
        if change.content is not None and not isinstance(change.content, KINDS[change.kind]):
            raise TypeError(f"a {change.kind} document cannot hold {type(change.content).__name__}")
        plain = None if change.content is None else content_of(change.content)
        known = one(connection, cluster, change.kind, change.id, change.host)
        if known is None and plain is None:
            continue
        if known is not None and known.document.content == plain:
            written.append(known)
            continue
        generation = following(connection, cluster, known.document.generation if known else None)
        desired = Desired(change.host, Document(change.kind, change.id, generation, plain))
        store(connection, cluster, desired)
        written.append(desired)
        withdrawn |= withdraws_trust(change.kind, known.content if known else None, change.content)
    if withdrawn:
        raise_security_generation(connection, cluster)
    return written


def security_generation_fact(cluster: Cluster) -> str:
    """Name under which the highest security generation of a cluster is remembered."""
    return f"security_generation {cluster.id}"


def raise_security_generation(connection: sql.Connection, cluster: Cluster) -> None:
    """Count a withdrawal above all that the cluster has reached. A host that counted less would otherwise
    reach, by its own count, what another had reached before: tokens which that one judged before the
    withdrawal would look as if they had been judged since."""
    name = security_generation_fact(cluster)
    set_fact(connection, name, str(int(fact(connection, name) or "0") + 1))


def generation_floor_fact(cluster: Cluster) -> str:
    """Name under which it is remembered above what the generations of new documents begin."""
    return f"generation_floor {cluster.id}"


def raise_generation_floor(connection: sql.Connection, cluster: Cluster, found: Generation) -> None:
    """New documents of the cluster begin above `found`: what a host that joined has, or has seen deleted, in
    another cluster. It would refuse them otherwise, as it refuses whatever is not newer."""
    if found > generation_floor(connection, cluster):
        set_fact(connection, generation_floor_fact(cluster), f"{found.epoch}.{found.counter}")


def generation_floor(connection: sql.Connection, cluster: Cluster) -> Generation:
    """The highest generation that a host brought along; 1.0, which no document has, where none did."""
    epoch, _dot, counter = (fact(connection, generation_floor_fact(cluster)) or "1.0").partition(".")
    return Generation(int(epoch), int(counter))


def following(connection: sql.Connection, cluster: Cluster, before: Generation | None) -> Generation:
    """The generation after `before`, or of a new document; the epoch is the manager's own."""
    epoch = int(fact(connection, "epoch") or "1")
    last = generation_floor(connection, cluster) if before is None else before
    if last.epoch < epoch:
        return Generation(epoch, 1)
    return Generation(last.epoch, last.counter + 1)


def store(connection: sql.Connection, cluster: Cluster, desired: Desired) -> None:
    """Inserts or replaces one desired document as it is."""
    document = desired.document
    key = where(cluster, document.kind, document.id, desired.host)
    connection.execute(documents.delete().where(key))
    content = None if document.content is None else msgspec.json.encode(document.content).decode()
    connection.execute(
        documents.insert().values(
            cluster=cluster.number,
            host=desired.host,
            kind=document.kind,
            id=document.id,
            epoch=document.generation.epoch,
            counter=document.generation.counter,
            content=content,
        )
    )


def where(cluster: Cluster, kind: str, identifier: str, host: str) -> sql.ColumnElement[bool]:
    """The condition for one document."""
    return (
        (documents.c.cluster == cluster.number)
        & (documents.c.kind == kind)
        & (documents.c.id == identifier)
        & (documents.c.host == host)
    )


def of_row(row: sql.Row[tuple[object, ...]]) -> Desired:
    """A row of `documents`."""
    content = None if row.content is None else msgspec.json.decode(row.content)
    return Desired(row.host, Document(row.kind, row.id, Generation(row.epoch, row.counter), content))


def one(
    connection: sql.Connection, cluster: Cluster, kind: str, identifier: str, host: str = EVERY_HOST
) -> Desired | None:
    """One desired document, a deleted one included."""
    row = connection.execute(
        sql.select(documents).where(where(cluster, kind, identifier, host))
    ).one_or_none()
    return None if row is None else of_row(row)


def everything(connection: sql.Connection, cluster: Cluster) -> list[Desired]:
    """All desired documents of a cluster, deleted ones included."""
    query = sql.select(documents).where(documents.c.cluster == cluster.number)
    return [of_row(row) for row in connection.execute(query.order_by(documents.c.kind, documents.c.id))]


def for_host(desired: Sequence[Desired], host: str) -> list[Document]:
    """The documents that a host gets, out of all of its cluster."""
    return [item.document for item in desired if item.host in {EVERY_HOST, host}]


def content(
    connection: sql.Connection,
    cluster: Cluster,
    kind: str,
    identifier: str,
    wanted: type[AnyContent],
    host: str = EVERY_HOST,
) -> AnyContent | None:
    """Typed content of one document; None when it does not exist or was deleted."""
    found = one(connection, cluster, kind, identifier, host)
    value = None if found is None else found.content
    if value is not None and not isinstance(value, wanted):
        raise TypeError(f"{kind} is not {wanted.__name__}")
    return value


def contents(
    connection: sql.Connection, cluster: Cluster, kind: str, wanted: type[AnyContent]
) -> Mapping[str, AnyContent]:
    """Typed contents of a kind by id, deleted ones left out."""
    query = sql.select(documents).where((documents.c.cluster == cluster.number) & (documents.c.kind == kind))
    found: dict[str, AnyContent] = {}
    for row in connection.execute(query.order_by(documents.c.id)):
        value = of_row(row).content
        if isinstance(value, wanted):
            found[row.id] = value
    return found
