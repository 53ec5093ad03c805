# SPDX-License-Identifier: GPL-3.0-or-later
"""Small TCG event logs for tests (PC Client Platform Firmware Profile, 10.2), and the TPM that they leave behind."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, replace

from services.attestation.fake_tpm import FakeTpm

EV_NO_ACTION = 3
EV_SEPARATOR = 4
EV_EVENT_TAG = 6
EV_S_CRTM_VERSION = 8
EV_IPL = 0xD
EV_EFI_BOOT_SERVICES_APPLICATION = 0x80000003

COMMAND_LINE = f"root=/dev/vda1 ro quiet usrhash={'ab' * 32}\0"


@dataclass(frozen=True)
class Measured:
    """One event: extends `pcr` with SHA-256 of `content`, and has `data` in the log."""

    pcr: int
    type: int
    content: bytes
    data: bytes = b""

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.content).digest()


BOOT = (
    Measured(0, EV_S_CRTM_VERSION, b"firmware 1", b"firmware 1"),
    Measured(7, 0x80000001, b"SecureBoot=1"),
    *(Measured(pcr, EV_SEPARATOR, bytes(4), bytes(4)) for pcr in (0, 1, 2, 3, 4, 5, 6, 7)),
    Measured(4, EV_EFI_BOOT_SERVICES_APPLICATION, b"boot loader 1"),
    Measured(12, EV_IPL, COMMAND_LINE.encode("utf-16-le"), COMMAND_LINE.encode("utf-16-le")),
    Measured(4, EV_EFI_BOOT_SERVICES_APPLICATION, b"kernel 1"),
    Measured(9, EV_EVENT_TAG, b"initrd 1"),
)


def with_content(boot: tuple[Measured, ...], index: int, content: bytes) -> tuple[Measured, ...]:
    """The same boot with another content of one event."""
    return (*boot[:index], replace(boot[index], content=content), *boot[index + 1 :])


def encode(boot: tuple[Measured, ...]) -> bytes:
    """The log of a boot."""
    spec = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 105, 2, 1) + struct.pack("<HHB", 0xB, 32, 0)
    log = struct.pack("<II20sI", 0, EV_NO_ACTION, bytes(20), len(spec)) + spec
    for event in boot:
        log += struct.pack("<IIIH", event.pcr, event.type, 1, 0xB) + event.digest
        log += struct.pack("<I", len(event.data)) + event.data
    return log


def power_on(tpm: FakeTpm, boot: tuple[Measured, ...]) -> bytes:
    """Extend the TPM as this boot does; the log."""
    for event in boot:
        tpm.extend(event.pcr, event.digest)
    return encode(boot)
