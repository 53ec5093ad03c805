# SPDX-License-Identifier: GPL-3.0-or-later
"""One attestation: what the agent refuses to take from a service, and what it passes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from services.host.software_host import SoftwareHost
from services.host.trust_authority import BANK, GROUP, PCRS, TrustAuthorityHost
from services.side_authority import NOW, SideAuthority

from trusted_infrastructure.messages import Challenge, ChallengeRequest, Evidence
from trusted_infrastructure.refusal import Refusal, Unavailable
from trusted_infrastructure.tokens import Confirmation, SealingTarget, TokenClaims


@pytest.fixture
def host(tmp_path: Path) -> SoftwareHost:
    host = SoftwareHost(tmp_path)
    host.publish({("attestation_service", "attestation-ta2"): None})
    return host


def attest(host: SoftwareHost) -> tuple[str, str | None]:
    asyncio.run(host.agent.attest())
    return host.states()["attestation-ta1"]


def change(**fields: Any) -> Callable[[Any], Any]:
    return lambda message: msgspec.structs.replace(message, **fields)


def test_a_service_that_accepts_gives_a_session_with_fresh_keys(host: SoftwareHost) -> None:
    assert attest(host) == ("ATTESTED", None)
    first = host.agent.session(GROUP)
    assert attest(host) == ("ATTESTED", None)
    second = host.agent.session(GROUP)
    assert first.claims.cnf.jkt != second.claims.cnf.jkt
    assert first.claims.hpke.digest != second.claims.hpke.digest
    assert first.claims.base_image == "image-1"


def test_the_service_sees_who_asks_and_what_was_booted(host: SoftwareHost) -> None:
    seen: list[tuple[ChallengeRequest, Evidence]] = []
    host.services[0].judge = lambda request, evidence, _expected: seen.append((request, evidence))
    attest(host)
    request, evidence = seen[0]
    assert (request.assertion, request.ak_public, request.ek_certificates) == (
        "a.b.c",
        b"ak",
        [b"certificate"],
    )
    assert request.ek_public == b"ek of tpm-1"
    assert (evidence.event_log, evidence.signature) == (host.event_log, b"signature")
    # The value of every quoted PCR, so that the service can name the one that the log does not explain.
    assert msgspec.json.decode(evidence.claims) == {"pcr_values": {str(pcr): "00" * 32 for pcr in PCRS}}


def test_pcrs_that_move_between_reading_and_quoting_are_read_again(host: SoftwareHost) -> None:
    readings = iter([b"1", b"2", b"3", b"3"])
    seen: list[Evidence] = []
    host.tpm.read_pcrs = lambda bank, pcrs: dict.fromkeys(pcrs, next(readings))  # type: ignore[method-assign]
    host.services[0].judge = lambda _request, evidence, _expected: seen.append(evidence)
    assert attest(host) == ("ATTESTED", None)
    assert msgspec.json.decode(seen[0].claims) == {"pcr_values": {str(pcr): "33" for pcr in PCRS}}


def test_pcrs_that_never_stand_still_are_reported(host: SoftwareHost) -> None:
    readings = iter(range(256))
    host.tpm.read_pcrs = lambda bank, pcrs: dict.fromkeys(pcrs, bytes([next(readings)]))  # type: ignore[method-assign]
    state, reason = attest(host)
    assert (state != "ATTESTED", reason) == (True, "tpm_pcrs_unstable")


CHALLENGES: dict[str, tuple[Callable[[Challenge], Challenge], str]] = {
    "short nonce": (change(nonce=b"x" * 31), "peer_answer_invalid"),
    "empty nonce": (change(nonce=b""), "peer_answer_invalid"),
    "short challenge id": (change(challenge_id=b"x" * 15), "peer_answer_invalid"),
    "no PCRs": (change(pcrs=[]), "peer_answer_invalid"),
    "PCRs twice": (change(pcrs=[0, 0]), "peer_answer_invalid"),
    "PCRs out of order": (change(pcrs=[1, 0]), "peer_answer_invalid"),
    "PCR that is none": (change(pcrs=[24]), "peer_answer_invalid"),
    "unknown bank": (change(bank="md5"), "peer_answer_invalid"),
}


@pytest.mark.parametrize("name", CHALLENGES)
def test_a_challenge_that_would_weaken_the_quote_is_not_answered(host: SoftwareHost, name: str) -> None:
    host.services[0].change_challenge, reason = CHALLENGES[name]
    assert attest(host) == ("UNREACHABLE", reason)
    assert host.tpm.proofs == 0
    assert "evidence" not in host.services[0].calls


QUOTED: dict[str, Callable[[Challenge], Challenge]] = {
    "another service's id": change(service_id="attestation@elsewhere"),
    "another nonce": change(nonce=b"x" * 32),
    "another id": change(challenge_id=b"x" * 16),
    "another secret": change(credential_blob=b"x" * 32),
    "another selection": change(pcrs=[0]),
    "another bank": change(bank="sha384"),
}


@pytest.mark.parametrize("name", QUOTED)
def test_everything_in_the_challenge_is_in_the_quote(host: SoftwareHost, name: str) -> None:
    host.services[0].change_challenge = QUOTED[name]
    assert attest(host) == ("FAILED", "quote_qualifying_data")


CLAIMS: dict[str, tuple[Callable[[TokenClaims], TokenClaims], str]] = {
    "another proof key": (change(cnf=Confirmation(jkt="x" * 43)), "token_invalid"),
    "another sealing key": (change(hpke=SealingTarget(suite="X25519", digest="0" * 64)), "token_invalid"),
    "another group": (change(aud="group-2"), "token_audience"),
    "another issuer": (change(iss="attestation@ta2"), "token_invalid"),
    "already over": (change(exp=NOW - 1, iat=NOW - 60, nbf=NOW - 60), "token_expired"),
    "not yet valid": (change(nbf=NOW + 3600), "token_invalid"),
    "too long": (change(exp=NOW + 10**7), "token_invalid"),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_token_that_is_not_for_this_attestation_is_not_kept(host: SoftwareHost, name: str) -> None:
    host.services[0].change_claims, reason = CLAIMS[name]
    assert attest(host) == ("FAILED", reason)
    with pytest.raises(Refusal, match="not_attested"):
        host.agent.session(GROUP)


def _other_key(service: TrustAuthorityHost) -> None:
    service.published["attestation-service"] = [ec.generate_private_key(ec.SECP256R1()).public_key()]


def _other_authority(service: TrustAuthorityHost) -> None:
    service.identities["attestation-service"] = SideAuthority().leaf("attestation-service", "ta1")


def _other_role(service: TrustAuthorityHost) -> None:
    service.identities["attestation-service"] = service.authority.leaf("key-provider-service", "ta1")


def _other_side(service: TrustAuthorityHost) -> None:
    service.identities["attestation-service"] = service.authority.leaf(
        "attestation-service", "ta1", side="workload"
    )


def _other_host(service: TrustAuthorityHost) -> None:
    service.identities["attestation-service"] = service.authority.leaf("attestation-service", "ta2")


def _expired(service: TrustAuthorityHost) -> None:
    service.identities["attestation-service"] = service.authority.leaf(
        "attestation-service", "ta1", now=NOW - 20 * 86400, days=10
    )


KEY_SETS: dict[str, tuple[Callable[[TrustAuthorityHost], None], str]] = {
    "token by a key that is not published": (_other_key, "response_key_unknown"),
    "set by another CA": (_other_authority, "certificate_invalid"),
    "set by another role": (_other_role, "certificate_invalid"),
    "set by another side": (_other_side, "certificate_invalid"),
    "set by another host's identity": (_other_host, "key_set_invalid"),
    "set by an expired identity": (_expired, "certificate_expired"),
}


@pytest.mark.parametrize("name", KEY_SETS)
def test_a_token_counts_only_up_to_the_anchor(host: SoftwareHost, name: str) -> None:
    prepare, reason = KEY_SETS[name]
    prepare(host.services[0])
    state, found = attest(host)
    assert (state != "ATTESTED", found) == (True, reason)
    with pytest.raises(Refusal, match="not_attested"):
        host.agent.session(GROUP)


REFUSALS: dict[str, tuple[Refusal, str]] = {
    "a decision": (Refusal("base_image_mismatch", "event 7 differs", "find out why"), "FAILED"),
    "a bad request": (Refusal("malformed_request", "no", status=400), "FAILED"),
    "a missing principal": (Refusal("principal_unknown", "no", status=401), "FAILED"),
    "no configuration": (Unavailable("configuration_unavailable", "no"), "UNREACHABLE"),
    "too many": (Refusal("rate_limited", "wait", status=429), "UNREACHABLE"),
    "a fault": (Refusal("internal_error", "incident 1", status=500), "UNREACHABLE"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_the_service_says_is_passed_on(host: SoftwareHost, name: str) -> None:
    refusal, state = REFUSALS[name]
    host.services[0].refuse_attestation = refusal
    assert attest(host) == (state, refusal.code)
    status = host.agent.attestations.services(NOW)[0]
    assert status.message == refusal.message


def test_a_service_that_is_away_is_unreachable(host: SoftwareHost) -> None:
    host.services[0].away = True
    assert attest(host) == ("UNREACHABLE", "peer_unreachable")


def test_an_answer_that_is_not_ours_is_not_understood(
    host: SoftwareHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def page(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'{"login": "please"}'})

    monkeypatch.setattr(host.services[0], "app", page)
    assert attest(host) == ("UNREACHABLE", "peer_answer_invalid")


TPM_FAULTS = [
    (Unavailable("tpm_unavailable", "gone"), "FAILED"),
    (Unavailable("tpm_busy", "wait"), "FAILED"),
    (Refusal("challenge_invalid", "made for another key"), "FAILED"),
    (Unavailable("tpm_pcrs_unstable", "the PCRs change all the time"), "FAILED"),
]


@pytest.mark.parametrize(("fault", "state"), TPM_FAULTS, ids=lambda value: getattr(value, "code", str(value)))
def test_a_fault_of_the_tpm_is_this_hosts_failure(host: SoftwareHost, fault: Refusal, state: str) -> None:
    host.tpm.fault = fault
    assert attest(host) == (state, fault.code)


def test_the_selection_is_the_one_of_the_challenge(
    host: SoftwareHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, list[int]]] = []
    prove = host.tpm.prove

    def spy(key: Any, blob: bytes, seed: bytes, qualify: Any, bank: str, pcrs: Any) -> Any:
        asked.append((bank, list(pcrs)))
        return prove(key, blob, seed, qualify, bank, pcrs)

    monkeypatch.setattr(host.tpm, "prove", spy)
    attest(host)
    assert asked == [(BANK, PCRS)]
