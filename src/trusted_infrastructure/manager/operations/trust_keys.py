# SPDX-License-Identifier: GPL-3.0-or-later
"""trust/keys: keys of standard providers, by their ids. The keys themselves are never shown."""

from __future__ import annotations

import asyncio

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
TEXT_LIMIT = 255


class ListInput(Structure, frozen=True):
    """Input of list: each one narrows. clusters: ids or names. hosts: names of hosts that were passed the
    key. objects: names or identifiers of what a key is used for. in_use: put to use for an object, or not."""

    providers: list[str] | None = None
    states: list[str] | None = None
    clusters: list[str] | None = None
    hosts: list[str] | None = None
    objects: list[str] | None = None
    in_use: bool | None = None

    def __post_init__(self) -> None:
        for name in ("providers", "states", "clusters", "hosts", "objects"):
            if len(getattr(self, name) or []) > VALUES:
                raise FieldError(name, f"must not have more than {VALUES} values")


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
    """Input of delete. provider: needed where several have a key of this id."""

    key: Identifier
    provider: Identifier | None = None


async def list_keys(context: Context, given: ListInput) -> list[KeyInfo]:
    clusters = {cluster.number: cluster for cluster in context.clusters()}
    with context.manager.database.transaction() as connection:
        known = known_keys.keys(connection)
    return [
        info_of(key, clusters[key.cluster])
        for key in known
        if key.cluster in clusters and is_wanted(key, clusters[key.cluster], given)
    ]


def is_wanted(key: KnownKey, cluster: Cluster, given: ListInput) -> bool:
    """Whether a key passes every filter."""
    return (
        (not given.providers or key.provider in given.providers)
        and (not given.states or key.state in given.states)
        and (not given.clusters or bool({cluster.id, cluster.name} & set(given.clusters)))
        and (not given.hosts or bool(set(key.hosts) & set(given.hosts)))
        and (not given.objects or bool({key.use.name, key.use.identifier} & set(given.objects)))
        and (given.in_use is None or given.in_use == (key.used_since is not None))
    )


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
    with manager.database.transaction() as connection:
        found = known_keys.keys(connection, given.provider, given.key)
        if len(found) == 1:
            known_keys.forget(connection, found[0].provider, found[0].key_id)
    if not found:
        raise NotFound(f"No key {given.key!r} is known.", given.key, reason="key_unknown")
    if len(found) > 1:
        names = ", ".join(key.provider for key in found)
        raise InvalidArgument("provider", f"is required: several providers have such a key ({names})")
    key = found[0]
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
        errors=(InvalidArgument, NotFound, Unsupported),
        side="workload",
    ),
)
