# SPDX-License-Identifier: GPL-3.0-or-later
"""Which registered services count: those that the host's anchor vouches for, and no others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from services.side_authority import SideAuthority

from trusted_infrastructure.config.documents import NetworkAddress, RegisteredService
from trusted_infrastructure.host.registered_services import Service, check_anchored, read_anchor
from trusted_infrastructure.refusal import Refusal, Unavailable

OURS = SideAuthority()
OTHER = SideAuthority(common_name="Other")
SAME_NAME = SideAuthority()
LEAF = OURS.leaf("attestation-service", "ta1")[1]
FOREIGN_LEAF = SAME_NAME.leaf("attestation-service", "ta1")[1]


def registered(*trusted_ca: str) -> RegisteredService:
    return RegisteredService(
        address=NetworkAddress("ta1"), trusted_ca=list(trusted_ca), group="g", trust_authority_cluster="c"
    )


ACCEPTED = {
    "the anchor": (OURS.certificate,),
    "a leaf that the anchor issued": (LEAF,),
    "the anchor and another, in a rollover": (OTHER.certificate, OURS.certificate),
    "leaf and anchor in one text": (LEAF + OURS.certificate,),
}
REFUSED = {
    "another CA": (OTHER.certificate,),
    "a CA of the same name": (SAME_NAME.certificate,),
    "a leaf of a CA of the same name": (FOREIGN_LEAF,),
    "none": (),
    "no PEM": ("trust me",),
    "empty text": ("",),
    "the anchor, and one that cannot be read": (OURS.certificate, "-----BEGIN CERTIFICATE-----\nAAAA\n"),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name: str) -> None:
    check_anchored(registered(*ACCEPTED[name]), OURS.certificate)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    with pytest.raises(Refusal, match="service_not_anchored"):
        check_anchored(registered(*REFUSED[name]), OURS.certificate)


def test_either_anchor_of_a_rollover_vouches() -> None:
    for authority in (OURS, OTHER):
        check_anchored(registered(authority.certificate), OTHER.certificate + OURS.certificate)


def _missing(_path: Path) -> None:
    return


def _directory(path: Path) -> None:
    path.mkdir()


def _binary(path: Path) -> None:
    path.write_bytes(b"\xff\xfe")


@pytest.mark.parametrize("make", [_missing, _directory, _binary])
def test_an_anchor_that_cannot_be_read_is_named(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "trust_authority_ca.pem")
    with pytest.raises(Unavailable, match="anchor_missing"):
        read_anchor(tmp_path)


URLS = [
    (NetworkAddress("ta1"), "https://ta1"),
    (NetworkAddress("TA1.Example"), "https://ta1.example"),
    (NetworkAddress("ta1", 8443), "https://ta1:8443"),
    (NetworkAddress("fd00::1"), "https://[fd00::1]"),
    (NetworkAddress("10.0.0.1"), "https://10.0.0.1"),
]


@pytest.mark.parametrize(("address", "url"), URLS, ids=str)
def test_the_url_is_the_one_that_proofs_name(address: NetworkAddress, url: str) -> None:
    assert Service("s", address, "g").url == url
