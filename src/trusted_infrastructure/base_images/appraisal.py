# SPDX-License-Identifier: GPL-3.0-or-later
"""Evidence against base images: the image that it matches, or a refusal that says what differs.

The usual case comes first and is quick: some image matches. Only when none does are all of them compared in
full, to find the closest and to name what differs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from trusted_infrastructure.base_images import wording
from trusted_infrastructure.base_images.capturing import explained_pcrs
from trusted_infrastructure.base_images.exact import ExactPcrs
from trusted_infrastructure.base_images.observed import Observed
from trusted_infrastructure.base_images.rules import BANKS, REQUIRED_PCRS, first_deviation
from trusted_infrastructure.config.documents import BaseImage, ReferencePcr
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tpm import secure_boot
from trusted_infrastructure.tpm.event_log import EventLog, initial_value
from trusted_infrastructure.tpm.event_text import shown

_ORDER = {"ACTIVE": 0, "STAGED": 1}  # which one to report where several match
_REQUIRED = frozenset(map(str, REQUIRED_PCRS))
_BEFORE_ALL = -1


@dataclass(frozen=True, slots=True)
class Difference:
    """Where evidence leaves an image. order: position in the boot, for choosing the first one to report.
    text: says it, asked only of the one that is reported. equal: events of the PCR that were right before."""

    pcr: int
    order: int
    text: Callable[[], str]
    code: str = "base_image_mismatch"
    equal: int = 0


@dataclass(frozen=True)
class _Comparison:
    image: BaseImage
    matched_pcrs: int
    matched_events: int
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class _Evidence:
    """What is judged. explained: PCRs whose signed value the log leads to."""

    values: Mapping[int, bytes]
    explained: frozenset[int]
    observed: Observed
    exact: ExactPcrs | None = None


def images_for(images: Mapping[str, BaseImage], allowed: Collection[str]) -> list[BaseImage]:
    """The images that a scope may use, of any state. images: document id -> image; allowed: ids, or "*" for
    all."""
    return [image for name, image in sorted(images.items()) if "*" in allowed or name in allowed]


def quote_selection(images: Collection[BaseImage]) -> tuple[str, tuple[int, ...]]:
    """Bank and PCRs to ask a quote for: all PCRs that images of the bank cover, and REQUIRED_PCRS.

    The bank is that of the images that are accepted; where they differ, the first of BANKS that one of them
    has. Retired images count only for their PCRs, so that who still boots one is told so.
    Raises Refusal `no_base_image` when there is no image.
    """
    if not images:
        raise Refusal(
            "no_base_image",
            "the scope of this host has no base image",
            "Capture a base image on a host that you trust, import it, and allow it for the scope.",
        )
    accepted = [image for image in images if image.state in _ORDER] or images
    bank = next(bank for bank in BANKS if any(image.bank == bank for image in accepted))
    covered = {int(pcr) for image in images if image.bank == bank for pcr in image.pcrs}
    return bank, tuple(sorted(covered | set(REQUIRED_PCRS)))


def appraise(
    images: Collection[BaseImage],
    bank: str,
    values: Mapping[int, bytes],
    log: EventLog,
    exact: ExactPcrs | None = None,
) -> BaseImage:
    """The image that the evidence matches: an active one before a staged one (`BaseImage.state` says which).

    values: PCR -> signed value, for all PCRs that were quoted. log: the event log, as parsed; it is replayed
    here. exact: of these images, made beforehand, for speed.
    Raises Refusal `base_image_mismatch` (the first differing event of the closest image),
    `base_image_retired` (only a retired image matches), `event_log_replay` (the log does not explain a PCR
    that it must), `no_base_image`.
    """
    candidates = [image for image in images if image.bank == bank]
    if not candidates:
        raise Refusal("no_base_image", f"the scope of this host has no base image of bank {bank}")
    evidence = _Evidence(values, explained_pcrs(log, bank, values), Observed(log, bank), exact)
    accepted = sorted((image for image in candidates if image.state in _ORDER), key=_order)
    for image in accepted:
        if _matches(image, evidence):
            return image
    retired = [image for image in candidates if image.state not in _ORDER]
    for image in retired:
        if _matches(image, evidence):
            raise _retired(image)
    raise _mismatch([_compare(image, evidence) for image in accepted or retired], bool(accepted))


def _order(image: BaseImage) -> int:
    return _ORDER[image.state]


def _matches(image: BaseImage, evidence: _Evidence) -> bool:
    if not _REQUIRED <= image.pcrs.keys():
        return False
    # Most images that do not match are out by a comparison of values, before any rule is looked at.
    if evidence.exact is not None and evidence.exact.excludes(image, evidence.values):
        return False
    return all(_pcr_matches(int(name), reference, evidence) for name, reference in image.pcrs.items())


def _pcr_matches(pcr: int, reference: ReferencePcr, evidence: _Evidence) -> bool:
    if evidence.exact is not None and pcr in evidence.explained:
        matches = evidence.exact.matches(pcr, reference, evidence.values[pcr], evidence.observed)
        if matches is False:
            return False
        if matches and reference.secure_boot is None:
            return True
        if matches:
            return evidence.observed.secure_boot().enabled is reference.secure_boot
    return _difference(pcr, reference, evidence) is None


def _compare(image: BaseImage, evidence: _Evidence) -> _Comparison:
    differences = [
        Difference(pcr, _BEFORE_ALL, _plain(f"the image does not cover PCR {pcr}, which every image must"))
        for pcr in REQUIRED_PCRS
        if str(pcr) not in image.pcrs
    ]
    matched_pcrs = matched_events = 0
    for name, reference in image.pcrs.items():
        difference = _difference(int(name), reference, evidence)
        if difference is None:
            matched_pcrs += 1
            matched_events += len(evidence.observed.log.events_of(int(name)))
        else:
            matched_events += difference.equal
            differences.append(difference)
    return _Comparison(image, matched_pcrs, matched_events, tuple(differences))


def _difference(pcr: int, reference: ReferencePcr, evidence: _Evidence) -> Difference | None:
    """What differs in one PCR, None where nothing does."""
    log, bank = evidence.observed.log, evidence.observed.bank
    after_all = len(log.events)
    found = evidence.values.get(pcr)
    if found is None:
        return Difference(pcr, after_all, _plain(f"PCR {pcr} was not quoted"))
    if (reference.value is None) == (reference.events is None):
        return Difference(
            pcr, _BEFORE_ALL, _plain(f"PCR {pcr} of the image: not exactly one of value, events")
        )
    events = log.events_of(pcr)
    if reference.events is None:
        if found.hex() == reference.value:
            return None
        order = events[0].index if events else after_all
        return Difference(pcr, order, partial(_value_text, pcr, reference.value or "", evidence))
    if pcr not in evidence.explained:
        replayed = log.value_of(pcr, bank).hex()
        text = f"PCR {pcr}: the event log leads to {replayed}, but the TPM signed {found.hex()}"
        return Difference(pcr, _BEFORE_ALL, _plain(text), "event_log_replay")
    deviation = first_deviation(pcr, reference, evidence.observed)
    if deviation is not None:
        order = after_all if deviation.found is None else deviation.found.index
        text_of = partial(wording.deviation, pcr, deviation, evidence.observed)
        return Difference(pcr, order, text_of, equal=deviation.equal)
    if reference.secure_boot is not None:
        return _secure_boot_difference(reference.secure_boot, evidence.observed)
    return None


def _plain(text: str) -> Callable[[], str]:
    return lambda: text


def _value_text(pcr: int, expected: str, evidence: _Evidence) -> str:
    log, bank = evidence.observed.log, evidence.observed.bank
    events = log.events_of(pcr)
    if events and pcr in evidence.explained and expected == initial_value(pcr, bank).hex():
        digest = events[0].digests[bank].hex()
        return f"{wording.label(events[0], bank)}: expected no event in PCR {pcr}, found digest {digest}"
    return f"PCR {pcr}: expected value {shown(expected)}, found {evidence.values[pcr].hex()}"


def _secure_boot_difference(expected: bool, observed: Observed) -> Difference | None:
    found = observed.secure_boot()
    if found.enabled is expected:
        return None
    state = {True: "on", False: "off", None: f"nothing that can be believed: {found.reason}"}[found.enabled]
    text = f"PCR 7: expected Secure Boot {'on' if expected else 'off'}, found {state}"
    return Difference(secure_boot.PCR, len(observed.log.events), _plain(text))


def _retired(image: BaseImage) -> Refusal:
    return Refusal(
        "base_image_retired",
        f"the host boots base image {image.image_version} ({image.display_name}), which is retired",
        "Upgrade the host to an image that is active or staged. To trust this one again, reactivate it.",
    )


def _mismatch(comparisons: Sequence[_Comparison], accepted: bool) -> Refusal:
    closest = max(comparisons, key=lambda one: (one.matched_pcrs, one.matched_events))
    first = min(closest.differences, key=lambda difference: (difference.order, difference.pcr))
    others = sorted({difference.pcr for difference in closest.differences} - {first.pcr})
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
    image = closest.image.image_version if accepted else f"{closest.image.image_version} (all are retired)"
    return Refusal(first.code, f"{first.text()}{also}; closest base image: {image}", remedy)
