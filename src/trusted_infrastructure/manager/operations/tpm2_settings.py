# SPDX-License-Identifier: GPL-3.0-or-later
"""attestation/tpm2/settings: what an endorsement key must have to be trusted."""

from __future__ import annotations

import msgspec

from trusted_infrastructure.config.documents import Content, Tpm2Settings
from trusted_infrastructure.manager import desired
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.desired import Change
from trusted_infrastructure.manager.health import document_health
from trusted_infrastructure.manager.operations.structures import (
    TRUST_AUTHORITY,
    TRUST_AUTHORITY_PATH,
    ClusterInput,
    HealthInfo,
)
from trusted_infrastructure.manager.trust_authority import SETTINGS_ID, SETTINGS_KIND, require_enabled
from trusted_infrastructure.manager.vapi.errors import (
    InvalidArgument,
    NotFound,
    ResourceInaccessible,
    message,
)
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import Identifier, Structure

SERVICE = f"{TRUST_AUTHORITY}.attestation.tpm2.settings"
PATH = f"{TRUST_AUTHORITY_PATH}/{{cluster}}/attestation/tpm2/settings"


class Info(HealthInfo, frozen=True):
    """The policy. With both switches off, nobody is attested."""

    require_endorsement_keys: bool
    require_certificate_validation: bool


class UpdateSpec(Structure, frozen=True):
    """Unset: unchanged."""

    require_endorsement_keys: bool | None = None
    require_certificate_validation: bool | None = None


class UpdateInput(Structure, frozen=True):
    """Input of update."""

    cluster: Identifier
    spec: UpdateSpec


def current(context: Context) -> Tpm2Settings:
    """The desired settings; the default policy until they are set."""
    with context.manager.database.transaction() as connection:
        found = desired.content(connection, context.cluster, SETTINGS_KIND, SETTINGS_ID, Tpm2Settings)
    return found or Tpm2Settings()


async def get(context: Context, _given: ClusterInput) -> Info:
    settings = current(context)
    comparison = await context.manager.replication.compare(context.cluster)
    health, details = document_health(comparison, SETTINGS_KIND, SETTINGS_ID)
    if not settings.require_endorsement_keys and not settings.require_certificate_validation:
        health = "WARNING" if health == "OK" else health
        text = "Neither enrolled keys nor EK certificates are required: no host is attested like this."
        details = [*details, message(text, "ek_policy_none")]
    return Info(
        require_endorsement_keys=settings.require_endorsement_keys,
        require_certificate_validation=settings.require_certificate_validation,
        health=health,
        details=details,
    )


async def update(context: Context, given: UpdateInput) -> None:
    replication = context.manager.replication
    async with replication.lock(context.cluster):
        require_enabled(context)
        wanted = {
            name: value for name, value in msgspec.structs.asdict(given.spec).items() if value is not None
        }
        content: Content = msgspec.structs.replace(current(context), **wanted)
        await replication.change(context.cluster, [Change(SETTINGS_KIND, SETTINGS_ID, content)])


OPERATIONS: Table = (
    Operation(
        service=SERVICE,
        operation="get",
        method="GET",
        path=PATH,
        summary="What an endorsement key must have",
        input=ClusterInput,
        output=Info,
        handler=get,
        privileges=privileges("TrustedAdmin.RetrieveTPMHostCertificates", "System.View@cluster"),
        errors=(InvalidArgument, NotFound),
        task=True,
        side="trust_authority",
    ),
    Operation(
        service=SERVICE,
        operation="update",
        method="PATCH",
        path=PATH,
        summary="Change what an endorsement key must have",
        input=UpdateInput,
        output=None,
        handler=update,
        privileges=privileges("TrustedAdmin.ConfigureHostCertificates", "System.View@cluster"),
        errors=(InvalidArgument, NotFound, ResourceInaccessible),
        body="spec",
        task=True,
        side="trust_authority",
    ),
)
