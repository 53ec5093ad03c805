# SPDX-License-Identifier: GPL-3.0-or-later
"""The Attestation Service as a whole: tokens, results, faults of its parts, management, limits."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from services.asgi_client import AsgiClient
from services.attestation.world import CHALLENGE, EVIDENCE, GROUP, ISSUER, Host, World
from services.side_authority import NOW, SideAuthority, forwarded

from trusted_infrastructure import tokens
from trusted_infrastructure.attestation import verifier
from trusted_infrastructure.attestation.challenges import LIFETIME, UsedChallenges, new_state
from trusted_infrastructure.attestation.identity_bindings import HostIdentity
from trusted_infrastructure.attestation.service import AttestationService, management_application
from trusted_infrastructure.attestation.state import CLOCK_STEP, State
from trusted_infrastructure.attestation.token_keys import ROTATION
from trusted_infrastructure.messages import encode
from trusted_infrastructure.refusal import Refusal, Unavailable
from trusted_infrastructure.tpm.quote import ClockInfo

MANAGE = "/attestation/manage/v1"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.service.close()


# ---- tokens -----------------------------------------------------------------------------------------------


def test_token_says_what_was_verified(world: World) -> None:
    claims = world.attested()
    assert (claims.iss, claims.aud, claims.sub, claims.scope) == (
        "attestation@ta1",
        GROUP,
        "host1",
        "scope-1",
    )
    assert claims.principal == "https://workload-manager/sts"
    assert (claims.ek_digest, claims.base_image) == (world.host.ek.digest, "image-1")
    assert (claims.userspace, claims.security_generation) == ("verity", 3)
    assert (claims.reset_count, claims.restart_count) == (7, 1)
    assert (claims.iat, claims.nbf, claims.exp) == (NOW, NOW, NOW + 3600)
    assert claims.cnf.jkt == tokens.thumbprint(world.host.proof_key.public_key())
    assert claims.hpke.suite == "MLKEM768_X25519"
    assert claims.jti != world.attested().jti


@pytest.mark.parametrize("kinds", [("rsa2048", "p256"), ("rsa2048", "rsa2048:ak"), ("p384", "p384:ak")])
def test_other_kinds_of_keys(world: World, kinds: tuple[str, str]) -> None:
    host = world.add_host(Host("host2", *kinds))
    assert world.attested(host).sub == "host2"


def test_token_does_not_outlive_its_assertion(world: World) -> None:
    request = world.request(assertion=world.assertion(world.host, exp=NOW + 60))
    body = encode(world.host.evidence(request, world.challenge(request)))
    assert world.public.post(EVIDENCE, content=body).json()["expires"] == NOW + 60


def test_token_follows_the_configuration_of_the_cluster(world: World) -> None:
    world.change("trust_authority_cluster", "cluster", token_lifetime=600, hpke_suite="P256")
    world.security_generation = 9
    world.publish()
    claims = world.attested()
    assert claims.exp == NOW + 600 and claims.security_generation == 9


def test_result_of_a_host_over_time(world: World) -> None:
    world.attested()
    world.now += 100
    world.attested()
    (result,) = world.results()
    assert (result["state"], result["since"], result["last"]) == ("ATTESTED", NOW, NOW + 100)
    assert (result["until"], result["base_image"]) == (NOW + 3700, "image-1")
    world.host.start(())
    world.now += 100
    world.attest()
    world.now += 100
    world.attest()
    (result,) = world.results()
    assert (result["state"], result["since"], result["last"]) == ("FAILED", NOW + 200, NOW + 300)
    assert result["reason"] == "base_image_mismatch"


def test_key_set_rotates_with_overlap(world: World) -> None:
    first = world.keys()
    kids = list(first.keys)
    assert len(kids) == 3
    token = msgspec.json.decode(world.attest().content)["token"]
    assert tokens.unverified_kid(token) == kids[1]
    world.now += ROTATION - world.now % ROTATION - 1  # the last second of the period
    assert list(world.keys().keys) == kids
    world.now += 1
    later = msgspec.json.decode(world.attest().content)["token"]
    assert tokens.unverified_kid(later) == kids[2]
    # Who has not read the key set since knows the new key, and who has still knows the old one.
    assert tokens.verify_token(later, first.keys, GROUP, world.now).sub == "host1"
    second = world.keys()
    assert list(second.keys)[:2] == kids[1:]
    assert tokens.verify_token(token, second.keys, GROUP, NOW + 10).sub == "host1"
    world.now += 2 * ROTATION
    assert not world.keys().keys.keys() & first.keys.keys()


def test_a_token_ends_before_its_key_leaves_the_key_set() -> None:
    assert ROTATION >= tokens.MAX_TOKEN_LIFETIME


def test_jwks_has_the_keys_of_the_key_set(world: World) -> None:
    answer = world.public.get("/attestation/v1/jwks")
    assert answer.headers["content-type"] == "application/jwk-set+json"
    published = answer.json()
    assert set(published) == {"keys"}
    keys = world.keys().keys
    assert [key["kid"] for key in published["keys"]] == list(keys)
    for key in published["keys"]:
        assert set(key) == {"kty", "crv", "x", "y", "kid", "use", "alg"}
        assert (key["use"], key["alg"]) == ("sig", "ES256")
        assert tokens.thumbprint(tokens.public_key_from_jwk(key["x"], key["y"])) == key["kid"]


def test_restart_makes_a_new_key(world: World) -> None:
    before = world.keys()
    world.service.close()
    world.start()
    assert not before.keys.keys() & world.keys().keys.keys()


# ---- faults of the service's own parts --------------------------------------------------------------------


def test_no_token_without_an_audit_record(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    request = world.request()
    body = encode(world.host.evidence(request, world.challenge(request)))

    def fail(_file: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    answer = world.public.post(EVIDENCE, content=body)
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "audit_unavailable"
    assert "token" not in answer.json() and world.results() == []


def test_no_refusal_is_lost_without_an_audit_record(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_file: int, _line: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", fail)
    answer = world.public.post(CHALLENGE, content=b"{}")
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "audit_unavailable"


@pytest.mark.parametrize("part", ["_used", "_state"])
def test_state_that_cannot_be_written_gives_no_token(world: World, part: str) -> None:
    request = world.request()
    body = encode(world.host.evidence(request, world.challenge(request)))
    getattr(world.service, part).close()
    answer = world.public.post(EVIDENCE, content=body)
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "state_unavailable"
    assert [record.code for record in world.audit()] == ["state_unavailable"]


@pytest.mark.parametrize("function", ["identify", "admit", "verify"])
def test_an_exception_is_a_refusal_without_its_text(
    world: World, monkeypatch: pytest.MonkeyPatch, function: str, capsys: pytest.CaptureFixture[str]
) -> None:
    request = world.request()
    body = encode(world.host.evidence(request, world.challenge(request)))

    def fail(*_arguments: Any) -> None:
        raise KeyError("what the caller sent")

    monkeypatch.setattr(verifier, function, fail)
    answer = world.public.post(EVIDENCE, content=body)
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "verification_failed"
    assert [record.code for record in world.audit()] == ["verification_failed"]
    output = capsys.readouterr()
    assert "what the caller sent" not in answer.text + output.out + output.err
    assert "KeyError" in output.out + output.err
    if function != "identify":
        assert world.results()[0]["state"] == "FAILED"


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"version":2}'])
def test_without_configuration_nobody_is_judged(world: World, content: bytes | None) -> None:
    request = world.request()
    world.settings.snapshot.unlink()
    if content is not None:
        world.settings.snapshot.write_bytes(content)
    answer = world.public.post(CHALLENGE, content=request)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "configuration_unavailable"
    assert world.management.get(f"{MANAGE}/status").json()["health"] == "ERROR"
    assert [(record.code, record.host) for record in world.audit()] == [("configuration_unavailable", "")]


@pytest.mark.parametrize("state", ["DISABLE", None])
def test_disabled_cluster_gives_nothing(world: World, state: str | None) -> None:
    request = world.request()
    if state is None:
        del world.documents["trust_authority_cluster", "cluster"]
        world.publish()
    else:
        world.change("trust_authority_cluster", "cluster", state=state)
    answer = world.public.post(CHALLENGE, content=request)
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "service_disabled"


def test_service_of_another_id_does_not_start(world: World) -> None:
    settings = msgspec.structs.replace(world.settings, service_id="attestation@ta2")
    with pytest.raises(Refusal, match="must be attestation@ta1"):
        AttestationService(settings)


# ---- limits -----------------------------------------------------------------------------------------------


def test_one_endorsement_key_cannot_use_up_the_service(world: World) -> None:
    world.service.close()
    world.settings = msgspec.structs.replace(world.settings, burst=3)
    world.start()
    other = world.add_host(Host("host2", "p256:ek2", "p256:ak2"))
    for _index in range(3):
        world.challenge(world.request())
    answer = world.public.post(CHALLENGE, content=world.request())
    assert answer.status_code == 429 and answer.json()["error"]["code"] == "rate_limited"
    assert world.results() == []
    world.challenge(world.request(other))


def test_body_limit(world: World) -> None:
    answer = world.public.post(EVIDENCE, content=b"x" * (2 << 20) + b"x")
    assert answer.status_code == 413


# ---- management -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/status"),
        ("GET", "/hosts"),
        ("GET", "/audit/head"),
        ("GET", "/metrics"),
        ("POST", "/endorsement-keys/00/accept-clock"),
    ],
)
def test_management_answers_only_its_own_manager(world: World, method: str, path: str) -> None:
    app = management_application(world.service, world.settings, lambda: world.now)
    workload = SideAuthority(side="workload").leaf("manager", "workload-manager")[1]
    agent = world.side.leaf("attestation-service", "ta2")[1]
    for headers in ({}, forwarded(workload), forwarded(agent), forwarded("PEM")):
        answer = AsgiClient(app, headers).request(method, MANAGE + path)
        assert answer.status_code in (401, 403), (path, headers)
        assert AsgiClient(world.public.app, headers).request(method, MANAGE + path).status_code == 404
    assert world.management.request(method, MANAGE + path).status_code == 200


def test_status_names_problems_and_certificate(world: World) -> None:
    status = world.management.get(f"{MANAGE}/status").json()
    assert (status["health"], status["details"], status["security_generation"]) == ("OK", [], 3)
    assert status["certificates"][0]["subject"] == "CN=attestation-service ta1"
    world.change("ca_certificate", "vendor", cert_chain=["PEM"])
    status = world.management.get(f"{MANAGE}/status").json()
    assert status["health"] == "WARNING" and "CA entry vendor" in status["details"][0]
    world.settings.identity_certificate.unlink()
    status = world.management.get(f"{MANAGE}/status").json()
    assert status["health"] == "ERROR"
    assert world.public.get("/attestation/v1/keys").json()["error"]["code"] == "certificate_invalid"


def test_audit_head_is_signed(world: World) -> None:
    world.attested()
    head = world.management.get(f"{MANAGE}/audit/head").json()
    claims = tokens.verify_audit_head(
        head["signed"], world.side.certificate, "trust_authority", "attestation-service", world.now
    )
    assert (claims.seq, claims.hash, claims.chain) == (head["seq"], head["hash"], head["chain"])
    assert head["seq"] == 1


def test_metrics_count_decisions(world: World) -> None:
    world.attested()
    world.public.post(CHALLENGE, content=b"{}")
    text = world.management.get(f"{MANAGE}/metrics").text
    assert 'attestation_decisions_total{code="ok",operation="evidence"} 1.0' in text
    assert 'attestation_decisions_total{code="malformed_request",operation="challenge"} 1.0' in text


# ---- state ------------------------------------------------------------------------------------------------


def test_of_two_uses_at_once_one_fails(tmp_path: Path) -> None:
    stores = [UsedChallenges(tmp_path / "used.db") for _index in range(2)]
    states = [new_state(b"", "token", "s", "sha256", (0,), NOW) for _index in range(20)]
    outcomes: list[str] = []

    def use(store: UsedChallenges) -> None:
        for state in states:
            try:
                store.use(state, NOW)
                outcomes.append("used")
            except Refusal as refusal:
                outcomes.append(refusal.code)

    threads = [threading.Thread(target=use, args=(stores[number % 2],)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("used") == 20 and outcomes.count("challenge_used") == 60


def test_used_challenges_are_forgotten_after_they_ended(tmp_path: Path) -> None:
    used = UsedChallenges(tmp_path / "used.db")
    for second in range(100):
        used.use(new_state(b"", "token", "s", "sha256", (0,), NOW + second), NOW + second)
    rows = sqlite3.connect(tmp_path / "used.db").execute("SELECT count(*) FROM used").fetchone()
    assert rows[0] <= 3 * LIFETIME


def test_state_of_a_later_release_is_not_opened(tmp_path: Path) -> None:
    State(tmp_path / "state.db").close()
    assert (tmp_path / "state.db").stat().st_mode & 0o777 == 0o600
    with sqlite3.connect(tmp_path / "state.db") as database:
        database.execute("PRAGMA user_version = 2")
    with pytest.raises(Unavailable, match="later release"):
        State(tmp_path / "state.db")


IDENTITY = HostIdentity(principal=ISSUER, host="host1", ek_digest="ab", key_digest="cd", since=NOW)


def test_clock_history_holds_64_bits(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")
    state.advance(IDENTITY, ClockInfo(200_000, 2**32 - 1, 2**32 - 1, True, 2**64 - 1), NOW)
    record = state.clock_record("ab")
    assert record is not None
    assert (record.reset_count, record.restart_count) == (2**32 - 1, 2**32 - 1)
    assert (record.clock, record.firmware_version) == (200_000, 2**64 - 1)


def test_clock_history_keeps_the_latest_and_writes_seldom(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")

    def kept(clock: int, reset: int = 1, safe: bool = True, firmware: int = 5) -> tuple[int, int, bool, int]:
        state.advance(IDENTITY, ClockInfo(clock, reset, 0, safe, firmware), NOW)
        record = state.clock_record("ab")
        assert record is not None
        return record.clock, record.reset_count, record.safe, record.firmware_version

    assert kept(200_000, safe=False) == (200_000, 1, False, 5)
    # Another attestation of this boot that was under way: accepted, and not the new history.
    assert kept(150_000, safe=False) == (200_000, 1, False, 5)
    assert kept(200_000 + CLOCK_STEP - 1, safe=False) == (200_000, 1, False, 5)
    assert kept(200_000 + CLOCK_STEP, safe=False) == (200_000 + CLOCK_STEP, 1, False, 5)
    assert kept(900_000, safe=True) == (900_000, 1, True, 5)
    assert kept(900_001, firmware=6) == (900_001, 1, True, 6)
    assert kept(7, reset=2, firmware=6) == (7, 2, True, 6)
