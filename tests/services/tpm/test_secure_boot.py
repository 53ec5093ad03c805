# SPDX-License-Identifier: GPL-3.0-or-later
"""Secure Boot as a log tells it: genuine logs, and those of somebody who wants it to read 'on'.

The attacks are those of whoever runs after the firmware: it can extend PCR 7 and write the log, but not undo
what the firmware extended. All of these logs replay.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from services.tpm.event_log_builder import SECURITY, X509, LogBuilder, signature_list, variable

from trusted_infrastructure.tpm import event_types as types
from trusted_infrastructure.tpm import uefi
from trusted_infrastructure.tpm.event_class import classify
from trusted_infrastructure.tpm.event_log import parse_event_log, replay
from trusted_infrastructure.tpm.secure_boot import secure_boot

CONFIG = types.EV_EFI_VARIABLE_DRIVER_CONFIG
ON, OFF, UNSET = (variable("SecureBoot", value) for value in (b"\1", b"\0", b""))
DB = variable("db", signature_list(X509, [bytes(40)]), SECURITY)
ZERO = bytes(4)


def log_of(*events: tuple[int, bytes] | tuple[int, bytes, bytes]) -> LogBuilder:
    builder = LogBuilder(("sha256",))
    for event in events:
        builder.add(7, *event)
    return builder


GENUINE: dict[str, tuple[LogBuilder, bool]] = {
    "on": (log_of((CONFIG, ON), (CONFIG, DB), (types.EV_SEPARATOR, ZERO)), True),
    "off": (log_of((CONFIG, OFF), (CONFIG, DB), (types.EV_SEPARATOR, ZERO)), False),
    "not set": (log_of((CONFIG, UNSET), (types.EV_SEPARATOR, ZERO)), False),
    "separator of ones": (log_of((CONFIG, ON), (types.EV_SEPARATOR, b"\xff" * 4)), True),
    "separator without data": (log_of((CONFIG, ON), (types.EV_SEPARATOR, b"", ZERO)), True),
    "authority of an option ROM before the separator": (
        log_of((CONFIG, ON), (types.EV_EFI_VARIABLE_AUTHORITY, DB), (types.EV_SEPARATOR, ZERO)),
        True,
    ),
    "policy of a device": (
        log_of((CONFIG, ON), (types.EV_EFI_SPDM_DEVICE_POLICY, DB), (types.EV_SEPARATOR, ZERO)),
        True,
    ),
    "authorities after the separator": (
        log_of((CONFIG, ON), (types.EV_SEPARATOR, ZERO), (types.EV_EFI_VARIABLE_AUTHORITY, DB)),
        True,
    ),
}


@pytest.mark.parametrize("name", GENUINE)
def test_genuine(name: str) -> None:
    builder, expected = GENUINE[name]
    found = secure_boot(parse_event_log(builder.data), "sha256")
    assert (found.enabled, found.reason) == (expected, "")


# Firmware that has Secure Boot off measures OFF, then the separator. What else is there was added or renamed.
ATTACKS: dict[str, tuple[LogBuilder, bool | None]] = {
    "on after the separator": (log_of((CONFIG, OFF), (types.EV_SEPARATOR, ZERO), (CONFIG, ON)), False),
    "on after a separator that is called an action": (
        log_of((CONFIG, OFF), (types.EV_ACTION, ZERO), (CONFIG, ON), (types.EV_SEPARATOR, ZERO)),
        False,
    ),
    "off is called an action, on after the separator": (
        log_of((types.EV_EFI_ACTION, OFF), (types.EV_SEPARATOR, ZERO), (CONFIG, ON)),
        None,
    ),
    "off is called an action, and the separator, too": (
        log_of((types.EV_EFI_ACTION, OFF), (types.EV_IPL, b"", ZERO), (CONFIG, ON)),
        None,
    ),
    "off is called a separator": (log_of((types.EV_SEPARATOR, OFF), (CONFIG, ON)), None),
    "off is called a boot loader's": (
        log_of((types.EV_IPL, OFF), (CONFIG, ON), (types.EV_SEPARATOR, ZERO)),
        None,
    ),
    "variable twice": (log_of((CONFIG, OFF), (CONFIG, ON), (types.EV_SEPARATOR, ZERO)), None),
    "variable twice, the same": (log_of((CONFIG, ON), (CONFIG, ON), (types.EV_SEPARATOR, ZERO)), None),
    "no separator": (log_of((CONFIG, ON)), None),
    "separator that measures something else": (
        log_of((CONFIG, ON), (types.EV_SEPARATOR, ZERO, b"something"), (types.EV_SEPARATOR, ZERO)),
        None,
    ),
    "data that is not what was measured": (log_of((CONFIG, ON, OFF), (types.EV_SEPARATOR, ZERO)), None),
    "data that is no variable": (log_of((CONFIG, b"SecureBoot"), (types.EV_SEPARATOR, ZERO)), None),
    "a variable of another vendor": (
        log_of((CONFIG, variable("SecureBoot", b"\1", SECURITY)), (types.EV_SEPARATOR, ZERO)),
        None,
    ),
    "neither on nor off": (log_of((CONFIG, variable("SecureBoot", b"\2")), (types.EV_SEPARATOR, ZERO)), None),
    "two bytes": (log_of((CONFIG, variable("SecureBoot", b"\1\0")), (types.EV_SEPARATOR, ZERO)), None),
    "the firmware failed": (log_of((CONFIG, ON), (types.EV_SEPARATOR, b"\1\0\0\0")), None),
    "the firmware failed, and the log says it did not": (
        log_of((CONFIG, ON), (types.EV_SEPARATOR, ZERO, b"\1\0\0\0")),
        None,
    ),
    "a debugger": (
        log_of((CONFIG, ON), (types.EV_EFI_ACTION, b"UEFI Debug Mode"), (types.EV_SEPARATOR, ZERO)),
        None,
    ),
    "nothing": (log_of(), None),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_nobody_reads_on_in_a_log_that_was_not(name: str) -> None:
    builder, expected = ATTACKS[name]
    log = parse_event_log(builder.data)
    assert replay(log, "sha256") == builder.pcrs["sha256"]
    found = secure_boot(log, "sha256")
    assert found.enabled is expected
    assert bool(found.reason) == (expected is None)


def test_events_of_another_bank_prove_nothing() -> None:
    """A separator in SHA-1 alone: whoever lies about the bank that is not quoted gains nothing."""
    builder = LogBuilder()
    builder.add(7, CONFIG, OFF).add(7, types.EV_SEPARATOR, ZERO).add(7, CONFIG, ON).add(
        7, types.EV_SEPARATOR, ZERO
    )
    assert secure_boot(parse_event_log(builder.data), "sha256").enabled is False


CLASSES: dict[str, tuple[Callable[[], LogBuilder], str]] = {
    "variable": (lambda: log_of((CONFIG, ON)), "secure_boot"),
    "db": (lambda: log_of((CONFIG, DB)), "db"),
    "db of another vendor": (lambda: log_of((CONFIG, variable("db", b""))), "other"),
    "forged": (lambda: log_of((CONFIG, ON, OFF)), "other"),
    "after the separator": (lambda: log_of((types.EV_SEPARATOR, ZERO), (CONFIG, ON)), "other"),
}


@pytest.mark.parametrize("name", CLASSES)
def test_class_of_configuration(name: str) -> None:
    make, expected = CLASSES[name]
    assert classify(parse_event_log(make().data).events[-1], "sha256") == expected


def test_variables_of_the_configuration() -> None:
    found = secure_boot(parse_event_log(GENUINE["on"][0].data), "sha256").variables
    assert set(found) == {(uefi.GLOBAL_VARIABLE, "SecureBoot"), (uefi.IMAGE_SECURITY_DATABASE, "db")}
