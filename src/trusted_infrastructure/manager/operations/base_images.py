# SPDX-License-Identifier: GPL-3.0-or-later
"""attestation/os/esx/base-images: the software states that are trusted."""

from __future__ import annotations

from trusted_infrastructure.config.documents import BaseImage
from trusted_infrastructure.manager import authority_documents, base_image_document
from trusted_infrastructure.manager.base_image_use import last_attested
from trusted_infrastructure.manager.comparison import Health
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.health import document_health
from trusted_infrastructure.manager.operations.structures import (
    TRUST_AUTHORITY,
    TRUST_AUTHORITY_PATH,
    HealthInfo,
)
from trusted_infrastructure.manager.vapi.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    ResourceInaccessible,
)
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import (
    Blob,
    Identifier,
    Structure,
    Timestamp,
    decode_blob,
    timestamp,
)

SERVICE = f"{TRUST_AUTHORITY}.attestation.os.esx.base_images"
PATH = f"{TRUST_AUTHORITY_PATH}/{{cluster}}/attestation/os/esx/base-images"
KIND = "base_image"
IMAGE_LIMIT = 2 * 1024 * 1024


class ImportInput(Structure, frozen=True):
    """Input of import. imgdb: base64 of the base image document (JSON)."""

    cluster: Identifier
    imgdb: Blob

    def __post_init__(self) -> None:
        self.image()

    def image(self) -> BaseImage:
        """The document. Raises FieldError."""
        data = decode_blob(base_image_document.FIELD, self.imgdb, IMAGE_LIMIT)
        return base_image_document.parse(data)


class VersionInput(Structure, frozen=True):
    """Input of get and delete."""

    cluster: Identifier
    version: Identifier


class FilterSpec(Structure, frozen=True):
    """Images with one of the versions, names and healths, where given."""

    version: list[str] | None = None
    display_name: list[str] | None = None
    health: list[Health] | None = None


class ListInput(Structure, frozen=True):
    """Input of list."""

    cluster: Identifier
    spec: FilterSpec = FilterSpec()


class Summary(Structure, frozen=True):
    """An image and its health."""

    version: str
    display_name: str
    health: Health


class Info(HealthInfo, frozen=True):
    """An image, when a host was last attested with it, and its health."""

    display_name: str
    last_attested_time: Timestamp | None = None


async def import_from_imgdb(context: Context, given: ImportInput) -> str:
    image = given.image()
    await authority_documents.create(context, KIND, image.image_version, image)
    return image.image_version


async def delete(context: Context, given: VersionInput) -> None:
    await authority_documents.delete(context, KIND, given.version, BaseImage)


async def get(context: Context, given: VersionInput) -> Info:
    image = authority_documents.find(context, KIND, given.version, BaseImage)
    comparison = await context.manager.replication.compare(context.cluster)
    health, details = document_health(comparison, KIND, given.version)
    attested = await last_attested(context, given.version)
    return Info(
        display_name=image.display_name,
        last_attested_time=None if attested is None else timestamp(attested),
        health=health,
        details=details,
    )


async def list_images(context: Context, given: ListInput) -> list[Summary]:
    images = authority_documents.find_all(context, KIND, BaseImage)
    comparison = await context.manager.replication.compare(context.cluster)
    found = [
        Summary(
            version=version,
            display_name=image.display_name,
            health=document_health(comparison, KIND, version)[0],
        )
        for version, image in images.items()
    ]
    return [item for item in found if matches(item, given.spec)]


def matches(item: Summary, wanted: FilterSpec) -> bool:
    """Whether the filter lets the image through."""
    return (
        (not wanted.version or item.version in wanted.version)
        and (not wanted.display_name or item.display_name in wanted.display_name)
        and (not wanted.health or item.health in wanted.health)
    )


READ = privileges("TrustedAdmin.RetrieveHostMetadata", "System.View@cluster")
MANAGE = privileges("TrustedAdmin.ConfigureHostMetadata", "System.View@cluster")

OPERATIONS: Table = (
    Operation(
        service=SERVICE,
        operation="import_from_imgdb",
        method="POST",
        path=PATH,
        action="import-from-imgdb",
        summary="Trust a software state",
        input=ImportInput,
        output=str,
        handler=import_from_imgdb,
        privileges=MANAGE,
        errors=(AlreadyExists, InvalidArgument, NotFound, ResourceInaccessible),
        body="imgdb",
        task=True,
        side="trust_authority",
        limit=IMAGE_LIMIT * 3 // 2,
    ),
    Operation(
        service=SERVICE,
        operation="list",
        method="GET",
        path=PATH,
        summary="Trusted software states",
        input=ListInput,
        output=list[Summary],
        handler=list_images,
        privileges=READ,
        errors=(InvalidArgument, NotFound),
        query="spec",
        task=True,
        side="trust_authority",
    ),
    Operation(
        service=SERVICE,
        operation="delete",
        method="DELETE",
        path=f"{PATH}/{{version}}",
        summary="Stop trusting a software state",
        input=VersionInput,
        output=None,
        handler=delete,
        privileges=MANAGE,
        errors=(InvalidArgument, NotFound, ResourceInaccessible),
        task=True,
        side="trust_authority",
    ),
    Operation(
        service=SERVICE,
        operation="get",
        method="GET",
        path=f"{PATH}/{{version}}",
        summary="One trusted software state",
        input=VersionInput,
        output=Info,
        handler=get,
        privileges=READ,
        errors=(InvalidArgument, NotFound),
        task=True,
        side="trust_authority",
    ),
)
