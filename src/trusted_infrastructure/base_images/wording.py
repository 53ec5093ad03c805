# SPDX-License-Identifier: GPL-3.0-or-later
"""What differs, in plain words: event, expected, found. Everything of the log is made printable and short."""

from __future__ import annotations

from collections.abc import Mapping

from trusted_infrastructure.base_images import templates
from trusted_infrastructure.base_images.observed import Observed
from trusted_infrastructure.base_images.rules import Deviation
from trusted_infrastructure.config.documents import ReferenceEvent
from trusted_infrastructure.refusal import InvalidField
from trusted_infrastructure.tpm import event_class, uefi
from trusted_infrastructure.tpm.event_log import Event
from trusted_infrastructure.tpm.event_text import shown

MAXIMUM_DESCRIPTION = 200
_CONTEXT = 40  # characters shown before the place where two texts part
_MAXIMUM_SHOWN = 120  # of each text from there on
_STATES: Mapping[bytes, str] = {
    b"\1": "Secure Boot is on",
    b"\0": "Secure Boot is off",
    b"": "Secure Boot is off",
}


def description(event: Event, bank: str) -> str:
    """What was measured, for reference values and refusals; at most 200 characters, printable."""
    words = _of_configuration(event, bank) or event.description
    if event.digest_verified(bank) is False:
        words += ", which its digest is not of"
    return shown(words)[:MAXIMUM_DESCRIPTION]


def label(event: Event, bank: str) -> str:
    """How refusals name an event: number, PCR, type, class, file or variable."""
    kind = event_class.words_of(event_class.classify(event, bank))
    words = description(event, bank)
    named = words if words.startswith(kind) or kind == "measurement" else f"{kind}: {words}"
    return f"event {event.index} (PCR {event.pcr}, {event.type_name}, {named})"


def deviation(pcr: int, found: Deviation, observed: Observed) -> str:
    """The sentence of a refusal for one PCR."""
    event, rule, bank = found.found, found.expected, observed.bank
    if event is None:
        missing = _rule(rule) if rule is not None else ""
        return f"PCR {pcr}: expected a further event, {missing}, found none"
    name = label(event, bank)
    digest = event.digests[bank].hex()
    if rule is None:
        return f"{name}: expected no further event in PCR {pcr}, found digest {digest}"
    if rule.type == event.type_name and rule.content is not None:
        difference = _text_difference(rule.content, event, observed)
        if difference:
            return f"{name}: {difference}; found digest {digest}"
    return f"{name}: expected {_rule(rule)}, found digest {digest}{_unlike(rule, event, bank)}"


def _rule(rule: ReferenceEvent) -> str:
    """A rule in words: type, what it is, what is accepted."""
    words = rule.description or event_class.words_of(rule.class_)
    named = f"{shown(rule.type)} ({shown(words)})" if words else shown(rule.type)
    if rule.varies:
        return f"{named} of class {shown(rule.class_)}, with any digest"
    digests = [rule.digest] if rule.digest is not None else []
    digests += rule.digests
    if not digests:
        return f"{named} with content {_quoted(rule.content or '', 0)}"
    first = shown(digests[0])
    if len(digests) == 1:
        return f"{named} with digest {first}"
    return f"{named} with one of {len(digests)} digests, such as {first}"


def _unlike(rule: ReferenceEvent, event: Event, bank: str) -> str:
    """What makes an event with the right digest a wrong one."""
    if event.digests[bank].hex() in (rule.digest, *rule.digests):
        return f", which is right, but of type {event.type_name}"
    if rule.varies and rule.type == event.type_name:
        return f" of class {event_class.classify(event, bank)}"
    return ""


def _text_difference(template: str, event: Event, observed: Observed) -> str:
    """Where the text of an event leaves the template; '' where it has no text."""
    text = observed.text_of(event)
    if text is None:
        return ""
    expected = _expected_text(template, text)
    start = next(
        (place for place, (one, two) in enumerate(zip(expected, text, strict=False)) if one != two),
        min(len(expected), len(text)),
    )
    return f"expected {_quoted(expected, start)}, found {_quoted(text, start)}"


def _expected_text(template: str, text: str) -> str:
    """The template with the identifiers of `text` in its places, as far as they fit: what is left differs."""
    try:
        return templates.filled(template, text)
    except InvalidField:
        return template


def _quoted(text: str, start: int) -> str:
    """The part of a text from shortly before `start`, printable, in quotes."""
    first = max(0, start - _CONTEXT)
    part = shown(text[first : start + _MAXIMUM_SHOWN])
    before = "..." if first else ""
    after = "..." if start + _MAXIMUM_SHOWN < len(text) and not part.endswith("...") else ""
    return f"'{before}{part}{after}'"


def _of_configuration(event: Event, bank: str) -> str:
    """Words for the configuration of Secure Boot; '' for everything else."""
    name = event_class.classify(event, bank)
    variable = event.decoded
    if not isinstance(variable, uefi.Variable):
        return ""
    if name == event_class.SECURE_BOOT:
        return _STATES.get(variable.data, "Secure Boot is neither on nor off")
    if name in ("pk", "kek", "db", "dbx"):
        return f"{variable.name} {_database(variable.data)}"
    if event.pcr == 7 and event.after_separator and name == event_class.OTHER:
        return f"variable {variable.name} after the separator, which is no configuration"
    return ""


def _database(data: bytes) -> str:
    try:
        entries = uefi.signature_database(data)
    except InvalidField:
        return f"of {len(data)} bytes"
    certificates = sum(1 for entry in entries if entry.kind == "x509")
    return f"with {certificates} certificates and {len(entries) - certificates} hashes"
