# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent over time: what it attests with and when, and what a change or a refusal does to its tokens."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from unittest import mock

import msgspec
import pytest
from services.host.software_host import HOST, SoftwareHost
from services.host.trust_authority import GROUP, PROVIDER, SCOPE
from services.side_authority import NOW, SideAuthority

from trusted_infrastructure.config.documents import HostAssertion, TrustedKeyProvider
from trusted_infrastructure.host import agent as agent_module
from trusted_infrastructure.refusal import Refusal, Unavailable


@pytest.fixture
def host(tmp_path: Path) -> SoftwareHost:
    return SoftwareHost(tmp_path)


def attest(host: SoftwareHost) -> None:
    asyncio.run(host.agent.attest())


def refresh(host: SoftwareHost) -> None:
    asyncio.run(host.agent.refresh())


def key_check(host: SoftwareHost, provider: str | None = None) -> str:
    return asyncio.run(host.agent.key_check(provider)).result


def live(host: SoftwareHost, seconds: float) -> None:
    """Let the agent's own loop run for `seconds` of its clock, four ticks each second.

    What a tick begins has ended by the next, however long it takes."""
    agent, tick = host.agent, asyncio.Event()
    last_of_a_tick = agent._look_for_withdrawals

    def ticked() -> None:
        last_of_a_tick()
        tick.set()

    async def steps() -> None:
        for step in range(int(seconds * 4) + 1):
            host.clock.now += 0.25 if step else 0
            tick.clear()
            await tick.wait()
            while begun := [*agent._running.values(), *agent._looking.values()]:
                await asyncio.wait(begun)
                await asyncio.sleep(0)

    async def run() -> None:
        running, stepping = asyncio.create_task(agent.run()), asyncio.create_task(steps())
        await asyncio.wait({running, stepping}, timeout=120, return_when=asyncio.FIRST_COMPLETED)
        assert stepping.done(), running
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    with mock.patch.object(agent, "_look_for_withdrawals", ticked):
        asyncio.run(run())


@pytest.fixture
def short_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "TICK", 0.002)


def test_it_attests_with_every_registered_service(host: SoftwareHost) -> None:
    assert host.state() == ("FAILED", "not_attested")
    attest(host)
    assert host.states() == {"attestation-ta1": ("ATTESTED", None), "attestation-ta2": ("ATTESTED", None)}
    assert host.state() == ("ATTESTED", None)
    assert host.tpm.made == 1, "one attestation key serves all services"


# ---- states -------------------------------------------------------------------------------------------


def test_one_service_away_changes_nothing_for_the_host(host: SoftwareHost) -> None:
    host.services[0].away = True
    attest(host)
    assert host.states()["attestation-ta1"] == ("UNREACHABLE", "peer_unreachable")
    assert host.state() == ("ATTESTED", None)
    assert key_check(host) == "OK"


def test_a_service_that_goes_away_leaves_its_token_until_it_ends(host: SoftwareHost) -> None:
    attest(host)
    for service in host.services:
        service.away = True
    attest(host)
    assert host.states()["attestation-ta1"] == ("ATTESTED", "peer_unreachable")
    assert host.state() == ("ATTESTED", None)
    host.clock.now += 3600
    assert host.states()["attestation-ta1"] == ("EXPIRED", "peer_unreachable")
    assert host.state()[0] == "EXPIRED"
    assert host.agent.attestations.latest(int(host.clock())) is None


def test_a_token_that_ends_unnoticed_is_expired(host: SoftwareHost) -> None:
    attest(host)
    host.clock.now += 3600
    assert host.state() == ("EXPIRED", "token_expired")
    assert key_check(host) == "not_attested"


def test_a_refusal_drops_the_token_of_that_service_alone(host: SoftwareHost) -> None:
    attest(host)
    host.services[0].refuse_attestation = Refusal("base_image_mismatch", "event 7 differs")
    attest(host)
    assert host.states()["attestation-ta1"] == ("FAILED", "base_image_mismatch")
    assert host.state() == ("ATTESTED", None)
    host.services[1].refuse_attestation = Refusal("base_image_mismatch", "event 7 differs")
    attest(host)
    assert host.state() == ("FAILED", "base_image_mismatch")
    assert key_check(host) == "not_attested"


