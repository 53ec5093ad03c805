# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules that reference values may have, and whether events keep them.

A PCR with `events` is a list of rules that is gone through once, front to back: an event that the current
rule does not accept ends the rule, if it had its event or may be absent, and is then held against the next
one. There is no going back, so the work is one step for each event and rule, and what a list accepts can be
read off it.

What loosens is bounded, because an image is a file that somebody writes and somebody else reviews:
- `varies` in none of REQUIRED_PCRS: those have the code and configuration that an image is there for;
- `presence` other than `once` there only for actions of the firmware, which are texts with an exact digest;
- placeholders in `content` there only in the PCRs of command lines (8, 9, 12).
An image is held to this when it is imported (`check_image`), and again, silently, when it is used.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from trusted_infrastructure.base_images import templates
from trusted_infrastructure.base_images.observed import Observed
from trusted_infrastructure.config.documents import BaseImage, ReferenceEvent, ReferencePcr
from trusted_infrastructure.refusal import InvalidField
from trusted_infrastructure.tpm import event_class, secure_boot
from trusted_infrastructure.tpm.event_log import Event

REQUIRED_PCRS = (0, 2, 4, 7, 8, 9, 11, 12, 13, 14)
BANKS = ("sha256", "sha384", "sha512")  # in the order in which a scope's images choose the bank to quote

MAXIMUM_EVENTS = 8192  # of an image; logs have some hundred
MAXIMUM_DIGESTS = 256  # of a rule
MAXIMUM_DESCRIPTION = 1024  # characters; capture writes 200
_DIGEST_DIGITS = {"sha256": 64, "sha384": 96, "sha512": 128}
_TEMPLATE_PCRS = frozenset({8, 9, 12})
_ACTIONS = frozenset({"EV_ACTION", "EV_EFI_ACTION", "EV_OMIT_BOOT_DEVICE_EVENTS"})
_REQUIRED = frozenset(REQUIRED_PCRS)


# ---- what an image may say


def check_image(image: BaseImage) -> None:
    """Refuse an image whose rules are no rules, or open what must be closed.

    Raises InvalidField with the path of the field ("pcrs.4.events[2].varies").
    """
    if not image.pcrs:
        raise InvalidField("pcrs", "must have reference values of at least one PCR")
    if sum(len(reference.events or ()) for reference in image.pcrs.values()) > MAXIMUM_EVENTS:
        raise InvalidField("pcrs", f"has more than {MAXIMUM_EVENTS} events")
    for number, reference in image.pcrs.items():
        _check_pcr(f"pcrs.{number}", int(number), reference, _DIGEST_DIGITS[image.bank])


def _check_pcr(field: str, pcr: int, reference: ReferencePcr, digits: int) -> None:
    if (reference.value is None) == (reference.events is None):
        raise InvalidField(field, "must have exactly one of value and events")
    if reference.secure_boot is not None and (pcr != secure_boot.PCR or reference.events is None):
        raise InvalidField(f"{field}.secure_boot", "is for PCR 7 with events only")
    if reference.value is not None:
        _check_digest(f"{field}.value", reference.value, digits)
    if reference.events is not None and not reference.events:
        raise InvalidField(f"{field}.events", "must not be empty")
    for position, rule in enumerate(reference.events or ()):
        _check_rule(f"{field}.events[{position}]", pcr, rule, digits)


def _check_rule(field: str, pcr: int, rule: ReferenceEvent, digits: int) -> None:
    if not re.fullmatch("[A-Za-z0-9_ ]{1,64}", rule.type):
        raise InvalidField(f"{field}.type", "is not the name of an event type")
    if len(rule.description) > MAXIMUM_DESCRIPTION or not rule.description.isprintable():
        raise InvalidField(
            f"{field}.description", f"must be printable, at most {MAXIMUM_DESCRIPTION} characters"
        )
    if rule.digest is not None:
        _check_digest(f"{field}.digest", rule.digest, digits)
    if len(rule.digests) > MAXIMUM_DIGESTS:
        raise InvalidField(f"{field}.digests", f"has {len(rule.digests)}: expected at most {MAXIMUM_DIGESTS}")
    for index, digest in enumerate(rule.digests):
        _check_digest(f"{field}.digests[{index}]", digest, digits)
    if rule.class_ and not event_class.words_of(rule.class_):
        known = ", ".join(event_class.CLASSES)
        raise InvalidField(f"{field}.class", f"{rule.class_!r} is not a class: {known}")
    exact = rule.digest is not None or rule.digests
    if rule.varies and (exact or rule.content is not None or not rule.class_):
        raise InvalidField(f"{field}.varies", "stands alone, beside the class that the event must have")
    if not rule.varies and not exact and rule.content is None:
        raise InvalidField(field, "must have one of digest, digests, content and varies")
    if rule.content is not None:
        try:
            templates.check(rule.content)
        except InvalidField as error:
            raise InvalidField(f"{field}.content", error.message.partition(": ")[2]) from None
    loosening = _loosening(pcr, rule)
    if loosening is not None:
        raise InvalidField(f"{field}.{loosening[0]}", loosening[1])


