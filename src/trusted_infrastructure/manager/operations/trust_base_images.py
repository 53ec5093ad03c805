# SPDX-License-Identifier: GPL-3.0-or-later
"""trust/clusters/{cluster}/base-images: life cycle and use of base images, which vSphere has not.

Importing is vSphere's operation: the document's own `state` says whether an image begins as STAGED, ACTIVE
(the default) or RETIRED, so there is no moment at which a staged one is active.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from trusted_infrastructure.config.documents import BaseImage, Scope
from trusted_infrastructure.manager import authority_documents
from trusted_infrastructure.manager.base_image_states import State, check_step, last_of, scopes_of
from trusted_infrastructure.manager.base_image_use import HostUse, by_image
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.health import document_health
from trusted_infrastructure.manager.operations.base_images import KIND, MANAGE, READ
from trusted_infrastructure.manager.operations.structures import (
    TRUST,
    TRUST_PATH,
    ClusterInput,
    HealthInfo,
)
from trusted_infrastructure.manager.replication import Comparison
from trusted_infrastructure.manager.vapi.errors import (
    InvalidArgument,
    LocalizableMessage,
    NotAllowedInCurrentState,
    NotFound,
    ResourceInaccessible,
    message,
)
from trusted_infrastructure.manager.vapi.operation import Operation, Table
from trusted_infrastructure.manager.vapi.structure import Identifier, Structure

SERVICE = f"{TRUST}.base_images"
PATH = f"{TRUST_PATH}/clusters/{{cluster}}/base-images"


class VersionInput(Structure, frozen=True):
    """Input that is an image alone."""

    cluster: Identifier
    version: Identifier


class UpdateSpec(Structure, frozen=True):
    """state: what the image is to be. reactivate: must be true to trust a RETIRED image again."""

    state: State
    reactivate: bool = False


class UpdateInput(Structure, frozen=True):
    """Input of update."""

    cluster: Identifier
    version: Identifier
    spec: UpdateSpec


class Info(HealthInfo, frozen=True):
    """An image, its state, and its use. scopes: those that allow it; last_of: those that have no other that
    is accepted; hosts: those whose last attestation was with it."""

    version: str
    display_name: str
    state: State
    bank: str
    userspace: str
    scopes: list[str]
    last_of: list[str]
    hosts: list[HostUse]


class Updated(Structure, frozen=True):
    """What an update did. before: the state until then. warnings: what hosts lose by it."""

    version: str
    before: State
    state: State
    warnings: list[LocalizableMessage]


async def list_images(context: Context, _given: ClusterInput) -> list[Info]:
    images = authority_documents.find_all(context, KIND, BaseImage)
    return await infos(context, images, images)


async def get(context: Context, given: VersionInput) -> Info:
    images = {given.version: authority_documents.find(context, KIND, given.version, BaseImage)}
    images = {**authority_documents.find_all(context, KIND, BaseImage), **images}
    return (await infos(context, images, [given.version]))[0]


async def infos(context: Context, images: Mapping[str, BaseImage], wanted: Iterable[str]) -> list[Info]:
    """Those of the cluster's images that are wanted, as the API gives them."""
    scopes = authority_documents.find_all(context, "scope", Scope)
    comparison = await context.manager.replication.compare(context.cluster)
    hosts = await by_image(context)
    return [info(version, images, scopes, hosts, comparison) for version in wanted]


def info(
    version: str,
    images: Mapping[str, BaseImage],
    scopes: Mapping[str, Scope],
    hosts: Mapping[str, list[HostUse]],
    comparison: Comparison,
) -> Info:
    """As the API gives it."""
    image = images[version]
    health, details = document_health(comparison, KIND, version)
    return Info(
        version=version,
        display_name=image.display_name,
        state=image.state,
        bank=image.bank,
        userspace=image.userspace,
        scopes=scopes_of(version, scopes),
        last_of=last_of(version, images, scopes),
        hosts=hosts.get(version, []),
        health=health,
        details=details,
    )


async def update(context: Context, given: UpdateInput) -> Updated:
    """The audit record says from which state to which, and whether it was told to reactivate."""
    warnings: list[LocalizableMessage] = []
    found: list[BaseImage] = []

    def changed(image: BaseImage) -> BaseImage:
        found.append(image)
        context.audit_detail.update(
            before=image.state, state=given.spec.state, reactivate=str(given.spec.reactivate).lower()
        )
        check_step(given.version, image.state, given.spec.state, given.spec.reactivate)
        if given.spec.state == "RETIRED":
            warnings.extend(lost(context, given.version))
        return msgspec.structs.replace(image, state=given.spec.state)

    await authority_documents.update(context, KIND, given.version, BaseImage, changed)
    return Updated(version=given.version, before=found[0].state, state=given.spec.state, warnings=warnings)


def lost(context: Context, version: str) -> list[LocalizableMessage]:
    """What scopes lose when an image is retired."""
    images = authority_documents.find_all(context, KIND, BaseImage)
    scopes = authority_documents.find_all(context, "scope", Scope)
    return [
        message(
            f"The scope {scope!r} has no other base image that is accepted: none of its hosts is attested.",
            "last_base_image",
            scope,
        )
        for scope in last_of(version, images, scopes)
    ]


OPERATIONS: Table = (
    Operation(
        service=SERVICE,
        operation="list",
        method="GET",
        path=PATH,
        summary="Life cycle and use of base images",
        input=ClusterInput,
        output=list[Info],
        handler=list_images,
        privileges=READ,
        errors=(NotFound,),
        side="trust_authority",
        task=True,
    ),
    Operation(
        service=SERVICE,
        operation="get",
        method="GET",
        path=f"{PATH}/{{version}}",
        summary="Life cycle and use of one base image",
        input=VersionInput,
        output=Info,
        handler=get,
        privileges=READ,
        errors=(NotFound,),
        side="trust_authority",
        task=True,
    ),
    Operation(
        service=SERVICE,
        operation="update",
        method="PATCH",
        path=f"{PATH}/{{version}}",
        summary="Stage, activate or retire a base image, or trust a retired one again",
        input=UpdateInput,
        output=Updated,
        handler=update,
        privileges=MANAGE,
        errors=(InvalidArgument, NotAllowedInCurrentState, NotFound, ResourceInaccessible),
        body="spec",
        task=True,
        side="trust_authority",
    ),
)
