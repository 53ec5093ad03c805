# SPDX-License-Identifier: GPL-3.0-or-later
"""What an event log says of Secure Boot, as far as it can be believed.

PCR 7 has the configuration (SecureBoot, PK, KEK, db, dbx), then a separator, then the authorities that signed
what was started. Whoever runs after the firmware can extend PCR 7, too, and write the log: an event that
looks like the variable SecureBoot, a second one, one behind the separator, an event with another type, or a
log from which the separator is gone. The types of events are not measured. So:

- a variable counts where its content hashes to its digest, and it is there once;
- the separator is the event whose digest is that of a separator, whatever the log calls it; what follows is
  not configuration; without one nothing is known, because everything may have come later;
- an event before the separator that is not of the kind that belongs there makes everything unknown.

The caller has found before that the log leads to the signed value of PCR 7.

Source: TCG PC Client Platform Firmware Profile 1.06, 3.3.4.8 (PCR 7).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from trusted_infrastructure.tpm import event_digest, uefi
from trusted_infrastructure.tpm import event_types as types
from trusted_infrastructure.tpm.event_log import Event, EventLog

PCR = 7
_SECURE_BOOT = (uefi.GLOBAL_VARIABLE, "SecureBoot")
_ERROR = event_digest.SEPARATORS[2]
# Beside variables: remarks ("UEFI Debug Mode"), policies of devices, authorities of option ROMs.
_AMONG_CONFIGURATION = frozenset(
    {
        types.EV_ACTION,
        types.EV_EFI_ACTION,
        types.EV_EFI_SPDM_DEVICE_POLICY,
        types.EV_EFI_SPDM_DEVICE_AUTHORITY,
        types.EV_EFI_VARIABLE_AUTHORITY,
    }
)
_DEBUG_MODE = b"UEFI Debug Mode"


@dataclass(frozen=True)
class SecureBoot:
    """enabled: whether Secure Boot was on; None where the log does not say so that it can be believed, and
    `reason` says why. variables: (vendor GUID, name) to content, of the configuration."""

    enabled: bool | None
    reason: str = ""
    variables: Mapping[tuple[str, str], bytes] = field(default_factory=dict)


def secure_boot(log: EventLog, bank: str) -> SecureBoot:
    """The configuration of Secure Boot in the log, by its digests of `bank`."""
    variables: dict[tuple[str, str], bytes] = {}
    values = {getattr(hashlib, bank)(value).digest(): value for value in event_digest.SEPARATORS}
    for event in log.events_of(PCR):
        separator = values.get(event.digests.get(bank, b""))
        if separator is not None:
            if separator == _ERROR:
                return SecureBoot(None, f"{event.label} says that the firmware failed to measure")
            return _judged(variables)
        problem = _configuration(event, bank, variables)
        if problem:
            return SecureBoot(None, problem)
    return SecureBoot(None, "PCR 7 has no separator, so anybody may have added to its configuration")


def _configuration(event: Event, bank: str, variables: dict[tuple[str, str], bytes]) -> str:
    """Take one event before the separator. Why nothing can be known any more, or ''."""
    if event.type in _AMONG_CONFIGURATION:
        if event.measured_content(bank) in (_DEBUG_MODE, _DEBUG_MODE + b"\0"):
            return f"{event.label} says that a debugger may have run"
        return ""
    if event.type != types.EV_EFI_VARIABLE_DRIVER_CONFIG:
        return f"{event.label} does not belong to the configuration, but comes before its separator"
    variable = event.decoded
    if not event.digest_verified(bank) or not isinstance(variable, uefi.Variable):
        return f"{event.label} has content that does not hash to its digest"
    key = (variable.vendor, variable.name)
    if key in variables:
        return f"{event.label} is there twice"
    variables[key] = variable.data
    return ""


def _judged(variables: Mapping[tuple[str, str], bytes]) -> SecureBoot:
    value = variables.get(_SECURE_BOOT)
    if value is None:
        return SecureBoot(None, "the configuration has no variable SecureBoot", variables)
    if value not in (b"", b"\0", b"\1"):
        return SecureBoot(None, "the variable SecureBoot is neither 0 nor 1", variables)
    return SecureBoot(value == b"\1", "", variables)
