# SPDX-License-Identifier: GPL-3.0-or-later
"""trust/clusters/{cluster}/audit-heads: where the audit logs of Trust Authority hosts stood."""

from __future__ import annotations

from trusted_infrastructure.manager import audit_heads
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.operations.structures import TRUST, TRUST_PATH, ClusterInput
from trusted_infrastructure.manager.service_reports import host_names
from trusted_infrastructure.manager.vapi.errors import NotFound
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import Structure, Timestamp, timestamp


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
)
