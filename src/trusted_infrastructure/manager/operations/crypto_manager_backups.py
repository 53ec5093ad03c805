# SPDX-License-Identifier: GPL-3.0-or-later
"""crypto_manager.kms.providers, export and import: backups of native key providers."""

from __future__ import annotations

import asyncio

from trusted_infrastructure.manager import native_backup, native_downloads, native_providers, pkcs12_form
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.native_backup import BackupDocument, BackupKey
from trusted_infrastructure.manager.native_changes import add, change, record
from trusted_infrastructure.manager.native_providers import Provider
from trusted_infrastructure.manager.operations.crypto_manager import MANAGE, PATH, SERVICE
from trusted_infrastructure.manager.operations.crypto_manager_structures import (
    ExportResult,
    ExportSpec,
    ImportResult,
    ImportSpec,
    Location,
    NativeInfo,
    Token,
    constraints_of,
)
from trusted_infrastructure.manager.vapi.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    UnableToAllocateResource,
    Unsupported,
)
from trusted_infrastructure.manager.vapi.operation import Operation, Table
from trusted_infrastructure.manager.vapi.structure import (
    FieldError,
    Structure,
    argument_error,
    decode_blob,
    timestamp,
)

DOWNLOADS = "/trust/native-key-provider-backups"


class ExportInput(Structure, frozen=True):
    """Input of export."""

    spec: ExportSpec


class ImportInput(Structure, frozen=True):
    """Input of import_provider."""

    spec: ImportSpec


async def export(context: Context, given: ExportInput) -> ExportResult:
    manager, spec = context.manager, given.spec
    now = int(manager.clock())
    with manager.database.transaction() as connection:
        provider = native_providers.find(connection, spec.provider)
        keys = native_providers.keys_of(connection, manager.secrets, provider)
    document = BackupDocument(
        provider=provider.name,
        key_id=provider.key_id,
        keys=[BackupKey(key.key_id, key.secret) for key in keys],
        tpm_required=provider.tpm_required,
        exported=now,
    )
    content = await asyncio.to_thread(native_backup.write, document, spec.password)
    encrypted = "yes" if spec.password else "no"
    context.audit_detail.update(provider=provider.name, key_id=provider.key_id, encrypted=encrypted)
    with manager.database.transaction() as connection:
        record(context, connection, provider, "export", f"was exported (encrypted: {encrypted})")
    backup = native_downloads.Backup(provider.name, provider.key_id, context.caller.user.name, content)
    offer = native_downloads.offer(manager, backup)
    return ExportResult(
        type="LOCATION",
        location=Location(
            url=f"https://{manager.settings.public_names[0]}/api{DOWNLOADS}/{offer.download}",
            download_token=Token(token=offer.token, expiry=timestamp(offer.expires)),
        ),
    )


async def import_provider(context: Context, given: ImportInput) -> ImportResult:
    spec = given.spec
    try:
        data = decode_blob("config", spec.config or "", pkcs12_form.MAXIMUM_BYTES)
        document = await asyncio.to_thread(native_backup.read, data, spec.password)
    except FieldError as error:
        raise argument_error(error, "spec") from None
    required = document.tpm_required
    if spec.constraints is not None:
        required = bool(spec.constraints.tpm_required)
    now = int(context.manager.clock())
    provider = Provider(document.provider, document.key_id, required, True, True, reminded=now)
    context.audit_detail.update(provider=provider.name, key_id=provider.key_id)
    if spec.dry_run:
        context.audit_detail["dry_run"] = "true"
    else:
        keys = {key.key_id: key.key for key in document.keys}
        await change(context, lambda connection: add(context, connection, provider, keys, "import"))
    return ImportResult(
        provider=provider.name,
        type="NATIVE",
        native_info=NativeInfo(key_id=provider.key_id),
        export_time=timestamp(document.exported),
        constraints=constraints_of(required),
    )


OPERATIONS: Table = (
    Operation(
        service=SERVICE,
        operation="export",
        method="POST",
        path=PATH,
        action="export",
        summary="Make a backup (PKCS#12) that can be fetched once; without a password it is in the clear",
        input=ExportInput,
        output=ExportResult,
        handler=export,
        privileges=MANAGE,
        errors=(InvalidArgument, NotFound, Unsupported),
        body="spec",
        side="workload",
    ),
    Operation(
        service=SERVICE,
        operation="import_provider",
        method="POST",
        path=PATH,
        action="import",
        summary="Restore a native key provider from a backup, or only read the backup",
        input=ImportInput,
        output=ImportResult,
        handler=import_provider,
        privileges=MANAGE,
        errors=(AlreadyExists, InvalidArgument, UnableToAllocateResource),
        body="spec",
        side="workload",
    ),
)
