# SPDX-License-Identifier: GPL-3.0-or-later
"""The class of an event: what was measured, as an administrator would ask for it ("kernel", "db", ...).

The type of an event and its names are the host's word; only its digest was measured. So a class is for
choosing rules at capture and for words in refusals. Where a rule would believe it (`varies`), the classes
that need their content have it checked first: `secure_boot`, `pk`, `kek`, `db`, `dbx`, `boot_entry`,
`partition_table` are given to nothing whose content does not hash to its digest, and Secure Boot's only to
what comes before the separator.

Sources: TCG PC Client Platform Firmware Profile 1.06, 3.3.4 (what belongs into which PCR), 10.4.1 (types).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from trusted_infrastructure.tpm import event_quirks, uefi
from trusted_infrastructure.tpm import event_types as types
from trusted_infrastructure.tpm.event_data import (
    TAG_LINUX_INITRD,
    TAG_LINUX_LOAD_OPTIONS,
    TAG_LOADER_CONF,
    TAGS,
    TaggedEvent,
)
from trusted_infrastructure.tpm.event_log import Event
from trusted_infrastructure.tpm.event_text import text_of

OTHER = "other"
SEPARATOR = "separator"
SECURE_BOOT = "secure_boot"
BOOT_ENTRY = "boot_entry"
PARTITION_TABLE = "partition_table"
COMMAND_LINE = "command_line"
BOOT_LOADER_COMMAND = "boot_loader_command"
FIRMWARE_TABLES = "firmware_tables"
ACTION = "action"

# Words of each class for people, where they are not the class itself.
CLASSES = {
    "firmware": "firmware",
    "microcode": "CPU microcode",
    "firmware_configuration": "firmware configuration",
    FIRMWARE_TABLES: "firmware tables",
    "option_rom": "option ROM",
    "device": "device",
    SECURE_BOOT: "Secure Boot",
    "secure_boot_mode": "mode of Secure Boot",
    "pk": "platform key (PK)",
    "kek": "key exchange keys (KEK)",
    "db": "signature database (db)",
    "dbx": "revocation database (dbx)",
    "dbt": "timestamp database (dbt)",
    "dbr": "recovery database (dbr)",
    "authority": "authority that signed what was started",
    "sbat": "SBAT level",
    "mok": "machine owner keys",
    "boot_loader": "boot loader",
    BOOT_LOADER_COMMAND: "boot loader command",
    "boot_loader_file": "file of the boot loader",
    "kernel": "kernel",
    "initrd": "initrd",
    COMMAND_LINE: "command line",
    "uki_section": "section of the unified kernel image",
    "extension": "extension of the initrd",
    PARTITION_TABLE: "partition table",
    BOOT_ENTRY: "boot entries",
    ACTION: "step of the firmware",
    SEPARATOR: "separator",
    OTHER: "measurement",
}

# Given to nothing whose content does not hash to its digest.
VERIFIED = frozenset(
    {SECURE_BOOT, "secure_boot_mode", "pk", "kek", "db", "dbx", "dbt", "dbr", BOOT_ENTRY, PARTITION_TABLE}
)

_DATABASES = {
    (uefi.GLOBAL_VARIABLE, "SecureBoot"): SECURE_BOOT,
    (uefi.GLOBAL_VARIABLE, "PK"): "pk",
    (uefi.GLOBAL_VARIABLE, "KEK"): "kek",
    (uefi.IMAGE_SECURITY_DATABASE, "db"): "db",
    (uefi.IMAGE_SECURITY_DATABASE, "dbx"): "dbx",
    (uefi.IMAGE_SECURITY_DATABASE, "dbt"): "dbt",
    (uefi.IMAGE_SECURITY_DATABASE, "dbr"): "dbr",
    (uefi.GLOBAL_VARIABLE, "AuditMode"): "secure_boot_mode",
    (uefi.GLOBAL_VARIABLE, "DeployedMode"): "secure_boot_mode",
    (uefi.GLOBAL_VARIABLE, "SetupMode"): "secure_boot_mode",
}
_BOOT_VARIABLE = re.compile(r"Boot(?:Order|Next|Current|[0-9A-F]{4})", re.ASCII)
_KERNEL_FILE = re.compile(r"(?:vmlinu|linux|bzimage|kernel)", re.IGNORECASE)
_INITRD_FILE = re.compile(r"(?:initrd|initramfs)", re.IGNORECASE)
_UNIFIED_IMAGE = re.compile(r"\\EFI\\Linux\\[^\\]+", re.IGNORECASE)
_FIRST_CODE_PCR, _OPTION_ROM_PCR = 0, 2

_BY_TYPE = {
    types.EV_POST_CODE: "firmware",
    types.EV_POST_CODE2: "firmware",
    types.EV_S_CRTM_CONTENTS: "firmware",
    types.EV_S_CRTM_VERSION: "firmware",
    types.EV_EFI_HCRTM_EVENT: "firmware",
    types.EV_EFI_PLATFORM_FIRMWARE_BLOB: "firmware",
    types.EV_EFI_PLATFORM_FIRMWARE_BLOB2: "firmware",
    types.EV_CPU_MICROCODE: "microcode",
    types.EV_PLATFORM_CONFIG_FLAGS: "firmware_configuration",
    types.EV_TABLE_OF_DEVICES: "firmware_configuration",
    types.EV_NONHOST_CODE: "firmware",
    types.EV_NONHOST_CONFIG: "firmware_configuration",
    types.EV_NONHOST_INFO: "firmware_configuration",
    types.EV_EFI_HANDOFF_TABLES: FIRMWARE_TABLES,
    types.EV_EFI_HANDOFF_TABLES2: FIRMWARE_TABLES,
    types.EV_EFI_RUNTIME_SERVICES_DRIVER: "option_rom",
    types.EV_EFI_SPDM_FIRMWARE_BLOB: "device",
    types.EV_EFI_SPDM_FIRMWARE_CONFIG: "device",
    types.EV_EFI_SPDM_DEVICE_POLICY: "device",
    types.EV_EFI_SPDM_DEVICE_AUTHORITY: "device",
    types.EV_SEPARATOR: SEPARATOR,
    types.EV_ACTION: ACTION,
    types.EV_EFI_ACTION: ACTION,
    types.EV_OMIT_BOOT_DEVICE_EVENTS: ACTION,
}
_TAG_CLASSES = {
    TAG_LINUX_INITRD: "initrd",
    TAG_LINUX_LOAD_OPTIONS: COMMAND_LINE,
    TAG_LOADER_CONF: "boot_loader_file",
    0x6C46F751: "extension",
    0x49DFFE0F: "extension",
    0xDAC08E1A: "extension",
    0x13AED6DB: "uki_section",
    0xD5CB7CBC: FIRMWARE_TABLES,
    0xE0D47BC8: FIRMWARE_TABLES,
    0xC0B3BD23: FIRMWARE_TABLES,
}
if _TAG_CLASSES.keys() != TAGS.keys():
    raise AssertionError("every tag has words and a class")


def classify(event: Event, bank: str) -> str:
    """One of CLASSES. bank: in whose digests content is checked."""
    by_content = _BY_CONTENT.get(event.type)
    if by_content is not None:
        return by_content(event, bank)
    return _BY_TYPE.get(event.type, OTHER)


def words_of(name: str) -> str:
    """A class in plain words; '' for one that is not ours."""
    return CLASSES.get(name, "")


def _configuration_variable(event: Event, bank: str) -> str:
    variable = event.decoded
    if not isinstance(variable, uefi.Variable) or not event.digest_verified(bank):
        return OTHER
    if event.pcr == 7 and not event.after_separator:
        return _DATABASES.get((variable.vendor, variable.name), OTHER)
    return OTHER


def _authority(event: Event, bank: str) -> str:
    variable = event.decoded
    name = variable.name if isinstance(variable, uefi.Variable) else ""
    return "sbat" if name in ("SbatLevel", "SbatLevelRT") else "authority"


def _boot_variable(event: Event, bank: str) -> str:
    variable = event.decoded
    if not isinstance(variable, uefi.Variable) or not event.digest_verified(bank):
        return OTHER
    known = variable.vendor == uefi.GLOBAL_VARIABLE and _BOOT_VARIABLE.fullmatch(variable.name)
    return BOOT_ENTRY if known else OTHER


def _partition_table(event: Event, bank: str) -> str:
    return PARTITION_TABLE if isinstance(event.decoded, uefi.Gpt) and event.digest_verified(bank) else OTHER


def _boot_application(event: Event, bank: str) -> str:
    image = event.decoded
    path = image.file or "" if isinstance(image, uefi.ImageLoad) else ""
    if _KERNEL_FILE.match(path.rpartition("\\")[2]) or _UNIFIED_IMAGE.fullmatch(path):
        return "kernel"
    return "boot_loader"


def _driver(event: Event, bank: str) -> str:
    if event.pcr == _FIRST_CODE_PCR:
        return "firmware"
    return "option_rom" if event.pcr == _OPTION_ROM_PCR else "boot_loader"


def _tagged(event: Event, bank: str) -> str:
    tagged = event.decoded
    return _TAG_CLASSES.get(tagged.tag, OTHER) if isinstance(tagged, TaggedEvent) else OTHER


def _boot_loader_text(event: Event, bank: str) -> str:
    """EV_IPL: GRUB (PCR 8 and 9), systemd-boot and systemd-stub (8, 11 to 13), shim (14)."""
    text = text_of(event.data)
    for prefix, words in event_quirks.GRUB_PREFIXES.items():
        if text.startswith(prefix):
            return BOOT_LOADER_COMMAND if words == "GRUB command" else COMMAND_LINE
    if text in event_quirks.GRUB_FILES:
        return event_quirks.GRUB_FILES[text]
    return _ipl_of_pcr(event.pcr, text)


def _ipl_of_pcr(pcr: int, text: str) -> str:
    match pcr:
        case 4:
            return "boot_loader"
        case 8 if text:
            return COMMAND_LINE
        case 9:
            name = text.rpartition("/")[2]
            if _KERNEL_FILE.match(name):
                return "kernel"
            return "initrd" if _INITRD_FILE.match(name) else "boot_loader_file"
        case 11:
            return "uki_section"
        case 12 if not text.startswith(event_quirks.STUB_ARCHIVES):
            return COMMAND_LINE
        case 12 | 13:
            return "extension"
        case 14:
            return "mok"
    return OTHER


_BY_CONTENT: dict[int, Callable[[Event, str], str]] = {
    types.EV_EFI_VARIABLE_DRIVER_CONFIG: _configuration_variable,
    types.EV_EFI_VARIABLE_AUTHORITY: _authority,
    types.EV_EFI_VARIABLE_BOOT: _boot_variable,
    types.EV_EFI_VARIABLE_BOOT2: _boot_variable,
    types.EV_EFI_GPT_EVENT: _partition_table,
    types.EV_EFI_GPT_EVENT2: _partition_table,
    types.EV_EFI_BOOT_SERVICES_APPLICATION: _boot_application,
    types.EV_EFI_BOOT_SERVICES_DRIVER: _driver,
    types.EV_EVENT_TAG: _tagged,
    types.EV_IPL: _boot_loader_text,
}
