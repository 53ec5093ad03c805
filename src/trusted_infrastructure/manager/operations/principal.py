# SPDX-License-Identifier: GPL-3.0-or-later
"""principal: by whom this manager's hosts are vouched for; to be imported on the Trust Authority side."""

from __future__ import annotations

from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.operations.structures import (
    StsPrincipal,
    StsPrincipalId,
    X509CertChain,
)
from trusted_infrastructure.manager.vapi.errors import Unsupported
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import Nothing, Structure

SERVICE = "com.vmware.vcenter.trusted_infrastructure.principal"


class Info(Structure, frozen=True):
    """The principal. certificates: chains, leaf first. name: what people call this manager."""

    certificates: list[X509CertChain]
    issuer: str
    principal: StsPrincipal
    name: str


async def get(context: Context, _given: Nothing) -> Info:
    principal, settings = context.manager.principal, context.manager.settings
    if principal is None:
        raise Unsupported(
            "This manager has no principal: workload managers have one (settings principal_certificate and "
            "principal_key).",
            reason="no_principal",
        )
    return Info(
        certificates=[X509CertChain(cert_chain=principal.pem_chain())],
        issuer=principal.issuer,
        principal=StsPrincipal(
            id=StsPrincipalId(name=settings.host, domain=settings.public_names[0]), type="STS_USER"
        ),
        name=settings.public_names[0],
    )


OPERATIONS: Table = (
    Operation(
        service=SERVICE,
        operation="get",
        method="GET",
        path="/vcenter/trusted-infrastructure/principal",
        summary="The principal of this manager",
        input=Nothing,
        output=Info,
        handler=get,
        privileges=privileges("TrustedAdmin.ReadStsInfo"),
        errors=(Unsupported,),
        side="workload",
    ),
)
