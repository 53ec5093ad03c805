# SPDX-License-Identifier: GPL-3.0-or-later
"""Classes of events, as an administrator asks for them."""

from __future__ import annotations

import pytest
from services.tpm import event_log_builder as build
from services.tpm.event_log_builder import LogBuilder, boot

from trusted_infrastructure.tpm import event_types as types
from trusted_infrastructure.tpm.event_class import CLASSES, VERIFIED, classify, words_of
from trusted_infrastructure.tpm.event_log import Event, parse_event_log


def event(pcr: int, kind: int, data: bytes, measured: bytes | None = None) -> Event:
    return parse_event_log(LogBuilder().add(pcr, kind, data, measured).data).events[1]


def loaded(path: str) -> bytes:
    return build.image_load(build.HARD_DRIVE + build.file_node(path) + build.END)


APPLICATION = types.EV_EFI_BOOT_SERVICES_APPLICATION


@pytest.mark.parametrize(
    ("pcr", "kind", "data", "expected"),
    [
        (4, APPLICATION, loaded("\\EFI\\debian\\shimx64.efi"), "boot_loader"),
        (4, APPLICATION, loaded("\\EFI\\BOOT\\BOOTX64.EFI"), "boot_loader"),
        (4, APPLICATION, loaded("\\vmlinuz-6.1.0-18-amd64"), "kernel"),
        (4, APPLICATION, loaded("\\EFI\\Linux\\debian-6.1.efi"), "kernel"),
        (4, APPLICATION, loaded("\\EFI\\Linux\\sub\\other.efi"), "boot_loader"),
        (4, APPLICATION, b"not a device path", "boot_loader"),
        (0, types.EV_EFI_BOOT_SERVICES_DRIVER, loaded("x"), "firmware"),
        (2, types.EV_EFI_BOOT_SERVICES_DRIVER, loaded("x"), "option_rom"),
        (4, types.EV_EFI_BOOT_SERVICES_DRIVER, loaded("x"), "boot_loader"),
        (1, types.EV_EFI_VARIABLE_BOOT, build.variable("BootOrder", b"\1\0"), "boot_entry"),
        (1, types.EV_EFI_VARIABLE_BOOT, build.variable("Boot00AF", b"x"), "boot_entry"),
        (1, types.EV_EFI_VARIABLE_BOOT, build.variable("Boot00af", b"x"), "other"),
        (1, types.EV_EFI_VARIABLE_BOOT, build.variable("BootOrder2", b"x"), "other"),
        (1, types.EV_EFI_VARIABLE_BOOT, build.variable("BootOrder", b"x", build.SECURITY), "other"),
        (5, types.EV_EFI_GPT_EVENT, build.gpt(), "partition_table"),
        (5, types.EV_EFI_GPT_EVENT, b"EFI PART", "other"),
        (7, types.EV_EFI_VARIABLE_AUTHORITY, build.variable("SbatLevel", b"x"), "sbat"),
        (7, types.EV_EFI_VARIABLE_AUTHORITY, build.variable("MokList", b"x"), "authority"),
        (7, types.EV_EFI_VARIABLE_DRIVER_CONFIG, build.variable("DeployedMode", b"\1"), "secure_boot_mode"),
        (1, types.EV_EFI_VARIABLE_DRIVER_CONFIG, build.variable("SecureBoot", b"\1"), "other"),
        (8, types.EV_IPL, b"grub_cmd: linux /vmlinuz\0", "boot_loader_command"),
        (8, types.EV_IPL, b"kernel_cmdline: /vmlinuz ro\0", "command_line"),
        (8, types.EV_IPL, build.utf16("quiet ro\0"), "command_line"),
        (9, types.EV_IPL, b"(hd0,gpt1)/vmlinuz-6.1\0", "kernel"),
        (9, types.EV_IPL, b"/boot/initrd.img-6.1\0", "initrd"),
        (9, types.EV_IPL, b"(hd0,gpt1)/grub/grub.cfg\0", "boot_loader_file"),
        (9, types.EV_IPL, b"grub_linuxefi Initrd\0", "initrd"),
        (11, types.EV_IPL, build.utf16(".linux\0"), "uki_section"),
        (12, types.EV_IPL, build.utf16("quiet\0"), "command_line"),
        (12, types.EV_IPL, build.utf16("Credentials initrd\0"), "extension"),
        (13, types.EV_IPL, build.utf16("System extension initrd\0"), "extension"),
        (14, types.EV_IPL, b"MokListX\0", "mok"),
        (6, types.EV_IPL, b"x", "other"),
        (9, types.EV_EVENT_TAG, build.tagged(0x8F3B22EC, b"x"), "initrd"),
        (1, types.EV_EVENT_TAG, build.tagged(0xD5CB7CBC, b"x"), "firmware_tables"),
        (9, types.EV_EVENT_TAG, b"x", "other"),
        (4, 0x12345, b"x", "other"),
    ],
)
def test_class(pcr: int, kind: int, data: bytes, expected: str) -> None:
    found = classify(event(pcr, kind, data), "sha256")
    assert found == expected
    assert words_of(found)


def test_a_class_that_is_believed_needs_content_that_was_measured() -> None:
    for pcr, kind, data, _measured in build.EVERY_CLASS:
        if kind != types.EV_NO_ACTION:
            assert classify(event(pcr, kind, data, b"something else"), "sha256") not in VERIFIED


def test_every_event_of_a_boot_has_a_class() -> None:
    log = parse_event_log(boot(LogBuilder()).data)
    assert {classify(found, "sha256") for found in log.events} <= CLASSES.keys()
    assert words_of("kernal") == ""


def test_a_name_of_a_section_is_measured_in_ascii() -> None:
    found = event(11, types.EV_IPL, build.utf16(".linux\0"), b".linux\0")
    assert found.measured_content("sha256") == b".linux\0"
