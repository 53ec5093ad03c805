# SPDX-License-Identifier: GPL-3.0-or-later
"""One boot: the events, in the order in which firmware, boot loader and kernel stub would write them.

The path is the one of a Debian host with systemd-boot: UEFI firmware starts \\EFI\\BOOT\\BOOTX64.EFI, that
starts the entry /boot/loader/entries/linux.conf, and the kernel's EFI stub loads the initrd. Which part
measures what into which PCR: TCG PFP 1.05 section 3.3.4; systemd-boot(7) (PCR 12); Linux
drivers/firmware/efi/libstub (PCR 9).
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import LabError
from . import uefi
from .disk import read_boot_file
from .event_log import (
    BANKS,
    EV_EFI_ACTION,
    EV_EFI_BOOT_SERVICES_APPLICATION,
    EV_EFI_PLATFORM_FIRMWARE_BLOB,
    EV_EFI_VARIABLE_BOOT,
    EV_EFI_VARIABLE_DRIVER_CONFIG,
    EV_EVENT_TAG,
    EV_IPL,
    EV_S_CRTM_VERSION,
    EV_SEPARATOR,
    Event,
    measured,
)
from .pe_image import authenticode_digest
from .user_space import user_space_hash

BOOT_LOADER = "/boot/efi/EFI/BOOT/BOOTX64.EFI"
BOOT_ENTRY = "/boot/loader/entries/linux.conf"
USER_SPACE_OPTION = "trusted.usrhash"

# A new number here is a firmware update: PCR 0 changes on every host of every lab.
FIRMWARE_VERSION = "trusted.infrastructure lab firmware 1"
_FIRMWARE_ADDRESS, _FIRMWARE_LENGTH = 0xFFC00000, 0x00400000

_LINUX_INITRD_TAG = 0x8F3B22EC
_LINUX_OPTIONS_TAG = 0x8F3B22ED


@dataclass(frozen=True)
class BootEntry:
    """A boot loader specification type 1 entry: paths on the host, and the kernel's options."""

    kernel: str
    initrd: str
    options: str


def measure_boot(root: Path, user_space: Sequence[str], secure_boot_certificate: bytes) -> list[Event]:
    """The events of booting the host whose disk is at `root`.

    user_space: the trees that the hash in the command line covers. secure_boot_certificate: DER, what the
    platform has as its key, key exchange key and signature database. LabError where a host would not boot.
    """
    entry = parse_boot_entry(read_boot_file(root, BOOT_ENTRY))
    command_line = f"{entry.options} {USER_SPACE_OPTION}={user_space_hash(root, user_space)}"
    return [
        *_firmware_events(),
        *_secure_boot_events(secure_boot_certificate),
        *_boot_choice_events(),
        _image_event(BOOT_LOADER, "\\EFI\\BOOT\\BOOTX64.EFI", read_boot_file(root, BOOT_LOADER)),
        # systemd-boot measures the options before it starts the kernel, UTF-16 with the final NUL.
        measured(12, EV_IPL, uefi.text(command_line)),
        _image_event(entry.kernel, _on_boot_partition(entry.kernel), read_boot_file(root, entry.kernel)),
        *_kernel_stub_events(read_boot_file(root, entry.initrd), command_line),
    ]


def parse_boot_entry(content: bytes) -> BootEntry:
    """The entry's keys `linux`, `initrd` and `options`. LabError names the key that is missing."""
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError as problem:
        raise LabError(f"the boot entry {BOOT_ENTRY} is not UTF-8 text") from problem
    found: dict[str, list[str]] = {}
    for line in lines:
        key, _blank, value = line.strip().partition(" ")
        if key and not key.startswith("#"):
            found.setdefault(key, []).append(value.strip())
    for key in ("linux", "initrd", "options"):
        if not found.get(key):
            raise LabError(f"the boot entry {BOOT_ENTRY} has no '{key}'")
    # Paths in an entry start at the boot partition.
    kernel, initrd = ("/boot/" + found[key][-1].lstrip("/") for key in ("linux", "initrd"))
    return BootEntry(kernel, initrd, " ".join(found["options"]))


