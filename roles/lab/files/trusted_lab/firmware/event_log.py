# SPDX-License-Identifier: GPL-3.0-or-later
"""The event log that the firmware keeps beside the PCRs, in TCG's crypto-agile form.

Source: TCG PC Client Platform Firmware Profile (PFP) 1.05, sections 10.2 (formats) and 10.4.1 (event types).
Integers are little-endian.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass

# TPM_ALG_ID and digest size of each PCR bank, in the order in which the log lists them.
BANKS: Mapping[str, tuple[int, int]] = {"sha1": (0x0004, 20), "sha256": (0x000B, 32)}

EV_NO_ACTION = 0x00000003
EV_SEPARATOR = 0x00000004
EV_EVENT_TAG = 0x00000006
EV_S_CRTM_VERSION = 0x00000008
EV_IPL = 0x0000000D
EV_EFI_VARIABLE_DRIVER_CONFIG = 0x80000001
EV_EFI_VARIABLE_BOOT = 0x80000002
EV_EFI_BOOT_SERVICES_APPLICATION = 0x80000003
EV_EFI_ACTION = 0x80000007
EV_EFI_PLATFORM_FIRMWARE_BLOB = 0x80000008


@dataclass(frozen=True)
class Event:
    """One measurement: `digests` (bank -> digest) extend PCR `pcr`; `data` is what the log says about it."""

    pcr: int
    event_type: int
    data: bytes
    digests: Mapping[str, bytes]


def bank_digest(bank: str, data: bytes) -> bytes:
    """The digest of data in a PCR bank ("sha1" or "sha256")."""
    # SHA-1 secures nothing here: a bank of that name is part of what real firmware writes.
    return hashlib.new(bank, data, usedforsecurity=False).digest()


def measured(pcr: int, event_type: int, data: bytes, content: bytes | None = None) -> Event:
    """The event of measuring `content`; of measuring the event data itself where none is given."""
    subject = data if content is None else content
    return Event(pcr, event_type, data, {bank: bank_digest(bank, subject) for bank in BANKS})


def encode(events: list[Event]) -> bytes:
    """The log as binary_bios_measurements has it: the Spec ID header, then TCG_PCR_EVENT2 structures."""
    return _spec_id_header() + b"".join(_event2(event) for event in events)


def replay(events: list[Event], bank: str) -> dict[int, bytes]:
    """The PCR values that the events lead to, starting from zeros (PCR -> digest)."""
    values: dict[int, bytes] = {}
    for event in events:
        before = values.get(event.pcr, bytes(BANKS[bank][1]))
        values[event.pcr] = bank_digest(bank, before + event.digests[bank])
    return values


def _spec_id_header() -> bytes:
    """TCG_PCClientPCREvent that holds TCG_EfiSpecIdEvent (PFP 10.2.1, 10.4.5.1)."""
    spec_id = b"Spec ID Event03\0"
    # platformClass 0 (client), version 2.00, errata 105 (PFP 1.05), uintnSize 2 (64 bit)
    spec_id += struct.pack("<IBBBBI", 0, 0, 2, 105, 2, len(BANKS))
    spec_id += b"".join(struct.pack("<HH", algorithm, size) for algorithm, size in BANKS.values())
    spec_id += b"\0"  # no vendor information
    return struct.pack("<II20sI", 0, EV_NO_ACTION, bytes(20), len(spec_id)) + spec_id


def _event2(event: Event) -> bytes:
    encoded = struct.pack("<III", event.pcr, event.event_type, len(BANKS))
    for bank, (algorithm, _size) in BANKS.items():
        encoded += struct.pack("<H", algorithm) + event.digests[bank]
    return encoded + struct.pack("<I", len(event.data)) + event.data
