# SPDX-License-Identifier: GPL-3.0-or-later
"""The header of crypto-agile logs: variants of real firmware are read, lies are refused."""

from __future__ import annotations

import struct

import pytest
from services.tpm.event_log_builder import LogBuilder, boot, legacy_event, specification_id

from trusted_infrastructure.refusal import InvalidField, Refusal
from trusted_infrastructure.tpm import event_types as types
from trusted_infrastructure.tpm.event_log import parse_event_log, replay

BANKS = ("sha1", "sha256")
GENUINE = boot(LogBuilder(BANKS))
HEADER = legacy_event(0, types.EV_NO_ACTION, bytes(20), specification_id(BANKS))
BODY = GENUINE.data.removeprefix(HEADER)
SPECIFICATION = specification_id(BANKS)


def header(data: bytes) -> bytes:
    return legacy_event(0, types.EV_NO_ACTION, bytes(20), data)


def versioned(minor: int, major: int, errata: int) -> bytes:
    return SPECIFICATION[:20] + bytes([minor, major, errata]) + SPECIFICATION[23:]


READ = {
    "specification 2.00 errata 0": header(versioned(0, 2, 0)),
    "specification 2.00 errata 2": header(versioned(0, 2, 2)),
    "specification 1.05 (errata 105)": header(versioned(5, 1, 105)),
    "vendor information": header(SPECIFICATION[:-1] + b"\x04\xde\xad\xbe\xef"),
    "vendor information that is not counted": header(SPECIFICATION[:-1] + b"\x04") + b"\xde\xad\xbe\xef",
    "no vendorInfoSize": header(SPECIFICATION[:-1]),
    "zeros after the structure": header(SPECIFICATION + bytes(24)),
    "header twice": HEADER + HEADER,
    "header of another client": header(SPECIFICATION[:16] + struct.pack("<I", 1) + SPECIFICATION[20:]),
}


@pytest.mark.parametrize("name", READ)
def test_a_header_of_real_firmware_is_read(name: str) -> None:
    log = parse_event_log(READ[name] + BODY)
    assert (log.crypto_agile, log.banks) == (True, BANKS)
    for bank in BANKS:
        assert replay(log, bank) == GENUINE.pcrs[bank]


def test_a_header_between_events_is_no_event() -> None:
    half = LogBuilder(BANKS).add(4, types.EV_ACTION, b"a")
    both = LogBuilder(BANKS).add(4, types.EV_ACTION, b"a").add(4, types.EV_ACTION, b"b")
    data = half.data + HEADER + both.data.removeprefix(half.data)
    log = parse_event_log(data)
    assert [event.type for event in log.events] == [3, 5, 3, 5]
    assert replay(log, "sha256") == both.pcrs["sha256"]


def test_another_header_between_events_gives_no_replay() -> None:
    data = GENUINE.data + legacy_event(0, types.EV_NO_ACTION, bytes(20), specification_id(["sha1"])) + BODY
    with pytest.raises(Refusal) as refusal:
        replay(parse_event_log(data), "sha256")
    assert refusal.value.code in ("event_log_malformed", "event_log_replay")


def test_digests_of_unknown_algorithms_are_skipped_by_their_declared_size() -> None:
    known = LogBuilder(["sha256"])
    sizes = struct.pack(
        "<HHHHHH", 0x12, 32, 0x0B, 32, 0x27, 48
    )  # SM3, SHA-256, SHA3-256 of a size of its own
    data = header(b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, 3) + sizes + b"\0")
    for content in (b"first", b"second"):
        known.add(4, types.EV_ACTION, content)
        digest = known.event(4, types.EV_ACTION, {}, b"")
        digests = struct.pack("<H", 0x12) + bytes(32) + struct.pack("<H", 0x0B)
        digests += (
            LogBuilder(["sha256"])
            .add(4, types.EV_ACTION, content)
            .data[-len(content) - 36 : -len(content) - 4]
        )
        digests += struct.pack("<H", 0x27) + bytes(48)
        data += digest[:8] + struct.pack("<I", 3) + digests + struct.pack("<I", len(content)) + content
    log = parse_event_log(data)
    assert log.banks == ("sm3_256", "sha256", "algorithm 0x0027")
    assert replay(log, "sha256") == known.pcrs["sha256"]
    for bank in ("sm3_256", "algorithm 0x0027"):
        with pytest.raises(Refusal, match="has no digests for bank"):
            replay(log, bank)


