# SPDX-License-Identifier: GPL-3.0-or-later
"""What events mean: decode event data, and say in words what was measured.

Nothing here decides: firmware writes data that is not of the form that its type promises, so what can't be
decoded is None and gets the words of its type. Words come from the host; `event_text.shown` makes them
harmless, `Event.digest_verified` says whether they were measured.

Sources: TCG PC Client Platform Firmware Profile 1.06, 10.4 (types and their data), 10.4.5 (EV_NO_ACTION);
Linux EFI stub, GRUB, shim and systemd-stub for what boot loaders write.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from trusted_infrastructure.refusal import InvalidField
from trusted_infrastructure.tpm import event_quirks, uefi
from trusted_infrastructure.tpm import event_types as types
from trusted_infrastructure.tpm.device_path import guid
from trusted_infrastructure.tpm.event_text import shown, text_of
from trusted_infrastructure.tpm.structures import Reader

_CODE = "event_log_malformed"

# Tags of EV_EVENT_TAG: Linux EFI stub (PCR 9), systemd-boot and systemd-stub.
TAG_LINUX_INITRD = 0x8F3B22EC
TAG_LINUX_LOAD_OPTIONS = 0x8F3B22ED
TAG_LOADER_CONF = 0xF5BC582A
TAGS = {
    TAG_LINUX_INITRD: "initrd",
    TAG_LINUX_LOAD_OPTIONS: "kernel command line",
    TAG_LOADER_CONF: "systemd-boot loader.conf",
    0x6C46F751: "device tree add-on",
    0x49DFFE0F: "initrd add-on",
    0xDAC08E1A: "microcode add-on",
    0x13AED6DB: "UKI profile",
    0xD5CB7CBC: "SMBIOS system information",
    0xE0D47BC8: "SMBIOS base board information",
    0xC0B3BD23: "SMBIOS OEM strings",
}


@dataclass(frozen=True)
class Text:
    """Event data that is text."""

    text: str


@dataclass(frozen=True)
class Separator:
    """EV_SEPARATOR. value: 0 or 0xffffffff; 1 says that the firmware failed to measure. error: whether it
    did."""

    value: int
    error: bool


@dataclass(frozen=True)
class TaggedEvent:
    """EV_EVENT_TAG. tag: number; data: the payload."""

    tag: int
    data: bytes


@dataclass(frozen=True)
class SpecificationId:
    """EV_NO_ACTION 'Spec ID Event0x'. signature: its text."""

    signature: str


@dataclass(frozen=True)
class StartupLocality:
    """EV_NO_ACTION StartupLocality: locality of TPM2_Startup, the start value of PCR 0."""

    locality: int


@dataclass(frozen=True)
class ReferenceManifest:
    """EV_NO_ACTION 'SP800-155 Event[2|3]': where the platform's reference values are. vendor: IANA number.
    manifest: GUID. Texts are '' in the first form. rim_locator: raw bytes, its type in rim_locator_type."""

    signature: str
    vendor: int
    manifest: str
    platform_manufacturer: str = ""
    platform_model: str = ""
    platform_version: str = ""
    firmware_manufacturer: str = ""
    firmware_manufacturer_id: int = 0
    firmware_version: str = ""
    rim_locator_type: int = 0
    rim_locator: bytes = b""
    platform_certificate_locator_type: int = 0
    platform_certificate_locator: bytes = b""


@dataclass(frozen=True)
class DeviceMeasurement:
    """EV_EFI_SPDM_*: signature text and version of DEVICE_SECURITY_EVENT_DATA; data: what follows."""

    signature: str
    version: int
    data: bytes


Decoded = (
    Text
    | Separator
    | TaggedEvent
    | SpecificationId
    | StartupLocality
    | ReferenceManifest
    | DeviceMeasurement
    | uefi.Variable
    | uefi.ImageLoad
    | uefi.Gpt
    | uefi.FirmwareBlob
    | uefi.HandoffTables
)


def decode(event_type: int, data: bytes) -> Decoded | None:
    """The event data of an event type, None where it has no form that we know or is not of that form."""
    decoder = _DECODERS.get(event_type)
    if decoder is None:
        return None
    try:
        return decoder(data)
    except InvalidField:
        return None


def describe(pcr: int, event_type: int, data: bytes) -> str:
    """What was measured, in words; the same words for the same kind of thing on every host."""
    decoded = decode(event_type, data)
    if decoded is None:
        return _PLAIN.get(event_type, "measurement")
    words = _WORDS[type(decoded)](pcr, event_type, decoded)
    return shown(words)


# ---- decoding ----------------------------------------------------------------------------------------------


def text(data: bytes) -> Text:
    """Any text."""
    return Text(text_of(data))


def separator(data: bytes) -> Separator:
    """EV_SEPARATOR: four bytes (PFP 10.4.1)."""
    reader = Reader(data, "separator", order="<", code=_CODE)
    value = reader.u32("value")
    reader.finish()
    return Separator(value, value not in (0, 0xFFFFFFFF))


def tagged_event(data: bytes) -> TaggedEvent:
    """TCG_PCClientTaggedEvent: tag, size, payload."""
    reader = Reader(data, "tagged_event", order="<", code=_CODE)
    tag = reader.u32("taggedEventID")
    payload = reader.take(reader.u32("taggedEventDataSize"), "taggedEventData")
    reader.finish()
    return TaggedEvent(tag, payload)


def no_action(data: bytes) -> Decoded | None:
    """EV_NO_ACTION, by its 16-byte signature."""
    signature = text_of(data[:16])
    if signature.startswith("Spec ID Event"):
        return SpecificationId(signature)
    if signature == "StartupLocality":
        return StartupLocality(data[16]) if len(data) == 17 else None
    if signature.startswith("SP800-155 Event"):
        return reference_manifest(data)
    return Text(signature)


def reference_manifest(data: bytes) -> ReferenceManifest:
    """TCG_Sp800_155_PlatformId_Event, _Event2 and _Event3 (PFP 10.4.5.2)."""
    reader = Reader(data, "reference_manifest", order="<", code=_CODE)
    signature = text_of(reader.take(16, "Signature"))
    vendor = reader.u32("VendorId")
    manifest = guid(reader.take(16, "ReferenceManifestGuid"))
    if signature == "SP800-155 Event":
        return ReferenceManifest(signature, vendor, manifest)
    second = ReferenceManifest(
        signature,
        vendor,
        manifest,
        platform_manufacturer=_short_text(reader, "PlatformManufacturer"),
        platform_model=_short_text(reader, "PlatformModel"),
        platform_version=_short_text(reader, "PlatformVersion"),
        firmware_manufacturer=_short_text(reader, "FirmwareManufacturer"),
        firmware_manufacturer_id=reader.u32("FirmwareManufacturerId"),
        firmware_version=_short_text(reader, "FirmwareVersion"),
    )
    if signature == "SP800-155 Event2":
        return second
    rim_type, rim = _locator(reader, "RimLocator")
    certificate_type, certificate = _locator(reader, "PlatformCertLocator")
    return replace(
        second,
        rim_locator_type=rim_type,
        rim_locator=rim,
        platform_certificate_locator_type=certificate_type,
        platform_certificate_locator=certificate,
    )


def _short_text(reader: Reader, field: str) -> str:
    return text_of(reader.take(reader.u8(field + "Size"), field))


def _locator(reader: Reader, field: str) -> tuple[int, bytes]:
    kind = reader.u32(field + "Type")
    return kind, reader.take(reader.u32(field + "Length"), field)


def device_measurement(data: bytes) -> DeviceMeasurement:
    """DEVICE_SECURITY_EVENT_DATA(2): signature and version (PFP 10.2.7)."""
    reader = Reader(data, "device_measurement", order="<", code=_CODE)
    signature = text_of(reader.take(16, "Signature"))
    return DeviceMeasurement(signature, reader.u16("Version"), reader.rest())


def post_code(data: bytes) -> Decoded:
    """EV_POST_CODE: a firmware blob's place (16 bytes) or text."""
    if len(data) == 16 and not data.isascii():
        return uefi.firmware_blob(data)
    if len(data) == 16 and b"\0" in data.rstrip(b"\0"):
        return uefi.firmware_blob(data)
    return text(data)


