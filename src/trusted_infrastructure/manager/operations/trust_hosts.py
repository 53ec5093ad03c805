# SPDX-License-Identifier: GPL-3.0-or-later
"""trust/hosts: how a trusted host stands, a test of its keys, and capturing a base image from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import msgspec

from trusted_infrastructure.manager import attestation_states
from trusted_infrastructure.manager.attestation_states import Seen, seconds_of
from trusted_infrastructure.manager.context import Context, Manager
from trusted_infrastructure.manager.inventory import Host
from trusted_infrastructure.manager.nodes import AGENT, CODE_LIMIT, TEXT_LIMIT, NodeError, ask
from trusted_infrastructure.manager.operations.base_images import IMAGE_LIMIT
from trusted_infrastructure.manager.operations.structures import TRUST, TRUST_PATH, HostInput
from trusted_infrastructure.manager.vapi.errors import (
    InvalidArgument,
    NotFound,
    ServiceUnavailable,
)
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import Identifier, Structure
from trusted_infrastructure.times import rfc3339

SERVICE = f"{TRUST}.hosts"
PATH = f"{TRUST_PATH}/hosts/{{host}}"
# An attestation, and a key check, ask several services one after the other.
LONG = 50.0

State = Literal["ATTESTED", "FAILED", "EXPIRED", "UNREACHABLE"]
ImageVersion = Annotated[
    str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$(?!\n)")
]


class ServiceAttestation(Structure, frozen=True):
    """How a host stands with one Attestation Service. Times: RFC 3339, UTC. UNREACHABLE: the service does not
    answer whom it should."""

    state: State
    service: str | None = None
    address: str | None = None
    reason: str | None = None
    message: str | None = None
    remedy: str | None = None
    base_image: str | None = None
    base_image_state: str | None = None
    since: str | None = None
    attested_until: str | None = None
    last: str | None = None


class RefusedService(Structure, frozen=True):
    """A service that the host refuses, because it does not chain to its anchor for instance."""

    kind: str
    service: str
    address: str | None = None
    reason: str | None = None
    message: str | None = None


class KeyCheckInfo(Structure, frozen=True):
    """Whether a key could be got. result: "OK" or a reason code."""

    result: str
    message: str | None = None
    provider: str | None = None
    checked: str | None = None


class AttestationInfo(Structure, frozen=True):
    """How a host stands. state: the best of its services'; UNREACHABLE: the host does not answer this
    manager, or no service answers it. service, service_address: whose result the state is. base_image_state:
    STAGED, where the image is not in general use yet. key_check: the last one. principal: who vouches for the
    host, on the Trust Authority side; there, host is its name, and cluster the Trust Authority Cluster."""

    host: str
    name: str
    cluster: str
    state: State
    attestations: list[ServiceAttestation]
    refused_services: list[RefusedService]
    reason: str | None = None
    message: str | None = None
    remedy: str | None = None
    base_image: str | None = None
    base_image_state: str | None = None
    since: str | None = None
    attested_until: str | None = None
    service: str | None = None
    service_address: str | None = None
    principal: str | None = None
    key_check: KeyCheckInfo | None = None


class KeyCheckSpec(Structure, frozen=True):
    """provider unset: the default one."""

    provider: Identifier | None = None


class KeyCheckInput(Structure, frozen=True):
    """Input of key_check."""

    host: Identifier
    spec: KeyCheckSpec = KeyCheckSpec()


class BaseImageInput(Structure, frozen=True):
    """Input of base_image.get. Unset: the agent names the image by its content."""

    host: Identifier
    image_version: ImageVersion | None = None
    display_name: Identifier | None = None


class AgentAttestation(msgspec.Struct, frozen=True):
    """The agent's answer about one service."""

    state: State
    reason: str | None = None
    message: str | None = None
    remedy: str | None = None
    base_image: str | None = None
    base_image_state: str | None = None
    since: str | None = None
    attested_until: str | None = None
    service: str | None = None
    address: str | None = None


class AgentRefused(msgspec.Struct, frozen=True):
    """The agent's answer about a service that it refuses."""

    kind: str
    service: str
    address: str | None = None
    reason: str | None = None
    message: str | None = None


class AgentKeyCheck(msgspec.Struct, frozen=True):
    """The agent's answer to a key check."""

    result: str
    message: str | None = None
    provider: str | None = None
    checked: str | None = None


class AgentStatus(msgspec.Struct, frozen=True):
    """The agent's answer about its host."""

    state: State
    attestations: list[AgentAttestation]
    reason: str | None = None
    message: str | None = None
    remedy: str | None = None
    base_image: str | None = None
    base_image_state: str | None = None
    since: str | None = None
    attested_until: str | None = None
    service: str | None = None
    service_address: str | None = None
    refused_services: list[AgentRefused] = []
    key_check: AgentKeyCheck | None = None


def info_of(host: Host, status: AgentStatus) -> AttestationInfo:
    """As the API gives it."""
    return AttestationInfo(
        host=host.id,
        name=host.name,
        cluster=host.cluster_id,
        state=status.state,
        reason=status.reason,
        message=status.message,
        remedy=status.remedy,
        base_image=status.base_image,
        base_image_state=status.base_image_state,
        since=status.since,
        attested_until=status.attested_until,
        service=status.service,
        service_address=status.service_address,
        attestations=[ServiceAttestation(**msgspec.structs.asdict(one)) for one in status.attestations],
        refused_services=[RefusedService(**msgspec.structs.asdict(one)) for one in status.refused_services],
        key_check=key_check_of(status.key_check),
    )


