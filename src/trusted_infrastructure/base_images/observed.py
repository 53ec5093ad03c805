# SPDX-License-Identifier: GPL-3.0-or-later
"""What a log shows in one bank, worked out once for all images that it is held against."""

from __future__ import annotations

from trusted_infrastructure.base_images import templates
from trusted_infrastructure.tpm import event_class, event_types, secure_boot
from trusted_infrastructure.tpm.event_log import Event, EventLog
from trusted_infrastructure.tpm.event_types import name_of


class Observed:
    """A log in one bank. Made for one appraisal; the log has digests for the bank in every event."""

    def __init__(self, log: EventLog, bank: str) -> None:
        self.log = log
        self.bank = bank
        self._digests: dict[int, list[str]] = {}
        self._types: dict[int, list[str]] = {}
        self._pairs: dict[int, list[tuple[str, str]]] = {}
        self._classes: dict[int, str] = {}
        self._texts: dict[int, str | None] = {}
        self._load_options: dict[bytes, str] | None = None
        self._secure_boot: secure_boot.SecureBoot | None = None

    def digests(self, pcr: int) -> list[str]:
        """Digests (hex) of the events of a PCR, in order."""
        found = self._digests.get(pcr)
        if found is None:
            bank = self.bank
            found = self._digests[pcr] = [event.digests[bank].hex() for event in self.log.events_of(pcr)]
        return found

    def pairs(self, pcr: int) -> list[tuple[str, str]]:
        """(type, digest) of the events of a PCR, in order: what most rules ask for."""
        found = self._pairs.get(pcr)
        if found is None:
            found = self._pairs[pcr] = list(zip(self.types(pcr), self.digests(pcr), strict=True))
        return found

    def types(self, pcr: int) -> list[str]:
        """Types of the events of a PCR, in order."""
        found = self._types.get(pcr)
        if found is None:
            found = self._types[pcr] = [name_of(event.type) for event in self.log.events_of(pcr)]
        return found

    def class_of(self, event: Event) -> str:
        """`event_class.classify`."""
        found = self._classes.get(event.index)
        if found is None:
            found = self._classes[event.index] = event_class.classify(event, self.bank)
        return found

    def text_of(self, event: Event) -> str | None:
        """`templates.text_of`."""
        if event.index not in self._texts:
            if self._load_options is None and event.type == event_types.EV_EVENT_TAG:
                self._load_options = templates.load_options_of(self.log, self.bank)
            self._texts[event.index] = templates.text_of(event, self.bank, self._load_options or {})
        return self._texts[event.index]

    def secure_boot(self) -> secure_boot.SecureBoot:
        """`secure_boot.secure_boot`."""
        if self._secure_boot is None:
            self._secure_boot = secure_boot.secure_boot(self.log, self.bank)
        return self._secure_boot
