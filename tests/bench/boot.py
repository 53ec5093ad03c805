# SPDX-License-Identifier: GPL-3.0-or-later
"""A firmware log of a wanted size: the classes of events, the banks and the proportions of a cloud machine
with UEFI, shim, GRUB and Linux (three banks, most events in PCR 8, most bytes in dbx).
"""

from __future__ import annotations

from dataclasses import dataclass

from services.tpm import event_log_builder as build
from services.tpm.event_log_builder import LogBuilder

from trusted_infrastructure.tpm import event_types as types
from trusted_infrastructure.tpm.event_log import initial_value

BANKS = ("sha1", "sha256", "sha384")
TYPICAL_SIZE, TYPICAL_EVENTS = 34_000, 111
BYTES_OF_AN_EVENT = TYPICAL_SIZE / TYPICAL_EVENTS
ENTRY_OF_DBX = 48

_Event = tuple[int, int, bytes, bytes | None]
"""PCR, type, data, and what the digest is over where that is not the data."""


@dataclass(frozen=True)
class MeasuredBoot:
    """What a host booted. event_log: as the firmware wrote it. pcrs: the TPM's PCRs after it (SHA-256)."""

    event_log: bytes
    events: int
    pcrs: dict[int, bytes]


def measured_boot(size: int = TYPICAL_SIZE, variant: str = "") -> MeasuredBoot:
    """A boot whose log has about `size` bytes (from 5000 on), and as many events as such logs have.

    variant: of kernel, initrd and command line; another one is another base image.
    """
    count = max(21, round(size / BYTES_OF_AN_EVENT))
    bare = _log(_boot_events(count, 1, variant))
    entries = 1 + max(0, size - len(bare.data)) // ENTRY_OF_DBX
    log = _log(_boot_events(count, entries, variant))
    start = {pcr: initial_value(pcr, "sha256") for pcr in range(24)}
    return MeasuredBoot(log.data, count, start | log.pcrs["sha256"])


def _log(events: list[_Event]) -> LogBuilder:
    log = LogBuilder(BANKS)
    for pcr, kind, data, measured in events:
        log.add(pcr, kind, data, measured)
    return log


def _boot_events(count: int, entries_of_dbx: int, variant: str) -> list[_Event]:
    """`count` events, without the header."""
    command_line = f"/vmlinuz root=LABEL=root ro quiet usrhash={'ab' * 32} {variant}"
    last: list[_Event] = [
        (8, types.EV_IPL, f"kernel_cmdline: {command_line}\0".encode(), command_line.encode()),
        (9, types.EV_IPL, b"(hd0,gpt1)/vmlinuz\0", f"kernel {variant}".encode()),
        (9, types.EV_IPL, b"(hd0,gpt1)/initrd\0", f"initrd {variant}".encode()),
        (5, types.EV_EFI_ACTION, b"Exit Boot Services Invocation", None),
    ]
    first = _firmware_events(entries_of_dbx)
    menu = [_menu_event(number) for number in range(count - len(first) - len(last))]
    return first + menu + last


def _firmware_events(entries_of_dbx: int) -> list[_Event]:
    certificates = [b"\x30\x82" + bytes(size) for size in (200, 300, 500)]
    pk, kek, db = (build.signature_list(build.X509, [certificate]) for certificate in certificates)
    dbx = build.signature_list(build.SHA256, [bytes([n % 256]) * 32 for n in range(entries_of_dbx)])
    variables = [
        build.variable("SecureBoot", b"\1"),
        build.variable("PK", pk),
        build.variable("KEK", kek),
        build.variable("db", db, build.SECURITY),
        build.variable("dbx", dbx, build.SECURITY),
    ]
    path = build.PCI_ROOT + build.HARD_DRIVE + build.file_node("\\EFI\\BOOT\\BOOTX64.EFI") + build.END
    return [
        (0, types.EV_S_CRTM_VERSION, build.utf16("firmware 1.4\0"), None),
        (0, types.EV_NONHOST_INFO, b"NonHostInfo\0\0", b"other"),
        *((7, types.EV_EFI_VARIABLE_DRIVER_CONFIG, variable, None) for variable in variables),
        *((pcr, types.EV_SEPARATOR, bytes(4), None) for pcr in range(8)),
        (4, types.EV_EFI_BOOT_SERVICES_APPLICATION, build.image_load(path), b"boot loader"),
        (14, types.EV_IPL, b"MokList\0", b"list"),
    ]


def _menu_event(number: int) -> _Event:
    command = f"menuentry entry-{number} --class linux --class os $menuentry_id_option gnulinux-simple"
    return 8, types.EV_IPL, f"grub_cmd: {command}\0".encode(), command.encode()