def test_after_a_restart_a_refusal_by_all_is_failed_with_the_services_reason(host: SoftwareHost) -> None:
    attest(host)
    for service in host.services:
        service.refuse_attestation = Refusal("base_image_mismatch", "event 7 (PCR 4) differs")
    host.start()
    assert host.state()[0] != "ATTESTED"
    attest(host)
    status = host.agent.status(NOW)
    assert (status.state, status.reason, status.message) == (
        "FAILED",
        "base_image_mismatch",
        "event 7 (PCR 4) differs",
    )


def test_failed_wins_over_unreachable(host: SoftwareHost) -> None:
    host.services[0].away = True
    host.services[1].refuse_attestation = Refusal("ek_not_enrolled", "unknown")
    attest(host)
    assert host.state() == ("FAILED", "ek_not_enrolled")


def test_unreachable_is_not_failed(host: SoftwareHost) -> None:
    for service in host.services:
        service.away = True
    attest(host)
    assert host.state() == ("UNREACHABLE", "peer_unreachable")


def test_a_refused_host_is_attested_again_when_the_service_accepts(host: SoftwareHost) -> None:
    host.services[0].refuse_attestation = Refusal("no_base_image", "none")
    attest(host)
    host.services[0].refuse_attestation = None
    attest(host)
    assert host.states()["attestation-ta1"] == ("ATTESTED", None)


def test_since_is_when_the_state_began(host: SoftwareHost) -> None:
    attest(host)
    host.clock.now += 100
    attest(host)
    assert [one.since for one in host.agent.attestations.services(NOW + 100)] == [NOW, NOW]
    host.services[0].refuse_attestation = Refusal("ek_mismatch", "no")
    attest(host)
    assert [one.since for one in host.agent.attestations.services(NOW + 100)] == [NOW + 100, NOW]


# ---- configuration ------------------------------------------------------------------------------------


def test_a_service_that_the_anchor_does_not_vouch_for_is_not_contacted(host: SoftwareHost) -> None:
    stranger = SideAuthority(common_name="CA").certificate
    host.publish({("attestation_service", "attestation-ta1"): host.registered("ta1", stranger)})
    attest(host)
    assert host.states()["attestation-ta1"] == ("FAILED", "service_not_anchored")
    assert host.services[0].calls == []
    assert host.state() == ("ATTESTED", None)


def test_a_redirected_host_reports_and_gets_no_key(host: SoftwareHost) -> None:
    stranger = SideAuthority(common_name="CA").certificate
    for name in ("ta1", "ta2"):
        host.publish(
            {
                ("attestation_service", f"attestation-{name}"): host.registered(name, stranger),
                ("kms_service", f"kms-{name}"): host.registered(name, stranger),
            }
        )
    attest(host)
    assert host.state() == ("FAILED", "service_not_anchored")
    assert key_check(host) == "service_not_anchored"
    assert {one.kind for one in host.agent.refused_services()} == {"attestation_service", "kms_service"}


def test_a_token_does_not_outlive_the_anchor_of_its_service(host: SoftwareHost) -> None:
    attest(host)
    host.write_anchor(SideAuthority(common_name="other").certificate)
    refresh(host)
    assert host.state() == ("FAILED", "service_not_anchored")
    assert host.agent.attestations.latest(NOW) is None


def test_connections_trust_the_anchor_alone(host: SoftwareHost) -> None:
    attest(host)
    attest(host)
    assert host.network.anchors == [host.authority.certificate]


def test_a_token_does_not_outlive_the_registration_of_its_service(host: SoftwareHost) -> None:
    attest(host)
    host.publish({("attestation_service", f"attestation-{name}"): None for name in ("ta1", "ta2")})
    refresh(host)
    assert host.states() == {}
    assert host.state() == ("FAILED", "not_attested")
    assert host.agent.attestations.latest(NOW) is None


def test_a_service_that_moves_is_a_new_one(host: SoftwareHost) -> None:
    attest(host)
    host.publish({("attestation_service", "attestation-ta1"): host.registered("ta9")})
    refresh(host)
    assert host.states()["attestation-ta1"] == ("UNREACHABLE", "not_attested")


ASSERTIONS = {
    "none": None,
    "for another host": HostAssertion(host="host2", scope=SCOPE, assertion="a.b.c"),
}


