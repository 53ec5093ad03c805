# SPDX-License-Identifier: GPL-3.0-or-later
"""trust/attestation: how hosts stand and stood, on both sides.

The workload manager asks the agents of its hosts, and keeps what it saw. The Trust Authority manager asks the
Attestation Services of its clusters, each of which judges by itself and keeps its own history; hosts are
known there by the name that a principal vouches for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import sqlalchemy as sql

from trusted_infrastructure.manager import attestation_states, attestation_verdicts
from trusted_infrastructure.manager.attestation_verdicts import HostResult, HostResults, Transition
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.inventory import Cluster, Host, hosts_of
from trusted_infrastructure.manager.nodes import NodeError
from trusted_infrastructure.manager.operations.structures import TRUST, TRUST_PATH
from trusted_infrastructure.manager.operations.trust_hosts import (
    AttestationInfo,
    ServiceAttestation,
    State,
    attestation_of,
    noted,
)
from trusted_infrastructure.manager.operations.vcenter import HostFilter, among, wanted_host
from trusted_infrastructure.manager.vapi.errors import InvalidArgument, ResourceInaccessible
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import FieldError, Structure
from trusted_infrastructure.times import rfc3339

# Hosts whose history one call gives on the Trust Authority side: each is a call to every service.
HOSTS_AT_ONCE = 100
# The host is in the first of these states that a service gives it.
ORDER: tuple[State, ...] = ("ATTESTED", "FAILED", "EXPIRED", "UNREACHABLE")

Limit = Annotated[int, msgspec.Meta(ge=1, le=attestation_states.KEPT_PER_HOST)]


class ListInput(Structure, frozen=True):
    """Input of list. On the Trust Authority side a host's id is its name."""

    filter: HostFilter = HostFilter()


class HistoryInput(Structure, frozen=True):
    """Input of history. hosts: ids or names; unset: all. limit: states of each host (and service)."""

    hosts: list[str] | None = None
    limit: Limit = 20

    def __post_init__(self) -> None:
        if self.hosts is not None and len(self.hosts) > HOSTS_AT_ONCE:
            raise FieldError("hosts", f"must not name more than {HOSTS_AT_ONCE}")


class Entry(Structure, frozen=True):
    """A state that a host was in. Times: RFC 3339, UTC. until: when the next one began, unset while it lasts.
    service, service_address: who judged, or whose result the host relied on."""

    host: str
    name: str
    state: State
    since: str
    until: str | None = None
    reason: str | None = None
    message: str | None = None
    base_image: str | None = None
    base_image_state: str | None = None
    attested_until: str | None = None
    service: str | None = None
    service_address: str | None = None
    principal: str | None = None


async def list_attestations(context: Context, given: ListInput) -> list[AttestationInfo]:
    if context.manager.settings.side == "workload":
        return await of_agents(context, given.filter)
    found: list[AttestationInfo] = []
    for cluster in context.clusters():
        if among(cluster.id, given.filter.clusters):
            found += await of_services(context, cluster, given.filter)
    return found


async def list_history(context: Context, given: HistoryInput) -> list[Entry]:
    if context.manager.settings.side == "workload":
        wanted = [
            host
            for host in context.hosts()
            if not given.hosts or host.id in given.hosts or host.name in given.hosts
        ]
        with context.manager.database.transaction() as connection:
            return [
                entry_of_row(host, row)
                for host in wanted
                for row in attestation_states.history(connection, host.name, given.limit)
            ]
    found: list[Entry] = []
    for cluster in context.clusters():
        found += await past_of(context, cluster, given)
    return found


async def of_agents(context: Context, wanted: HostFilter) -> list[AttestationInfo]:
    """What the agents of the workload side say."""
    hosts = [host for host in context.hosts() if wanted_host(host, wanted)]
    places = asyncio.Semaphore(attestation_states.AT_ONCE)

    async def one(host: Host) -> AttestationInfo:
        async with places:
            return await attestation_of(context.manager, host, "GET", "/status", None)

    answers = await asyncio.gather(*(one(host) for host in hosts))
    return noted(context.manager, list(zip(hosts, answers, strict=True)))


async def of_services(context: Context, cluster: Cluster, wanted: HostFilter) -> list[AttestationInfo]:
    """What the Attestation Services of a cluster say. Raises ResourceInaccessible when none answers."""
    answers = await attestation_verdicts.verdicts(context.manager, authorities(context, cluster))
    silent = refuse_silence(cluster, answers)
    by_host: dict[tuple[str, str], list[tuple[str, HostResult]]] = {}
    for authority, answer in answers.items():
        if isinstance(answer, HostResults):
            for verdict in answer.hosts:
                if among(verdict.host, wanted.names) and among(verdict.host, wanted.hosts):
                    service = answer.service or f"attestation@{authority}"
                    by_host.setdefault((verdict.host, verdict.principal), []).append((service, verdict))
    return [
        info_of_verdicts(cluster, name, principal, verdicts, silent)
        for (name, principal), verdicts in sorted(by_host.items())
    ]


