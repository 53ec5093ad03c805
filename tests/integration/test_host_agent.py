# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent as it runs: a process on a host with a software TPM, against the real Attestation Service.

A host is enrolled, attested, given keys, restarted, booted with something else, and put back.
"""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Iterator
from typing import Any

import pytest
from integration.trusted_site import TrustedSite
from services.attestation.world import BOOT, KERNEL
from services.host.trust_authority import PROVIDER


@pytest.fixture(scope="module")
def site() -> Iterator[TrustedSite]:
    with TrustedSite() as started:
        yield started


@pytest.fixture
def attested(site: TrustedSite) -> Iterator[TrustedSite]:
    """Enrolled and attested; put back to that after the test."""
    try:
        site.start_agent()
        if ("base_image", "image-1") not in site.documents:
            site.enroll()
        status = site.attest()
        assert (status["state"], status["reason"]) == ("ATTESTED", None), status
        yield site
    finally:
        site.stop_agent()


def restart(site: TrustedSite) -> dict[str, Any]:
    site.stop_agent()
    site.start_agent()
    return site.attest()


def test_a_host_that_nobody_configured_is_not_attested(site: TrustedSite) -> None:
    site.start_agent()
    answer = site.ask("POST", "attest")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "configuration_unavailable")
    status = site.ask("GET", "status").json()
    assert (status["state"], status["reason"]) == ("FAILED", "configuration_unavailable")
    assert site.ask("POST", "key-check").json()["result"] == "configuration_unavailable"
    site.stop_agent()


def test_an_enrolled_host_is_attested_and_gets_keys(attested: TrustedSite) -> None:
    status = attested.ask("GET", "status", socket_name="management.sock").json()
    assert (status["host_id"], status["base_image"]) == ("host1", "image-1")
    assert [one["state"] for one in status["attestations"]] == ["ATTESTED"]
    for body in (None, {"provider": PROVIDER}):
        check = attested.ask("POST", "key-check", body).json()
        assert (check["result"], check["message"]) == ("OK", "")


def test_it_attests_by_itself_after_a_start(attested: TrustedSite) -> None:
    attested.stop_agent()
    attested.start_agent()
    deadline = time.monotonic() + 10
    while attested.ask("GET", "status").json()["state"] != "ATTESTED":
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_changed_boot_is_refused_with_the_event_until_it_is_put_back(attested: TrustedSite) -> None:
    kernel = BOOT[KERNEL]
    changed = (*BOOT[:KERNEL], (kernel[0], kernel[1], b"kernel 1, changed"), *BOOT[KERNEL + 1 :])
    attested.stop_agent()
    attested.boot(changed)
    status = restart(attested)
    assert (status["state"], status["reason"]) == ("FAILED", "base_image_mismatch")
    assert "PCR 4" in status["message"]
    check = attested.ask("POST", "key-check").json()
    assert check["result"] == "not_attested"
    assert "base_image_mismatch" in check["message"]

    attested.stop_agent()
    attested.boot()
    assert restart(attested)["state"] == "ATTESTED"
    assert attested.ask("POST", "key-check").json()["result"] == "OK"


def test_a_log_that_is_not_what_was_measured_is_refused(attested: TrustedSite) -> None:
    genuine = (attested.folder / "host/event_log").read_bytes()
    attested.stop_agent()
    attested.boot((*BOOT, (4, BOOT[KERNEL][1], b"something else")))
    (attested.folder / "host/event_log").write_bytes(genuine)
    status = restart(attested)
    assert status["state"] == "FAILED"
    assert status["reason"] in ("event_log_replay", "quote_pcr_digest")
    attested.stop_agent()
    attested.boot()


def test_the_attestation_key_is_kept_between_starts(attested: TrustedSite) -> None:
    path = attested.folder / "host/state/attestation_key.json"
    before = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    restart(attested)
    assert path.read_bytes() == before


def test_a_key_check_gives_the_services_reason(attested: TrustedSite) -> None:
    attested.providers_of_scope = []
    attested.publish_trust_authority()
    assert attested.ask("POST", "key-check").json()["result"] == "provider_denied"
    attested.providers_of_scope = ["*"]
    attested.publish_trust_authority()
    assert attested.ask("POST", "key-check").json()["result"] == "OK"
    unknown = attested.ask("POST", "key-check", {"provider": "a name with more"}).json()
    assert (unknown["result"], unknown["provider"]) == ("provider_unknown", "a name with more")


def test_withdrawn_trust_makes_the_host_attest_again(attested: TrustedSite) -> None:
    before = attested.ask("GET", "../../local/v1/token").json()["token"]
    attested.security_generation += 1
    attested.publish_trust_authority()
    deadline = time.monotonic() + 10
    while attested.ask("GET", "../../local/v1/token").json()["token"] == before:
        assert attested.ask("POST", "key-check").json()["result"] == "OK"
        assert time.monotonic() < deadline, "the cluster's grace period is 0: the old token is refused"
        time.sleep(0.2)  # a check asks for two keys, and a host may have 20 a second


def test_a_denied_host_has_no_token_left(attested: TrustedSite) -> None:
    denied = ("denied_host", "host1")
    attested.documents[denied] = {"host": "host1", "ek_digest": "0" * 64}
    attested.publish_trust_authority()
    try:
        assert attested.ask("POST", "key-check").json()["result"] == "host_denied"
        answer = attested.ask("GET", "../../local/v1/token")
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "not_attested")
        assert attested.attest()["reason"] == "host_denied"
    finally:
        del attested.documents[denied]
        attested.publish_trust_authority()


def test_a_captured_image_is_the_one_that_was_imported(attested: TrustedSite) -> None:
    image = attested.ask("GET", "base-image?image_version=image-1", socket_name="management.sock").json()
    assert image == attested.documents["base_image", "image-1"]
    named = attested.ask("GET", "base-image?display_name=Debian").json()
    assert named["display_name"] == "Debian"
    assert named["image_version"].startswith("captured-")
    assert named["image_version"] == attested.ask("GET", "base-image").json()["image_version"]
    assert attested.ask("GET", "base-image?image_version=a%20b").status_code == 400


def test_the_tpm_is_shown(attested: TrustedSite) -> None:
    tpm = attested.ask("GET", "tpm", socket_name="management.sock").json()
    log = attested.ask("GET", "tpm/event-log").json()
    assert {pcr: tpm["banks"]["sha256"][pcr] for pcr in log["banks"]["sha256"]} == log["banks"]["sha256"]
    keys = attested.ask("GET", "tpm/endorsement-keys").json()["endorsement_keys"]
    assert [(key["type"], key["identity"]) for key in keys] == [("RSA_2048", True), ("ECC_NIST_P_384", False)]
    assert all(key["certificate"].startswith("-----BEGIN CERTIFICATE-----") for key in keys)


def test_sockets_are_not_for_everybody(attested: TrustedSite) -> None:
    run = attested.folder / "host/run"
    assert stat.S_IMODE((run / "local.sock").stat().st_mode) == 0o600
    assert stat.S_IMODE((run / "management.sock").stat().st_mode) == 0o660
    child = os.fork()
    if child == 0:
        # A user that is neither root nor the proxy's gets no byte, even where the socket's mode lets it in.
        os.chmod(run / "management.sock", 0o666)
        for folder in (attested.folder, attested.folder / "host", run):
            os.chmod(folder, 0o755)
        os.setresuid(65534, 65534, 65534)
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(run / "management.sock"))
        connection.settimeout(5)
        try:
            connection.sendall(b"GET /agent/manage/v1/status HTTP/1.1\r\nhost: x\r\n\r\n")
            answered = connection.recv(1)
        except OSError:
            answered = b""
        os._exit(1 if answered else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_nothing_secret_is_logged(attested: TrustedSite) -> None:
    attested.ask("POST", "key-check")
    transport_token = attested.ask("GET", "../../local/v1/token")
    log = attested.log()
    assert "attested" in log
    assert transport_token.json()["token"] not in log


def test_it_stops_quickly(attested: TrustedSite) -> None:
    assert attested.stop_agent() < 10
