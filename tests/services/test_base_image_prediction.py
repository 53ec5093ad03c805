# SPDX-License-Identifier: GPL-3.0-or-later
"""PCR values that a base image foresees are those that a host has which boots it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from services.tpm.corpus import is_absent, parametrize
from services.tpm.event_log_builder import LogBuilder, boot

from trusted_infrastructure import base_images
from trusted_infrastructure.base_images import foreseen_values, varying
from trusted_infrastructure.config.documents import BaseImage, ReferenceEvent, ReferencePcr
from trusted_infrastructure.tpm.event_log import parse_event_log

ONE, TWO = "11" * 32, "22" * 32


def image(pcrs: dict[str, ReferencePcr], bank: Any = "sha256") -> BaseImage:
    return BaseImage(image_version="1", display_name="1", bank=bank, pcrs=pcrs)


def events(*rules: ReferenceEvent) -> ReferencePcr:
    return ReferencePcr(events=list(rules))


def exact(digest: str, **changes: Any) -> ReferenceEvent:
    return ReferenceEvent(type="EV_IPL", digest=digest, **changes)


@pytest.mark.parametrize(
    "rule",
    [
        exact(ONE, presence="optional"),
        exact(ONE, presence="any"),
        ReferenceEvent(type="EV_IPL", digests=[ONE]),
        ReferenceEvent(type="EV_IPL", content="root={uuid}"),
        exact(ONE, content="root={uuid}"),
        exact(ONE, content="{no template"),
        ReferenceEvent(type="EV_IPL", varies=True, class_="kernel"),
        exact("not hex"),
    ],
)
def test_a_rule_that_names_no_digest_or_may_be_missing_foresees_nothing(rule: ReferenceEvent) -> None:
    for rules in ((rule,), (exact(ONE), rule), (rule, exact(ONE))):
        assert foreseen_values(image({"8": events(*rules)})) == {}


@pytest.mark.parametrize(
    "rule",
    [exact(ONE, presence="repeated"), exact(ONE, digests=[TWO]), exact(ONE, content="quiet")],
)
def test_of_several_values_that_of_the_captured_boot_is_foreseen(rule: ReferenceEvent) -> None:
    alone = foreseen_values(image({"8": events(exact(ONE))}))
    assert foreseen_values(image({"8": events(rule)})) == alone != {}


def test_pcr_0_is_left_out() -> None:
    assert foreseen_values(image({"0": events(exact(ONE))})) == {}
    assert foreseen_values(image({"0": ReferencePcr(value=ONE)})) == {}


def test_a_document_that_came_past_the_import_fixes_nothing() -> None:
    both = ReferencePcr(value=ONE, events=[exact(ONE)])
    for reference in (both, ReferencePcr(), ReferencePcr(events=[]), ReferencePcr(value="x")):
        assert foreseen_values(image({"4": reference})) == {}


@pytest.mark.parametrize("bank", ["sha256", "sha384", "sha512"])
def test_events_are_extended_one_after_the_other(bank: str) -> None:
    size = hashlib.new(bank).digest_size
    digests = [bytes([number]) * size for number in (1, 2)]
    value = bytes(size)
    for digest in digests:
        value = hashlib.new(bank, value + digest).digest()
    found = foreseen_values(image({"9": events(*(exact(digest.hex()) for digest in digests))}, bank))
    assert found == {9: value}


def test_a_pinned_value_is_the_value() -> None:
    assert foreseen_values(image({"11": ReferencePcr(value=ONE)})) == {11: bytes.fromhex(ONE)}


def test_what_varies_is_named() -> None:
    rules = [
        exact(ONE),
        *(ReferenceEvent(type="EV_IPL", content="x", description=f"line {n}") for n in range(5)),
    ]
    text = varying(image({"8": events(*rules)}), 8)
    assert text == "PCR 8: varies in line 0, line 1, line 2 and 2 more"
    assert varying(image({}), 4) == "PCR 4: the image does not have it"


@parametrize("event_logs/*")
def test_what_is_fixed_of_a_real_boot_is_what_its_pcrs_were(path: Path) -> None:
    if is_absent(path):
        return
    log = parse_event_log(path.read_bytes())
    if "sha256" not in log.banks:
        return
    values = {pcr: log.value_of(pcr, "sha256") for pcr in range(24)}
    captured = base_images.capture(log, values, bank="sha256", image_version="1", display_name="1")
    found = foreseen_values(captured)
    # A firmware that announces its second attempt to boot, too, has another value then.
    repeated = {
        int(pcr)
        for pcr, reference in captured.pcrs.items()
        if any(rule.presence == "repeated" for rule in reference.events or ())
    }
    assert {pcr: value for pcr, value in found.items() if values[pcr] != value}.keys() <= repeated
    assert repeated <= {4}


def test_what_a_captured_boot_foresees() -> None:
    log = parse_event_log(boot(LogBuilder(("sha1", "sha256"))).data)
    values = {pcr: log.value_of(pcr, "sha256") for pcr in range(24)}
    captured = base_images.capture(log, values, bank="sha256", image_version="1", display_name="1")
    found = foreseen_values(captured)
    assert (found[4], found[7], found[9]) == (values[4], values[7], values[9])
