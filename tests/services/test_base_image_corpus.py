# SPDX-License-Identifier: GPL-3.0-or-later
"""Base images of real machines' logs: what is captured fits the machine, its twins, and nobody else."""

from __future__ import annotations

import hashlib
import re
import struct
import time
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from services.tpm import corpus
from services.tpm.event_log_builder import ALGORITHMS, LogBuilder, boot, tagged, utf16, variable

from trusted_infrastructure import base_images
from trusted_infrastructure.base_images.capturing import reference_of
from trusted_infrastructure.base_images.observed import Observed
from trusted_infrastructure.base_images.rules import first_deviation
from trusted_infrastructure.config.documents import BaseImage, content_of, typed
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tpm import event_types as types
from trusted_infrastructure.tpm.event_log import MAXIMUM_EVENTS, Event, EventLog, parse_event_log

_UUID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def replayed(log: EventLog) -> Iterator[tuple[str, dict[int, bytes]]]:
    """Each bank that replays, and its values."""
    for bank in log.banks:
        try:
            yield bank, {pcr: log.value_of(pcr, bank) for pcr in range(24)}
        except Refusal as refusal:
            assert refusal.code == "event_log_replay"


def captured(log: EventLog, bank: str, values: dict[int, bytes]) -> BaseImage:
    return base_images.capture(log, values, bank=bank, image_version="v1", display_name="V1")


@corpus.parametrize("event_logs/*")
def test_a_capture_checked_against_its_own_host_passes(path: Path) -> None:
    if corpus.is_absent(path):
        return
    log = parse_event_log(path.read_bytes())
    for bank, values in replayed(log):
        explained = base_images.explained_pcrs(log, bank, values)
        assert explained == set(range(24))
        for pcr in range(24):  # the rules in every bank, SHA-1 included
            reference = reference_of(pcr, values[pcr], explained, log, bank)
            assert bool(reference.events) == bool(log.events_of(pcr))
            if reference.events:
                assert first_deviation(pcr, reference, Observed(log, bank)) is None
        if bank in base_images.BANKS:
            image = captured(log, bank, values)
            base_images.check_image(image)
            assert base_images.appraise([image], bank, values, log) == image
            assert typed("base_image", msgspec.json.decode(msgspec.json.encode(content_of(image)))) == image


@corpus.parametrize("event_logs/*")
def test_every_event_more_less_or_other_is_refused(path: Path) -> None:
    """Each event of the required PCRs left out, doubled, and with another digest: refused, and named."""
    if corpus.is_absent(path):
        return
    log = parse_event_log(path.read_bytes())
    for bank, values in replayed(log):
        if bank != "sha256":
            continue
        image = captured(log, bank, values)
        places = [place for place, event in enumerate(log.events) if event.extends]
        for place in places[:: max(1, len(places) // 12)]:
            event = log.events[place]
            if event.pcr not in base_images.REQUIRED_PCRS:
                continue
            other = msgspec.structs.replace(event, digests=dict.fromkeys(event.digests, b"\7" * 32))
            for instead in ([], [event, event], [other]):
                changed = EventLog(
                    (*log.events[:place], *instead, *log.events[place + 1 :]),
                    log.banks,
                    True,
                    log.startup_locality,
                )
                if repeatable(image, event, instead):
                    continue
                now = {pcr: changed.value_of(pcr, bank) for pcr in range(24)}
                with pytest.raises(Refusal, match=f"PCR {event.pcr}\\b") as refusal:
                    base_images.appraise([image], bank, now, changed)
                assert refusal.value.code == "base_image_mismatch"
                # The same lie without the PCRs to go with it.
                with pytest.raises(Refusal, match=f"PCR {event.pcr}: the event log leads to") as refusal:
                    base_images.appraise([image], bank, values, changed)
                assert refusal.value.code == "event_log_replay"


def repeatable(image: BaseImage, event: Event, instead: list[Event]) -> bool:
    """Whether the image lets this event be there twice."""
    rules = image.pcrs[str(event.pcr)].events or []
    digest = event.digests[image.bank].hex()
    return len(instead) == 2 and any(r.presence == "repeated" for r in rules if r.digest == digest)


# ---- twins: the same software on a machine with other identifiers


def twin(log: EventLog, line: Callable[[bytes], bytes] = lambda text: text) -> EventLog:
    """The log of an equal machine: other UUIDs, boot entries, disk. line: what else happens to texts."""
    builder = LogBuilder([bank for bank in log.banks if bank in ALGORITHMS])
    for event in log.events[1:]:
        content = event.measured_content("sha256")
        if content is None or event.type not in _REWRITTEN:
            digests = {bank: event.digests[bank] for bank in builder.banks if bank in event.digests}
            builder.data += builder.event(event.pcr, event.type, digests, event.data)
            continue
        data, other = _REWRITTEN[event.type](event.data, content)
        other, data = line(other), data.replace(other, line(other)) if other != line(other) else data
        builder.add(event.pcr, event.type, data, other)
    return parse_event_log(builder.data)


def _identifiers(data: bytes, content: bytes) -> tuple[bytes, bytes]:
    return _UUID.sub(_another, data), _UUID.sub(_another, content)


def _another(found: re.Match[bytes]) -> bytes:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, found[0].decode())).encode()


