# SPDX-License-Identifier: GPL-3.0-or-later
"""Base images: what is captured on a host matches that host, and no other state of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from services.tpm.event_log_builder import LogBuilder, variable

from trusted_infrastructure import base_images
from trusted_infrastructure.config.documents import BaseImage, content_of, typed
from trusted_infrastructure.refusal import InvalidField, Refusal
from trusted_infrastructure.tpm import event_types as types
from trusted_infrastructure.tpm.event_log import EventLog, initial_value, parse_event_log

Boot = list[tuple[int, int, bytes]]
OTHER_BOOT_ORDER = variable("BootOrder", b"\2\0\1\0")
BOOT: Boot = [
    (0, types.EV_S_CRTM_VERSION, b"firmware"),
    (1, types.EV_EFI_VARIABLE_BOOT, variable("BootOrder", b"\1\0")),
    (4, types.EV_SEPARATOR, bytes(4)),
    (4, types.EV_EFI_BOOT_SERVICES_APPLICATION, b"loader"),
    (9, types.EV_EVENT_TAG, b"initrd"),
]


def measured(boot: Boot, bank: str = "sha256") -> tuple[EventLog, dict[int, bytes]]:
    builder = LogBuilder((bank,))
    for pcr, kind, content in boot:
        builder.add(pcr, kind, content)
    values = {pcr: initial_value(pcr, bank) for pcr in range(24)} | builder.pcrs[bank]
    return parse_event_log(builder.data), values


def capture(boot: Boot, bank: str = "sha256", **options: Any) -> BaseImage:
    log, values = measured(boot, bank)
    return base_images.capture(log, values, bank=bank, image_version="v1", display_name="V1", **options)


def test_capture_covers_code_and_what_the_log_explains_of_the_machine() -> None:
    image = capture(BOOT)
    assert {int(pcr) for pcr in image.pcrs} == set(base_images.DEFAULT_PCRS) - {5}
    assert set(base_images.REQUIRED_PCRS) <= set(base_images.DEFAULT_PCRS)
    assert not {"6", "10", "15"} & set(image.pcrs)
    events = image.pcrs["4"].events
    assert events is not None
    assert [event.type for event in events] == ["EV_SEPARATOR", "EV_EFI_BOOT_SERVICES_APPLICATION"]
    assert image.pcrs["14"].value == "00" * 32 and image.pcrs["14"].events is None
    assert typed("base_image", content_of(image)) == image
    assert {int(pcr) for pcr in capture(BOOT, pcrs=[]).pcrs} == set(base_images.REQUIRED_PCRS)


def test_two_machines_of_one_software_match_one_image() -> None:
    image = capture(BOOT)
    other = [event if event[0] != 1 else (1, event[1], OTHER_BOOT_ORDER) for event in BOOT]
    log, values = measured(other)
    assert base_images.appraise([image], "sha256", values, log) == image


def test_a_pcr_of_the_machine_that_the_log_does_not_explain_is_captured_when_asked_for() -> None:
    log, values = measured(BOOT)
    values[1] = b"\1" * 32
    assert (
        "1" not in base_images.capture(log, values, bank="sha256", image_version="v", display_name="v").pcrs
    )
    image = base_images.capture(log, values, bank="sha256", image_version="v", display_name="v", pcrs=[1])
    assert image.pcrs["1"].value == "01" * 32
    assert base_images.appraise([image], "sha256", values, log) == image


def test_capture_takes_the_value_where_the_log_does_not_explain_it() -> None:
    log, values = measured(BOOT)
    values[9] = b"\1" * 32
    image = base_images.capture(log, values, bank="sha256", image_version="v", display_name="v")
    assert image.pcrs["9"].value == "01" * 32 and image.pcrs["9"].events is None
    assert base_images.appraise([image], "sha256", values, log) == image


@pytest.mark.parametrize(
    ("line", "encoding", "expected"),
    [
        (f"ro usrhash={'0a' * 32}", "utf-16-le", "verity"),
        (f"ro roothash={'0a' * 32} quiet", "utf-8", "verity"),
        (f"ro trusted.usrhash={'0a' * 32}", "utf-16-le", "verity"),
        (f"ro usrhash={'0a' * 31}", "utf-16-le", "none"),
        (f"ro xusrhash={'0a' * 32}", "utf-8", "none"),
        ("ro ima_appraise=enforce", "utf-8", "none"),
    ],
)
def test_userspace_is_what_the_measured_command_line_says(line: str, encoding: str, expected: str) -> None:
    data = (line + "\0").encode(encoding)
    assert capture([*BOOT, (12, types.EV_IPL, data)]).userspace == expected
    assert capture([*BOOT, (1, types.EV_IPL, data)]).userspace == "none"
    assert capture([*BOOT, (12, types.EV_IPL, data)], userspace="ima").userspace == "ima"


def test_command_line_that_was_not_measured_covers_nothing() -> None:
    builder = LogBuilder(("sha256",))
    builder.add(12, types.EV_IPL, f"usrhash={'0a' * 32}\0".encode("utf-16-le"), measured=b"something else")
    assert base_images.userspace_of(parse_event_log(builder.data), "sha256") == "none"


def test_selection_is_the_union_of_one_bank() -> None:
    image = capture(BOOT)
    more = capture(BOOT, pcrs=[*base_images.DEFAULT_PCRS, 1, 5])
    long = capture(BOOT, bank="sha384")
    assert base_images.quote_selection([image]) == (
        "sha256",
        tuple(sorted(set(base_images.DEFAULT_PCRS) - {5})),
    )
    assert base_images.quote_selection([long])[0] == "sha384"
    bank, pcrs = base_images.quote_selection([long, image, more])
    assert bank == "sha256" and set(pcrs) == {*base_images.DEFAULT_PCRS, 1, 5}
    with pytest.raises(Refusal) as refusal:
        base_images.quote_selection([])
    assert refusal.value.code == "no_base_image"


def test_image_of_another_bank_matches_nobody() -> None:
    log, values = measured(BOOT)
    with pytest.raises(Refusal) as refusal:
        base_images.appraise([capture(BOOT, bank="sha384")], "sha256", values, log)
    assert refusal.value.code == "no_base_image"


def test_image_with_both_or_neither_reference_matches_nobody() -> None:
    log, values = measured(BOOT)
    plain = content_of(capture(BOOT))
    for reference in ({}, {"value": values[4].hex(), "events": []}):
        image = typed("base_image", plain | {"pcrs": plain["pcrs"] | {"4": reference}})
        assert isinstance(image, BaseImage)
        with pytest.raises(Refusal, match="not exactly one"):
            base_images.appraise([image], "sha256", values, log)


def test_closest_image_is_the_one_that_is_named() -> None:
    near = capture(BOOT)
    far = msgspec.structs.replace(
        capture([(0, types.EV_S_CRTM_VERSION, b"x"), (4, types.EV_IPL, b"y")]), image_version="far"
    )
    log, values = measured([*BOOT[:-1], (9, types.EV_EVENT_TAG, b"other initrd")])
    for images in ([near, far], [far, near]):
        with pytest.raises(Refusal, match="PCR 9.*closest base image: v1"):
            base_images.appraise(images, "sha256", values, log)


def test_capture_wants_all_values_and_a_known_bank() -> None:
    log, values = measured(BOOT)
    del values[7]
    for bank in ("sha256", "sha1"):
        with pytest.raises(InvalidField, match="pcrs"):
            base_images.capture(log, values, bank=bank, image_version="v", display_name="v")
    with pytest.raises(Refusal) as refusal:
        base_images.capture(log, measured(BOOT)[1], bank="sha384", image_version="v", display_name="v")
    assert refusal.value.code == "event_log_replay"


EVENT = st.tuples(
    st.sampled_from([0, 2, 3, 4, 7, 8, 9, 11, 12, 13, 14]),
    st.sampled_from([types.EV_SEPARATOR, types.EV_IPL, types.EV_EVENT_TAG]),
    st.binary(max_size=4),
)


@settings(max_examples=60, deadline=None)
@given(first=st.lists(EVENT, max_size=12), second=st.lists(EVENT, max_size=12))
def test_a_state_matches_exactly_its_own_image(first: Boot, second: Boot) -> None:
    image = capture(first)
    log, values = measured(second)

    def of_each_pcr(boot: Boot) -> dict[int, list[tuple[int, bytes]]]:
        return {pcr: [event[1:] for event in boot if event[0] == pcr] for pcr in range(24)}

    if of_each_pcr(first) == of_each_pcr(second):
        assert base_images.appraise([image], "sha256", values, log) == image
    else:
        with pytest.raises(Refusal) as refusal:
            base_images.appraise([image], "sha256", values, log)
        assert refusal.value.code == "base_image_mismatch"
