# SPDX-License-Identifier: GPL-3.0-or-later
"""Event logs: what is refused, and that the replay gives what a TPM would have."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

import pytest
from services.tpm.event_log_builder import LogBuilder, boot, legacy_event, specification_id

from trusted_infrastructure.refusal import InvalidField, Refusal
from trusted_infrastructure.tpm import event_types as types
from trusted_infrastructure.tpm.event_log import (
    MAXIMUM_EVENTS,
    MAXIMUM_SIZE,
    initial_value,
    parse_event_log,
    replay,
)

HEADER = legacy_event(0, types.EV_NO_ACTION, bytes(20), specification_id(["sha1", "sha256"]))
SHA1, SHA256 = b"\x04\x00" + bytes(20), b"\x0b\x00" + bytes(32)


def _event(digests: bytes, count: int = 2, pcr: int = 0, kind: int = 4, data: bytes = bytes(4)) -> bytes:
    return struct.pack("<III", pcr, kind, count) + digests + struct.pack("<I", len(data)) + data


def _spec(body: bytes) -> bytes:
    return legacy_event(0, types.EV_NO_ACTION, bytes(20), b"Spec ID Event03\0" + body)


_SPEC_HEAD = struct.pack("<IBBBB", 0, 0, 2, 0, 2)
_LOCALITY = b"StartupLocality\0"

REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "cut header": (bytes(31), "event 0: is cut at byte 31"),
    "data longer than the log": (legacy_event(0, 1, bytes(20), b"")[:-4] + b"\xff" * 4, "4294967295 bytes"),
    "legacy PCR 24": (legacy_event(24, 1, bytes(20), b"x"), "there is no PCR 24"),
    "legacy second event cut": (legacy_event(0, 1, bytes(20), b"x") + b"\x01" * 8, "event 1: is cut"),
    "header cut": (_spec(_SPEC_HEAD), "numberOfAlgorithms"),
    "no algorithms": (_spec(_SPEC_HEAD + struct.pack("<I", 0) + b"\0"), "is 0: expected 1 to 16"),
    "too many algorithms": (_spec(_SPEC_HEAD + struct.pack("<I", 17)), "is 17: expected 1 to 16"),
    "wrong digest size": (
        _spec(_SPEC_HEAD + struct.pack("<IHH", 1, 0x0B, 20) + b"\0"),
        "SHA256 with 20 bytes",
    ),
    "digest size 0": (_spec(_SPEC_HEAD + struct.pack("<IHH", 1, 0x99, 0) + b"\0"), "with 0 bytes"),
    "algorithm twice in the header": (
        _spec(_SPEC_HEAD + struct.pack("<IHHHH", 2, 4, 20, 4, 20) + b"\0"),
        "SHA1 with 20 bytes, or twice",
    ),
    "vendor info longer than the header": (
        _spec(_SPEC_HEAD + struct.pack("<IHH", 1, 4, 20) + b"\x04abc"),
        "vendorInfo: needs 4 bytes",
    ),
    "header with a tail": (_spec(_SPEC_HEAD + struct.pack("<IHH", 1, 4, 20) + b"\0abc"), "3 trailing bytes"),
    "too many digests": (HEADER + _event(SHA1 + SHA256, 3), "has 3 digests: the header names 2"),
    "two million digests": (HEADER + _event(SHA1 + SHA256, 2_000_000), "2000000 digests"),
    "same algorithm twice": (HEADER + _event(SHA1 + SHA1), "given twice"),
    "algorithm not in the header": (
        HEADER + _event(b"\x0c\x00" + bytes(48), 1),
        "SHA384 is not in the header",
    ),
    "PCR 24": (HEADER + _event(SHA1 + SHA256, pcr=24), "there is no PCR 24"),
    "PCR 0xffffffff of an extended event": (
        HEADER + _event(SHA1 + SHA256, pcr=0xFFFFFFFF),
        "no PCR 4294967295",
    ),
    "event header cut": (HEADER + b"\x01" * 11, "event 1: is cut"),
    "digest cut": (HEADER + _event(SHA1 + SHA256)[:30], "event 1: is cut"),
    "algorithm id cut": (HEADER + _event(SHA1 + SHA256)[:13], "event 1: is cut"),
    "event size cut": (HEADER + _event(SHA1 + SHA256)[:-6], "event 1: is cut"),
    "event data cut": (HEADER + _event(SHA1 + SHA256)[:-1], "data of 4 bytes, but only 3"),
    "garbage after the last event": (HEADER + _event(SHA1 + SHA256) + b"\0\0\1", "event 2: is cut"),
    "mixed padding": (
        HEADER + _event(SHA1 + SHA256, data=b"x") + bytes(40) + b"\xff" * 40,
        "event 4: has 4294967295 digests",
    ),
    "locality 2": (LogBuilder().startup_locality(2).data, "StartupLocality must be 0, 3 or 4"),
    "locality without value": (LogBuilder().add(0, types.EV_NO_ACTION, _LOCALITY).data, "must be 0, 3 or 4"),
    "locality with a tail": (LogBuilder().add(0, types.EV_NO_ACTION, _LOCALITY + b"\3x").data, "must be"),
    "two localities": (
        LogBuilder().startup_locality(3).startup_locality(0).data,
        "StartupLocality 0 after 3",
    ),
    "too long": (HEADER + bytes(MAXIMUM_SIZE), "expected at most 4194304"),
    "too many events": (legacy_event(0, 1, bytes(20), b"") * (MAXIMUM_EVENTS + 1), "more than 16384 events"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    data, words = REFUSED[name]
    with pytest.raises(InvalidField, match=words) as refusal:
        parse_event_log(data)
    assert (refusal.value.code, refusal.value.status) == ("event_log_malformed", 400)


def _without_sha256(data: bytes) -> bytes:
    return data + _event(SHA1, 1, kind=types.EV_ACTION)


@pytest.mark.parametrize(
    ("data", "bank", "words"),
    [
        (boot(LogBuilder(["sha1"])).data, "sha256", "no digests for bank 'sha256', only for sha1"),
        (boot(LogBuilder(legacy=True)).data, "sha256", "only for sha1"),
        (boot(LogBuilder()).data, "md5", "no digests for bank 'md5'"),
        (
            _without_sha256(boot(LogBuilder()).data),
            "sha256",
            r"event \d+ \(PCR 0.*has no digest for bank sha256",
        ),
    ],
)
def test_replay_refused(data: bytes, bank: str, words: str) -> None:
    with pytest.raises(Refusal, match=words) as refusal:
        replay(parse_event_log(data), bank)
    assert refusal.value.code == "event_log_replay"


@pytest.mark.parametrize("banks", [["sha1"], ["sha256"], ["sha1", "sha256", "sha384", "sha512"]])
def test_replay_is_what_a_tpm_has(banks: list[str]) -> None:
    builder = boot(LogBuilder(banks))
    log = parse_event_log(builder.data)
    assert log.crypto_agile and log.banks == tuple(banks)
    for bank in banks:
        assert replay(log, bank) == builder.pcrs[bank]


def test_replay_of_a_legacy_log() -> None:
    builder = boot(LogBuilder(legacy=True))
    log = parse_event_log(builder.data)
    assert not log.crypto_agile and log.banks == ("sha1",)
    assert replay(log, "sha1") == builder.pcrs["sha1"]


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("locality", [0, 3, 4])
def test_startup_locality_is_where_pcr_0_begins(legacy: bool, locality: int) -> None:
    builder = boot(LogBuilder(legacy=legacy).startup_locality(locality))
    log = parse_event_log(builder.data)
    assert log.startup_locality == locality
    assert replay(log, "sha1") == builder.pcrs["sha1"]
    only = parse_event_log(LogBuilder(legacy=legacy).startup_locality(locality).data)
    assert replay(only, "sha1") == {0: bytes(19) + bytes([locality])}


def test_no_action_is_never_extended() -> None:
    builder = LogBuilder()
    builder.data += builder.event(4, types.EV_NO_ACTION, {"sha1": b"\1" * 20, "sha256": b"\1" * 32}, b"x")
    assert replay(parse_event_log(builder.data), "sha256") == {}


@pytest.mark.parametrize("filler", [b"\0", b"\xff"])
@pytest.mark.parametrize("size", [1, 3, 40, 5000])
@pytest.mark.parametrize("legacy", [True, False])
def test_padding_after_the_last_event(filler: bytes, size: int, legacy: bool) -> None:
    builder = boot(LogBuilder(legacy=legacy))
    log = parse_event_log(builder.data + filler * size)
    assert (log.padding, replay(log, "sha1")) == (size, builder.pcrs["sha1"])


@pytest.mark.parametrize("tail", [bytes(40), b"\xff" * 40])
def test_data_that_ends_like_padding_is_not_padding(tail: bytes) -> None:
    builder = LogBuilder().add(4, types.EV_ACTION, tail)
    log = parse_event_log(builder.data)
    assert log.padding == 0 and log.events[-1].data == tail


@pytest.mark.parametrize("change", range(4))
def test_another_order_or_number_of_events_is_another_pcr(change: int) -> None:
    events = [(4, types.EV_ACTION, b"a"), (4, types.EV_ACTION, b"b"), (5, types.EV_ACTION, b"c")]
    changes: list[Callable[[], list[tuple[int, int, bytes]]]] = [
        lambda: [events[1], events[0], events[2]],
        lambda: events[:1] + events[2:],
        lambda: [*events, events[0]],
        lambda: [events[0], (5, *events[1][1:]), events[2]],
    ]

    def pcrs(chosen: list[tuple[int, int, bytes]]) -> dict[int, bytes]:
        builder = LogBuilder()
        for event in chosen:
            builder.add(*event)
        return replay(parse_event_log(builder.data), "sha256")

    assert pcrs(changes[change]()) != pcrs(events)


def test_an_event_after_the_separator_says_so() -> None:
    builder = LogBuilder().add(1, types.EV_ACTION, b"a").add(1, types.EV_SEPARATOR, bytes(4))
    builder.add(1, types.EV_ACTION, b"a").add(2, types.EV_ACTION, b"a")
    assert [event.after_separator for event in parse_event_log(builder.data).events[1:]] == [
        False,
        False,
        True,
        False,
    ]


def test_events_of_a_pcr() -> None:
    log = parse_event_log(boot(LogBuilder()).data)
    assert all(event.pcr == 7 and event.extends for event in log.events_of(7))
    assert sum(len(log.events_of(pcr)) for pcr in range(24)) == sum(event.extends for event in log.events)
    assert [event.index for event in log.events] == list(range(len(log.events)))


def test_initial_values() -> None:
    assert initial_value(0, "sha1") == bytes(20)
    assert initial_value(0, "sha256", 3) == bytes(31) + b"\3"
    assert initial_value(1, "sha256", 3) == bytes(32)
    assert initial_value(17, "sha256") == initial_value(22, "sha256") == b"\xff" * 32
    assert initial_value(23, "sha256") == bytes(32)


@pytest.mark.parametrize(
    "unit",
    [
        legacy_event(0, 0, bytes(20), b""),
        legacy_event(7, types.EV_EFI_VARIABLE_DRIVER_CONFIG, bytes(20), b"\xff" * 200),
        legacy_event(8, types.EV_IPL, bytes(20), b"grub_cmd: \0"),
    ],
)
def test_the_largest_logs_take_bounded_time(unit: bytes) -> None:
    count = min(MAXIMUM_EVENTS - 1, (MAXIMUM_SIZE - 40) // len(unit))
    started = time.process_time()
    log = parse_event_log(unit * count + legacy_event(1, 1, bytes(20), b"end"))
    replay(log, "sha1")
    for event in log.events:
        event.digest_verified("sha1")
    assert time.process_time() - started < 2
