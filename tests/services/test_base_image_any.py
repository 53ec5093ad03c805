# SPDX-License-Identifier: GPL-3.0-or-later
"""Any document at all, against any log: an image that matches, or a refusal; never anything else."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from services.tpm.event_log_builder import EVERY_CLASS, LogBuilder, boot

from trusted_infrastructure import base_images
from trusted_infrastructure.config.documents import BaseImage, content_of, typed
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tpm.event_class import CLASSES
from trusted_infrastructure.tpm.event_log import parse_event_log

LOG = parse_event_log(boot(LogBuilder(("sha256",))).data)
VALUES = {pcr: LOG.value_of(pcr, "sha256") for pcr in range(24)}
IMAGE = base_images.capture(LOG, VALUES, bank="sha256", image_version="v1", display_name="V1")
DIGESTS = sorted({event.digests["sha256"].hex() for event in LOG.events if event.extends})
TYPES = sorted({event.type_name for event in LOG.events})

digest = st.one_of(st.sampled_from(DIGESTS), st.sampled_from(["", "00" * 32, "xy" * 32, "0"]))
rule = st.fixed_dictionaries(
    {"type": st.sampled_from([*TYPES, "", "EV_X"])},
    optional={
        "digest": st.one_of(st.none(), digest),
        "digests": st.lists(digest, max_size=3),
        "description": st.text(max_size=20),
        "class": st.one_of(st.sampled_from(sorted(CLASSES)), st.text(max_size=5)),
        "content": st.one_of(st.none(), st.text("{}uiad /vmlnz", max_size=12), st.just("{uuid}")),
        "varies": st.booleans(),
        "presence": st.sampled_from(["once", "optional", "repeated", "any"]),
    },
)
reference = st.fixed_dictionaries(
    {},
    optional={
        "value": st.one_of(st.none(), digest),
        "events": st.one_of(st.none(), st.lists(rule, max_size=6)),
        "secure_boot": st.one_of(st.none(), st.booleans()),
    },
)


@settings(max_examples=150, deadline=None)
@given(
    changes=st.dictionaries(st.sampled_from([str(pcr) for pcr in range(24)]), reference, max_size=6),
    state=st.sampled_from(["STAGED", "ACTIVE", "RETIRED"]),
)
def test_any_document(changes: dict[str, Any], state: str) -> None:
    plain = content_of(IMAGE)
    image = typed("base_image", {**plain, "pcrs": {**plain["pcrs"], **changes}, "state": state})
    assert isinstance(image, BaseImage)
    try:
        base_images.check_image(image)
        allowed = True
    except Refusal as refusal:
        assert refusal.message.startswith("pcrs.")
        allowed = False
    verdicts = []
    for exact in (None, base_images.ExactPcrs([image])):
        try:
            verdicts.append(base_images.appraise([image], "sha256", VALUES, LOG, exact).image_version)
        except Refusal as refusal:
            assert refusal.message.isprintable() and len(refusal.message) < 2500
            verdicts.append(refusal.code)
    assert len(set(verdicts)) == 1
    assert allowed or verdicts[0] in ("v1", "base_image_mismatch", "event_log_replay", "base_image_retired")


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(EVERY_CLASS[3:]), max_size=10), st.lists(rule, max_size=4), st.integers(0, 14)
)
def test_any_log_against_any_rules(events: list[Any], rules: list[Any], pcr: int) -> None:
    builder = LogBuilder(("sha256",))
    for event in events:
        builder.add(*event)
    log = parse_event_log(builder.data)
    values = {number: log.value_of(number, "sha256") for number in range(24)}
    plain = content_of(IMAGE)
    image = typed("base_image", {**plain, "pcrs": {**plain["pcrs"], str(pcr): {"events": rules}}})
    assert isinstance(image, BaseImage)
    try:
        base_images.appraise([image], "sha256", values, log)
    except Refusal as refusal:
        assert refusal.code == "base_image_mismatch"