def post_code2(data: bytes) -> Decoded:
    """EV_POST_CODE2: UEFI_PLATFORM_FIRMWARE_BLOB2 or text."""
    try:
        return uefi.firmware_blob2(data)
    except InvalidField:
        return text(data)


_DECODERS: dict[int, Callable[[bytes], Decoded | None]] = {
    types.EV_POST_CODE: post_code,
    types.EV_POST_CODE2: post_code2,
    types.EV_NO_ACTION: no_action,
    types.EV_SEPARATOR: separator,
    types.EV_ACTION: text,
    types.EV_EVENT_TAG: tagged_event,
    types.EV_S_CRTM_CONTENTS: post_code,
    types.EV_S_CRTM_VERSION: text,
    types.EV_COMPACT_HASH: text,
    types.EV_IPL: text,
    types.EV_OMIT_BOOT_DEVICE_EVENTS: text,
    types.EV_EFI_VARIABLE_DRIVER_CONFIG: uefi.variable,
    types.EV_EFI_VARIABLE_BOOT: uefi.variable,
    types.EV_EFI_VARIABLE_BOOT2: uefi.variable,
    types.EV_EFI_VARIABLE_AUTHORITY: uefi.authority_variable,
    types.EV_EFI_BOOT_SERVICES_APPLICATION: uefi.image_load,
    types.EV_EFI_BOOT_SERVICES_DRIVER: uefi.image_load,
    types.EV_EFI_RUNTIME_SERVICES_DRIVER: uefi.image_load,
    types.EV_EFI_GPT_EVENT: uefi.gpt,
    types.EV_EFI_GPT_EVENT2: uefi.gpt,
    types.EV_EFI_ACTION: text,
    types.EV_EFI_PLATFORM_FIRMWARE_BLOB: uefi.firmware_blob,
    types.EV_EFI_PLATFORM_FIRMWARE_BLOB2: uefi.firmware_blob2,
    types.EV_EFI_HANDOFF_TABLES: uefi.handoff_tables,
    types.EV_EFI_HANDOFF_TABLES2: uefi.handoff_tables2,
    types.EV_EFI_HCRTM_EVENT: text,
    types.EV_EFI_SPDM_FIRMWARE_BLOB: device_measurement,
    types.EV_EFI_SPDM_FIRMWARE_CONFIG: device_measurement,
    types.EV_EFI_SPDM_DEVICE_POLICY: uefi.variable,
    types.EV_EFI_SPDM_DEVICE_AUTHORITY: uefi.variable,
}

