# SPDX-License-Identifier: GPL-3.0-or-later
"""PCR values that a host will have which boots a base image, known before it boots. Pure.

Foreseen is a PCR that the image has by `value`, and one each of whose rules names a digest that must be
there: then these digests are extended, one after the other, into what the PCR begins with. An image may
accept more than that (further digests, a template, a repetition): what is foreseen is one of the values that
it accepts, that of the boot which it was captured from. So what rests on it is never wider than the image; a
host that boots in another accepted way is not foreseen.

Not foreseen is a PCR with a rule that names no digest, whose event may be missing, or whose content has
identifiers of one machine in it (a template with placeholders): other hosts of a cluster have other values.

PCR 0 is left out, however the image has it: it begins with the locality of TPM2_Startup, which a base image
does not say (PC Client Platform TPM Profile 1.05, 4.6.2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from trusted_infrastructure.base_images import templates
from trusted_infrastructure.config.documents import BaseImage, ReferenceEvent, ReferencePcr
from trusted_infrastructure.refusal import InvalidField
from trusted_infrastructure.tpm.event_log import initial_value

_NAMED = 3  # rules that a reason describes


def foreseen_values(image: BaseImage) -> dict[int, bytes]:
    """The PCRs that are foreseen: number -> value of the image's bank."""
    found = {}
    for number, reference in sorted(image.pcrs.items(), key=lambda item: int(item[0])):
        value = foreseen_value(int(number), reference, image.bank)
        if value is not None and int(number) != 0:
            found[int(number)] = value
    return found


def foreseen_value(pcr: int, reference: ReferencePcr, bank: str) -> bytes | None:
    """The value that the PCR will have; None where it is not foreseen. PCR 0 by its events: as if it began
    with zeros."""
    return _value(pcr, reference, bank, is_foreseen)


def fixed_value(pcr: int, reference: ReferencePcr, bank: str) -> bytes | None:
    """The one value that the image accepts in a PCR; None where there are more, or none that could be
    computed."""
    return _value(pcr, reference, bank, is_exact)


def is_foreseen(rule: ReferenceEvent) -> bool:
    """Whether a rule names a digest of an event that must be there, and that is the same on all equal
    machines: not that of a text with identifiers of one of them."""
    named = rule.digest is not None and rule.presence in ("once", "repeated") and not rule.varies
    return named and (rule.content is None or not _of_one_machine(rule.content))


def is_exact(rule: ReferenceEvent) -> bool:
    """Whether a rule takes one event with one digest. A second digest or a template takes others as well."""
    return is_foreseen(rule) and rule.presence == "once" and not rule.digests and rule.content is None


def _of_one_machine(template: str) -> bool:
    try:
        return templates.has_placeholder(template)
    except InvalidField:  # a document that came past the import
        return True


def _value(
    pcr: int, reference: ReferencePcr, bank: str, usable: Callable[[ReferenceEvent], bool]
) -> bytes | None:
    try:
        if reference.value is not None:
            return bytes.fromhex(reference.value) if reference.events is None else None
        if not reference.events or not all(usable(rule) for rule in reference.events):
            return None
        value = initial_value(pcr, bank)
        for rule in reference.events:
            value = hashlib.new(bank, value + bytes.fromhex(rule.digest or "")).digest()
        return value
    except ValueError:  # a document that came past the import
        return None


def varying(image: BaseImage, pcr: int) -> str:
    """Why a PCR is not foreseen, in words that name the events."""
    reference = image.pcrs.get(str(pcr))
    if reference is None:
        return f"PCR {pcr}: the image does not have it"
    rules = [rule for rule in reference.events or () if not is_foreseen(rule)]
    if not rules:
        return f"PCR {pcr}: the image has no value of it"
    named = ", ".join(rule.description or rule.type for rule in rules[:_NAMED])
    more = f" and {len(rules) - _NAMED} more" if len(rules) > _NAMED else ""
    return f"PCR {pcr}: varies in {named}{more}"
