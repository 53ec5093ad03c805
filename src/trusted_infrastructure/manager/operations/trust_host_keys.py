# SPDX-License-Identifier: GPL-3.0-or-later
"""trust/hosts/{host}/keys, trust/clusters/{cluster}/keys: keys of objects, as hosts keep them (wrapped)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from trusted_infrastructure.key_delivery import MAX_OBJECTS, MAX_PAGE, KeyRecord, LeftKey, RewrapKeys
from trusted_infrastructure.manager import host_keys, inventory, provider_registry
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.host_keys import Rewrapped
from trusted_infrastructure.manager.inventory import Host
from trusted_infrastructure.manager.nodes import NodeError
from trusted_infrastructure.manager.operations.structures import TRUST, TRUST_PATH, HostInput
from trusted_infrastructure.manager.vapi.errors import (
    InvalidArgument,
    LocalizableMessage,
    NotFound,
    ServiceUnavailable,
)
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import (
    FieldError,
    Identifier,
    Structure,
    Timestamp,
    timestamp,
)

# Keys that a task's result names of each sort; the counts are of all.
LISTED = 1000


class ListInput(HostInput, frozen=True):
    """Input of list. after: keys whose ids follow this one, in order. limit: of keys; whoever has fewer has
    them all."""

    after: Identifier | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)] = MAX_PAGE


class KeyInfo(Structure, frozen=True):
    """A key that a host keeps for an object. host: its name. key_id: of the data key. kek_id: of the key that
    wraps it; primary_key_id: of the primary key that wraps this one, unset for a standard provider.
    deep_recrypt: the object's data needs a new key."""

    host: str
    key_id: str
    object_id: str
    component: str
    name: str
    provider: str
    type: str
    kek_id: str
    created: Timestamp
    deep_recrypt: bool
    primary_key_id: str | None = None


class LeftInfo(Structure, frozen=True):
    """A key that could not be wrapped again, with the reason code."""

    host: str
    key_id: str
    object_id: str
    provider: str
    code: str
    message: str
    primary_key_id: str | None = None


class RewrapSpec(Structure, frozen=True):
    """Which keys: of one provider, of some objects; all unless given. target: the provider that wraps them
    then; unset: their own, with its newest primary key. replace: make new key encryption keys."""

    provider: Identifier | None = None
    target: Identifier | None = None
    objects: list[Identifier] | None = None
    replace: bool = False

    def __post_init__(self) -> None:
        if len(self.objects or []) > MAX_OBJECTS:
            raise FieldError("objects", f"must not have more than {MAX_OBJECTS} values")
        for name, values in (
            ("provider", [self.provider]),
            ("target", [self.target]),
            ("objects", self.objects),
        ):
            if any(value is not None and not value.isprintable() for value in values or []):
                raise FieldError(name, "must have characters that can be printed")

    def asked(self, dry_run: bool) -> RewrapKeys:
        """As hosts are asked."""
        return RewrapKeys(
            provider=self.provider,
            target=self.target,
            object_ids=self.objects or [],
            replace=self.replace,
            dry_run=dry_run,
        )


class RewrapInput(Structure, frozen=True):
    """Input of rewrap and query."""

    cluster: Identifier
    spec: RewrapSpec = RewrapSpec()


class Counts(Structure, frozen=True):
    """How many keys, of all hosts."""

    rewrapped: int
    left: int
    deep_recrypt: int


class RewrapResult(Structure, frozen=True):
    """What came of it, or would. Each list has 1000 keys at most, and counts has all. rewrapped: as they are
    then; of a query, as they are now. left: not wrapped again, and readable as before. deep_recrypt: the data
    of these objects needs a new key. unreachable: names of hosts that did not answer, or not to the end;
    details says why."""

    rewrapped: list[KeyInfo]
    left: list[LeftInfo]
    deep_recrypt: list[KeyInfo]
    unreachable: list[str]
    details: list[LocalizableMessage]
    counts: Counts


async def list_keys(context: Context, given: ListInput) -> list[KeyInfo]:
    try:
        found = await host_keys.page(context.manager, context.host, given.after or "", given.limit)
    except NodeError as error:
        raise ServiceUnavailable(str(error), error.host, reason=error.code) from None
    return [info_of(context.host, record) for record in found.keys]


async def query(context: Context, given: RewrapInput) -> RewrapResult:
    """What `rewrap` would do now."""
    return await asked_of_all(context, given, dry_run=True)