# ---- words -------------------------------------------------------------------------------------------------

_PLAIN = {
    types.EV_PREBOOT_CERT: "certificate",
    types.EV_POST_CODE: "firmware code",
    types.EV_POST_CODE2: "firmware code",
    types.EV_NO_ACTION: "information",
    types.EV_SEPARATOR: "separator",
    types.EV_ACTION: "action",
    types.EV_EVENT_TAG: "tagged event",
    types.EV_S_CRTM_CONTENTS: "firmware root of trust",
    types.EV_S_CRTM_VERSION: "firmware version",
    types.EV_CPU_MICROCODE: "CPU microcode",
    types.EV_PLATFORM_CONFIG_FLAGS: "platform configuration flags",
    types.EV_TABLE_OF_DEVICES: "table of devices",
    types.EV_COMPACT_HASH: "compact hash",
    types.EV_IPL: "boot loader measurement",
    types.EV_IPL_PARTITION_DATA: "partition data",
    types.EV_NONHOST_CODE: "code of another processor",
    types.EV_NONHOST_CONFIG: "configuration of another processor",
    types.EV_NONHOST_INFO: "information on another processor",
    types.EV_OMIT_BOOT_DEVICE_EVENTS: "boot device events left out",
    types.EV_EFI_VARIABLE_DRIVER_CONFIG: "variable",
    types.EV_EFI_VARIABLE_BOOT: "boot variable",
    types.EV_EFI_VARIABLE_BOOT2: "boot variable",
    types.EV_EFI_VARIABLE_AUTHORITY: "signature authority",
    types.EV_EFI_BOOT_SERVICES_APPLICATION: "boot application",
    types.EV_EFI_BOOT_SERVICES_DRIVER: "boot driver",
    types.EV_EFI_RUNTIME_SERVICES_DRIVER: "runtime driver",
    types.EV_EFI_GPT_EVENT: "partition table",
    types.EV_EFI_GPT_EVENT2: "partition table without disk identifiers",
    types.EV_EFI_ACTION: "firmware action",
    types.EV_EFI_PLATFORM_FIRMWARE_BLOB: "firmware code",
    types.EV_EFI_PLATFORM_FIRMWARE_BLOB2: "firmware code",
    types.EV_EFI_HANDOFF_TABLES: "firmware tables",
    types.EV_EFI_HANDOFF_TABLES2: "firmware tables",
    types.EV_EFI_HCRTM_EVENT: "hardware root of trust",
    types.EV_EFI_SPDM_FIRMWARE_BLOB: "device firmware",
    types.EV_EFI_SPDM_FIRMWARE_CONFIG: "device configuration",
    types.EV_EFI_SPDM_DEVICE_POLICY: "device policy",
    types.EV_EFI_SPDM_DEVICE_AUTHORITY: "device authority",
}


