# SPDX-License-Identifier: GPL-3.0-or-later
"""Base images: capture the reference values of a host, and appraise evidence against them. Pure.

A base image says, for each PCR that it covers, either the events that extend it, in order, or its final
value. PROTOCOL 3.4, 3.6.

Rules of appraisal
1. An image covers at least REQUIRED_PCRS: what runs before user space does. An image that leaves one of them
   out matches nobody, so that a careless import is not an open door.
2. Only the image's own bank counts, and only values that the TPM signed.
3. A PCR with `events`: the log explains the PCR's signed value by replay, and its events have the same types
   and digests in the same order, no more and no fewer. What the log says *about* an event (its data) is never
   compared: the digest is what was measured.
4. A PCR with `value`: the signed value is that value.
5. The host matches when all PCRs of one image match. It may boot in one of several states (staging an
   upgrade), but never in a mixture of two.

Rules of capture
- DEFAULT_PCRS are captured. Left out, because machines of equal software differ in them: 1 (settings of the
  machine, boot order), 5 (partition table with its unique ids), 6 (what the machine's maker measures), 10
  (IMA's list, which grows), 15 (machine id, volume keys), 16 and 23 (open to everybody), 17 to 22 (dynamic
  launch). Others can be asked for.
- A PCR is captured by its events where the log explains its value, which gives refusals that name the event;
  by its value where it had no event, or was extended by somebody who is not in the firmware's log.
- `userspace` is `verity` only where a measured command line holds the root hash; `ima` is never assumed.

What an image does not fix: the locality that PCR 0 starts from, when PCR 0 is covered by events.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from trusted_infrastructure.config.documents import BaseImage, ReferenceEvent, ReferencePcr
from trusted_infrastructure.refusal import InvalidField, Refusal
from trusted_infrastructure.tpm.event_log import Event, EventLog, initial_value, replay

Userspace = Literal["verity", "ima", "none"]

REQUIRED_PCRS = (0, 2, 4, 7, 8, 9, 11, 12, 13, 14)
DEFAULT_PCRS = (0, 2, 3, 4, 7, 8, 9, 11, 12, 13, 14)
BANKS = ("sha256", "sha384", "sha512")  # in the order in which a scope's images choose the bank to quote

MAX_DESCRIPTION = 200

# PCRs that a boot loader, a boot stub or a kernel measures its command line into.
_COMMAND_LINE_PCRS = frozenset({8, 9, 11, 12})
_ROOT_HASH = re.compile(r"(?:^|\s)(?:\S+\.)?(?:usr|root)hash=[0-9a-f]{64,128}(?:\s|$)")


@dataclass(frozen=True)
class Difference:
    """Where evidence leaves an image. order: position in the boot, for choosing the first one to report."""

    pcr: int
    order: int
    text: str
    code: str = "base_image_mismatch"


@dataclass(frozen=True)
class _Comparison:
    image: BaseImage
    matched_pcrs: int
    matched_events: int
    differences: tuple[Difference, ...]


def images_for(images: Mapping[str, BaseImage], allowed: Collection[str]) -> list[BaseImage]:
    """The images that a scope may use. images: document id -> image; allowed: ids, or "*" for all."""
    return [image for name, image in sorted(images.items()) if "*" in allowed or name in allowed]


def quote_selection(images: Collection[BaseImage]) -> tuple[str, tuple[int, ...]]:
    """Bank and PCRs to ask a quote for: all PCRs that images of the bank cover, and REQUIRED_PCRS.

    The bank is that of the images; where they differ, the first of BANKS that one of them has.
    Raises Refusal `no_base_image` when there is none.
    """
    if not images:
        raise Refusal(
            "no_base_image",
            "the scope of this host has no base image",
            "Capture a base image on a host that you trust, import it, and allow it for the scope.",
        )
    bank = next(bank for bank in BANKS if any(image.bank == bank for image in images))
    covered = {int(pcr) for image in images if image.bank == bank for pcr in image.pcrs}
    return bank, tuple(sorted(covered | set(REQUIRED_PCRS)))


def appraise(
    images: Collection[BaseImage], bank: str, values: Mapping[int, bytes], log: EventLog
) -> BaseImage:
    """The image that the evidence matches.

    values: PCR -> signed value, for all PCRs that were quoted. log: the event log, as parsed; it is replayed
    here. Raises Refusal `base_image_mismatch` (the first differing event of the closest image),
    `event_log_replay` (the log does not explain a PCR), `no_base_image`.
    """
    candidates = [image for image in images if image.bank == bank]
    if not candidates:
        raise Refusal("no_base_image", f"the scope of this host has no base image of bank {bank}")
    explained = explained_pcrs(log, bank, values)
    comparisons = []
    for image in candidates:
        comparison = _compare(image, values, explained, log)
        if not comparison.differences:
            return image
        comparisons.append(comparison)
    closest = max(comparisons, key=lambda one: (one.matched_pcrs, one.matched_events))
    raise _mismatch(closest)


def capture(
    log: EventLog,
    values: Mapping[int, bytes],
    *,
    bank: str,
    image_version: str,
    display_name: str,
    userspace: Userspace | None = None,
    pcrs: Iterable[int] = DEFAULT_PCRS,
) -> BaseImage:
    """A base image of the state that a host is in.

    values: PCR -> digest as the TPM has them in `bank`, at least for `pcrs` and REQUIRED_PCRS.
    userspace: None finds out from the log (`userspace_of`).
    Raises InvalidField for a missing PCR or an unknown bank, Refusal `event_log_replay` for a log of another
    bank.
    """
    wanted = sorted(set(pcrs) | set(REQUIRED_PCRS))
    missing = [pcr for pcr in wanted if pcr not in values]
    if missing or bank not in BANKS:
        raise InvalidField("pcrs", f"PCR values of bank {bank!r} are missing: {missing}")
    explained = explained_pcrs(log, bank, values)
    references = {str(pcr): _reference(pcr, bank, values[pcr], explained, log) for pcr in wanted}
    return BaseImage(
        image_version=image_version,
        display_name=display_name,
        bank=_bank(bank),
        pcrs=references,
        userspace=userspace_of(log, bank) if userspace is None else userspace,
    )


def explained_pcrs(log: EventLog, bank: str, values: Mapping[int, bytes]) -> frozenset[int]:
    """Those PCRs of `values` whose value the log leads to. Raises Refusal `event_log_replay`."""
    replayed = replay(log, bank)
    return frozenset(
        pcr
        for pcr, value in values.items()
        if value == replayed.get(pcr, initial_value(pcr, bank, log.startup_locality))
    )


def userspace_of(log: EventLog, bank: str) -> Userspace:
    """`verity` when a command line in the log, whose content hashes to its digest, holds a root hash."""
    for pcr in sorted(_COMMAND_LINE_PCRS):
        for event in log.events_of(pcr):
            measured = event.measured_content(bank)
            if measured is not None and _holds_root_hash(measured):
                return "verity"
    return "none"


def _bank(bank: str) -> Literal["sha256", "sha384", "sha512"]:
    match bank:
        case "sha256" | "sha384" | "sha512":
            return bank
    raise InvalidField("bank", f"{bank!r} is not a bank of base images: {', '.join(BANKS)}")


def _reference(pcr: int, bank: str, value: bytes, explained: Collection[int], log: EventLog) -> ReferencePcr:
    events = log.events_of(pcr)
    if pcr not in explained or not events:
        return ReferencePcr(value=value.hex())
    return ReferencePcr(
        events=[
            ReferenceEvent(event.type_name, event.digests[bank].hex(), event.description[:MAX_DESCRIPTION])
            for event in events
        ]
    )


def _compare(
    image: BaseImage, values: Mapping[int, bytes], explained: Collection[int], log: EventLog
) -> _Comparison:
    differences = [
        Difference(pcr, -1, f"the image does not cover PCR {pcr}, which every image must")
        for pcr in REQUIRED_PCRS
        if str(pcr) not in image.pcrs
    ]
    matched_pcrs = matched_events = 0
    for name, reference in sorted(image.pcrs.items(), key=lambda item: int(item[0])):
        difference, equal_events = _compare_pcr(int(name), reference, image.bank, values, explained, log)
        matched_events += equal_events
        if difference is None:
            matched_pcrs += 1
        else:
            differences.append(difference)
    return _Comparison(image, matched_pcrs, matched_events, tuple(differences))


def _compare_pcr(
    pcr: int,
    reference: ReferencePcr,
    bank: str,
    values: Mapping[int, bytes],
    explained: Collection[int],
    log: EventLog,
) -> tuple[Difference | None, int]:
    """What differs in one PCR (None: nothing), and how many events were equal before it."""
    events = log.events_of(pcr)
    after_all = len(log.events)
    found = values.get(pcr)
    if found is None:
        return Difference(pcr, after_all, f"PCR {pcr} was not quoted"), 0
    if (reference.value is None) == (reference.events is None):
        return Difference(pcr, -1, f"PCR {pcr} of the image has not exactly one of value and events"), 0
    if reference.events is None:
        if found.hex() == reference.value:
            return None, len(events)
        order = events[0].index if events else after_all
        return Difference(pcr, order, f"PCR {pcr}: expected value {reference.value}, found {found.hex()}"), 0
    if pcr not in explained:
        text = f"PCR {pcr}: the event log does not lead to the value that the TPM signed, {found.hex()}"
        return Difference(pcr, after_all, text, "event_log_replay"), 0
    return _compare_events(pcr, reference.events, events, bank, after_all)


def _compare_events(
    pcr: int,
    expected: list[ReferenceEvent],
    found: tuple[Event, ...],
    bank: str,
    after_all: int,
) -> tuple[Difference | None, int]:
    equal = 0
    for wanted, event in zip(expected, found, strict=False):
        digest = event.digests[bank].hex()
        if (wanted.type, wanted.digest) != (event.type_name, digest):
            text = f"{event.label}: expected {_described(wanted)}, found digest {digest}"
            return Difference(pcr, event.index, text), equal
        equal += 1
    if len(found) > len(expected):
        extra = found[equal]
        text = (
            f"{extra.label}: expected no further event in PCR {pcr}, found digest {extra.digests[bank].hex()}"
        )
        return Difference(pcr, extra.index, text), equal
    if len(expected) > len(found):
        text = f"PCR {pcr}: expected a further event, {_described(expected[equal])}, found none"
        return Difference(pcr, after_all, text), equal
    return None, equal


def _described(event: ReferenceEvent) -> str:
    words = f" ({event.description})" if event.description else ""
    return f"{event.type}{words} with digest {event.digest}"


def _mismatch(comparison: _Comparison) -> Refusal:
    first = min(comparison.differences, key=lambda difference: (difference.order, difference.pcr))
    others = sorted({difference.pcr for difference in comparison.differences} - {first.pcr})
    also = f"; PCR {', '.join(map(str, others))} differ too" if others else ""
    remedy = (
        "Find out why the host boots something else. If it is meant to, capture a base image on a host that "
        "you trust and import it."
    )
    if first.code == "event_log_replay":
        remedy = (
            "Something extended this PCR that is not in the firmware's log, or the log was changed. "
            "Restart the host; if it stays, capture a new image, which will cover this PCR by its value."
        )
    closest = f"closest base image: {comparison.image.image_version}"
    return Refusal(first.code, f"{first.text}{also}; {closest}", remedy)


def _holds_root_hash(data: bytes) -> bool:
    texts = (data.decode("utf-16-le", "replace"), data.decode("utf-8", "replace"))
    return any(_ROOT_HASH.search(text.replace("\0", " ")) for text in texts)
