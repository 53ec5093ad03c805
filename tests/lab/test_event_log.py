# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's log is read by the parser that judges real hosts: what one writes the other must understand."""

from __future__ import annotations

import hashlib
import struct

import pytest
from trusted_lab.firmware import event_log, uefi

from trusted_infrastructure.tpm.event_log import parse_event_log
from trusted_infrastructure.tpm.event_log import replay as verifier_replay


def events() -> list[event_log.Event]:
    return [
        event_log.measured(0, event_log.EV_S_CRTM_VERSION, uefi.text("version 1")),
        event_log.measured(4, event_log.EV_EFI_ACTION, b"Calling EFI Application from Boot Option"),
        event_log.measured(
            9, event_log.EV_EVENT_TAG, uefi.tagged_event(7, b"initrd\0"), b"content of the initrd"
        ),
        event_log.measured(0, event_log.EV_SEPARATOR, bytes(4)),
    ]


def test_header_is_the_crypto_agile_one() -> None:
    log = event_log.encode([])
    pcr, kind = struct.unpack_from("<II", log)
    assert (pcr, kind) == (0, 3)
    assert log[32:48] == b"Spec ID Event03\0"
    assert struct.unpack_from("<HHHH", log, 32 + 28) == (0x0004, 20, 0x000B, 32)
    assert struct.unpack_from("<I", log, 28)[0] == len(log) - 32


def test_the_verifier_reads_every_event() -> None:
    parsed = parse_event_log(event_log.encode(events()))
    assert [event.pcr for event in parsed.events] == [0, 0, 4, 9, 0]  # the first is the header


def test_the_verifier_replays_to_the_same_values() -> None:
    parsed = parse_event_log(event_log.encode(events()))
    assert verifier_replay(parsed, "sha256").items() >= event_log.replay(events(), "sha256").items()


@pytest.mark.parametrize("bank", ["sha1", "sha256"])
def test_replay_is_extend_from_zero(bank: str) -> None:
    size = event_log.BANKS[bank][1]
    first = hashlib.new(bank, uefi.text("version 1")).digest()
    second = hashlib.new(bank, bytes(4)).digest()
    once = hashlib.new(bank, bytes(size) + first).digest()
    assert event_log.replay(events(), bank)[0] == hashlib.new(bank, once + second).digest()


def test_content_that_is_not_in_the_data_is_what_counts() -> None:
    event = events()[2]
    assert event.digests["sha256"] == hashlib.sha256(b"content of the initrd").digest()
