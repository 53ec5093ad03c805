# SPDX-License-Identifier: GPL-3.0-or-later
"""What events say: words, decoded content, and whether the content is what was measured."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from services.tpm import event_log_builder as build
from services.tpm.event_log_builder import LogBuilder, boot

from trusted_infrastructure.refusal import InvalidField
from trusted_infrastructure.tpm import event_types as types
from trusted_infrastructure.tpm import uefi
from trusted_infrastructure.tpm.device_path import device_path_text, file_path
from trusted_infrastructure.tpm.event_data import ReferenceManifest, Separator, TaggedEvent
from trusted_infrastructure.tpm.event_log import Event, parse_event_log
from trusted_infrastructure.tpm.event_text import MAXIMUM_SHOWN, shown


def event(pcr: int, kind: int, data: bytes, measured: bytes | None = None) -> Event:
    return parse_event_log(LogBuilder().add(pcr, kind, data, measured).data).events[1]


# Content that its type says is measured, but is not what the digest is over: a forged story.
@pytest.mark.parametrize(
    ("pcr", "kind", "data"),
    [
        (7, types.EV_EFI_VARIABLE_DRIVER_CONFIG, build.variable("SecureBoot", b"\x01")),
        (7, types.EV_EFI_VARIABLE_AUTHORITY, build.variable("db", bytes(20), build.SECURITY)),
        (7, types.EV_EFI_SPDM_DEVICE_POLICY, build.variable("devdb", b"", build.SECURITY)),
        (1, types.EV_EFI_VARIABLE_BOOT, build.variable("BootOrder", b"\x01\x00")),
        (1, types.EV_EFI_VARIABLE_BOOT, b"not a variable"),
        (1, types.EV_EFI_VARIABLE_BOOT2, build.variable("BootOrder", b"\x01\x00")),
        (5, types.EV_EFI_GPT_EVENT, build.gpt()),
        (5, types.EV_EFI_GPT_EVENT2, build.gpt()),
        (4, types.EV_EFI_ACTION, b"Calling EFI Application from Boot Option"),
        (4, types.EV_ACTION, b"Calling INT 19h"),
        (0, types.EV_SEPARATOR, bytes(4)),
        (0, types.EV_S_CRTM_VERSION, b"1.0"),
        (4, types.EV_OMIT_BOOT_DEVICE_EVENTS, b"BOOT ATTEMPTS OMITTED"),
    ],
)
def test_forged_content_shows(pcr: int, kind: int, data: bytes) -> None:
    forged = event(pcr, kind, data, b"what was really measured")
    for bank in ("sha1", "sha256"):
        assert forged.digest_verified(bank) is False
        assert forged.measured_content(bank) is None


@pytest.mark.parametrize(
    ("kind", "data", "measured"),
    [
        (types.EV_EFI_VARIABLE_BOOT, build.variable("BootOrder", b"\x01\x00"), b"\x01\x00"),
        (types.EV_IPL, b"grub_cmd: ls\0", b"ls"),
        (types.EV_IPL, b"grub_cmd: ls\0", b"ls\0"),
        (types.EV_IPL, b"grub_kernel_cmdline /vmlinuz\0", b"/vmlinuz"),
        (types.EV_IPL, b"text\0", b"text"),
        (types.EV_EVENT_TAG, build.tagged(1, b"payload"), b"payload"),
        (
            types.EV_EFI_VARIABLE_AUTHORITY,
            build.variable("Shim", b"c") + b"\xaf",
            build.variable("Shim", b"c"),
        ),
    ],
)
def test_only_the_measured_part_is_believed(kind: int, data: bytes, measured: bytes) -> None:
    found = event(8, kind, data, measured)
    assert found.digest_verified("sha256") is True
    assert found.measured_content("sha256") == measured


def test_a_digest_of_something_else_says_nothing() -> None:
    for kind in (
        types.EV_IPL,
        types.EV_EVENT_TAG,
        types.EV_EFI_BOOT_SERVICES_APPLICATION,
        types.EV_POST_CODE,
    ):
        found = event(9, kind, b"a name", b"a file")
        assert found.digest_verified("sha256") is None
        assert found.measured_content("sha256") is None


def test_a_bank_without_digest_verifies_nothing() -> None:
    assert event(4, types.EV_ACTION, b"x").digest_verified("sha384") is None
    no_action = LogBuilder()
    no_action.data += no_action.event(0, types.EV_NO_ACTION, {"sha1": bytes(20), "sha256": bytes(32)}, b"x")
    assert parse_event_log(no_action.data).events[1].digest_verified("sha256") is None


@pytest.mark.parametrize(
    ("pcr", "kind", "data", "words"),
    [
        (0, types.EV_SEPARATOR, bytes(4), "separator"),
        (0, types.EV_SEPARATOR, b"\xff" * 4, "separator"),
        (0, types.EV_SEPARATOR, b"\x01\0\0\0", "separator that reports an error (0x00000001)"),
        (7, types.EV_EFI_VARIABLE_DRIVER_CONFIG, build.variable("SecureBoot", b"\1"), "variable SecureBoot"),
        (1, types.EV_EFI_VARIABLE_BOOT, build.variable("BootOrder", b"\1\0"), "boot variable BootOrder"),
        (7, types.EV_EFI_VARIABLE_AUTHORITY, build.variable("db", b"x"), "signature authority db"),
        (5, types.EV_EFI_GPT_EVENT, build.gpt(), "partition table"),
        (4, types.EV_EFI_ACTION, b"Exit", "firmware action 'Exit'"),
        (9, types.EV_EVENT_TAG, build.tagged(0x8F3B22EC, b"x"), "initrd"),
        (9, types.EV_EVENT_TAG, build.tagged(0x8F3B22ED, b"x"), "kernel command line"),
        (5, types.EV_EVENT_TAG, build.tagged(0xF5BC582A, b"x"), "systemd-boot loader.conf"),
        (5, types.EV_EVENT_TAG, build.tagged(7, b"x"), "tagged event 0x00000007"),
        (8, types.EV_IPL, b"grub_cmd: set a=b\0", "GRUB command 'set a=b'"),
        (8, types.EV_IPL, b"kernel_cmdline: /v ro\0", "kernel command line '/v ro'"),
        (8, types.EV_IPL, build.utf16("quiet ro\0"), "kernel command line 'quiet ro'"),
        (12, types.EV_IPL, build.utf16("quiet ro\0"), "kernel command line 'quiet ro'"),
        (12, types.EV_IPL, build.utf16("Credentials initrd\0"), "Credentials initrd"),
        (11, types.EV_IPL, build.utf16(".linux\0"), "UKI section .linux"),
        (9, types.EV_IPL, b"grub_linuxefi Initrd\0", "initrd"),
        (9, types.EV_IPL, b"(hd0,gpt1)/vmlinuz\0", "file (hd0,gpt1)/vmlinuz"),
        (14, types.EV_IPL, b"MokListTrusted\0", "shim variable MokListTrusted"),
        (4, types.EV_IPL, b"", "boot loader measurement"),
        (0, types.EV_EFI_PLATFORM_FIRMWARE_BLOB2, b"\4DXE\0" + bytes(16), "firmware code 'DXE'"),
        (0, types.EV_NO_ACTION, b"StartupLocality\0\3", "startup locality 3"),
        (0, types.EV_NO_ACTION, build.reference_manifest(3), "reference manifest"),
        (0, types.EV_CPU_MICROCODE, b"\xff", "CPU microcode"),
        (0, 0x12345, b"\xff", "measurement"),
    ],
)
def test_description(pcr: int, kind: int, data: bytes, words: str) -> None:
    assert event(pcr, kind, data).description == words


def test_label_of_a_boot_application() -> None:
    path = build.HARD_DRIVE + build.file_node("\\EFI\\BOOT\\BOOTX64.EFI") + build.END
    found = event(4, types.EV_EFI_BOOT_SERVICES_APPLICATION, build.image_load(path), b"PE")
    name = "EV_EFI_BOOT_SERVICES_APPLICATION"
    assert found.label == f"event 1 (PCR 4, {name}, boot application \\EFI\\BOOT\\BOOTX64.EFI)"


def test_words_of_a_host_are_made_harmless() -> None:
    nasty = event(8, types.EV_IPL, b"grub_cmd: \x1b[31m\r\nFeb  1 00:00:00 root: all is well" + b"A" * 9999)
    assert nasty.description.isprintable()
    assert len(nasty.description) <= MAXIMUM_SHOWN
    assert shown("a\x00b\u202ec") == "a.b.c"


@pytest.mark.parametrize("index", range(len(build.EVERY_CLASS)))
def test_every_class_is_described_and_cut_data_never_raises(index: int) -> None:
    pcr, kind, data, _measured = build.EVERY_CLASS[index]
    for size in range(len(data) + 1):
        cut = Event(1, pcr, kind, {}, data[:size], False)
        assert cut.description and cut.type_name
        assert cut.decoded is None or type(cut.decoded).__name__  # any of them, but no exception


def test_every_class_but_the_opaque_ones_decodes() -> None:
    opaque = {types.EV_NONHOST_INFO, types.EV_CPU_MICROCODE, types.EV_PLATFORM_CONFIG_FLAGS}
    opaque |= {types.EV_TABLE_OF_DEVICES, 0x00012345}
    log = parse_event_log(boot(LogBuilder()).data)
    assert {found.type for found in log.events if found.decoded is None} == opaque


def test_decoded_content() -> None:
    separator = event(0, types.EV_SEPARATOR, b"\x01\0\0\0").decoded
    assert separator == Separator(1, True)
    assert event(5, types.EV_EVENT_TAG, build.tagged(9, b"x")).decoded == TaggedEvent(9, b"x")
    boot_option = event(1, types.EV_EFI_VARIABLE_BOOT, build.variable("Boot0001", b"x")).decoded
    assert boot_option == uefi.Variable(uefi.GLOBAL_VARIABLE, "Boot0001", b"x")
    manifest = event(0, types.EV_NO_ACTION, build.reference_manifest(3)).decoded
    assert isinstance(manifest, ReferenceManifest)
    assert (manifest.platform_model, manifest.firmware_version, manifest.rim_locator) == (
        "Model",
        "2.0",
        b"http",
    )
    table = event(5, types.EV_EFI_GPT_EVENT, build.gpt(2)).decoded
    assert isinstance(table, uefi.Gpt)
    assert (table.disk, len(table.partitions), table.partitions[0].name) == (str(build.DISK), 2, "root")


def test_signature_database() -> None:
    data = build.signature_list(build.X509, [b"c" * 50]) + build.signature_list(
        build.SHA256, [bytes(32), b"\1" * 32]
    )
    found = uefi.signature_database(data)
    assert [(entry.kind, entry.owner, len(entry.data)) for entry in found] == [
        ("x509", str(build.OWNER), 50),
        ("sha256", str(build.OWNER), 32),
        ("sha256", str(build.OWNER), 32),
    ]
    assert uefi.signature_database(b"") == ()
    for wrong in (data[:-1], data + b"x", b"x" * 27, build.X509.bytes_le + struct.pack("<III", 28, 0, 0)):
        with pytest.raises(InvalidField):
            uefi.signature_database(wrong)
    tiny = build.X509.bytes_le + struct.pack("<III", 28 + 16 * 20_000, 0, 16) + bytes(16 * 20_000)
    with pytest.raises(InvalidField, match="does not hold"):
        uefi.signature_database(tiny)


@pytest.mark.parametrize(
    ("read", "data", "words"),
    [
        (uefi.variable, bytes(16) + struct.pack("<QQ", 513, 0) + bytes(1026), "UnicodeNameLength: is 513"),
        (uefi.variable, build.variable("a", b"b") + b"\0", "1 trailing bytes"),
        (uefi.authority_variable, build.variable("a", b"b") + bytes(17), "17 trailing bytes"),
        (uefi.image_load, build.image_load(build.END) + bytes(17), "17 trailing bytes"),
        (uefi.image_load, struct.pack("<QQQQ", 0, 0, 0, 16385) + bytes(16385), "DevicePath: is 16385"),
        (uefi.gpt, b"EFI PARX" + build.gpt()[8:], "has not the signature"),
        (uefi.gpt, build.gpt(0)[:92] + struct.pack("<Q", 1025) + bytes(128 * 1025), "1025 entries of 128"),
        (uefi.gpt, build.gpt()[:84] + struct.pack("<I", 127) + build.gpt()[88:], "1 entries of 127"),
        (uefi.handoff_tables, struct.pack("<Q", 1 << 60), "NumberOfTables: is 1152921504606846976"),
        (device_path_text, b"\x04\x04\x03\x00", "a node has at least 4 bytes"),
    ],
)
def test_refused_structure(read: Callable[[bytes], object], data: bytes, words: str) -> None:
    with pytest.raises(InvalidField, match=words):
        read(data)


def test_device_paths() -> None:
    nvme = build.node(3, 0x17, struct.pack("<I", 1) + bytes(range(8)))
    path = build.PCI_ROOT + build.node(1, 1, b"\x00\x1d") + nvme + build.HARD_DRIVE
    assert device_path_text(path + build.END) == (
        "PciRoot(0x0)/Pci(0x1d,0x0)/NVMe(0x1,07-06-05-04-03-02-01-00)/"
        "HD(1,GPT,11111111-2222-3333-4444-555555555555,0x800,0x1000)"
    )
    assert file_path(path + build.END) is None
    assert device_path_text(build.node(9, 9, b"\xab") + build.END) == "Path(9,9,ab)"
    assert device_path_text(build.node(4, 1, b"\x01") + build.END) == "Path(4,1,01)"
    assert device_path_text(b"") == ""
    for wrong in (b"\x04", b"\x04\x04\x03\x00", b"\x04\x04\xff\xff", build.END + b"x", build.PCI_ROOT * 65):
        with pytest.raises(InvalidField):
            device_path_text(wrong)
