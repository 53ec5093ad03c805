# SPDX-License-Identifier: GPL-3.0-or-later
"""Refusals that take more than one message to tell. What one message can do wrong is in the tables of
`test_mutations`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from services.attestation.evidence_mutations import CHANGED_LOADER
from services.attestation.world import (
    BOOT,
    CHALLENGE,
    EVIDENCE,
    SCOPE,
    Host,
    World,
    with_area,
)
from services.side_authority import NOW
from services.tpm import software_keys

from trusted_infrastructure.messages import encode
from trusted_infrastructure.tpm import event_types


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.service.close()


def check_refused(world: World, answer: httpx.Response, code: str, records: int, status: int = 0) -> str:
    """The answer is this refusal, in the audit log exactly once; the message."""
    error = answer.json()["error"]
    assert error["code"] == code, error
    assert 400 <= answer.status_code < 500 and (not status or answer.status_code == status)
    assert set(error) == {"code", "message", "remedy"} and error["message"]
    audit = world.audit()
    assert len(audit) == records + 1
    assert audit[-1].code == code
    assert "token" not in audit[-1].detail
    message: str = error["message"]
    return message


# ---- enrolment ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "missing", "code"),
    [
        ({"require_endorsement_keys": False}, ("endorsement_key", "host1"), None),
        ({"require_certificate_validation": False}, ("ca_certificate", "vendor"), None),
        ({"require_endorsement_keys": False}, ("ca_certificate", "vendor"), "ek_certificate_invalid"),
        ({"require_certificate_validation": False}, ("endorsement_key", "host1"), "ek_not_enrolled"),
        ({}, ("endorsement_key", "host1"), "ek_not_enrolled"),
        ({}, ("ca_certificate", "vendor"), "ek_certificate_invalid"),
    ],
)
def test_matrix_of_the_tpm_settings(
    world: World, settings: dict[str, bool], missing: tuple[str, str], code: str | None
) -> None:
    world.change("tpm2_settings", "settings", **settings)
    del world.documents[missing]
    world.publish()
    answer = world.public.post(CHALLENGE, content=world.request())
    assert (answer.status_code == 200) if code is None else (answer.json()["error"]["code"] == code)


def test_without_settings_both_are_required(world: World) -> None:
    del world.documents["tpm2_settings", "settings"]
    del world.documents["endorsement_key", "host1"]
    world.publish()
    answer = world.public.post(CHALLENGE, content=world.request())
    assert answer.json()["error"]["code"] == "ek_not_enrolled"


# ---- evidence ---------------------------------------------------------------------------------------------


def test_mismatch_names_event_expected_and_found(world: World) -> None:
    world.host.start(CHANGED_LOADER)
    message = world.attest().json()["error"]["message"]
    expected, found = (hashlib.sha256(content).hexdigest() for content in (b"boot loader 1", b"evil"))
    for part in (
        "event 11 (PCR 4, EV_EFI_BOOT_SERVICES_APPLICATION",
        f"with digest {expected}",
        f"found digest {found}",
        "closest base image: image-1",
    ):
        assert part in message


# ---- challenges -------------------------------------------------------------------------------------------


def test_challenge_holds_for_thirty_seconds_and_once(world: World) -> None:
    request = world.request()
    challenge = world.challenge(request)
    assert challenge.expires == NOW + 30
    body = encode(world.host.evidence(request, challenge))
    world.now = NOW + 30
    check_refused(world, world.public.post(EVIDENCE, content=body), "challenge_expired", 0, status=400)
    world.now = NOW + 29
    assert world.public.post(EVIDENCE, content=body).status_code == 200
    check_refused(world, world.public.post(EVIDENCE, content=body), "challenge_used", 2, status=400)


def test_restart_voids_challenges(world: World) -> None:
    request = world.request()
    body = encode(world.host.evidence(request, world.challenge(request)))
    world.service.close()
    world.start()
    check_refused(world, world.public.post(EVIDENCE, content=body), "challenge_invalid", 0)


def test_challenge_of_one_host_is_of_no_use_to_another(world: World) -> None:
    other = world.add_host(Host("host2", "p256:ek2", "p256:ak2"))
    request = world.request(other)
    challenge = world.challenge(request)
    # host1's TPM cannot open it; with a guessed secret and its own AK it fails at the first step that counts.
    with pytest.raises(AssertionError):
        world.host.evidence(request, challenge)
    other_tpm = Host("host2", "p256:ek2", "p256:ak2")
    evidence = other_tpm.evidence(request, challenge, signing_key=software_keys.private_key("p256:ak"))
    check_refused(world, world.public.post(EVIDENCE, content=encode(evidence)), "quote_signature", 0)


def test_credential_does_not_open_for_another_ak(world: World) -> None:
    """An AK in software, shown with a genuine EK: the TPM computes the name of the key that it holds."""
    request = world.request(ak_public=software_keys.attestation_key("p256:soft").tpm2b())
    challenge = world.challenge(request)
    with pytest.raises(AssertionError):
        world.host.evidence(request, challenge)


# ---- clock ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("tpm_cleared", {"resets": 6}),
        ("tpm_cleared", {"resets": 0, "restarts": 0, "clock": 5}),
        ("tpm_cleared", {"restarts": 0}),
        ("tpm_cleared", {"firmware": 0x2024_0001_0002_0002}),
        ("tpm_cleared", {"resets": 8, "firmware": 1}),
        ("tpm_cleared", {"clock": 1_000_000 - 120_001}),
        ("clock_unsafe", {"safe": 0}),
        (None, {"clock": 1_000_000 - 120_000}),
        (None, {"resets": 8, "restarts": 0, "clock": 5}),
        (None, {"resets": 8, "safe": 0}),
        (None, {"restarts": 2, "safe": 0}),
        (None, {"firmware": 0xFFFF_FFFF_FFFF_FFFF}),
    ],
)
def test_clock_against_history(world: World, code: str | None, changes: dict[str, int]) -> None:
    world.attested()
    before = world.histories()
    for name, value in changes.items():
        setattr(world.host, name, value)
    answer = world.attest()
    if code is None:
        assert answer.status_code == 200, answer.text
        return
    check_refused(world, answer, code, 1, status=403)
    assert world.histories() == before


def test_cleared_tpm_stays_refused_until_accepted(world: World) -> None:
    world.attested()
    world.host.resets = 0
    path = f"/attestation/manage/v1/endorsement-keys/{world.host.ek.digest}/accept-clock"
    for _index in range(2):
        assert world.attest().json()["error"]["code"] == "tpm_cleared"
    assert world.management.post(path).json() == {"changed": True}
    assert world.audit()[-1].code == "clock_accepted" and world.audit()[-1].detail["by"] == "ta-manager"
    assert world.attested().reset_count == 0
    world.host.resets = 7
    assert world.attested().reset_count == 7
    assert world.management.post(path.replace(world.host.ek.digest, "00" * 32)).json() == {"changed": False}


def test_history_outlives_a_restart_and_is_of_one_ek(world: World) -> None:
    world.attested()
    world.service.close()
    world.start()
    other = world.add_host(Host("host2", "p256:ek2", "p256:ak2", resets=1))
    assert world.attested(other).reset_count == 1
    world.host.resets = 6
    assert world.attest().json()["error"]["code"] == "tpm_cleared"


# ---- base images ------------------------------------------------------------------------------------------


def test_image_that_leaves_out_a_required_pcr_matches_nobody(world: World) -> None:
    pcrs = dict(world.documents["base_image", "image-1"]["pcrs"])
    for pcr in ("0", "4", "7", "9", "14"):
        world.change("base_image", "image-1", pcrs={k: v for k, v in pcrs.items() if k != pcr})
        answer = world.attest()
        assert answer.json()["error"]["code"] == "base_image_mismatch"
        assert f"does not cover PCR {pcr}" in answer.json()["error"]["message"]


def test_one_of_two_images_will_do_but_no_mixture(world: World) -> None:
    new = Host(boot=(*BOOT[:-1], (9, event_types.EV_EVENT_TAG, b"initrd 2")))
    newer = Host(boot=(*CHANGED_LOADER[:-1], (9, event_types.EV_EVENT_TAG, b"initrd 2")))
    world.documents["base_image", "image-2"] = world.image(newer, "image-2")
    world.publish()
    world.host.start(newer.boot)
    assert world.attested().base_image == "image-2"
    world.host.start(BOOT)
    assert world.attested().base_image == "image-1"
    world.host.start(new.boot)
    message = world.attest().json()["error"]["message"]
    assert "closest base image: image-1" in message
    world.change("scope", SCOPE, base_images=["image-2"])
    world.host.start(BOOT)
    assert world.attest().json()["error"]["code"] == "base_image_mismatch"


def test_pcr_that_the_log_does_not_explain_is_judged_by_value_alone(world: World) -> None:
    """systemd extends PCR 11 after the firmware's log has ended."""
    world.host.pcrs[11] = bytes(31) + b"\1"
    assert world.attest().json()["error"]["code"] == "event_log_replay"
    claims = b'{"pcr_values":{"11":"%s"}}' % world.host.pcrs[11].hex().encode()
    assert world.attest(claims=claims).json()["error"]["code"] == "base_image_mismatch"
    world.documents["base_image", "image-1"] = world.image()
    world.publish()
    assert world.attest(claims=claims).status_code == 200
    world.host.pcrs[4] = bytes(31) + b"\1"
    claims = claims[:-2] + b',"4":"%s"}}' % world.host.pcrs[4].hex().encode()
    refused = world.attest(claims=claims).json()["error"]
    assert refused["code"] == "event_log_replay" and "PCR 4" in refused["message"]


def test_extra_pcr_of_one_image_is_quoted_and_others_still_match(world: World) -> None:
    image = world.image(version="image-2")
    image["pcrs"] = image["pcrs"] | {"1": {"value": "11" * 32}}
    world.documents["base_image", "image-2"] = image
    world.publish()
    assert 1 in world.challenge(world.request()).pcrs
    assert world.attested().base_image == "image-1"


def test_area_helper_keeps_the_key() -> None:
    host = Host()
    assert with_area(host.ak, attributes=host.ak.attributes).name == host.ak.name


# ---- no decision without a record -------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["service_disabled", "configuration_unavailable"])
@pytest.mark.parametrize("path", [CHALLENGE, EVIDENCE])
def test_without_a_configuration_one_record_says_so(world: World, code: str, path: str) -> None:
    if code == "service_disabled":
        world.change("trust_authority_cluster", "cluster", state="DISABLE")
    else:
        world.settings.snapshot.unlink()
    answer = world.public.post(path, content=b"{}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, code)
    assert [(record.code, record.host, record.address) for record in world.audit()] == [
        (code, "", "192.0.2.7")
    ]