async def rewrap(context: Context, given: RewrapInput) -> RewrapResult:
    """Every host of the cluster at once. One that does not answer is named, and the others go on."""
    result = await asked_of_all(context, given, dry_run=False)
    context.audit_detail["rewrapped"] = str(result.counts.rewrapped)
    context.audit_detail["left"] = str(result.counts.left)
    context.audit_detail["unreachable"] = ", ".join(result.unreachable)[:1000]
    return result


async def asked_of_all(context: Context, given: RewrapInput, *, dry_run: bool) -> RewrapResult:
    """All hosts of the cluster. Raises NotFound for a target that is no provider."""
    manager, target = context.manager, given.spec.target
    with manager.database.transaction() as connection:
        hosts = inventory.hosts_of(connection, context.cluster)
        if target is not None and target not in provider_registry.names(connection):
            raise NotFound(
                f"There is no key provider {target!r} on this manager.", target, reason="provider_unknown"
            )

    def done(count: int) -> None:
        # Each progress is a durable transaction: not one for every host of a large cluster.
        if count % max(1, len(hosts) // 10) == 0:
            context.progress(100 * count // len(hosts), f"{count} of {len(hosts)} hosts are through.")

    user = context.caller.user.name
    return result_of(await host_keys.rewrap(manager, hosts, given.spec.asked(dry_run), user, done))


def result_of(results: Sequence[Rewrapped]) -> RewrapResult:
    """All hosts together."""
    rewrapped = [info_of(one.host, record) for one in results for record in one.report.rewrapped]
    left = [left_of(one.host, key) for one in results for key in one.report.left]
    deep = [info_of(one.host, record) for one in results for record in one.report.deep_recrypt]
    failures = [one.failure for one in results if one.failure is not None]
    return RewrapResult(
        rewrapped=rewrapped[:LISTED],
        left=left[:LISTED],
        deep_recrypt=deep[:LISTED],
        unreachable=[failure.host for failure in failures],
        details=[failure.message() for failure in failures],
        counts=Counts(rewrapped=len(rewrapped), left=len(left), deep_recrypt=len(deep)),
    )


def info_of(host: Host, record: KeyRecord) -> KeyInfo:
    """As the API gives it."""
    return KeyInfo(
        host=host.name,
        key_id=record.key_id,
        object_id=record.object_id,
        component=record.component,
        name=record.name,
        provider=record.provider,
        type=record.type,
        kek_id=record.kek_id,
        created=timestamp(record.created),
        deep_recrypt=record.deep_recrypt,
        primary_key_id=record.primary_key_id,
    )


def left_of(host: Host, key: LeftKey) -> LeftInfo:
    """As the API gives it."""
    return LeftInfo(
        host=host.name,
        key_id=key.key_id,
        object_id=key.object_id,
        provider=key.provider,
        code=key.code,
        message=key.message,
        primary_key_id=key.primary_key_id,
    )


OPERATIONS: Table = (
    Operation(
        service=f"{TRUST}.hosts.keys",
        operation="list",
        method="GET",
        path=f"{TRUST_PATH}/hosts/{{host}}/keys",
        summary="Keys that a host keeps for objects",
        input=ListInput,
        output=list[KeyInfo],
        handler=list_keys,
        privileges=privileges("Cryptographer.ManageKeys@host"),
        errors=(NotFound, ServiceUnavailable),
        side="workload",
    ),
    Operation(
        service=f"{TRUST}.clusters.keys",
        operation="query",
        method="POST",
        path=f"{TRUST_PATH}/clusters/{{cluster}}/keys",
        action="query",
        summary="Which keys would be wrapped again",
        input=RewrapInput,
        output=RewrapResult,
        handler=query,
        privileges=privileges("Cryptographer.ManageKeys@cluster"),
        errors=(InvalidArgument, NotFound),
        body="spec",
        task=True,
        side="workload",
    ),
    Operation(
        service=f"{TRUST}.clusters.keys",
        operation="rewrap",
        method="POST",
        path=f"{TRUST_PATH}/clusters/{{cluster}}/keys",
        action="rewrap",
        summary="Wrap the keys of a cluster's hosts again: newest primary key, or another provider",
        input=RewrapInput,
        output=RewrapResult,
        handler=rewrap,
        privileges=privileges("Cryptographer.Recrypt@cluster"),
        errors=(InvalidArgument, NotFound),
        body="spec",
        task=True,
        side="workload",
    ),
)