def _loosening(pcr: int, rule: ReferenceEvent) -> tuple[str, str] | None:
    """(field, why) of what may not be in a rule of this PCR, None where nothing is."""
    if rule.content is not None and not templates.is_template(rule.content):
        return "content", "is not a template"
    if pcr not in _REQUIRED:
        return None
    if rule.varies:
        return "varies", f"PCR {pcr} holds what the host runs: it may not vary"
    if rule.presence != "once" and (rule.type not in _ACTIONS or rule.content is not None):
        return "presence", f"in PCR {pcr} only actions of the firmware may be absent or repeated"
    if rule.content is not None and pcr not in _TEMPLATE_PCRS and templates.has_placeholder(rule.content):
        return "content", f"placeholders are for the command lines of PCR 8, 9 and 12, not for PCR {pcr}"
    return None


def _check_digest(field: str, digest: str, digits: int) -> None:
    if not re.fullmatch(f"[0-9a-f]{{{digits}}}", digest):
        raise InvalidField(field, f"must have {digits} lower-case hexadecimal digits")


# ---- whether events keep the rules


@dataclass(frozen=True, slots=True)
class Deviation:
    """Where events leave the rules. equal: events before it. expected: the rule, None for an event too many.
    found: the event, None for one that is missing."""

    equal: int
    expected: ReferenceEvent | None
    found: Event | None


def first_deviation(pcr: int, reference: ReferencePcr, observed: Observed) -> Deviation | None:
    """Where the events of a PCR leave its rules, None where they keep them. The log explains the PCR."""
    rules = reference.events or []
    events, digests = observed.log.events_of(pcr), observed.digests(pcr)
    start = _equal_from_the_start(reference.exact, observed.pairs(pcr))
    position, count, had = start, len(rules), False
    for equal in range(start, len(events)):
        event, digest = events[equal], digests[equal]
        while position < count and not _accepts(pcr, rules[position], event, digest, observed):
            rule = rules[position]
            if not had and _presence(pcr, rule) in ("once", "repeated"):
                return Deviation(equal, rule, event)
            position, had = position + 1, False
        if position == count:
            return Deviation(equal, None, event)
        if _presence(pcr, rules[position]) in ("once", "optional"):
            position, had = position + 1, False
        else:
            had = True
    for rule in rules[position:]:
        if not had and _presence(pcr, rule) in ("once", "repeated"):
            return Deviation(len(events), rule, None)
        had = False
    return None


def _equal_from_the_start(exact: Sequence[tuple[str, str]], found: Sequence[tuple[str, str]]) -> int:
    """How many events from the first on have type and digest of their rule: nearly always most of them."""
    if found[: len(exact)] == exact:
        return len(exact)
    return next(
        (n for n, (one, other) in enumerate(zip(exact, found, strict=False)) if one != other), len(found)
    )


def _presence(pcr: int, rule: ReferenceEvent) -> str:
    """How often a rule takes an event: as it says, where it may say so."""
    # Without this, a document that came past the import could make an event optional that must be there.
    return "once" if rule.presence != "once" and _loosening(pcr, rule) else rule.presence


def _accepts(pcr: int, rule: ReferenceEvent, event: Event, digest: str, observed: Observed) -> bool:
    if rule.type != event.type_name:
        return False
    if rule.digest == digest or digest in rule.digests:
        return True
    # Without this, a document that came past the import could open what every image must hold.
    if (not rule.varies and rule.content is None) or _loosening(pcr, rule) is not None:
        return False
    if rule.varies:
        return observed.class_of(event) == rule.class_ and (
            rule.class_ in event_class.VERIFIED or event.digest_verified(observed.bank) is not False
        )
    text = observed.text_of(event)
    return text is not None and rule.content is not None and templates.matches(rule.content, text)
