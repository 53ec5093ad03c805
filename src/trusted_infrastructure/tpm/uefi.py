# SPDX-License-Identifier: GPL-3.0-or-later
"""UEFI structures in event data: variables, signature databases, loaded images, GPT.

Each function takes event data and raises InvalidField (event_log_malformed) where it is not of that form.

Sources: TCG PC Client Platform Firmware Profile 1.06, 10.2.3 (UEFI_IMAGE_LOAD_EVENT), 10.2.4 (UEFI_GPT_DATA),
10.2.6 (UEFI_VARIABLE_DATA), 10.2.2 (firmware blobs, handoff tables); UEFI Specification 2.10, 32.4.1
(EFI_SIGNATURE_LIST), 5.3 (GPT). All little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from trusted_infrastructure.tpm import event_quirks
from trusted_infrastructure.tpm.device_path import device_path_text, file_path, guid
from trusted_infrastructure.tpm.structures import Reader

GLOBAL_VARIABLE = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
IMAGE_SECURITY_DATABASE = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"

_SIGNATURE_TYPES = {
    "c1c41626-504c-4092-aca9-41f936934328": "sha256",
    "a5c059a1-94e4-4aa7-87b5-ab155c2bf072": "x509",
    "3bd2a492-96c0-4079-b420-fcf98ef103ed": "x509_sha256",
    "826ca512-cf10-4ac9-b187-be01496631bd": "sha1",
    "3c5766e8-269c-4e34-aa14-ed776e85b3b6": "rsa2048",
}
_CODE = "event_log_malformed"
_MAXIMUM_NAME = 512  # characters of a variable's name
_MAXIMUM_PATH = 16 << 10
_MAXIMUM_SIGNATURES = 16_384  # a full dbx has some hundred entries; this bounds the objects made
_MAXIMUM_PARTITIONS = 1024  # GPTs have room for 128
_VARIABLE_HEADER = struct.Struct("<16sQQ")  # VariableName, UnicodeNameLength, VariableDataLength
_GPT_HEADER = 92
_GPT_ENTRY = 128


@dataclass(frozen=True)
class Variable:
    """UEFI_VARIABLE_DATA. vendor: GUID text. data: the variable's content."""

    vendor: str
    name: str
    data: bytes


@dataclass(frozen=True)
class Signature:
    """One entry of a signature database. kind: 'sha256', 'x509', ..., or the GUID. owner: GUID. data: the
    digest or the DER certificate."""

    kind: str
    owner: str
    data: bytes


@dataclass(frozen=True)
class ImageLoad:
    """UEFI_IMAGE_LOAD_EVENT. device_path: text, '' where the firmware gave none. file: the file in it."""

    location: int
    length: int
    link_time_address: int
    device_path: str
    file: str | None


@dataclass(frozen=True)
class Partition:
    """GPT entry. first, last: LBA, inclusive."""

    kind: str
    identifier: str
    first: int
    last: int
    attributes: int
    name: str


@dataclass(frozen=True)
class Gpt:
    """UEFI_GPT_DATA: the disk's GUID and the partitions in use."""

    disk: str
    partitions: tuple[Partition, ...]


@dataclass(frozen=True)
class FirmwareBlob:
    """UEFI_PLATFORM_FIRMWARE_BLOB(2): what was measured and where. description: '' in the older form."""

    description: str
    base: int
    length: int


@dataclass(frozen=True)
class HandoffTables:
    """UEFI_HANDOFF_TABLE_POINTERS(2). tables: (GUID, address)."""

    description: str
    tables: tuple[tuple[str, int], ...]


def variable(data: bytes) -> Variable:
    """UEFI_VARIABLE_DATA, exactly."""
    return _variable(data, 0)


def authority_variable(data: bytes) -> Variable:
    """UEFI_VARIABLE_DATA of EV_EFI_VARIABLE_AUTHORITY (`event_quirks.SPARE_BYTES`)."""
    return _variable(data, event_quirks.SPARE_BYTES)


def _variable(data: bytes, spare: int) -> Variable:
    # Most of a log are variables, and each verification reads those of PCR 1 and 7: the usual form in one go.
    if len(data) >= _VARIABLE_HEADER.size:
        vendor, length, size = _VARIABLE_HEADER.unpack_from(data)
        start = _VARIABLE_HEADER.size + 2 * length
        if length <= _MAXIMUM_NAME and start + size == len(data):
            name = data[_VARIABLE_HEADER.size : start].decode("utf-16-le", "replace").rstrip("\0")
            return Variable(guid(vendor), name, data[start:])
    return _unusual_variable(data, spare)


def _unusual_variable(data: bytes, spare: int) -> Variable:
    """As `_variable`, with spare bytes or a refusal that names the field."""
    reader = Reader(data, "variable", order="<", code=_CODE)
    vendor = guid(reader.take(16, "VariableName"))
    name_length = reader.u64("UnicodeNameLength")
    data_length = reader.u64("VariableDataLength")
    if name_length > _MAXIMUM_NAME:
        raise reader.refusal("UnicodeNameLength", f"is {name_length}: expected at most {_MAXIMUM_NAME}")
    name = reader.take(2 * name_length, "UnicodeName").decode("utf-16-le", "replace").rstrip("\0")
    content = reader.take(data_length, "VariableData")
    _finish(reader, spare)
    return Variable(vendor, name, content)


