# SPDX-License-Identifier: GPL-3.0-or-later
"""Reference values from a host that is trusted: which PCRs, and which rule for which event.

A rule is as strict as equal machines let it be; what differs between them is described by a rule instead of
leaving the PCR out:
- boot order and boot entries (PCR 1): one rule for all that follow each other: any number, any digest, but
  boot variables whose content is what was measured;
- tables with serial numbers (SMBIOS, PCR 1): any digest, as many as there were;
- the partition table (PCR 5) with unique ids and sizes of disks: its types, names and attributes, by
  template;
- identifiers in command lines and GRUB's commands (PCR 8, 9, 12): by template;
- attempts to boot (PCR 4): the same text, once or more; attempts to leave the firmware (PCR 5): once more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import msgspec

from trusted_infrastructure.base_images import templates, wording
from trusted_infrastructure.base_images.observed import Observed
from trusted_infrastructure.base_images.rules import BANKS, REQUIRED_PCRS
from trusted_infrastructure.base_images.userspace import Userspace, userspace_of
from trusted_infrastructure.config.documents import BaseImage, ReferenceEvent, ReferencePcr
from trusted_infrastructure.refusal import InvalidField
from trusted_infrastructure.tpm import event_class, secure_boot
from trusted_infrastructure.tpm import event_types as types
from trusted_infrastructure.tpm.event_digest import digest_of
from trusted_infrastructure.tpm.event_log import Event, EventLog, initial_value

DEFAULT_PCRS = (0, 1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 13, 14)
# Captured by default only where the log leads to their value: by value alone they would fit one machine.
OF_THE_MACHINE = frozenset({1, 5})

_VARYING = frozenset({event_class.BOOT_ENTRY, event_class.FIRMWARE_TABLES})
_TEMPLATED_PCRS = frozenset({5, 8, 9, 12})
_EXIT = b"Exit Boot Services Invocation"
_EXIT_DONE = b"Exit Boot Services Returned with Success"
_EXIT_FAILED = b"Exit Boot Services Returned with Failure"
_START = b"Calling EFI Application from Boot Option"


def explained_pcrs(log: EventLog, bank: str, values: Mapping[int, bytes]) -> frozenset[int]:
    """Those PCRs of `values` whose value the log leads to. Raises Refusal `event_log_replay`."""
    replayed, locality = log.replayed(bank), log.start_locality
    return frozenset(
        pcr
        for pcr, value in values.items()
        if value == (replayed.get(pcr) or initial_value(pcr, bank, locality))
    )


def capture(
    log: EventLog,
    values: Mapping[int, bytes],
    *,
    bank: str,
    image_version: str,
    display_name: str,
    userspace: Userspace | None = None,
    pcrs: Iterable[int] | None = None,
) -> BaseImage:
    """A base image of the state that a host is in.

    values: PCR -> digest as the TPM has them in `bank`, at least for `pcrs` and REQUIRED_PCRS.
    pcrs: None is DEFAULT_PCRS, without those of the machine that the log does not explain; PCRs that are
    asked for are captured in any case. userspace: None finds out from the log (`userspace_of`).
    Raises InvalidField for a missing PCR or an unknown bank, Refusal `event_log_replay` for a log of another
    bank.
    """
    wanted = set(DEFAULT_PCRS if pcrs is None else pcrs) | set(REQUIRED_PCRS)
    if pcrs is None:
        wanted -= OF_THE_MACHINE - values.keys()
    missing = sorted(pcr for pcr in wanted if pcr not in values)
    if missing or bank not in BANKS:
        raise InvalidField("pcrs", f"PCR values of bank {bank!r} are missing: {missing}")
    explained = explained_pcrs(log, bank, values)
    if pcrs is None:
        wanted -= {pcr for pcr in OF_THE_MACHINE if pcr not in explained or not log.events_of(pcr)}
    return BaseImage(
        image_version=image_version,
        display_name=display_name,
        bank=_bank(bank),
        pcrs={str(pcr): reference_of(pcr, values[pcr], explained, log, bank) for pcr in sorted(wanted)},
        userspace=userspace_of(log, bank) if userspace is None else userspace,
    )


def reference_of(
    pcr: int, value: bytes, explained: Collection[int], log: EventLog, bank: str
) -> ReferencePcr:
    """Reference values of one PCR, in any bank of the log. explained: PCRs whose value the log leads to."""
    events = log.events_of(pcr)
    if pcr not in explained or not events:
        return ReferencePcr(value=value.hex())
    return ReferencePcr(
        events=list(_rules(pcr, Observed(log, bank))),
        secure_boot=secure_boot.secure_boot(log, bank).enabled if pcr == secure_boot.PCR else None,
    )


def _bank(bank: str) -> Literal["sha256", "sha384", "sha512"]:
    match bank:
        case "sha256" | "sha384" | "sha512":
            return bank
    raise InvalidField("bank", f"{bank!r} is not a bank of base images: {', '.join(BANKS)}")


def _rules(pcr: int, observed: Observed) -> Iterable[ReferenceEvent]:
    events, digests = observed.log.events_of(pcr), observed.digests(pcr)
    leave, left = (digest_of(text, observed.bank).hex() for text in (_EXIT, _EXIT_DONE))
    previous: ReferenceEvent | None = None
    for place, event in enumerate(events):
        rule = _rule(pcr, event, observed)
        # Equal rules that take any number of events are one rule, whatever the log says of the events.
        if previous is None or rule.presence not in ("any", "repeated") or not _equal(rule, previous):
            yield rule
        previous = rule
        if pcr == 5 and digests[place : place + 2] == [leave, left]:
            yield from _another_exit(event, observed.bank)


def _equal(one: ReferenceEvent, other: ReferenceEvent) -> bool:
    return msgspec.structs.replace(one, description=other.description) == other


def _rule(pcr: int, event: Event, observed: Observed) -> ReferenceEvent:
    kind, bank = observed.class_of(event), observed.bank
    if pcr not in REQUIRED_PCRS and kind in _VARYING:
        return ReferenceEvent(
            event.type_name,
            None,
            event_class.words_of(kind),
            class_=kind,
            varies=True,
            presence="any" if kind == event_class.BOOT_ENTRY else "once",
        )
    return ReferenceEvent(
        event.type_name,
        event.digests[bank].hex(),
        wording.description(event, bank),
        class_=kind,
        content=_content(pcr, event, observed),
        presence="repeated" if pcr == 4 and _is_attempt(event, bank) else "once",
    )


def _content(pcr: int, event: Event, observed: Observed) -> str | None:
    """The template of what was measured: for command lines, and where a template takes more than one text."""
    text = observed.text_of(event) if pcr in _TEMPLATED_PCRS else None
    if text is None or len(text) > templates.MAXIMUM_TEXT // 2:
        return None
    template = templates.template_of(text)
    try:
        templates.check(template)
        useful = observed.class_of(event) == event_class.COMMAND_LINE or templates.has_placeholder(template)
    except InvalidField:
        return None  # too many identifiers: the digest alone
    return template if useful else None


def _is_attempt(event: Event, bank: str) -> bool:
    return event.type == types.EV_EFI_ACTION and event.digests[bank] == digest_of(_START, bank)


def _another_exit(event: Event, bank: str) -> Iterable[ReferenceEvent]:
    """A kernel that asks too early to leave the firmware asks again: one failure and one more attempt."""
    for text, words in ((_EXIT_FAILED, "failed attempt"), (_EXIT, "second attempt")):
        yield ReferenceEvent(
            event.type_name,
            digest_of(text, bank).hex(),
            f"{words} to leave the firmware",
            class_=event_class.ACTION,
            presence="optional",
        )