def _disk(data: bytes, content: bytes) -> tuple[bytes, bytes]:
    table = bytearray(data)
    table[16:20] = b"\5\5\5\5"  # checksum of the header
    table[56:72] = hashlib.md5(table[56:72], usedforsecurity=False).digest()
    for start in range(100, len(table), 128):
        table[start + 16 : start + 32] = hashlib.md5(
            table[start : start + 32], usedforsecurity=False
        ).digest()
        table[start + 40 : start + 48] = struct.pack("<Q", 1 << 30)  # a larger disk
    return bytes(table), bytes(table)


def _boot_variable(data: bytes, content: bytes) -> tuple[bytes, bytes]:
    other = content[:-1] + b"\x77"
    return data[: -len(content)] + other, other


_REWRITTEN: dict[int, Callable[[bytes, bytes], tuple[bytes, bytes]]] = {
    types.EV_IPL: _identifiers,
    types.EV_EFI_GPT_EVENT: _disk,
    types.EV_EFI_VARIABLE_BOOT: _boot_variable,
}
_MACHINES = [
    "event-bootorder.bin",
    "event-gce-ubuntu-2104-log.bin",
    "event-moklisttrusted.bin",
    "event-postcode.bin",
    "event-sd-boot-fedora37.bin",
    "rhel8-uefi.bin",
    "ubuntu-2104-no-secure-boot.bin",
    "glinux-alex.bin",
    "coreos_36_shielded_vm_no_secure_boot_eventlog",
]


@pytest.mark.parametrize("name", _MACHINES)
def test_a_twin_matches_and_a_changed_twin_does_not(name: str) -> None:
    path = corpus.FOLDER / "event_logs" / name
    if not path.is_file():
        print("corpus: absent")
        return
    log = parse_event_log(path.read_bytes())
    image = captured(log, "sha256", {pcr: log.value_of(pcr, "sha256") for pcr in range(24)})
    assert {"1", "5"} <= image.pcrs.keys()
    equal = twin(log)
    values = {pcr: equal.value_of(pcr, "sha256") for pcr in range(24)}
    assert values[1] != log.value_of(1, "sha256")
    assert base_images.appraise([image], "sha256", values, equal) is image
    if not any(event.pcr == 8 for event in log.events):
        return
    other = twin(
        log, lambda text: text + b" init=/bin/sh" if re.search(rb"/(vmlinuz|kernel)", text) else text
    )
    values = {pcr: other.value_of(pcr, "sha256") for pcr in range(24)}
    with pytest.raises(Refusal, match=r"PCR 8, EV_IPL.*expected .*, found .*; closest"):
        base_images.appraise([image], "sha256", values, other)