REFUSED = {
    "vendor information beyond the log": (
        header(SPECIFICATION[:-1] + b"\xff"),
        "vendorInfo: needs 255 bytes",
    ),
    "part of the vendor information": (header(SPECIFICATION[:-1] + b"\x04ab") + BODY, "needs 4 bytes"),
    "a tail that is not zero": (
        header(SPECIFICATION + b"\0\1") + BODY,
        "2 trailing bytes, and not only zeros",
    ),
    "cut between algorithms": (header(SPECIFICATION[:-5]) + BODY, "digestSizes|algorithmId|digestSize"),
    "SM3 of no size": (
        header(b"Spec ID Event03\0" + struct.pack("<IBBBBIHH", 0, 0, 2, 0, 2, 1, 0x12, 0) + b"\0"),
        "with 0 bytes",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_header_that_lies_is_refused(name: str) -> None:
    data, words = REFUSED[name]
    with pytest.raises(InvalidField, match=words) as refusal:
        parse_event_log(data)
    assert refusal.value.code == "event_log_malformed"


@pytest.mark.parametrize("uncounted", [1, 4, 7])
def test_vendor_information_that_is_not_there_leads_to_no_pcr(uncounted: int) -> None:
    """A header that announces bytes which are events: the log is cut wrongly, and proves nothing."""
    try:
        log = parse_event_log(header(SPECIFICATION[:-1] + bytes([uncounted])) + BODY)
        assert replay(log, "sha256") != GENUINE.pcrs["sha256"]
    except Refusal as refusal:
        assert refusal.code in ("event_log_malformed", "event_log_replay")


def test_an_h_crtm_event_starts_pcr_0_at_4_unless_the_log_says_otherwise() -> None:
    measured = LogBuilder().add(0, types.EV_EFI_HCRTM_EVENT, b"HCRTM", b"code")
    log = parse_event_log(measured.data)
    assert (log.startup_locality, log.start_locality) == (None, 4)
    assert replay(log, "sha256") == measured.pcrs["sha256"]
    for locality in (0, 3, 4):
        told = LogBuilder().startup_locality(locality).add(0, types.EV_EFI_HCRTM_EVENT, b"HCRTM", b"code")
        log = parse_event_log(told.data)
        assert log.start_locality == locality
        assert replay(log, "sha256") == told.pcrs["sha256"]
    late = LogBuilder().add(0, types.EV_POST_CODE, b"x").add(0, types.EV_EFI_HCRTM_EVENT, b"HCRTM")
    assert parse_event_log(late.data).start_locality is None


@pytest.mark.parametrize(
    ("data", "measured"),
    [(b"", bytes(4)), (b"", b"\xff" * 4), (b"TPM failed", b"\1\0\0\0"), (b"x" * 8, bytes(4))],
)
def test_a_separator_is_what_its_digest_says(data: bytes, measured: bytes) -> None:
    builder = LogBuilder().add(7, types.EV_SEPARATOR, data, measured).add(7, types.EV_ACTION, b"late")
    separator, late = parse_event_log(builder.data).events[1:]
    assert separator.digest_verified("sha256") is True
    assert separator.measured_content("sha256") == measured
    assert late.after_separator


def test_a_separator_under_another_name_separates() -> None:
    builder = LogBuilder().add(7, types.EV_ACTION, bytes(4)).add(7, types.EV_ACTION, b"late")
    assert parse_event_log(builder.data).events[2].after_separator
