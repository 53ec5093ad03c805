# SPDX-License-Identifier: GPL-3.0-or-later
"""attestation/service-status and kms/service-status: how the services of a Trust Authority Cluster do."""

from __future__ import annotations

from trusted_infrastructure.manager import audit_heads, service_reports
from trusted_infrastructure.manager.audit_heads import Role
from trusted_infrastructure.manager.comparison import Health, worst
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.operations.structures import (
    TRUST_AUTHORITY,
    TRUST_AUTHORITY_PATH,
    ClusterInput,
    HealthInfo,
)
from trusted_infrastructure.manager.vapi.errors import InvalidArgument, LocalizableMessage, NotFound
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges


async def get_attestation(context: Context, _given: ClusterInput) -> HealthInfo:
    reports = await service_reports.attestation(context)
    return with_audit(context, "attestation-service", *service_reports.service_health(reports))


async def get_kms(context: Context, _given: ClusterInput) -> HealthInfo:
    reports = await service_reports.kms(context)
    return with_audit(context, "key-provider-service", *service_reports.service_health(reports))


def with_audit(context: Context, role: Role, health: Health, details: list[LocalizableMessage]) -> HealthInfo:
    """An audit log that lost records is a warning."""
    hosts = service_reports.host_names(context)
    with context.manager.database.transaction() as connection:
        problems = audit_heads.problems(connection, hosts, role)
    warned = worst([health, "WARNING"]) if problems else health
    return HealthInfo(health=warned, details=[*details, *problems])


OPERATIONS: Table = (
    Operation(
        service=f"{TRUST_AUTHORITY}.attestation.service_status",
        operation="get",
        method="GET",
        path=f"{TRUST_AUTHORITY_PATH}/{{cluster}}/attestation/service-status",
        summary="Health of the cluster's Attestation Services",
        input=ClusterInput,
        output=HealthInfo,
        handler=get_attestation,
        privileges=privileges("TrustedAdmin.RetrieveTPMHostCertificates", "System.View@cluster"),
        errors=(InvalidArgument, NotFound),
        task=True,
        side="trust_authority",
    ),
    Operation(
        service=f"{TRUST_AUTHORITY}.kms.service_status",
        operation="get",
        method="GET",
        path=f"{TRUST_AUTHORITY_PATH}/{{cluster}}/kms/service-status",
        summary="Health of the cluster's Key Provider Services",
        input=ClusterInput,
        output=HealthInfo,
        handler=get_kms,
        privileges=privileges("TrustedAdmin.ReadKMSTrust", "System.View@cluster"),
        errors=(InvalidArgument, NotFound),
        task=True,
        side="trust_authority",
    ),
)