async def past_of(context: Context, cluster: Cluster, given: HistoryInput) -> list[Entry]:
    """What the Attestation Services of a cluster know of hosts' past."""
    names = list(dict.fromkeys(given.hosts or []))
    if not names:
        known = await of_services(context, cluster, HostFilter())
        names = sorted({info.name for info in known})
        if len(names) > HOSTS_AT_ONCE:
            raise InvalidArgument(
                "hosts", f"name the hosts, at most {HOSTS_AT_ONCE}: the services know {len(names)}"
            )
    asked = authorities(context, cluster)
    found: list[Entry] = []
    for name in names:
        answers = await attestation_verdicts.past(context.manager, asked, name, given.limit)
        refuse_silence(cluster, answers)
        for answer in answers.values():
            if not isinstance(answer, NodeError):
                found += [entry_of_transition(answer.service, item) for item in answer.history]
    return sorted(found, key=lambda entry: (names.index(entry.name), entry.service or ""))


def authorities(context: Context, cluster: Cluster) -> list[str]:
    """Names of the hosts of a Trust Authority Cluster."""
    with context.manager.database.transaction() as connection:
        return [host.name for host in hosts_of(connection, cluster)]


def refuse_silence(cluster: Cluster, answers: Mapping[str, Any]) -> list[NodeError]:
    """Those that did not answer. Raises ResourceInaccessible when nobody did."""
    silent = [answer for answer in answers.values() if isinstance(answer, NodeError)]
    if silent and len(silent) == len(answers):
        raise ResourceInaccessible(
            f"No Attestation Service of {cluster.name!r} answers.",
            cluster.name,
            details=[error.message() for error in silent],
        )
    return silent


def info_of_verdicts(
    cluster: Cluster,
    name: str,
    principal: str,
    verdicts: Sequence[tuple[str, HostResult]],
    silent: Sequence[NodeError],
) -> AttestationInfo:
    """One host: the state is the best that a service gives it; of equal ones the one that lasts longest."""
    services = [service_of(service, verdict) for service, verdict in verdicts]
    best = min(verdicts, key=lambda item: (ORDER.index(item[1].state), -(item[1].until or 0), -item[1].last))
    chosen = service_of(*best)
    services += [
        ServiceAttestation(
            state="UNREACHABLE", service=f"attestation@{error.host}", reason=error.code, message=error.text
        )
        for error in silent
    ]
    return AttestationInfo(
        host=name,
        name=name,
        cluster=cluster.id,
        principal=principal,
        state=chosen.state,
        reason=chosen.reason,
        message=chosen.message,
        base_image=chosen.base_image,
        base_image_state=chosen.base_image_state,
        since=chosen.since,
        attested_until=chosen.attested_until,
        service=chosen.service,
        attestations=services,
        refused_services=[],
    )


def service_of(service: str, verdict: HostResult) -> ServiceAttestation:
    """As the API gives it."""
    return ServiceAttestation(
        state=verdict.state,
        service=service,
        reason=verdict.reason or None,
        message=verdict.message or None,
        base_image=verdict.base_image,
        base_image_state=verdict.image_state or None,
        since=rfc3339(verdict.since),
        attested_until=time_of(verdict.until),
        last=rfc3339(verdict.last),
    )


def entry_of_transition(service: str, item: Transition) -> Entry:
    """As the API gives it."""
    return Entry(
        host=item.host,
        name=item.host,
        state=item.state,
        since=rfc3339(item.since),
        until=time_of(item.until),
        reason=item.reason or None,
        message=item.message or None,
        base_image=item.base_image,
        base_image_state=item.image_state or None,
        attested_until=time_of(item.attested_until),
        service=service,
        principal=item.principal,
    )


def entry_of_row(host: Host, row: sql.Row[Any]) -> Entry:
    """As the API gives it."""
    return Entry(
        host=host.id,
        name=host.name,
        state=row.state,
        since=rfc3339(row.since),
        until=time_of(row.until),
        reason=row.reason or None,
        message=row.message or None,
        base_image=row.base_image or None,
        base_image_state=row.base_image_state or None,
        attested_until=time_of(row.attested_until),
        service=row.service or None,
        service_address=row.service_address or None,
    )


def time_of(seconds: int | None) -> str | None:
    """RFC 3339, or None."""
    return None if seconds is None else rfc3339(seconds)


OPERATIONS: Table = (
    Operation(
        service=f"{TRUST}.attestation",
        operation="list",
        method="GET",
        path=f"{TRUST_PATH}/attestation",
        summary="How trusted hosts stand",
        input=ListInput,
        output=list[AttestationInfo],
        handler=list_attestations,
        privileges=privileges("TrustedAdmin.ReadTrustedHosts"),
        errors=(InvalidArgument, ResourceInaccessible),
        query="filter",
    ),
    Operation(
        service=f"{TRUST}.attestation.history",
        operation="list",
        method="GET",
        path=f"{TRUST_PATH}/attestation/history",
        summary="States that trusted hosts were in, newest first",
        input=HistoryInput,
        output=list[Entry],
        handler=list_history,
        privileges=privileges("TrustedAdmin.ReadTrustedHosts"),
        errors=(InvalidArgument, ResourceInaccessible),
    ),
)
