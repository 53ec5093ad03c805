# SPDX-License-Identifier: GPL-3.0-or-later
"""trust/clusters/{cluster}/audit-heads and audit-logs: where the audit logs of Trust Authority hosts stood,
whether they are whole, and accepting one that is not."""

from __future__ import annotations

from trusted_infrastructure.manager import audit_heads, audit_verification
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.operations.structures import TRUST, TRUST_PATH, ClusterInput
from trusted_infrastructure.manager.service_reports import host_names
from trusted_infrastructure.manager.vapi.errors import NotFound, ResourceInaccessible
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import Identifier, Structure, Timestamp, timestamp


class Head(Structure, frozen=True):
    """A log's last record that was in order: its number and the SHA-256 (hex) of its line. signed: the head
    as a JWS of the service. problem: what was wrong with a head that came later."""

    host: str
    role: str
    chain: str
    sequence: int
    hash: str
    signed: str
    seen: Timestamp
    problem: str | None = None


class Log(Structure, frozen=True):
    """Whether one audit log is whole. intact: unset when its host did not answer. reason: why it is not.

    records: how many were checked, from record `first` to record `last`. file, line, record: where it breaks.
    keepers: who keeps heads of it: peers, and this manager as "manager".
    """

    host: str
    role: str
    keepers: list[str]
    intact: bool | None = None
    reason: str | None = None
    records: int | None = None
    first: int | None = None
    last: int | None = None
    file: str | None = None
    line: int | None = None
    record: int | None = None


class AcceptInput(Structure, frozen=True):
    """Input of accept. name: of the Trust Authority host whose logs are accepted as they are."""

    cluster: Identifier
    name: Identifier


async def verify_logs(context: Context, _given: ClusterInput) -> list[Log]:
    return [log_of(report) for report in await audit_verification.verify_all(context)]


def log_of(report: audit_verification.LogReport) -> Log:
    """As the API gives it."""
    found = report.verification
    return Log(
        host=report.host,
        role=report.role,
        keepers=sorted(report.keepers),
        intact=report.intact,
        reason=report.reason or None,
        records=found.records if found else None,
        first=found.first if found else None,
        last=found.head.seq if found else None,
        file=found.file if found else None,
        line=found.broken_line if found else None,
        record=found.record if found else None,
    )


async def accept(context: Context, given: AcceptInput) -> bool:
    """Tells whether anybody knew something of it. Safe to repeat, as after a host that did not answer."""
    if given.name not in host_names(context):
        raise NotFound(f"The cluster has no host {given.name}.", given.name)
    return await audit_verification.accept(context, given.name)


async def list_heads(context: Context, _given: ClusterInput) -> list[Head]:
    names = host_names(context)
    with context.manager.database.transaction() as connection:
        found = audit_heads.known(connection, names)
    return [
        Head(
            host=head.host,
            role=head.role,
            chain=head.chain,
            sequence=head.seq,
            hash=head.hash,
            signed=head.signed,
            seen=timestamp(head.seen),
            problem=head.problem or None,
        )
        for head in found
    ]


OPERATIONS: Table = (
    Operation(
        service=f"{TRUST}.audit_heads",
        operation="list",
        method="GET",
        path=f"{TRUST_PATH}/clusters/{{cluster}}/audit-heads",
        summary="Where the audit logs of the hosts stood when they were last in order",
        input=ClusterInput,
        output=list[Head],
        handler=list_heads,
        privileges=privileges("TrustedAdmin.ReadTrustedHosts", "System.View@cluster"),
        errors=(NotFound,),
        side="trust_authority",
    ),
    Operation(
        service=f"{TRUST}.audit_logs",
        operation="verify",
        method="POST",
        path=f"{TRUST_PATH}/clusters/{{cluster}}/audit-logs",
        action="verify",
        summary="Check the audit logs of the hosts, against all heads that are kept elsewhere",
        input=ClusterInput,
        output=list[Log],
        handler=verify_logs,
        privileges=privileges("TrustedAdmin.ReadTrustedHosts", "System.View@cluster"),
        errors=(NotFound,),
        task=True,
        side="trust_authority",
    ),
    Operation(
        service=f"{TRUST}.audit_heads",
        operation="accept",
        method="POST",
        path=f"{TRUST_PATH}/clusters/{{cluster}}/audit-heads/{{name}}",
        action="accept",
        summary="Accept that the audit logs of a host begin anew, after a reinstallation for instance",
        input=AcceptInput,
        output=bool,
        handler=accept,
        privileges=privileges("TrustedAdmin.ManageTrustedHosts", "TrustedAdmin.ManageTrustedHosts@cluster"),
        errors=(NotFound, ResourceInaccessible),
        task=True,
        side="trust_authority",
    ),
)