def key_check_of(found: AgentKeyCheck | None) -> KeyCheckInfo | None:
    """As the API gives it."""
    return None if found is None else KeyCheckInfo(**msgspec.structs.asdict(found))


def silent(host: Host, error: NodeError) -> AttestationInfo:
    """A host whose agent does not answer this manager."""
    return AttestationInfo(
        host=host.id,
        name=host.name,
        cluster=host.cluster_id,
        state="UNREACHABLE",
        reason=error.code,
        message=error.text,
        attestations=[],
        refused_services=[],
    )


async def attestation_of(
    manager: Manager, host: Host, method: str, path: str, timeout: float | None
) -> AttestationInfo:
    """How a host stands. Never fails: a host that does not answer is UNREACHABLE."""
    try:
        status = await ask(manager.nodes, host.name, method, f"{AGENT}{path}", AgentStatus, timeout=timeout)
    except NodeError as error:
        return silent(host, error)
    return info_of(host, status)


def seen(info: AttestationInfo) -> Seen:
    """As the manager keeps it. What a host says is cut to the table's columns, and a text to what errors
    have: it comes once a minute, and each is kept."""
    return Seen(
        state=info.state,
        reason=(info.reason or "")[:CODE_LIMIT],
        message=(info.message or "")[:TEXT_LIMIT],
        base_image=(info.base_image or "")[:255],
        base_image_state=(info.base_image_state or "")[:16],
        since=seconds_of(info.since),
        attested_until=seconds_of(info.attested_until),
        service=(info.service or "")[:255],
        service_address=(info.service_address or "")[:320],
    )


async def look(manager: Manager, host: Host, timeout: float) -> Seen:
    """What a host's agent says now. Never fails."""
    return seen(await attestation_of(manager, host, "GET", "/status", timeout))


def noted(manager: Manager, asked: Sequence[tuple[Host, AttestationInfo]]) -> list[AttestationInfo]:
    """The same, kept; for a host that does not answer, with since when it does not."""
    with manager.database.transaction() as connection:
        kept = [(host, seen(info)) for host, info in asked]
        since = attestation_states.note(connection, kept, int(manager.clock()))
    return [
        msgspec.structs.replace(info, since=rfc3339(since[host.name])) if info.since is None else info
        for host, info in asked
    ]


async def get_attestation(context: Context, _given: HostInput) -> AttestationInfo:
    info = await attestation_of(context.manager, context.host, "GET", "/status", None)
    return noted(context.manager, [(context.host, info)])[0]


async def attest(context: Context, _given: HostInput) -> AttestationInfo:
    info = await attestation_of(context.manager, context.host, "POST", "/attest", LONG)
    return noted(context.manager, [(context.host, info)])[0]


async def check_key(context: Context, given: KeyCheckInput) -> KeyCheckInfo:
    """A host that does not answer has no key: the result says so."""
    body = {"provider": given.spec.provider}
    try:
        found = await ask(
            context.manager.nodes,
            context.host.name,
            "POST",
            f"{AGENT}/key-check",
            AgentKeyCheck,
            body,
            LONG,
        )
    except NodeError as error:
        return KeyCheckInfo(result=error.code, message=str(error), provider=given.spec.provider)
    return KeyCheckInfo(**msgspec.structs.asdict(found))


async def get_base_image(context: Context, given: BaseImageInput) -> dict[str, Any]:
    """The document as base-images imports it (base64 of this, as JSON)."""
    query = {"image_version": given.image_version, "display_name": given.display_name}
    pairs = urlencode({name: value for name, value in query.items() if value is not None})
    path = f"{AGENT}/base-image" + (f"?{pairs}" if pairs else "")
    try:
        nodes, host = context.manager.nodes, context.host.name
        return await ask(nodes, host, "GET", path, dict[str, Any], timeout=LONG, limit=IMAGE_LIMIT)
    except NodeError as error:
        raise ServiceUnavailable(str(error), error.host, reason=error.code) from None


READ = privileges("TrustedAdmin.ReadTrustedHosts", "System.View@host")

OPERATIONS: Table = (
    Operation(
        service=f"{SERVICE}.attestation",
        operation="get",
        method="GET",
        path=f"{PATH}/attestation",
        summary="How a trusted host stands",
        input=HostInput,
        output=AttestationInfo,
        handler=get_attestation,
        privileges=READ,
        errors=(NotFound,),
        side="workload",
    ),
    Operation(
        service=f"{SERVICE}.attestation",
        operation="attest",
        method="POST",
        path=f"{PATH}/attestation",
        action="attest",
        summary="Let a host attest now",
        input=HostInput,
        output=AttestationInfo,
        handler=attest,
        privileges=privileges("TrustedAdmin.ManageTrustedHosts", "System.View@host"),
        errors=(NotFound,),
        side="workload",
    ),
    Operation(
        service=f"{SERVICE}.key_check",
        operation="check",
        method="POST",
        path=f"{PATH}/key-check",
        summary="Let a host get a key from a trusted key provider, and forget it",
        input=KeyCheckInput,
        output=KeyCheckInfo,
        handler=check_key,
        privileges=READ,
        errors=(InvalidArgument, NotFound),
        body="spec",
        side="workload",
    ),
    Operation(
        service=f"{SERVICE}.base_image",
        operation="export",
        method="GET",
        path=f"{PATH}/base-image",
        summary="A base image of the state that a host has booted",
        input=BaseImageInput,
        output=dict[str, Any],
        handler=get_base_image,
        privileges=privileges("Host.Tpm.Read@host"),
        errors=(InvalidArgument, NotFound, ServiceUnavailable),
        side="workload",
    ),
)
