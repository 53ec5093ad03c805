# SPDX-License-Identifier: GPL-3.0-or-later
"""The short way through the appraisal finds what the long way finds, whatever the evidence is."""

from __future__ import annotations

import random
import struct

import msgspec
import pytest
from services.tpm.event_log_builder import LogBuilder, boot

from trusted_infrastructure import base_images
from trusted_infrastructure.base_images import ExactPcrs
from trusted_infrastructure.base_images.observed import Observed
from trusted_infrastructure.config.documents import BaseImage, ReferencePcr
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tpm.event_log import EventLog, initial_value, parse_event_log

BANK = "sha256"


def image(log: EventLog, version: str = "image", **changes: object) -> BaseImage:
    values = {pcr: log.value_of(pcr, BANK) for pcr in range(24)}
    captured = base_images.capture(log, values, bank=BANK, image_version=version, display_name=version)
    return msgspec.structs.replace(captured, **changes)


def outcome(images: list[BaseImage], values: dict[int, bytes], log: EventLog, short: bool) -> object:
    exact = ExactPcrs(images) if short else None
    try:
        return base_images.appraise(images, BANK, values, log, exact).image_version
    except Refusal as refusal:
        return refusal.code, refusal.message


def same(images: list[BaseImage], values: dict[int, bytes], log: EventLog) -> object:
    found = outcome(images, values, log, short=True)
    assert found == outcome(images, values, log, short=False)
    return found


def values_of(log: EventLog) -> dict[int, bytes]:
    return {pcr: log.value_of(pcr, BANK) for pcr in range(24)}


@pytest.fixture(scope="module")
def data() -> bytes:
    return boot(LogBuilder(("sha1", "sha256"))).data


def test_a_match_is_found_in_the_order_of_states(data: bytes) -> None:
    log = parse_event_log(data)
    staged, active = image(log, "staged", state="STAGED"), image(log, "active")
    retired = image(log, "retired", state="RETIRED")
    assert same([staged, active], values_of(log), log) == "active"
    assert same([retired, staged], values_of(log), log) == "staged"
    found = same([retired], values_of(log), log)
    assert isinstance(found, tuple) and found[0] == "base_image_retired"


def test_random_changes_of_log_and_values(data: bytes) -> None:
    log = parse_event_log(data)
    images = [image(log, "one")]
    generator = random.Random(7)
    found = set()
    for _round in range(150):
        changed = list(log.events)
        values = values_of(log)
        kind = generator.randrange(5)
        position = generator.randrange(1, len(changed))
        if kind == 0:
            del changed[position]
        elif kind == 1:
            changed.insert(position, changed[generator.randrange(1, len(changed))])
        elif kind == 2:
            changed[position] = msgspec.structs.replace(
                changed[position], type=generator.choice((4, 13, 0x80000006))
            )
        elif kind == 3:
            digests = {bank: generator.randbytes(len(d)) for bank, d in changed[position].digests.items()}
            changed[position] = msgspec.structs.replace(changed[position], digests=digests)
        else:
            values[generator.randrange(24)] = generator.randbytes(32)
        events = tuple(msgspec.structs.replace(event, index=n) for n, event in enumerate(changed))
        other = EventLog(events, log.banks, True, log.startup_locality)
        # As the TPM would have signed it, and as it had been before the log was changed.
        found.add(str(same(images, values_of(other) if kind != 4 else values, other))[:24])
        found.add(str(same(images, values, other))[:24])
    assert len(found) >= 3


def test_another_start_of_pcr_0_takes_the_long_way() -> None:
    plain = LogBuilder(("sha256",))
    started = LogBuilder(("sha256",)).startup_locality(3)
    logs = [parse_event_log(boot(builder).data) for builder in (plain, started)]
    assert logs[0].value_of(0, BANK) != logs[1].value_of(0, BANK)
    for captured in logs:
        for shown in logs:
            same([image(captured)], values_of(shown), shown)


def test_many_images_one_of_which_matches(data: bytes) -> None:
    others = []
    for number in range(5):
        builder = LogBuilder(("sha1", "sha256"))
        boot(builder).add(9, 13, struct.pack("<I", number))
        others.append(image(parse_event_log(builder.data), f"other-{number}"))
    log = parse_event_log(data)
    assert same([*others, image(log, "mine")], values_of(log), log) == "mine"
    found = same(others, values_of(log), log)
    assert isinstance(found, tuple) and found[0] == "base_image_mismatch"


def test_a_pcr_by_value_is_none_of_its_business(data: bytes) -> None:
    log = parse_event_log(data)
    reference = ReferencePcr(value="00" * 32)
    exact = ExactPcrs([msgspec.structs.replace(image(log), pcrs={"22": reference})])
    assert exact.matches(22, reference, initial_value(22, BANK), Observed(log, BANK)) is None
