# SPDX-License-Identifier: GPL-3.0-or-later
"""What is captured of one lab host fits all of them, and names what differs in one that was changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from test_boot import ENTRY, make_disk
from trusted_lab.firmware import boot, event_log

from trusted_infrastructure import base_images
from trusted_infrastructure.config.documents import BaseImage
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tpm.event_log import EventLog, parse_event_log


def booted(root: Path) -> tuple[EventLog, dict[int, bytes]]:
    log = parse_event_log(event_log.encode(boot.measure_boot(root, ["/usr"], b"certificate")))
    return log, {pcr: log.value_of(pcr, "sha256") for pcr in range(24)}


def capture(root: Path) -> BaseImage:
    log, values = booted(root)
    return base_images.capture(log, values, bank="sha256", image_version="lab", display_name="lab")


def test_one_capture_fits_all_hosts(tmp_path: Path) -> None:
    image = capture(make_disk(tmp_path / "host1"))
    base_images.check_image(image)
    log, values = booted(make_disk(tmp_path / "host2"))
    assert base_images.appraise([image], "sha256", values, log) is image
    assert {"0", "1", "4", "5", "7", "9", "12"} <= image.pcrs.keys()
    assert image.userspace == "verity" and image.pcrs["7"].secure_boot is False


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "options": (
        lambda root: (root / "boot/loader/entries/linux.conf").write_text(ENTRY.replace(" ro\n", " rw\n")),
        r"PCR 12, EV_IPL, .*expected 'root=LABEL=root ro .*', found 'root=LABEL=root rw ",
    ),
    "user space": (
        lambda root: (root / "usr/bin/agent").write_text("other"),
        r"PCR 12, EV_IPL, .*expected '.*trusted.usrhash=.*', found '.*trusted.usrhash=.*PCR 9 differ too",
    ),
    "initrd": (
        lambda root: (root / "boot/initrd.img").write_bytes(b"other"),
        r"PCR 9, EV_EVENT_TAG, initrd\): expected EV_EVENT_TAG \(initrd\) with digest",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_host_is_refused_with_what_differs(tmp_path: Path, name: str) -> None:
    change, words = CHANGES[name]
    image = capture(make_disk(tmp_path / "host1"))
    change(make_disk(tmp_path / "host2"))
    log, values = booted(tmp_path / "host2")
    with pytest.raises(Refusal, match=words) as refusal:
        base_images.appraise([image], "sha256", values, log)
    assert refusal.value.code == "base_image_mismatch"
