# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration objects of a Trust Authority Cluster: each is one document that all its hosts have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from trusted_infrastructure.config.documents import Content
from trusted_infrastructure.manager import desired
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.desired import Change
from trusted_infrastructure.manager.trust_authority import require_enabled
from trusted_infrastructure.manager.vapi.errors import AlreadyExists, NotFound

AnyContent = TypeVar("AnyContent", bound=Content)

WHAT = {
    "base_image": "base image",
    "ca_certificate": "CA certificate",
    "consumer_principal": "consumer principal",
    "denied_host": "denied host",
    "endorsement_key": "endorsement key",
    "key_provider": "key provider",
    "scope": "scope",
}


def find(context: Context, kind: str, identifier: str, wanted: type[AnyContent]) -> AnyContent:
    """The desired content of an object. Raises NotFound."""
    with context.manager.database.transaction() as connection:
        content = desired.content(connection, context.cluster, kind, identifier, wanted)
    if content is None:
        raise NotFound(
            f"The cluster {context.cluster.name!r} has no {WHAT[kind]} {identifier!r}.", identifier
        )
    return content


def find_all(context: Context, kind: str, wanted: type[AnyContent]) -> Mapping[str, AnyContent]:
    """The desired contents of all objects of a kind, by id."""
    with context.manager.database.transaction() as connection:
        return desired.contents(connection, context.cluster, kind, wanted)


async def create(context: Context, kind: str, identifier: str, content: Content) -> None:
    """A new object, on all hosts. Raises AlreadyExists, ResourceInaccessible naming hosts."""
    async with context.manager.replication.lock(context.cluster):
        require_enabled(context)
        if identifier in find_all(context, kind, type(content)):
            raise AlreadyExists(
                f"The cluster {context.cluster.name!r} has a {WHAT[kind]} {identifier!r}.", identifier
            )
        await context.manager.replication.change(context.cluster, [Change(kind, identifier, content)])


async def update(
    context: Context,
    kind: str,
    identifier: str,
    wanted: type[AnyContent],
    change: Callable[[AnyContent], Content],
) -> None:
    """Changes an object on all hosts. Raises NotFound, ResourceInaccessible naming hosts."""
    async with context.manager.replication.lock(context.cluster):
        content = change(find(context, kind, identifier, wanted))
        await context.manager.replication.change(context.cluster, [Change(kind, identifier, content)])


async def delete(context: Context, kind: str, identifier: str, wanted: type[Content]) -> None:
    """Removes an object from all hosts. Raises NotFound, ResourceInaccessible naming hosts."""
    async with context.manager.replication.lock(context.cluster):
        find(context, kind, identifier, wanted)
        await context.manager.replication.change(context.cluster, [Change(kind, identifier, None)])
