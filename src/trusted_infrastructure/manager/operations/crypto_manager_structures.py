# SPDX-License-Identifier: GPL-3.0-or-later
"""Structures of crypto_manager.kms.providers, with vSphere's names. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Literal

from trusted_infrastructure.manager import native_backup, native_providers, pkcs12_form
from trusted_infrastructure.manager.comparison import Health
from trusted_infrastructure.manager.vapi.errors import LocalizableMessage
from trusted_infrastructure.manager.vapi.structure import (
    Blob,
    FieldError,
    Identifier,
    Structure,
    Timestamp,
    check_name,
    decode_blob,
)

Type = Literal["NATIVE"]
UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class Constraints(Structure, frozen=True):
    """What a provider asks of hosts. tpm_required: a TPM 2.0 that it is sealed to."""

    tpm_required: bool


class ConstraintsSpec(Structure, frozen=True):
    """tpm_required unset: no restriction."""

    tpm_required: bool | None = None


class NativeInfo(Structure, frozen=True):
    """key_id: UUID of the current key."""

    key_id: str


class NativeCreateSpec(Structure, frozen=True):
    """key_id: UUID; key_derivation_key: base64 of 32 bytes, secret. Unset: made by the manager."""

    key_id: str | None = None
    key_derivation_key: str | None = None

    def __post_init__(self) -> None:
        check_key_id(self.key_id)
        if self.key_derivation_key is not None:
            decoded_key(self.key_derivation_key)


class CreateSpec(Structure, frozen=True):
    """A provider to be made. constraints unset: any host."""

    provider: str
    constraints: ConstraintsSpec | None = None
    native_spec: NativeCreateSpec | None = None

    def __post_init__(self) -> None:
        check_name("provider", self.provider)


class NativeUpdateSpec(Structure, frozen=True):
    """key_id: UUID of a new key, which the manager makes. Unset, or the current one: no change."""

    key_id: str | None = None

    def __post_init__(self) -> None:
        check_key_id(self.key_id)


class UpdateSpec(Structure, frozen=True):
    """What is to be changed; unset: nothing."""

    native_spec: NativeUpdateSpec | None = None


class FilterSpec(Structure, frozen=True):
    """Providers of these names and health; unset or empty: all."""

    providers: list[Identifier] | None = None
    health: list[Health] | None = None


class Summary(Structure, frozen=True):
    """A provider."""

    provider: str
    type: Type
    health: Health


class Info(Structure, frozen=True):
    """A provider. details: why it is not OK. constraints unset: none."""

    health: Health
    details: list[LocalizableMessage]
    type: Type
    native_info: NativeInfo
    constraints: Constraints | None = None


class ExportSpec(Structure, frozen=True):
    """A backup to be made. password: encrypts the file; unset or empty: it holds the keys in the clear."""

    provider: Identifier
    password: str | None = None

    def __post_init__(self) -> None:
        if self.password is not None:
            native_backup.check_password("password", self.password)


class Token(Structure, frozen=True):
    """For one download, as `Authorization: Bearer`."""

    token: str
    expiry: Timestamp


class Location(Structure, frozen=True):
    """Where the file is, and what opens the door."""

    url: str
    download_token: Token


class ExportResult(Structure, frozen=True):
    """A backup that waits to be fetched. Without a password, whoever reads the file has the provider's keys;
    keep it as they deserve. The provider counts as backed up when the download is complete."""

    type: Literal["LOCATION"]
    location: Location


class ImportSpec(Structure, frozen=True):
    """A backup to be restored. config: the PKCS#12 file, base64. password unset: it is not encrypted.
    constraints unset: those of the backup. dry_run: read and judge it, and change nothing."""

    config: Blob | None = None
    password: str | None = None
    constraints: ConstraintsSpec | None = None
    dry_run: bool | None = None

    def __post_init__(self) -> None:
        if self.config is None:
            raise FieldError("config", "is required")
        decode_blob("config", self.config, pkcs12_form.MAXIMUM_BYTES)
        if self.password is not None:
            native_backup.check_password("password", self.password)


class ImportResult(Structure, frozen=True):
    """What a backup holds. export_time: when it was made. constraints unset: none."""

    provider: str
    type: Type
    native_info: NativeInfo
    export_time: Timestamp
    constraints: Constraints | None = None


def check_key_id(key_id: str | None) -> None:
    """Raises FieldError for what is no UUID in vSphere's form."""
    if key_id is not None and not UUID.fullmatch(key_id):
        raise FieldError("key_id", "must be a UUID: 8-4-4-4-12 hexadecimal digits")


def decoded_key(text: str) -> bytes:
    """A key derivation key. Raises FieldError, which does not repeat it."""
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise FieldError("key_derivation_key", "is not base64") from None
    if len(key) != native_providers.KEY_BYTES:
        raise FieldError("key_derivation_key", f"must be base64 of {native_providers.KEY_BYTES} bytes")
    return key


def constraints_of(tpm_required: bool) -> Constraints | None:
    """As the API gives it."""
    return Constraints(tpm_required=True) if tpm_required else None