def _firmware_events() -> list[Event]:
    version = uefi.text(FIRMWARE_VERSION)
    code = hashlib.sha256(version).digest() * (_FIRMWARE_LENGTH // 32)
    blob = uefi.firmware_blob(_FIRMWARE_ADDRESS, _FIRMWARE_LENGTH)
    return [
        measured(0, EV_S_CRTM_VERSION, version),
        measured(0, EV_EFI_PLATFORM_FIRMWARE_BLOB, blob, code),
    ]


def _secure_boot_events(certificate: bytes) -> list[Event]:
    """PCR 7 of a platform that has its keys but does not enforce them.

    With Secure Boot enforced, a changed boot loader would not start at all, and the lab could not show that
    attestation finds it.
    """
    owner = uuid.uuid5(uuid.NAMESPACE_URL, "urn:trusted-infrastructure:lab:platform")
    keys = uefi.signature_list(uefi.CERTIFICATE_X509, owner, certificate)
    revoked = uefi.signature_list(uefi.CERTIFICATE_SHA256, owner, hashlib.sha256(b"revoked").digest())
    variables = [
        (uefi.GLOBAL_VARIABLE, "SecureBoot", b"\0"),
        (uefi.GLOBAL_VARIABLE, "PK", keys),
        (uefi.GLOBAL_VARIABLE, "KEK", keys),
        (uefi.IMAGE_SECURITY_DATABASE, "db", keys),
        (uefi.IMAGE_SECURITY_DATABASE, "dbx", revoked),
    ]
    events = [
        measured(7, EV_EFI_VARIABLE_DRIVER_CONFIG, uefi.variable_data(namespace, name, value))
        for namespace, name, value in variables
    ]
    return [*events, _separator(7)]


def _boot_choice_events() -> list[Event]:
    variables = {
        "BootOrder": struct.pack("<H", 0),
        "Boot0000": uefi.load_option("Linux Boot Manager", "\\EFI\\BOOT\\BOOTX64.EFI"),
    }
    return [
        # For EV_EFI_VARIABLE_BOOT the digest is the variable's value alone (PFP 1.05 table 27).
        *(
            measured(1, EV_EFI_VARIABLE_BOOT, uefi.variable_data(uefi.GLOBAL_VARIABLE, name, value), value)
            for name, value in variables.items()
        ),
        measured(4, EV_EFI_ACTION, b"Calling EFI Application from Boot Option"),
        *(_separator(pcr) for pcr in range(7)),
    ]


def _kernel_stub_events(initrd: bytes, command_line: str) -> list[Event]:
    options = uefi.text(command_line)
    return [
        measured(
            9, EV_EVENT_TAG, uefi.tagged_event(_LINUX_OPTIONS_TAG, b"LOADED_IMAGE::LoadOptions\0"), options
        ),
        measured(9, EV_EVENT_TAG, uefi.tagged_event(_LINUX_INITRD_TAG, b"Linux initrd\0"), initrd),
        measured(5, EV_EFI_ACTION, b"Exit Boot Services Invocation"),
        measured(5, EV_EFI_ACTION, b"Exit Boot Services Returned with Success"),
    ]


def _image_event(path: str, device_path: str, image: bytes) -> Event:
    digests: Mapping[str, bytes] = {bank: authenticode_digest(image, bank, path) for bank in BANKS}
    data = uefi.image_load_event(device_path, len(image))
    return Event(4, EV_EFI_BOOT_SERVICES_APPLICATION, data, digests)


def _separator(pcr: int) -> Event:
    return measured(pcr, EV_SEPARATOR, bytes(4))


def _on_boot_partition(path: str) -> str:
    return path.removeprefix("/boot").replace("/", "\\")