@pytest.mark.parametrize("name", ASSERTIONS)
def test_without_an_assertion_for_this_host_nothing_is_sent(host: SoftwareHost, name: str) -> None:
    host.publish({("host_assertion", "assertion"): ASSERTIONS[name]})
    attest(host)
    assert host.state() == ("FAILED", "assertion_invalid")
    assert host.services[0].calls == []


def test_without_a_snapshot_the_status_says_so(host: SoftwareHost) -> None:
    (host.folder / "snapshot.json").unlink()
    with pytest.raises(Unavailable, match="configuration_unavailable"):
        attest(host)
    assert host.state() == ("FAILED", "configuration_unavailable")
    assert key_check(host) == "configuration_unavailable"


def test_a_snapshot_that_goes_away_leaves_valid_tokens(host: SoftwareHost) -> None:
    attest(host)
    (host.folder / "snapshot.json").write_text("{")
    with pytest.raises(Unavailable):
        refresh(host)
    assert host.state() == ("ATTESTED", None)


def test_without_an_anchor_the_status_says_so(host: SoftwareHost) -> None:
    (host.folder / "anchors" / "trust_authority_ca.pem").unlink()
    with pytest.raises(Unavailable, match="anchor_missing"):
        attest(host)
    assert host.state() == ("FAILED", "anchor_missing")


def test_an_anchor_that_is_no_certificate_is_refused(host: SoftwareHost) -> None:
    host.write_anchor("no certificate")
    with pytest.raises(Unavailable, match="anchor_missing"):
        attest(host)
    assert host.state() == ("FAILED", "anchor_missing")
    assert host.network.anchors == []


def test_without_an_event_log_nothing_is_sent(tmp_path: Path) -> None:
    host = SoftwareHost(tmp_path, event_log=b"")
    attest(host)
    assert host.state() == ("FAILED", "event_log_missing")
    assert host.services[0].calls == []


def test_a_replaced_tpm_gets_a_new_attestation_key(host: SoftwareHost) -> None:
    attest(host)
    host.tpm.serial = "tpm-2"
    host.services[0].refuse_attestation = Refusal("ek_mismatch", "no")
    attest(host)
    host.services[0].refuse_attestation = None
    attest(host)
    assert host.tpm.made == 2


def test_a_fault_of_ours_is_named_by_its_type_only(
    host: SoftwareHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object) -> object:
        raise RuntimeError("secret text")

    monkeypatch.setattr(host.tpm, "prove", broken)
    attest(host)
    status = host.agent.status(NOW)
    assert (status.state, status.reason) == ("FAILED", "agent_fault")
    assert "RuntimeError" in status.message
    assert "secret" not in status.message


# ---- the loop -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("short_ticks")
def test_the_loop_attests_after_a_start_and_renews_before_the_end(host: SoftwareHost) -> None:
    for service in host.services:
        service.lifetime = 40
    live(host, 100)
    for service in host.services:
        # dice 0: renewed at half of the token's life
        assert 4 <= service.calls.count("evidence") <= 6
    assert host.state() == ("ATTESTED", None)


@pytest.mark.usefixtures("short_ticks")
def test_the_loop_tries_a_service_that_is_away_again_and_slower(host: SoftwareHost) -> None:
    host.services[0].away = True
    live(host, 60)
    away = host.network.attempts["ta1"]
    assert 4 <= away <= 7, "2, 4, 8, 16, 32 s apart"
    host.services[0].away = False
    live(host, 64)
    assert host.states()["attestation-ta1"] == ("ATTESTED", None)


@pytest.mark.usefixtures("short_ticks")
def test_the_loop_attests_again_when_the_assertion_changed(host: SoftwareHost) -> None:
    live(host, 3)
    assert [service.calls.count("evidence") for service in host.services] == [1, 1]
    live(host, 3)
    assert [service.calls.count("evidence") for service in host.services] == [1, 1]
    host.publish({("host_assertion", "assertion"): HostAssertion(host=HOST, scope=SCOPE, assertion="d.e.f")})
    live(host, 3)
    assert [service.calls.count("evidence") for service in host.services] == [2, 2]