def _plain(pcr: int, event_type: int, decoded: Any) -> str:
    return _PLAIN[event_type]


def _text_words(pcr: int, event_type: int, decoded: Text) -> str:
    if event_type == types.EV_IPL:
        return _boot_loader_words(pcr, decoded.text)
    if event_type == types.EV_NO_ACTION or not decoded.text.isprintable():
        return _PLAIN[event_type]
    return f"{_PLAIN[event_type]} '{decoded.text}'" if decoded.text else _PLAIN[event_type]


_SHIM_VARIABLES = frozenset({"MokList", "MokListX", "MokListTrusted", "MokSBState", "Shim", "SbatLevel"})


def _boot_loader_words(pcr: int, text: str) -> str:
    """EV_IPL: GRUB (PCR 8 and 9), systemd-stub (PCR 11 to 13), shim (PCR 14)."""
    for prefix, words in event_quirks.GRUB_PREFIXES.items():
        if text.startswith(prefix):
            return f"{words} '{text.removeprefix(prefix)}'"
    if text in event_quirks.GRUB_FILES:
        return event_quirks.GRUB_FILES[text]
    if text in _SHIM_VARIABLES:
        return f"shim variable {text}"
    if pcr == 11 and text.startswith("."):
        return f"UKI section {text}"
    if pcr in (12, 13) and text.startswith(event_quirks.STUB_ARCHIVES):
        return text
    if pcr == 12 or (pcr == 8 and text):
        return f"kernel command line '{text}'"
    if pcr == 9 and text.startswith(("(", "/")):
        return f"file {text}"
    return f"boot loader measurement '{text}'" if text else "boot loader measurement"


def _separator_words(pcr: int, event_type: int, decoded: Separator) -> str:
    return f"separator that reports an error (0x{decoded.value:08x})" if decoded.error else "separator"


def _tag_words(pcr: int, event_type: int, decoded: TaggedEvent) -> str:
    return TAGS.get(decoded.tag, f"tagged event 0x{decoded.tag:08x}")


def _variable_words(pcr: int, event_type: int, decoded: uefi.Variable) -> str:
    return f"{_PLAIN[event_type]} {decoded.name}"


def _image_words(pcr: int, event_type: int, decoded: uefi.ImageLoad) -> str:
    where = decoded.file or decoded.device_path
    return f"{_PLAIN[event_type]} {where}" if where else _PLAIN[event_type]


def _blob_words(pcr: int, event_type: int, decoded: uefi.FirmwareBlob) -> str:
    plain = _PLAIN[event_type]
    return f"{plain} '{decoded.description}'" if decoded.description else plain


_WORDS: dict[type, Callable[[int, int, Any], str]] = {
    Text: _text_words,
    Separator: _separator_words,
    TaggedEvent: _tag_words,
    SpecificationId: lambda pcr, event_type, decoded: "specification of the log",
    StartupLocality: lambda pcr, event_type, decoded: f"startup locality {decoded.locality}",
    ReferenceManifest: lambda pcr, event_type, decoded: "reference manifest",
    DeviceMeasurement: _plain,
    uefi.Variable: _variable_words,
    uefi.ImageLoad: _image_words,
    uefi.Gpt: _plain,
    uefi.FirmwareBlob: _blob_words,
    uefi.HandoffTables: _plain,
}
