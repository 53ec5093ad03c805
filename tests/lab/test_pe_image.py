# SPDX-License-Identifier: GPL-3.0-or-later
"""The digest of a PE image: signing must not change it, any other change must."""

from __future__ import annotations

import hashlib

import pytest
from pe_sample import CERTIFICATE_ENTRY_AT, CHECKSUM_AT, HEADERS, OPTIONAL_AT, image
from trusted_lab.errors import LabError
from trusted_lab.firmware.pe_image import authenticode_digest


def digest(data: bytes) -> str:
    return authenticode_digest(data, "sha256", "/boot/vmlinuz").hex()


def test_by_hand() -> None:
    data = image()
    hashed = (
        data[:CHECKSUM_AT] + data[CHECKSUM_AT + 4 : CERTIFICATE_ENTRY_AT] + data[CERTIFICATE_ENTRY_AT + 8 :]
    )
    assert digest(data) == hashlib.sha256(hashed).hexdigest()


def test_signing_does_not_change_it() -> None:
    assert digest(image(certificate=b"signature", checksum=77)) == digest(image())


@pytest.mark.parametrize(
    "changed",
    [
        image(body=b"\x91"),
        image(tail=b"more"),
        image()[:-1] + b"\x91",
        image(tail=b"x", certificate=b"signature"),
    ],
)
def test_any_other_change_does(changed: bytes) -> None:
    assert digest(changed) != digest(image())


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"#!/bin/sh\n",
        b"MZ",
        b"MZ" + bytes(200),
        image()[: HEADERS - 10],
        image()[:-1],
        image().replace(b"PE\0\0", b"PX\0\0"),
        image()[:OPTIONAL_AT] + b"\xff\xff" + image()[OPTIONAL_AT + 2 :],
    ],
)
def test_what_firmware_could_not_start_is_refused_by_name(broken: bytes) -> None:
    with pytest.raises(LabError, match="/boot/vmlinuz"):
        digest(broken)