def test_another_machine_of_the_family_is_refused_with_what_differs() -> None:
    paths = [corpus.FOLDER / "event_logs" / name for name in _MACHINES[1::5]]
    if not all(path.is_file() for path in paths):
        print("corpus: absent")
        return
    one, two = (parse_event_log(path.read_bytes()) for path in paths)
    image = captured(one, "sha256", {pcr: one.value_of(pcr, "sha256") for pcr in range(24)})
    with pytest.raises(Refusal, match=r"event \d+ \(PCR \d+, EV_.*expected .*found .*closest base image: v1"):
        base_images.appraise([image], "sha256", {pcr: two.value_of(pcr, "sha256") for pcr in range(24)}, two)


# ---- bounds


def _filled(builder: LogBuilder, *event: Any) -> LogBuilder:
    """As many of one event as a log takes."""
    builder.add(*event)
    unit = LogBuilder(("sha256",)).add(*event).data
    unit = unit[len(LogBuilder(("sha256",)).data) :]
    count = min(MAXIMUM_EVENTS - 3, (4 << 20) // len(unit) - 1)
    builder.data += unit * count
    return builder


LARGEST: dict[str, Callable[[], LogBuilder]] = {
    "small events": lambda: _filled(LogBuilder(("sha256",)), 8, types.EV_IPL, b""),
    "boot entries": lambda: _filled(
        LogBuilder(("sha256",)), 1, types.EV_EFI_VARIABLE_BOOT, variable("Boot0001", b"x" * 120)
    ),
    "configuration": lambda: _filled(
        LogBuilder(("sha256",)), 7, types.EV_EFI_VARIABLE_DRIVER_CONFIG, variable("db", b"\xff" * 120)
    ),
    "commands with identifiers": lambda: _filled(
        LogBuilder(("sha256",)), 8, types.EV_IPL, (b"grub_cmd: " + str(uuid.UUID(int=7)).encode() * 4 + b"\0")
    ),
    "load options": lambda: _filled(
        LogBuilder(("sha256",)).add(12, types.EV_IPL, utf16("x" * 30_000)), 9, types.EV_EVENT_TAG,
        tagged(0x8F3B22ED, b"LOADED_IMAGE::LoadOptions\0"), b"other",
    ),
    "one large text": lambda: LogBuilder(("sha256",)).add(8, types.EV_IPL, utf16("a" * 2_000_000)),
    "one large variable": lambda: LogBuilder(("sha256",)).add(
        7, types.EV_EFI_VARIABLE_DRIVER_CONFIG, variable("db", b"\0" * 4_000_000)
    ),
    "one large tag": lambda: LogBuilder(("sha256",)).add(
        9, types.EV_EVENT_TAG, tagged(0x8F3B22ED, b"x" * 4_000_000)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_evidence_is_appraised_in_bounded_time_and_memory(name: str) -> None:
    genuine = parse_event_log(boot(LogBuilder(("sha256",))).data)
    image = captured(genuine, "sha256", {pcr: genuine.value_of(pcr, "sha256") for pcr in range(24)})
    data = LARGEST[name]().data

    def judge() -> str:
        log = parse_event_log(data)
        values = {pcr: log.value_of(pcr, "sha256") for pcr in range(24)}
        with pytest.raises(Refusal) as refusal:
            base_images.appraise([image] * 50, "sha256", values, log)
        return refusal.value.message

    started = time.process_time()
    message = judge()
    assert time.process_time() - started < 2
    assert len(message) < 1500 and message.isprintable()
    tracemalloc.start()
    judge()
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20


@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_log_is_captured_and_matches_its_own_image(name: str) -> None:
    log = parse_event_log(LARGEST[name]().data)
    values = {pcr: log.value_of(pcr, "sha256") for pcr in range(24)}
    started = time.process_time()
    image = captured(log, "sha256", values)
    assert time.process_time() - started < 10  # on the host itself, once
    started = time.process_time()
    assert base_images.appraise([image], "sha256", values, log) is image
    assert time.process_time() - started < 2
