# SPDX-License-Identifier: GPL-3.0-or-later
"""trust/clusters/{cluster}/hosts: hosts join and leave clusters."""

from __future__ import annotations

import re

from trusted_infrastructure.manager import membership
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.inventory import Host, hosts_of
from trusted_infrastructure.manager.operations.structures import (
    HTTPS_PORT,
    TRUST,
    TRUST_PATH,
    ClusterInput,
)
from trusted_infrastructure.manager.vapi.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    ResourceInaccessible,
)
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import (
    FieldError,
    Identifier,
    Port,
    Structure,
    check_dns_name,
    check_hostname,
    check_name,
)

SERVICE = f"{TRUST}.clusters.hosts"
PATH = f"{TRUST_PATH}/clusters/{{cluster}}/hosts"
EK_DIGEST = re.compile(r"^[0-9a-f]{64}$(?!\n)")


class CreateSpec(Structure, frozen=True):
    """A host. name: its inventory name; hostname, port: where its services answer (default: name, 443).

    ek_digest: SHA-256 (hex) of its endorsement key's public area, and scope, are what this manager vouches
    for: trusted hosts have both, Trust Authority hosts have neither.
    """

    name: str
    hostname: str | None = None
    port: Port | None = None
    ek_digest: str | None = None
    scope: str | None = None

    def __post_init__(self) -> None:
        check_dns_name("name", self.name)
        if self.hostname is not None:
            check_hostname("hostname", self.hostname)
        check_enrolment(self.ek_digest, self.scope)


class CreateInput(Structure, frozen=True):
    """Input of create."""

    cluster: Identifier
    spec: CreateSpec


class UpdateSpec(Structure, frozen=True):
    """What a trusted host is enrolled with; unset: unchanged."""

    ek_digest: str | None = None
    scope: str | None = None

    def __post_init__(self) -> None:
        check_enrolment(self.ek_digest, self.scope)


class UpdateInput(Structure, frozen=True):
    """Input of update."""

    cluster: Identifier
    host: Identifier
    spec: UpdateSpec


class MemberInput(Structure, frozen=True):
    """Input of get and delete."""

    cluster: Identifier
    host: Identifier


class Info(Structure, frozen=True):
    """A host of a cluster."""

    host: str
    name: str
    hostname: str
    port: int
    cluster: str
    ek_digest: str | None = None
    scope: str | None = None


def check_enrolment(ek_digest: str | None, scope: str | None) -> None:
    """Raises FieldError."""
    if ek_digest is not None and not EK_DIGEST.match(ek_digest):
        raise FieldError("ek_digest", "must be a SHA-256 in 64 lower-case hexadecimal digits")
    if scope is not None:
        check_name("scope", scope)


def info_of(host: Host) -> Info:
    """As the API gives it."""
    return Info(
        host=host.id,
        name=host.name,
        hostname=host.public_name,
        port=host.port,
        cluster=host.cluster_id,
        ek_digest=host.ek_digest,
        scope=host.scope,
    )


def check_side(side: str, ek_digest: str | None, scope: str | None) -> None:
    """Trusted hosts are enrolled, Trust Authority hosts are not. Raises InvalidArgument."""
    for field, value in (("ek_digest", ek_digest), ("scope", scope)):
        if side == "workload" and value is None:
            raise InvalidArgument(f"spec.{field}", "is required for a trusted host (see enroll.yml)")
        if side == "trust_authority" and value is not None:
            raise InvalidArgument(f"spec.{field}", "is for trusted hosts; this is a Trust Authority manager")


async def create(context: Context, given: CreateInput) -> str:
    spec = given.spec
    check_side(context.manager.settings.side, spec.ek_digest, spec.scope)
    port = HTTPS_PORT if spec.port is None else spec.port
    new = membership.NewHost(spec.name, spec.hostname or spec.name, port, spec.ek_digest, spec.scope)
    return (await membership.join(context, new)).id


async def get(context: Context, _given: MemberInput) -> Info:
    return info_of(context.host)


async def list_hosts(context: Context, _given: ClusterInput) -> list[Info]:
    with context.manager.database.transaction() as connection:
        return [info_of(host) for host in hosts_of(connection, context.cluster)]


async def update(context: Context, given: UpdateInput) -> None:
    host = context.host
    ek_digest = host.ek_digest if given.spec.ek_digest is None else given.spec.ek_digest
    scope = host.scope if given.spec.scope is None else given.spec.scope
    check_side(context.manager.settings.side, ek_digest, scope)
    await membership.change(context, ek_digest, scope)


async def delete(context: Context, _given: MemberInput) -> None:
    missed = await membership.leave(context.manager, context.cluster, context.host)
    if missed is not None:
        context.progress(90, f"Removed; the host keeps the configuration that it had: {missed}")


MANAGE = privileges("TrustedAdmin.ManageTrustedHosts", "TrustedAdmin.ManageTrustedHosts@cluster")
READ = privileges("TrustedAdmin.ReadTrustedHosts", "System.View@cluster")

OPERATIONS: Table = (
    Operation(
        service=SERVICE,
        operation="create",
        method="POST",
        path=PATH,
        summary="Add a host to a cluster and give it the cluster's configuration",
        input=CreateInput,
        output=str,
        handler=create,
        privileges=MANAGE,
        errors=(AlreadyExists, InvalidArgument, NotFound, ResourceInaccessible),
        body="spec",
        task=True,
    ),
    Operation(
        service=SERVICE,
        operation="list",
        method="GET",
        path=PATH,
        summary="Hosts of a cluster",
        input=ClusterInput,
        output=list[Info],
        handler=list_hosts,
        privileges=READ,
        errors=(NotFound,),
    ),
    Operation(
        service=SERVICE,
        operation="get",
        method="GET",
        path=f"{PATH}/{{host}}",
        summary="A host of a cluster",
        input=MemberInput,
        output=Info,
        handler=get,
        privileges=READ,
        errors=(NotFound,),
    ),
    Operation(
        service=SERVICE,
        operation="update",
        method="PATCH",
        path=f"{PATH}/{{host}}",
        summary="Change what a trusted host is enrolled with",
        input=UpdateInput,
        output=None,
        handler=update,
        privileges=MANAGE,
        errors=(InvalidArgument, NotFound, ResourceInaccessible),
        body="spec",
        task=True,
    ),
    Operation(
        service=SERVICE,
        operation="delete",
        method="DELETE",
        path=f"{PATH}/{{host}}",
        summary="Take the configuration off a host and remove it from its cluster",
        input=MemberInput,
        output=None,
        handler=delete,
        privileges=MANAGE,
        errors=(NotFound, ResourceInaccessible),
        task=True,
    ),
)
