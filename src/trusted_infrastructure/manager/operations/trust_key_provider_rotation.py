# SPDX-License-Identifier: GPL-3.0-or-later
"""trust/clusters/{cluster}/kms/providers/{provider}/rotation: what vSphere has not of a rotation.

A rotation begins with another `master_key_id` (PATCH of the provider), which is vSphere's operation.
"""

from __future__ import annotations

from trusted_infrastructure.config.documents import KeyProvider
from trusted_infrastructure.manager import key_provider_rotation, key_providers
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.key_provider_rotation import Use
from trusted_infrastructure.manager.operations.key_providers import MANAGE, READ, ProviderInput
from trusted_infrastructure.manager.operations.structures import TRUST, TRUST_PATH
from trusted_infrastructure.manager.vapi.errors import (
    InvalidArgument,
    NotAllowedInCurrentState,
    NotFound,
    ResourceInaccessible,
)
from trusted_infrastructure.manager.vapi.operation import Operation, Table
from trusted_infrastructure.manager.vapi.structure import Identifier, Structure

SERVICE = f"{TRUST}.kms.providers.rotation"
PATH = f"{TRUST_PATH}/clusters/{{cluster}}/kms/providers/{{provider}}/rotation"


class HostInfo(Structure, frozen=True):
    """A trusted host that keeps keys: never more than `keys`. reported: when it last said what it keeps, Unix
    seconds; None: never. denied: it gets no key any more, as long as it is."""

    scope: str
    host: str
    keys: int
    denied: bool
    reported: int | None = None


class PreviousInfo(Structure, frozen=True):
    """A primary key that the provider was rotated from. since: Unix seconds. keys_left: never fewer than
    there are."""

    master_key_id: str
    since: int
    compromised: bool
    keys_left: int
    hosts: list[HostInfo]


class Info(Structure, frozen=True):
    """The primary key that wraps, and the earlier ones that still open. unknown: Trust Authority hosts that
    could not be asked, so that more may be left. behind: those that answer, and have not heard of the last
    change."""

    master_key_id: str
    previous: list[PreviousInfo]
    unknown: list[str]
    behind: list[str]


class CompleteSpec(Structure, frozen=True):
    """force: also where keys are left, or it is not known; what is left is lost. without_hosts: also what
    these hosts keep, as far as they are denied."""

    force: bool = False
    without_hosts: list[Identifier] = []


class CompleteInput(Structure, frozen=True):
    """Input of complete."""

    cluster: Identifier
    provider: Identifier
    spec: CompleteSpec = CompleteSpec()


class LostInfo(Structure, frozen=True):
    """What a completion gave up."""

    master_key_id: str
    keys: int
    hosts: list[HostInfo]


class Completed(Structure, frozen=True):
    """removed: the primary keys that open nothing any more. lost: what was left under them. unknown: as in
    `Info`."""

    master_key_id: str
    removed: list[str]
    lost: list[LostInfo]
    unknown: list[str]


class CompromiseSpec(Structure, frozen=True):
    """master_key_id: the new primary key."""

    master_key_id: Identifier


class CompromiseInput(Structure, frozen=True):
    """Input of compromise."""

    cluster: Identifier
    provider: Identifier
    spec: CompromiseSpec


class Compromised(Info, frozen=True):
    """As `Info`, with what is to be done: hosts in `previous` need new keys. compromised: primary keys that
    became it with this call."""

    compromised: list[str]


async def get(context: Context, given: ProviderInput) -> Info:
    return await info(context, given.provider)


async def info(context: Context, provider: str) -> Info:
    """The rotation as it stands."""
    content = key_providers.find(context, provider)
    use = await key_provider_rotation.use_of(context, provider, content)
    return Info(
        master_key_id=content.master_key_id,
        previous=previous_of(content, use),
        unknown=unknown_of(use),
        behind=await key_provider_rotation.behind(context, provider),
    )


def previous_of(content: KeyProvider, use: Use) -> list[PreviousInfo]:
    """As the API gives it."""
    return [
        PreviousInfo(
            master_key_id=key.master_key_id,
            since=key.since,
            compromised=key.compromised,
            keys_left=sum(host.keys for host in use.of[key.master_key_id]),
            hosts=hosts_of(use, key.master_key_id),
        )
        for key in content.previous_keys
    ]


def hosts_of(use: Use, key_id: str) -> list[HostInfo]:
    """As the API gives it."""
    return [
        HostInfo(
            scope=host.scope,
            host=host.host,
            keys=host.keys,
            denied=host.host in use.denied,
            reported=None if host.reported is None else int(host.reported),
        )
        for host in use.of[key_id]
    ]


def unknown_of(use: Use) -> list[str]:
    """Names of the Trust Authority hosts that could not be asked."""
    return [error.host for error in use.unknown]


async def complete(context: Context, given: CompleteInput) -> Completed:
    """The audit record says what was given up, and whether by force."""
    spec = given.spec
    context.audit_detail.update(without_hosts=", ".join(spec.without_hosts))
    async with context.manager.replication.lock(context.cluster):
        done = await key_provider_rotation.complete(context, given.provider, spec.force, spec.without_hosts)
        current = key_providers.find(context, given.provider).master_key_id
    lost = [
        LostInfo(
            master_key_id=key_id, keys=sum(host.keys for host in hosts), hosts=hosts_of(done.use, key_id)
        )
        for key_id, hosts in done.use.of.items()
        if hosts
    ]
    return Completed(master_key_id=current, removed=done.removed, lost=lost, unknown=unknown_of(done.use))


async def compromise(context: Context, given: CompromiseInput) -> Compromised:
    async with context.manager.replication.lock(context.cluster):
        before = key_providers.find(context, given.provider).master_key_id
        context.audit_detail.update(before=before, master_key_id=given.spec.master_key_id)
        became = await key_provider_rotation.compromise(context, given.provider, given.spec.master_key_id)
    found = await info(context, given.provider)
    return Compromised(
        master_key_id=found.master_key_id,
        previous=found.previous,
        unknown=found.unknown,
        behind=found.behind,
        compromised=became,
    )


CHANGE_ERRORS = (InvalidArgument, NotAllowedInCurrentState, NotFound, ResourceInaccessible)

OPERATIONS: Table = (
    Operation(
        service=SERVICE,
        operation="get",
        method="GET",
        path=PATH,
        summary="Earlier primary keys of a trusted key provider, and what hosts keep under them",
        input=ProviderInput,
        output=Info,
        handler=get,
        privileges=READ,
        errors=(InvalidArgument, NotAllowedInCurrentState, NotFound),
        task=True,
        side="trust_authority",
    ),
    Operation(
        service=SERVICE,
        operation="complete",
        method="POST",
        path=PATH,
        action="complete",
        summary="Give up the earlier primary keys, when nothing is left under them or it is given up, too",
        input=CompleteInput,
        output=Completed,
        handler=complete,
        privileges=MANAGE,
        errors=CHANGE_ERRORS,
        body="spec",
        task=True,
        side="trust_authority",
    ),
    Operation(
        service=SERVICE,
        operation="compromise",
        method="POST",
        path=PATH,
        action="compromise",
        summary="Take all primary keys so far for compromised, and another one from now on",
        input=CompromiseInput,
        output=Compromised,
        handler=compromise,
        privileges=MANAGE,
        errors=CHANGE_ERRORS,
        body="spec",
        task=True,
        side="trust_authority",
    ),
)
