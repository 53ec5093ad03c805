# SPDX-License-Identifier: GPL-3.0-or-later
"""TCG event logs: parse the form, replay the PCRs. What the events mean is in `event_data`.

An event log is a story told by the host. Only two things make it evidence: the digests, replayed, give the
PCRs that a TPM signed; and the content of an event hashes to its digest (`Event.digest_verified`). Everything
else in it is words, the types of its events included: no digest covers them.

Rules:
- bounds before anything: size, number of events, every length against what is left;
- the form is exact: digest sizes are those of the header, no algorithm twice, nothing after the last event
  but padding of one repeated byte; what real firmware does beside that is listed in `event_quirks`;
- EV_NO_ACTION is never extended; every other event extends its PCR, with a digest for the bank or not at all;
- an event says whether its PCR's separator came before it: what follows is not firmware configuration. A
  separator is what has a separator's digest, or says that it is one.

Sources: TCG PC Client Platform Firmware Profile 1.06, 10.2 (TCG_PCR_EVENT, TCG_PCR_EVENT2), 10.4.5
(Specification ID Version, StartupLocality); TCG EFI Platform Specification 1.22, 7 (legacy logs); TPM 2.0
Library Part 1, 34.3 (PCR 0 after an H-CRTM sequence).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from trusted_infrastructure.refusal import InvalidField, Refusal
from trusted_infrastructure.tpm import algorithms, event_data, event_digest, event_types
from trusted_infrastructure.tpm.event_header import HEADER_SIGNATURE, content_end, specification_id

MAXIMUM_SIZE = 4 << 20  # real logs have 10 to 200 kB; option ROM events make the largest
MAXIMUM_EVENTS = 16_384  # bounds the objects that a log of minimal events would make
PCR_COUNT = 24
_CODE = "event_log_malformed"
_REMEDY = "send the log exactly as the firmware wrote it (binary_bios_measurements)"
_STARTUP_LOCALITY = b"StartupLocality\0"
_H_CRTM_LOCALITY = 4
_LEGACY_HEADER = struct.Struct("<II20sI")  # pcrIndex, eventType, SHA-1 digest, eventDataSize
_AGILE_HEADER = struct.Struct("<III")  # pcrIndex, eventType, digest count
_ALGORITHM = struct.Struct("<H")
_SIZE = struct.Struct("<I")
_SEPARATOR_DIGESTS = frozenset(
    hash_.digest(value) for hash_ in algorithms.HASHES.values() for value in event_digest.SEPARATORS
)


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event of a log.

    index: position in the log, the header is 0. pcr: PCR index (0xffffffff in some EV_NO_ACTION events).
    type: event type number. digests: bank name to digest, as logged. data: event data, as logged.
    after_separator: whether a separator of the same PCR came before.
    """

    index: int
    pcr: int
    type: int
    digests: Mapping[str, bytes]
    data: bytes
    after_separator: bool

    @property
    def type_name(self) -> str:
        """Such as 'EV_EFI_GPT_EVENT'."""
        return event_types.name_of(self.type)

    @property
    def extends(self) -> bool:
        """Whether the event was extended into its PCR."""
        return self.type != event_types.EV_NO_ACTION

    @property
    def decoded(self) -> event_data.Decoded | None:
        """The event data, decoded; None where it has no form that we know, or is not of that form. Believe it
        only as far as `digest_verified` goes."""
        return event_data.decode(self.type, self.data)

    @property
    def description(self) -> str:
        """What was measured, in words that are the same for the same kind of event on all hosts."""
        return event_data.describe(self.pcr, self.type, self.data)

    def digest_verified(self, bank: str) -> bool | None:
        """Whether the event's content hashes to its digest in `bank`.

        True: it does, so the content is what was measured. False: by its type it must, and does not. None:
        the digest is over something that is not in the log (a file, firmware code).
        """
        return event_digest.verify(self.type, self.data, self.digests.get(bank), bank)

    def measured_content(self, bank: str) -> bytes | None:
        """The bytes of the event data that its digest in `bank` is over; None where it is over none of
        them."""
        return event_digest.measured_content(self.type, self.data, self.digests.get(bank), bank)

    @property
    def label(self) -> str:
        """How refusals name the event: 'event 17 (PCR 4, EV_SEPARATOR, separator)'."""
        return f"event {self.index} (PCR {self.pcr}, {self.type_name}, {self.description})"


