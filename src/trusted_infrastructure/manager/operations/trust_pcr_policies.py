# SPDX-License-Identifier: GPL-3.0-or-later
"""trust/clusters/{cluster}/pcr-policies: after which boots hosts may open what is sealed to their TPM."""

from __future__ import annotations

from typing import Any

import msgspec

from trusted_infrastructure.config.documents import BaseImage, PcrPolicy
from trusted_infrastructure.manager import base_image_document, desired, pcr_policies
from trusted_infrastructure.manager.comparison import Health
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.desired import Change
from trusted_infrastructure.manager.health import document_health
from trusted_infrastructure.manager.operations.structures import TRUST, TRUST_PATH, ClusterInput
from trusted_infrastructure.manager.pcr_policies import KIND, Bank
from trusted_infrastructure.manager.vapi.errors import (
    AlreadyExists,
    InvalidArgument,
    LocalizableMessage,
    NotFound,
    ResourceInaccessible,
)
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import (
    FieldError,
    Identifier,
    Structure,
    argument_error,
    check_name,
)

SERVICE = f"{TRUST}.pcr_policies"
PATH = f"{TRUST_PATH}/clusters/{{cluster}}/pcr-policies"


class CreateSpec(Structure, frozen=True):
    """A policy to be signed. base_image: the image's document, as the Trust Authority side imports it."""

    name: str
    base_image: dict[str, Any]

    def __post_init__(self) -> None:
        check_name("name", self.name)


class CreateInput(Structure, frozen=True):
    """Input of create."""

    cluster: Identifier
    spec: CreateSpec


class QuerySpec(Structure, frozen=True):
    """The image that a policy would be for."""

    base_image: dict[str, Any]


class QueryInput(Structure, frozen=True):
    """Input of query."""

    cluster: Identifier
    spec: QuerySpec


class PolicyInput(Structure, frozen=True):
    """Input of delete."""

    cluster: Identifier
    policy: Identifier


class Values(Structure, frozen=True):
    """PCR values: number (decimal) -> value (hex) of the bank."""

    bank: Bank
    pcrs: dict[str, str]


class Info(Values, frozen=True):
    """A policy on the hosts of the cluster. current_key: it is signed by the present policy key, for this
    cluster."""

    name: str
    current_key: bool
    health: Health
    details: list[LocalizableMessage]


async def list_policies(context: Context, _given: ClusterInput) -> list[Info]:
    with context.manager.database.transaction() as connection:
        policies = desired.contents(connection, context.cluster, KIND, PcrPolicy)
    comparison = await context.manager.replication.compare(context.cluster)
    key = pcr_policies.policy_key(context.manager.settings) if policies else None
    found = []
    for name, policy in policies.items():
        health, details = document_health(comparison, KIND, name)
        info = Info(
            name=name,
            bank=policy.bank,
            pcrs=dict(policy.pcrs),
            current_key=key is not None and key.has_signed(context.cluster, policy),
            health=health,
            details=details,
        )
        found.append(info)
    return found


async def query(_context: Context, given: QueryInput) -> Values:
    """What a policy would cover. Raises InvalidArgument for an image that fixes too little."""
    image, values = covered(given.spec.base_image)
    return Values(bank=image.bank, pcrs={str(pcr): value.hex() for pcr, value in values.items()})


async def create(context: Context, given: CreateInput) -> None:
    """Takes the place of one of this name that the present policy key did not sign for this cluster."""
    manager, cluster, name = context.manager, context.cluster, given.spec.name
    image, values = covered(given.spec.base_image)
    key = pcr_policies.policy_key(manager.settings)
    policy = key.sign(cluster, image.bank, values)
    context.audit_detail.update(name=name, image_version=image.image_version, pcrs=",".join(policy.pcrs))
    async with manager.replication.lock(cluster):
        with manager.database.transaction() as connection:
            before = desired.content(connection, cluster, KIND, name, PcrPolicy)
            if before is not None and key.has_signed(cluster, before):
                raise AlreadyExists(f"The cluster {cluster.name!r} has a PCR policy {name!r}.", name)
        await manager.replication.change(cluster, [Change(KIND, name, policy)])


async def delete(context: Context, given: PolicyInput) -> None:
    manager, cluster = context.manager, context.cluster
    async with manager.replication.lock(cluster):
        with manager.database.transaction() as connection:
            if desired.content(connection, cluster, KIND, given.policy, PcrPolicy) is None:
                raise NotFound(
                    f"The cluster {cluster.name!r} has no PCR policy {given.policy!r}.", given.policy
                )
        await manager.replication.change(cluster, [Change(KIND, given.policy, None)])


def covered(document: dict[str, Any]) -> tuple[BaseImage, dict[int, bytes]]:
    """The image in a document, and the PCR values that a policy covers. Raises InvalidArgument."""
    try:
        image = base_image_document.parse(msgspec.json.encode(document), "base_image")
        return image, pcr_policies.values_of(image)
    except pcr_policies.Insufficient as error:
        raise InvalidArgument("spec.base_image", str(error), reason="pcrs_not_fixed") from None
    except FieldError as error:
        raise argument_error(error, "spec") from None


READ = privileges("Cryptographer.ReadKeyServersInfo", "System.View@cluster")
MANAGE = privileges("Cryptographer.ManageKeyServers", "System.View@cluster")

OPERATIONS: Table = (
    Operation(
        service=SERVICE,
        operation="list",
        method="GET",
        path=PATH,
        summary="PCR policies of a cluster",
        input=ClusterInput,
        output=list[Info],
        handler=list_policies,
        privileges=READ,
        errors=(NotFound,),
        side="workload",
    ),
    Operation(
        service=SERVICE,
        operation="query",
        method="POST",
        path=PATH,
        action="query",
        summary="The PCR values that a policy for a base image would cover",
        input=QueryInput,
        output=Values,
        handler=query,
        privileges=READ,
        errors=(InvalidArgument, NotFound),
        body="spec",
        side="workload",
        limit=4 * 1024 * 1024,
    ),
    Operation(
        service=SERVICE,
        operation="create",
        method="POST",
        path=PATH,
        summary="Sign a PCR policy for a base image, before hosts boot it",
        input=CreateInput,
        output=None,
        handler=create,
        privileges=MANAGE,
        errors=(AlreadyExists, InvalidArgument, NotFound, ResourceInaccessible),
        body="spec",
        task=True,
        side="workload",
        limit=4 * 1024 * 1024,
    ),
    Operation(
        service=SERVICE,
        operation="delete",
        method="DELETE",
        path=f"{PATH}/{{policy}}",
        summary="Take a PCR policy off the hosts of a cluster",
        input=PolicyInput,
        output=None,
        handler=delete,
        privileges=MANAGE,
        errors=(NotFound, ResourceInaccessible),
        task=True,
        side="workload",
    ),
)
