# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes TCG event logs as firmware does, and keeps the PCRs as a TPM would: what a parser must find
again."""

from __future__ import annotations

import hashlib
import struct
import uuid
from collections.abc import Mapping, Sequence

from trusted_infrastructure.tpm import event_types as types

ALGORITHMS = {"sha1": 0x0004, "sha256": 0x000B, "sha384": 0x000C, "sha512": 0x000D}
GLOBAL = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
SECURITY = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
SHA256 = uuid.UUID("c1c41626-504c-4092-aca9-41f936934328")
OWNER = uuid.UUID("77fa9abd-0359-4d32-bd60-28f4e78f784b")
DISK = uuid.UUID("11111111-2222-3333-4444-555555555555")
LINUX_ROOT = uuid.UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")


def specification_id(banks: Sequence[str], vendor: bytes = b"") -> bytes:
    """TCG_EfiSpecIdEvent."""
    head = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(banks))
    sizes = b"".join(struct.pack("<HH", ALGORITHMS[bank], hashlib.new(bank).digest_size) for bank in banks)
    return head + sizes + bytes([len(vendor)]) + vendor


class LogBuilder:
    """banks: hash names; legacy: TCG_PCR_EVENT instead of TCG_PCR_EVENT2. pcrs: bank -> PCR -> value."""

    def __init__(
        self, banks: Sequence[str] = ("sha1", "sha256"), legacy: bool = False, vendor: bytes = b""
    ) -> None:
        self.banks = ("sha1",) if legacy else tuple(banks)
        self.legacy = legacy
        self.data = b""
        self.pcrs: dict[str, dict[int, bytes]] = {bank: {} for bank in self.banks}
        if not legacy:
            self.data = legacy_event(0, types.EV_NO_ACTION, bytes(20), specification_id(banks, vendor))

    def add(
        self, pcr: int, event_type: int, data: bytes, measured: bytes | None = None, extend: bool = True
    ) -> LogBuilder:
        """One event. measured: what the digest is over, where that is not the data."""
        content = data if measured is None else measured
        digests = {bank: hashlib.new(bank, content).digest() for bank in self.banks}
        if event_type == types.EV_NO_ACTION:
            digests = {bank: bytes(len(digest)) for bank, digest in digests.items()}
        elif extend:
            for bank, digest in digests.items():
                if event_type == types.EV_EFI_HCRTM_EVENT:  # what a TPM does at the end of an H-CRTM sequence
                    self.pcrs[bank].setdefault(pcr, bytes(len(digest) - 1) + b"\4")
                self._extend(bank, pcr, digest)
        self.data += self.event(pcr, event_type, digests, data)
        return self

    def event(self, pcr: int, event_type: int, digests: Mapping[str, bytes], data: bytes) -> bytes:
        """The bytes of an event with these digests."""
        if self.legacy:
            return legacy_event(pcr, event_type, digests["sha1"], data)
        values = b"".join(struct.pack("<H", ALGORITHMS[bank]) + digest for bank, digest in digests.items())
        return (
            struct.pack("<III", pcr, event_type, len(digests)) + values + struct.pack("<I", len(data)) + data
        )

    def startup_locality(self, locality: int) -> LogBuilder:
        """EV_NO_ACTION StartupLocality, and PCR 0 as it then begins."""
        for bank in self.banks:
            size = hashlib.new(bank).digest_size
            self.pcrs[bank][0] = bytes(size - 1) + bytes([locality])
        return self.add(0, types.EV_NO_ACTION, b"StartupLocality\0" + bytes([locality]))

    def _extend(self, bank: str, pcr: int, digest: bytes) -> None:
        old = self.pcrs[bank].get(pcr, bytes(len(digest)))
        self.pcrs[bank][pcr] = hashlib.new(bank, old + digest).digest()


def legacy_event(pcr: int, event_type: int, digest: bytes, data: bytes) -> bytes:
    """TCG_PCR_EVENT."""
    return struct.pack("<II20sI", pcr, event_type, digest, len(data)) + data


def utf16(text: str) -> bytes:
    return text.encode("utf-16-le")


def variable(name: str, data: bytes, vendor: uuid.UUID = GLOBAL) -> bytes:
    """UEFI_VARIABLE_DATA."""
    return vendor.bytes_le + struct.pack("<QQ", len(name), len(data)) + utf16(name) + data


def signature_list(kind: uuid.UUID, entries: Sequence[bytes]) -> bytes:
    """EFI_SIGNATURE_LIST."""
    size = 16 + len(entries[0]) if entries else 48
    body = b"".join(OWNER.bytes_le + entry for entry in entries)
    return kind.bytes_le + struct.pack("<III", 28 + len(body), 0, size) + body


def node(kind: int, subtype: int, body: bytes) -> bytes:
    """One node of a device path."""
    return struct.pack("<BBH", kind, subtype, 4 + len(body)) + body


END = node(0x7F, 0xFF, b"")
PCI_ROOT = node(2, 1, struct.pack("<II", 0x0A0341D0, 0))
HARD_DRIVE = node(4, 1, struct.pack("<IQQ", 1, 2048, 4096) + DISK.bytes_le + b"\x02\x02")


def file_node(path: str) -> bytes:
    return node(4, 4, utf16(path + "\0"))


def image_load(path: bytes) -> bytes:
    """UEFI_IMAGE_LOAD_EVENT."""
    return struct.pack("<QQQQ", 0x7E000000, 0x1000, 0, len(path)) + path


def load_option(description: str, path: bytes) -> bytes:
    """EFI_LOAD_OPTION."""
    return struct.pack("<IH", 1, len(path)) + utf16(description + "\0") + path


def gpt(partitions: int = 1) -> bytes:
    """UEFI_GPT_DATA."""
    header = b"EFI PART" + bytes(48) + DISK.bytes_le + struct.pack("<QIII", 2, 128, 128, 0)
    entry = LINUX_ROOT.bytes_le + OWNER.bytes_le + struct.pack("<QQQ", 2048, 4095, 0)
    entry += utf16("root").ljust(72, b"\0")
    return header + struct.pack("<Q", partitions) + entry * partitions


def tagged(tag: int, data: bytes) -> bytes:
    """TCG_PCClientTaggedEvent."""
    return struct.pack("<II", tag, len(data)) + data


def reference_manifest(version: int) -> bytes:
    """TCG_Sp800_155_PlatformId_Event, 2 or 3."""
    signature = b"SP800-155 Event\0" if version == 1 else b"SP800-155 Event%d" % version
    data = signature + struct.pack("<I", 11129) + OWNER.bytes_le
    if version == 1:
        return data

    def short(text: bytes) -> bytes:
        return bytes([len(text) + 1]) + text + b"\0"

    data += short(b"Maker") + short(b"Model") + short(b"1.0") + short(b"Firmware maker")
    data += struct.pack("<I", 343) + short(b"2.0")
    if version == 3:
        data += struct.pack("<II", 1, 4) + b"http" + struct.pack("<II", 0, 0)
    return data


def boot(builder: LogBuilder) -> LogBuilder:
    """A boot with an event of every class that firmware, shim, GRUB, the Linux stub and systemd-stub
    write."""
    for pcr, event_type, data, measured in EVERY_CLASS:
        builder.add(pcr, event_type, data, measured)
    return builder


_SHIM = image_load(PCI_ROOT + HARD_DRIVE + file_node("\\EFI\\debian\\shimx64.efi") + END)
_ROM = image_load(
    PCI_ROOT + node(1, 1, b"\x00\x02") + node(4, 8, bytes(4) + struct.pack("<QQ", 16, 32)) + END
)
_CERTIFICATE = b"\x30\x82\x01\x00" + bytes(256)

# (PCR, type, data, what the digest is over where that is not the data)
EVERY_CLASS: list[tuple[int, int, bytes, bytes | None]] = [
    (0xFFFFFFFF, types.EV_NO_ACTION, reference_manifest(1), None),
    (0xFFFFFFFF, types.EV_NO_ACTION, reference_manifest(2), None),
    (0xFFFFFFFF, types.EV_NO_ACTION, reference_manifest(3), None),
    (0, types.EV_EFI_HCRTM_EVENT, b"HCRTM", b"firmware code"),
    (0, types.EV_S_CRTM_CONTENTS, b"Boot Guard Measured S-CRTM\0", b"firmware code"),
    (0, types.EV_S_CRTM_VERSION, utf16("2.1.7\0"), None),
    (0, types.EV_POST_CODE, b"ACPI DATA", b"firmware code"),
    (0, types.EV_POST_CODE, struct.pack("<QQ", 0xFF130000, 0xA8F000), b"firmware code"),
    (0, types.EV_POST_CODE2, b"\x04PEI\0" + struct.pack("<QQ", 1, 2), b"firmware code"),
    (0, types.EV_EFI_PLATFORM_FIRMWARE_BLOB, struct.pack("<QQ", 0x820000, 0xE0000), b"firmware code"),
    (0, types.EV_EFI_PLATFORM_FIRMWARE_BLOB2, b"\x04DXE\0" + struct.pack("<QQ", 1, 2), b"firmware code"),
    (0, types.EV_NONHOST_INFO, b"GCE NonHostInfo\0\1", b"other"),
    (1, types.EV_CPU_MICROCODE, b"revision A1", b"microcode"),
    (1, types.EV_PLATFORM_CONFIG_FLAGS, b"\x01\x00", None),
    (1, types.EV_TABLE_OF_DEVICES, b"devices", None),
    (1, types.EV_EFI_HANDOFF_TABLES, struct.pack("<Q", 1) + OWNER.bytes_le + bytes(8), b"SMBIOS"),
    (
        1,
        types.EV_EFI_HANDOFF_TABLES2,
        b"\x07SMBIOS\0" + struct.pack("<Q", 1) + OWNER.bytes_le + bytes(8),
        b"SM",
    ),
    (7, types.EV_EFI_VARIABLE_DRIVER_CONFIG, variable("SecureBoot", b"\x01"), None),
    (7, types.EV_EFI_VARIABLE_DRIVER_CONFIG, variable("PK", signature_list(X509, [_CERTIFICATE])), None),
    (7, types.EV_EFI_VARIABLE_DRIVER_CONFIG, variable("KEK", signature_list(X509, [_CERTIFICATE])), None),
    (7, types.EV_EFI_VARIABLE_DRIVER_CONFIG, variable("db", b"", SECURITY), None),
    (
        7,
        types.EV_EFI_VARIABLE_DRIVER_CONFIG,
        variable("dbx", signature_list(SHA256, [bytes(32)]), SECURITY),
        None,
    ),
    (7, types.EV_SEPARATOR, bytes(4), None),
    (2, types.EV_EFI_BOOT_SERVICES_DRIVER, _ROM, b"option ROM"),
    (2, types.EV_EFI_RUNTIME_SERVICES_DRIVER, _ROM, b"option ROM"),
    (2, types.EV_EFI_SPDM_FIRMWARE_BLOB, b"SPDM Device Sec\0\x01\x00rest", b"device"),
    (3, types.EV_EFI_SPDM_FIRMWARE_CONFIG, b"SPDM Device Sec\0\x01\x00rest", b"device"),
    (7, types.EV_EFI_SPDM_DEVICE_POLICY, variable("devdb", b"x", SECURITY), None),
    (7, types.EV_EFI_SPDM_DEVICE_AUTHORITY, variable("devdb", OWNER.bytes_le + b"x", SECURITY), None),
    (6, types.EV_COMPACT_HASH, b"Dell Configuration Information 1", b"other"),
    (4, types.EV_OMIT_BOOT_DEVICE_EVENTS, b"BOOT ATTEMPTS OMITTED", None),
    (4, types.EV_EFI_ACTION, b"Calling EFI Application from Boot Option", None),
    (4, types.EV_ACTION, b"Calling INT 19h", None),
    *((pcr, types.EV_SEPARATOR, bytes(4), None) for pcr in range(7)),
    (1, types.EV_EFI_VARIABLE_BOOT, variable("BootOrder", b"\x01\x00"), b"\x01\x00"),
    (1, types.EV_EFI_VARIABLE_BOOT, variable("Boot0001", load_option("Linux", HARD_DRIVE + END)), None),
    (1, types.EV_EFI_VARIABLE_BOOT2, variable("Boot0002", load_option("Linux", HARD_DRIVE + END)), None),
    (5, types.EV_EFI_GPT_EVENT, gpt(2), None),
    (5, types.EV_EFI_GPT_EVENT2, gpt(1), None),
    (7, types.EV_EFI_VARIABLE_AUTHORITY, variable("db", OWNER.bytes_le + _CERTIFICATE, SECURITY), None),
    (4, types.EV_EFI_BOOT_SERVICES_APPLICATION, _SHIM, b"PE image"),
    (14, types.EV_IPL, b"MokList\0", b"list"),
    (8, types.EV_IPL, b"grub_cmd: set root=hd0\0", b"set root=hd0"),
    (8, types.EV_IPL, b"grub_cmd set root=hd0\0", b"set root=hd0\0"),
    (8, types.EV_IPL, b"kernel_cmdline: /vmlinuz ro\0", b"/vmlinuz ro"),
    (9, types.EV_IPL, b"grub_linuxefi Kernel\0", b"kernel"),
    (9, types.EV_IPL, b"(hd0,gpt1)/vmlinuz\0", b"kernel"),
    (9, types.EV_EVENT_TAG, tagged(0x8F3B22EC, b"Linux initrd\0"), b"initrd"),
    (9, types.EV_EVENT_TAG, tagged(0x8F3B22ED, b"LOADED_IMAGE::LoadOptions\0"), b"options"),
    (5, types.EV_EVENT_TAG, tagged(0xF5BC582A, b"loader.conf"), b"loader.conf"),
    (11, types.EV_IPL, utf16(".linux\0"), utf16("kernel")),
    (12, types.EV_IPL, utf16("root=/dev/vda1 ro\0"), None),
    (13, types.EV_IPL, utf16("System extension initrd\0"), b"cpio"),
    (5, types.EV_EFI_ACTION, b"Exit Boot Services Invocation", None),
    (5, 0x00012345, b"a type that nobody knows", b"x"),
]