@dataclass(frozen=True)
class EventLog:
    """A parsed log. banks: hash names for which the log has digests. crypto_agile: False for SHA-1 logs.
    startup_locality: locality of TPM2_Startup where the log says it (0, 3 or 4). padding: bytes of padding
    after the last event."""

    events: tuple[Event, ...]
    banks: tuple[str, ...]
    crypto_agile: bool
    startup_locality: int | None
    padding: int = 0
    _by_pcr: dict[int, tuple[Event, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _replayed: dict[str, dict[int, bytes]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        found: dict[int, list[Event]] = {}
        for event in self.events:
            if event.type != event_types.EV_NO_ACTION:
                found.setdefault(event.pcr, []).append(event)
        self._by_pcr.update((pcr, tuple(events)) for pcr, events in found.items())

    def events_of(self, pcr: int) -> tuple[Event, ...]:
        """The events that extended `pcr`, in order."""
        return self._by_pcr.get(pcr, ())

    @property
    def extended_pcrs(self) -> tuple[int, ...]:
        """The PCRs that the log extends, in the order in which it first does."""
        return tuple(self._by_pcr)

    @property
    def start_locality(self) -> int | None:
        """The locality that PCR 0 starts from: what the log says, or 4 where an H-CRTM was measured first."""
        first = self.events_of(0)[:1]
        if self.startup_locality is None and first and first[0].type == event_types.EV_EFI_HCRTM_EVENT:
            return _H_CRTM_LOCALITY
        return self.startup_locality

    def replayed(self, bank: str) -> Mapping[int, bytes]:
        """As `replay`, computed once."""
        known = self._replayed.get(bank)
        if known is None:
            known = self._replayed[bank] = _replay(self, bank)
        return known

    def value_of(self, pcr: int, bank: str) -> bytes:
        """The value that the log leads to for a PCR, extended or not. Raises Refusal (event_log_replay)."""
        return self.replayed(bank).get(pcr) or initial_value(pcr, bank, self.start_locality)


def parse_event_log(data: bytes) -> EventLog:
    """Parse a log as the firmware wrote it: crypto-agile (TCG_PCR_EVENT2) or legacy SHA-1 (TCG_PCR_EVENT).

    Raises InvalidField (event_log_malformed). Takes time and memory in proportion to the log, at most 4 MiB.
    """
    # Without limits, one request of an unattested host could take a worker's memory and minutes of its time.
    if len(data) > MAXIMUM_SIZE:
        raise _malformed(f"is {len(data)} bytes long: expected at most {MAXIMUM_SIZE}")
    if not data:
        raise _malformed("is empty")
    first, offset = _legacy_event(data, 0, 0, set())
    if first.type == event_types.EV_NO_ACTION and first.data.startswith(HEADER_SIGNATURE):
        sizes, uncounted = specification_id(first.data, data[offset : offset + 255])
        return _AgileLog(data, offset + uncounted, first, sizes).parse()
    return _legacy_log(data)


def replay(log: EventLog, bank: str) -> dict[int, bytes]:
    """PCR values that the log leads to in `bank`: PCR number to digest, for every PCR that it extends (and
    PCR 0 where the log gives its start value).

    Raises Refusal (event_log_replay) when the log has no digests for the bank, or an event lacks one.
    """
    return dict(log.replayed(bank))


def _replay(log: EventLog, bank: str) -> dict[int, bytes]:
    hash_ = algorithms.HASHES_BY_NAME.get(bank)
    if hash_ is None or bank not in log.banks:
        raise Refusal(
            "event_log_replay",
            f"event log: has no digests for bank {bank!r}, only for {', '.join(log.banks) or 'none'}",
            "choose a bank that the firmware logs, or enable the bank in the firmware",
        )
    new = getattr(hashlib, hash_.name)
    values: dict[int, bytes] = {}
    if log.start_locality is not None:
        values[0] = initial_value(0, bank, log.start_locality)
    for pcr in log.extended_pcrs:
        value = values.get(pcr) or bytes(hash_.size)
        for event in log.events_of(pcr):
            digest = event.digests.get(bank)
            # Without this, leaving out a bank's digest would hide an event from that bank's replay.
            if digest is None:
                raise Refusal("event_log_replay", f"{event.label}: has no digest for bank {bank}", _REMEDY)
            value = new(value + digest).digest()
        values[pcr] = value
    return values


def initial_value(pcr: int, bank: str, startup_locality: int | None = None) -> bytes:
    """Value of a PCR that nothing was extended into: zeros; ones for PCR 17 to 22 (no dynamic launch); PCR 0
    ends with the locality of TPM2_Startup (PC Client Platform TPM Profile 1.05, 4.6.2; Part 3, 9.3)."""
    size = algorithms.HASHES_BY_NAME[bank].size
    if pcr == 0 and startup_locality:
        return bytes(size - 1) + bytes([startup_locality])
    return b"\xff" * size if 17 <= pcr <= 22 else bytes(size)


def _malformed(message: str) -> InvalidField:
    return InvalidField("event_log", message, _CODE, _REMEDY)


def _checked_pcr(index: int, pcr: int, event_type: int) -> None:
    # A PCR that does not exist cannot be in a quote: an event there could claim anything and prove nothing.
    # EV_NO_ACTION is extended nowhere and uses 0xffffffff for 'no PCR'.
    if pcr >= PCR_COUNT and event_type != event_types.EV_NO_ACTION:
        raise _malformed(f"event {index} ({event_types.name_of(event_type)}): there is no PCR {pcr}")


def _limit(count: int) -> None:
    if count >= MAXIMUM_EVENTS:
        raise _malformed(f"has more than {MAXIMUM_EVENTS} events")


def _legacy_event(data: bytes, offset: int, index: int, separated: set[int]) -> tuple[Event, int]:
    """One TCG_PCR_EVENT at `offset`, and the offset after it."""
    start = offset + _LEGACY_HEADER.size
    if start > len(data):
        raise _malformed(f"event {index}: is cut at byte {len(data)}")
    pcr, event_type, digest, size = _LEGACY_HEADER.unpack_from(data, offset)
    if size > len(data) - start:
        raise _malformed(f"event {index}: data of {size} bytes, but only {len(data) - start} are left")
    _checked_pcr(index, pcr, event_type)
    event = Event(index, pcr, event_type, {"sha1": digest}, data[start : start + size], pcr in separated)
    if event_type == event_types.EV_SEPARATOR or digest in _SEPARATOR_DIGESTS:
        separated.add(pcr)
    return event, start + size


def _legacy_log(data: bytes) -> EventLog:
    events: list[Event] = []
    separated: set[int] = set()
    offset, end = 0, content_end(data)
    while offset < end:
        _limit(len(events))
        event, offset = _legacy_event(data, offset, len(events), separated)
        events.append(event)
    return EventLog(tuple(events), ("sha1",), False, _startup_locality(events), max(len(data) - offset, 0))


class _AgileLog:
    """Parses what follows the header of a crypto-agile log. sizes: TPM_ALG_ID to (bank name, digest size)."""

    def __init__(self, data: bytes, offset: int, header: Event, sizes: Mapping[int, tuple[str, int]]) -> None:
        self._data = data
        self._offset = offset
        self._header = data[:offset]
        self._events = [header]
        self._separated: set[int] = set()
        self._sizes = sizes
        self._banks = tuple(name for name, _size in sizes.values())
        # Nearly all events have one digest for each algorithm, in the header's order: read in one go.
        self._algorithms = tuple(sizes)
        self._usual = struct.Struct(f"<III{''.join(f'H{size}s' for _name, size in sizes.values())}I")

    def parse(self) -> EventLog:
        data, end, events, separated = self._data, content_end(self._data), self._events, self._separated
        while self._offset < end:
            index = len(events)
            _limit(index)
            pcr, event_type, digests, start, size = self._usual_event() or self._event(index)
            left = len(data) - start
            if size > left:
                raise _malformed(f"event {index}: data of {size} bytes, but only {left} are left")
            self._offset = start + size
            events.append(
                Event(index, pcr, event_type, digests, data[start : self._offset], pcr in separated)
            )
            if event_type == event_types.EV_SEPARATOR or not _SEPARATOR_DIGESTS.isdisjoint(digests.values()):
                separated.add(pcr)
        padding = len(data) - self._offset
        return EventLog(tuple(events), self._banks, True, _startup_locality(events), max(padding, 0))

    def _usual_event(self) -> tuple[int, int, dict[str, bytes], int, int] | None:
        """PCR, type, digests, offset and size of the data of the event here; None where it has another form
        than most, and `_event` must look."""
        usual, data = self._usual, self._data
        start = self._offset + usual.size
        if start > len(data):
            return None
        fields = usual.unpack_from(data, self._offset)
        if fields[2] != len(self._banks) or fields[3:-1:2] != self._algorithms or fields[0] >= PCR_COUNT:
            return None
        return fields[0], fields[1], dict(zip(self._banks, fields[4:-1:2], strict=True)), start, fields[-1]

    def _event(self, index: int) -> tuple[int, int, dict[str, bytes], int, int]:
        """As `_usual_event`, for every TCG_PCR_EVENT2."""
        data, offset, end = self._data, self._offset, len(self._data)
        if data.startswith(self._header, offset):  # `event_quirks`: a header that is there twice
            start = offset + _LEGACY_HEADER.size
            return 0, event_types.EV_NO_ACTION, {}, start, len(self._header) - _LEGACY_HEADER.size
        if end - offset < _AGILE_HEADER.size:
            raise _malformed(f"event {index}: is cut at byte {end}")
        pcr, event_type, count = _AGILE_HEADER.unpack_from(data, offset)
        offset += _AGILE_HEADER.size
        _checked_pcr(index, pcr, event_type)
        if count > len(self._sizes):
            named = len(self._sizes)
            raise _malformed(f"event {index}: has {count} digests: the header names {named} algorithms")
        digests: dict[str, bytes] = {}
        for _index in range(count):
            if end - offset < _ALGORITHM.size:
                raise _malformed(f"event {index}: is cut at byte {end}")
            (algorithm,) = _ALGORITHM.unpack_from(data, offset)
            bank, size = self._sizes.get(algorithm, ("", 0))
            # An algorithm that the header does not name has no known size: what follows would be misread.
            if not bank or bank in digests:
                name = algorithms.name_of(algorithm)
                raise _malformed(f"event {index}: {name} is not in the header, or given twice")
            offset += _ALGORITHM.size + size
            digests[bank] = data[offset - size : offset]
        if end - offset < _SIZE.size:
            raise _malformed(f"event {index}: is cut at byte {end}")
        return pcr, event_type, digests, offset + _SIZE.size, _SIZE.unpack_from(data, offset)[0]


def _startup_locality(events: list[Event]) -> int | None:
    """Locality from the EV_NO_ACTION event StartupLocality (PFP 10.4.5.3), None where there is none."""
    found: int | None = None
    for event in events:
        if event.type != event_types.EV_NO_ACTION or not event.data.startswith(_STARTUP_LOCALITY):
            continue
        if len(event.data) != len(_STARTUP_LOCALITY) + 1 or event.data[-1] not in (0, 3, 4):
            raise _malformed(f"event {event.index}: StartupLocality must be 0, 3 or 4")
        # Two start values: one of them is invented, and which one would be the reader's choice.
        if found is not None and found != event.data[-1]:
            raise _malformed(f"event {event.index}: StartupLocality {event.data[-1]} after {found}")
        found = event.data[-1]
    return found
