# SPDX-License-Identifier: GPL-3.0-or-later
"""An agent claims all PCRs that it quotes, so the service names the one that the log does not explain. One of
an earlier release, which claims none, is judged as before."""

from __future__ import annotations

from pathlib import Path

import pytest
from services.attestation.world import World

from trusted_infrastructure.host.attester import pcr_claims


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def claims(world: World) -> bytes:
    _bank, pcrs = "sha256", sorted(int(pcr) for pcr in world.documents["base_image", "image-1"]["pcrs"])
    return pcr_claims({pcr: world.host.pcrs[pcr] for pcr in pcrs})


def test_an_agent_that_claims_all_pcrs_and_one_that_claims_none_are_attested(world: World) -> None:
    assert world.attest().status_code == 200
    assert world.attest(claims=claims(world)).status_code == 200


def test_the_pcr_that_the_log_does_not_explain_is_named(world: World) -> None:
    world.host.pcrs[9] = b"\1" * 32
    error = world.attest(claims=claims(world)).json()["error"]
    assert error["code"] == "event_log_replay"
    assert error["message"].startswith("PCR 9: the event log leads to ")
    assert f"but the TPM signed {'01' * 32}" in error["message"]
    # Without claims only the digest over all of them is known.
    error = world.attest().json()["error"]
    assert (error["code"], "(PCR [0, " in error["message"]) == ("event_log_replay", True)


def test_a_log_that_was_changed_names_its_pcr(world: World) -> None:
    log = world.host.event_log
    place = log.rindex(b"\x0b\0") + 2
    changed = log[:place] + bytes([log[place] ^ 1]) + log[place + 1 :]
    error = world.attest(claims=claims(world), event_log=changed).json()["error"]
    assert error["code"] == "event_log_replay"
    assert error["message"].startswith("PCR ")


def test_a_claim_that_is_not_what_was_signed_is_refused(world: World) -> None:
    genuine = claims(world)
    world.host.pcrs[9] = b"\1" * 32
    error = world.attest(claims=genuine).json()["error"]
    assert error["code"] == "quote_pcr_digest"


def test_a_pinned_value_admits_what_is_extended_without_being_logged(world: World) -> None:
    world.host.pcrs[11] = b"\1" * 32
    pcrs = world.documents["base_image", "image-1"]["pcrs"] | {"11": {"value": "01" * 32}}
    world.change("base_image", "image-1", pcrs=pcrs)
    assert world.attest(claims=claims(world)).status_code == 200
    world.host.pcrs[11] = b"\2" * 32
    assert world.attest(claims=claims(world)).json()["error"]["code"] == "base_image_mismatch"


def test_a_retired_image_is_refused_by_name(world: World) -> None:
    world.change("base_image", "image-1", state="RETIRED")
    error = world.attest().json()["error"]
    assert (error["code"], "image-1" in error["message"]) == ("base_image_retired", True)
    world.change("base_image", "image-1", state="STAGED")
    assert world.attest().status_code == 200