@pytest.mark.usefixtures("short_ticks")
def test_the_loop_does_not_attest_for_changes_that_do_not_matter(host: SoftwareHost) -> None:
    live(host, 3)
    host.publish({("trusted_key_provider", "hr"): TrustedKeyProvider(group=GROUP)})
    live(host, 3)
    assert [service.calls.count("evidence") for service in host.services] == [1, 1]


@pytest.mark.usefixtures("short_ticks")
def test_the_loop_survives_a_configuration_that_is_not_there_yet(host: SoftwareHost) -> None:
    (host.folder / "snapshot.json").unlink()
    live(host, 3)
    host.publish()
    live(host, 3)
    assert host.state() == ("ATTESTED", None)


def test_who_asks_at_once_shares_attempts_that_began_after_the_question(host: SoftwareHost) -> None:
    async def at_once() -> None:
        await asyncio.gather(*(host.agent.attest() for _number in range(6)))

    asyncio.run(at_once())
    calls = [call for call in host.services[0].calls if call in ("challenge", "evidence")]
    assert calls == ["challenge", "evidence"] * 2


# ---- key check ----------------------------------------------------------------------------------------


def test_a_key_check_makes_and_opens_one_key(host: SoftwareHost) -> None:
    attest(host)
    assert key_check(host) == "OK"
    assert host.services[0].calls[-3:].count("create") + host.services[0].calls[-3:].count("unwrap") == 2
    assert host.agent.host_keys.last_check is not None
    assert host.agent.host_keys.last_check.provider == PROVIDER


def test_a_key_check_before_any_attestation_is_not_attested(host: SoftwareHost) -> None:
    refresh(host)
    assert key_check(host) == "not_attested"


KEY_CHECKS = {
    "the reason of the service": (Refusal("provider_denied", "no"), "provider_denied"),
    "a key server that is away": (Unavailable("key_server_unreachable", "no"), "key_server_unreachable"),
}


@pytest.mark.parametrize("name", KEY_CHECKS)
def test_a_key_check_gives(host: SoftwareHost, name: str) -> None:
    refusal, expected = KEY_CHECKS[name]
    attest(host)
    for service in host.services:
        service.refuse_key = refusal
    assert key_check(host) == expected


def test_a_key_check_notices_that_another_key_comes_back(host: SoftwareHost) -> None:
    attest(host)
    keys = iter([bytes(32), b"\1" * 32])
    host.services[0].change_kek = lambda _kek: next(keys)
    assert key_check(host) == "answer_invalid"


PROVIDERS: dict[str, tuple[dict[str, TrustedKeyProvider], str]] = {
    "none": ({}, "provider_unknown"),
    "one, default": ({PROVIDER: TrustedKeyProvider(group=GROUP, default=True)}, "OK"),
    "one": ({PROVIDER: TrustedKeyProvider(group=GROUP)}, "OK"),
    "two without default": (
        {PROVIDER: TrustedKeyProvider(group=GROUP), "hr": TrustedKeyProvider(group=GROUP)},
        "provider_unknown",
    ),
    "two with default": (
        {PROVIDER: TrustedKeyProvider(group=GROUP, default=True), "hr": TrustedKeyProvider(group=GROUP)},
        "OK",
    ),
}


@pytest.mark.parametrize("name", PROVIDERS)
def test_the_default_provider_is_checked(host: SoftwareHost, name: str) -> None:
    providers, expected = PROVIDERS[name]
    host.publish({("trusted_key_provider", PROVIDER): None})
    host.publish({("trusted_key_provider", provider): content for provider, content in providers.items()})
    attest(host)
    assert key_check(host) == expected


def test_a_provider_of_another_group_uses_the_services_of_that_group(host: SoftwareHost) -> None:
    host.publish(
        {
            ("trusted_key_provider", "hr"): TrustedKeyProvider(group="group-2"),
            ("kms_service", "kms-ta2"): msgspec.structs.replace(host.registered("ta2"), group="group-2"),
        }
    )
    attest(host)
    assert key_check(host, "hr") == "not_attested"
    assert "create" not in host.services[0].calls + host.services[1].calls
    assert key_check(host, PROVIDER) == "OK"


def test_closing_forgets_tokens(host: SoftwareHost) -> None:
    attest(host)
    asyncio.run(host.agent.close())
    assert host.agent.attestations.latest(NOW) is None