def _finish(reader: Reader, spare: int) -> None:
    if reader.remaining > spare:
        reader.finish()


def variable_content(data: bytes) -> bytes:
    """VariableData alone, without the name: what the older EV_EFI_VARIABLE_BOOT measures."""
    return variable(data).data


def signature_database(data: bytes) -> tuple[Signature, ...]:
    """EFI_SIGNATURE_LISTs: the content of PK, KEK, db, dbx."""
    reader = Reader(data, "signature_database", order="<", code=_CODE)
    found: list[Signature] = []
    while reader.remaining:
        kind_guid = guid(reader.take(16, "SignatureType"))
        kind = _SIGNATURE_TYPES.get(kind_guid, kind_guid)
        list_size, header_size, size = (
            reader.u32("SignatureListSize"),
            reader.u32("SignatureHeaderSize"),
            reader.u32("SignatureSize"),
        )
        body = list_size - 28 - header_size
        if size < 16 or body < 0 or body % size or body // size > _MAXIMUM_SIGNATURES - len(found):
            raise reader.refusal("SignatureListSize", f"{list_size} does not hold entries of {size} bytes")
        reader.take(header_size, "SignatureHeader")
        for _index in range(body // size):
            owner = guid(reader.take(16, "SignatureOwner"))
            found.append(Signature(kind, owner, reader.take(size - 16, "SignatureData")))
    return tuple(found)


def image_load(data: bytes) -> ImageLoad:
    """UEFI_IMAGE_LOAD_EVENT (`event_quirks.SPARE_BYTES`)."""
    reader = Reader(data, "image_load", order="<", code=_CODE)
    location, length, link = (
        reader.u64("ImageLocationInMemory"),
        reader.u64("ImageLengthInMemory"),
        reader.u64("ImageLinkTimeAddress"),
    )
    path_length = reader.u64("LengthOfDevicePath")
    if path_length > _MAXIMUM_PATH:
        raise reader.refusal("LengthOfDevicePath", f"is {path_length}: expected at most {_MAXIMUM_PATH}")
    path = reader.take(path_length, "DevicePath")
    _finish(reader, event_quirks.SPARE_BYTES)
    return ImageLoad(location, length, link, device_path_text(path), file_path(path))


def gpt(data: bytes) -> Gpt:
    """UEFI_GPT_DATA: GPT header, number of partitions in use, their entries."""
    reader = Reader(data, "gpt", order="<", code=_CODE)
    header = reader.take(_GPT_HEADER, "UEFIPartitionHeader")
    if header[:8] != b"EFI PART":
        raise reader.refusal("UEFIPartitionHeader", "has not the signature of a GPT header")
    entry_size = int.from_bytes(header[84:88], "little")
    count = reader.u64("NumberOfPartitions")
    if entry_size < _GPT_ENTRY or count > _MAXIMUM_PARTITIONS:
        raise reader.refusal("NumberOfPartitions", f"{count} entries of {entry_size} bytes are not a GPT")
    partitions = tuple(_partition(reader.take(entry_size, "Partitions")) for _index in range(count))
    reader.finish()
    return Gpt(guid(header[56:72]), partitions)


def _partition(entry: bytes) -> Partition:
    return Partition(
        kind=guid(entry[:16]),
        identifier=guid(entry[16:32]),
        first=int.from_bytes(entry[32:40], "little"),
        last=int.from_bytes(entry[40:48], "little"),
        attributes=int.from_bytes(entry[48:56], "little"),
        name=entry[56:128].decode("utf-16-le", "replace").partition("\0")[0],
    )


def firmware_blob(data: bytes) -> FirmwareBlob:
    """UEFI_PLATFORM_FIRMWARE_BLOB: base and length (16 bytes)."""
    reader = Reader(data, "firmware_blob", order="<", code=_CODE)
    blob = FirmwareBlob("", reader.u64("BlobBase"), reader.u64("BlobLength"))
    reader.finish()
    return blob


def firmware_blob2(data: bytes) -> FirmwareBlob:
    """UEFI_PLATFORM_FIRMWARE_BLOB2: a description before base and length."""
    reader = Reader(data, "firmware_blob2", order="<", code=_CODE)
    description = _description(reader)
    blob = FirmwareBlob(description, reader.u64("BlobBase"), reader.u64("BlobLength"))
    reader.finish()
    return blob


def handoff_tables(data: bytes) -> HandoffTables:
    """UEFI_HANDOFF_TABLE_POINTERS."""
    return _handoff_tables(Reader(data, "handoff_tables", order="<", code=_CODE), "")


def handoff_tables2(data: bytes) -> HandoffTables:
    """UEFI_HANDOFF_TABLE_POINTERS2."""
    reader = Reader(data, "handoff_tables2", order="<", code=_CODE)
    return _handoff_tables(reader, _description(reader))


def _handoff_tables(reader: Reader, description: str) -> HandoffTables:
    count = reader.u64("NumberOfTables")
    if count > reader.remaining // 24:
        raise reader.refusal("NumberOfTables", f"is {count}, but only {reader.remaining} bytes are left")
    tables = tuple(
        (guid(reader.take(16, "VendorGuid")), reader.u64("VendorTable")) for _index in range(count)
    )
    reader.finish()
    return HandoffTables(description, tables)


def _description(reader: Reader) -> str:
    size = reader.u8("DescriptionSize")
    return reader.take(size, "Description").decode("ascii", "replace").rstrip("\0")
