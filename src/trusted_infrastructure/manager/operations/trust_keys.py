# SPDX-License-Identifier: GPL-3.0-or-later
"""trust/keys: keys of standard providers, by their ids. The keys themselves are never shown."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec

from trusted_infrastructure.manager import crypto_events, events, key_delivery, known_keys, standard_keys
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.inventory import Cluster
from trusted_infrastructure.manager.key_delivery import Passed
from trusted_infrastructure.manager.known_keys import Asker, KnownKey, Use
from trusted_infrastructure.manager.operations.structures import TRUST, TRUST_PATH
from trusted_infrastructure.manager.provider_defaults import default_of
from trusted_infrastructure.manager.vapi.errors import (
    AlreadyExists,
    InvalidArgument,
    LocalizableMessage,
    NotAllowedInCurrentState,
    NotFound,
    ServiceUnavailable,
    Unsupported,
)
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import (
    FieldError,
    Identifier,
    Structure,
    Timestamp,
    timestamp,
)

PATH = f"{TRUST_PATH}/keys"
VALUES = 100
PAGE = 1000
TEXT_LIMIT = 255

Limit = Annotated[int, msgspec.Meta(ge=1, le=PAGE)]


class ListInput(Structure, frozen=True):
    """Input of list: each one narrows. clusters: ids or names. hosts: names of hosts that were passed the
    key. objects: names or identifiers of what a key is used for. in_use: put to use for an object, or not.
    after: keys that follow this one, given by its provider and its key id, in the order of both. limit: of
    keys; whoever has fewer has them all."""

    providers: list[str] | None = None
    states: list[str] | None = None
    clusters: list[str] | None = None
    hosts: list[str] | None = None
    objects: list[str] | None = None
    in_use: bool | None = None
    after: list[str] | None = None
    limit: Limit = PAGE

    def __post_init__(self) -> None:
        for name in ("providers", "states", "clusters", "hosts", "objects"):
            if len(getattr(self, name) or []) > VALUES:
                raise FieldError(name, f"must not have more than {VALUES} values")
        if self.after is not None and len(self.after) != 2:
            raise FieldError("after", "must have two values: provider and key id of the last key")


class KeyInfo(Structure, frozen=True):
    """A key by its id. state: KMIP's, or MISSING, as of `checked`. component, name, identifier: of the object
    that it is used for. hosts: names of those that it was passed to."""

    key_id: str
    provider: str
    state: str
    cluster: str
    component: str
    name: str
    identifier: str
    created: Timestamp
    checked: Timestamp
    hosts: list[str]
    used_since: Timestamp | None = None


class CreateSpec(Structure, frozen=True):
    """A key for the hosts of a cluster. provider: the cluster's default unless given. component, name,
    identifier: of the object that it is put to use for. key_id: a key that is on the key servers already."""

    cluster: Identifier
    provider: Identifier | None = None
    component: str | None = None
    name: str | None = None
    identifier: str | None = None
    key_id: Identifier | None = None

    def __post_init__(self) -> None:
        for name in ("component", "name", "identifier", "key_id"):
            text = getattr(self, name) or ""
            if len(text) > TEXT_LIMIT or not text.isprintable():
                raise FieldError(name, f"must have at most {TEXT_LIMIT} characters that can be printed")

    @property
    def use(self) -> Use:
        """What the key is for."""
        return Use(self.component or "", self.name or "", self.identifier or "")


class CreateInput(Structure, frozen=True):
    """Input of create."""

    spec: CreateSpec


class Created(Structure, frozen=True):
    """A key that every host of the cluster was passed, but for those that `unreachable` has messages of: they
    get it when they ask for it."""

    key_id: str
    provider: str
    unreachable: list[LocalizableMessage]


class DeleteInput(Structure, frozen=True):
    """Input of delete. provider: needed where several have a key of this id. force: also where the key is
    put to use for an object."""

    key: Identifier
    provider: Identifier | None = None
    force: bool = False


async def list_keys(context: Context, given: ListInput) -> list[KeyInfo]:
    clusters = {cluster.number: cluster for cluster in context.clusters()}
    wanted = known_keys.Wanted(
        providers=given.providers or None,
        states=given.states or None,
        clusters=[
            cluster.number
            for cluster in clusters.values()
            if not given.clusters or {cluster.id, cluster.name} & set(given.clusters)
        ],
        hosts=given.hosts or None,
        objects=given.objects or None,
        in_use=given.in_use,
        after=None if given.after is None else (given.after[0], given.after[1]),
        limit=given.limit,
    )
    with context.manager.database.transaction() as connection:
        return [info_of(key, clusters[key.cluster]) for key in known_keys.keys(connection, wanted)]


def info_of(key: KnownKey, cluster: Cluster) -> KeyInfo:
    """As the API gives it."""
    return KeyInfo(
        key_id=key.key_id,
        provider=key.provider,
        state=key.state,
        cluster=cluster.id,
        component=key.use.component,
        name=key.use.name,
        identifier=key.use.identifier,
        created=timestamp(key.created),
        checked=timestamp(key.checked),
        hosts=list(key.hosts),
        used_since=None if key.used_since is None else timestamp(key.used_since),
    )


async def create(context: Context, given: CreateInput) -> Created:
    manager, spec, user = context.manager, given.spec, context.caller.user.name
    cluster = cluster_of(context, spec.cluster)
    provider = spec.provider or default_provider(context, cluster)
    asker = Asker(cluster.number, user)
    if spec.key_id is None:
        key = await standard_keys.create(manager, asker, provider, spec.use)
    else:
        key = await standard_keys.take(manager, asker, provider, spec.key_id, spec.use)
    context.audit_detail["key_id"] = key.key_id
    passed = Passed(provider, key, spec.use)
    failures = await key_delivery.pass_to_cluster(manager, cluster, passed, user)
    return Created(
        key_id=key.key_id, provider=provider, unreachable=[failure.message() for failure in failures]
    )


def cluster_of(context: Context, name: str) -> Cluster:
    """A cluster that the caller may see, by id or name. Raises NotFound."""
    for cluster in context.clusters():
        if name in (cluster.id, cluster.name):
            return cluster
    raise NotFound(f"There is no cluster {name!r} on this manager.", name, reason="no_cluster")


def default_provider(context: Context, cluster: Cluster) -> str:
    """The cluster's default. Raises InvalidArgument where it has none, NotFound later where it is no standard
    one."""
    with context.manager.database.transaction() as connection:
        found = default_of(connection, cluster)
    if found is None:
        raise InvalidArgument("spec.provider", "is required: the cluster has no default key provider")
    return found


async def delete(context: Context, given: DeleteInput) -> None:
    """Forgets a key here and on the hosts that it was passed to; the key servers keep it."""
    manager = context.manager
    wanted = known_keys.Wanted(providers=[given.provider] if given.provider else None, key_ids=[given.key])
    with manager.database.transaction() as connection:
        found = known_keys.keys(connection, wanted)
        if not found:
            raise NotFound(f"No key {given.key!r} is known.", given.key, reason="key_unknown")
        if len(found) > 1:
            names = ", ".join(key.provider for key in found)
            raise InvalidArgument("provider", f"is required: several providers have such a key ({names})")
        (key,) = found
        if key.used_since is not None:
            refuse_in_use(context, key, given.force)
        known_keys.forget(connection, key.provider, key.key_id)
    crypto_events.record(
        manager,
        events.CRYPTO_OPERATION,
        f"Key {key.key_id} of provider {key.provider} is not known any more; the key servers keep it.",
        operation="remove",
        user=context.caller.user.name,
        key_id=key.key_id,
        provider=key.provider,
        object_id=key.use.identifier or key.use.name,
        cluster=key.cluster,
    )
    await forget_on_hosts(context, key)


def refuse_in_use(context: Context, key: KnownKey, force: bool) -> None:
    """By force it goes on, and the audit record says what for. Raises NotAllowedInCurrentState."""
    use = ", ".join(part for part in (key.use.component, key.use.name, key.use.identifier) if part)
    if not force:
        raise NotAllowedInCurrentState(
            f"Key {key.key_id!r} of the provider {key.provider!r} is put to use for the object {use!r}, and "
            f"these hosts have it: {', '.join(key.hosts) or 'none'}. What it encrypts cannot be opened after "
            "they restart: give the object another key first, or force.",
            key.key_id,
            reason="key_in_use",
        )
    context.audit_detail.update(force="true", object=use)


async def forget_on_hosts(context: Context, key: KnownKey) -> None:
    """Those that do not answer are in the audit record."""

    async def one(host: str) -> None:
        error = await key_delivery.take_back(context.manager, host, [(key.provider, key.key_id)])
        if error is not None:
            context.audit_detail[f"not_forgotten_on_{host}"] = error.code

    await asyncio.gather(*(one(host) for host in key.hosts))


KEYS = privileges("Cryptographer.ManageKeys")

OPERATIONS: Table = (
    Operation(
        service=f"{TRUST}.keys",
        operation="list",
        method="GET",
        path=PATH,
        summary="Keys of standard providers that this manager knows",
        input=ListInput,
        output=list[KeyInfo],
        handler=list_keys,
        privileges=KEYS,
        errors=(InvalidArgument,),
        side="workload",
    ),
    Operation(
        service=f"{TRUST}.keys",
        operation="create",
        method="POST",
        path=PATH,
        summary="Make a key, or take one of the key servers, and pass it to every host of a cluster",
        input=CreateInput,
        output=Created,
        handler=create,
        privileges=KEYS,
        errors=(
            AlreadyExists,
            InvalidArgument,
            NotAllowedInCurrentState,
            NotFound,
            ServiceUnavailable,
            Unsupported,
        ),
        body="spec",
        side="workload",
    ),
    Operation(
        service=f"{TRUST}.keys",
        operation="delete",
        method="DELETE",
        path=f"{PATH}/{{key}}",
        summary="Know a key no more, here and on hosts; the key servers keep it",
        input=DeleteInput,
        output=None,
        handler=delete,
        privileges=KEYS,
        errors=(InvalidArgument, NotAllowedInCurrentState, NotFound, Unsupported),
        side="workload",
    ),
)
