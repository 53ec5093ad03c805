# SPDX-License-Identifier: GPL-3.0-or-later
"""What ends a host's trust, and how soon the host itself knows: expiry, denial, withdrawal, reboot."""

from __future__ import annotations

import asyncio
import gc
import math
import weakref
from pathlib import Path
from typing import Any

import msgspec
import pytest
from services.host import test_agent
from services.host.software_host import EVENT_LOG, SoftwareHost
from services.host.test_agent import attest, key_check, live
from services.host.trust_authority import GROUP
from services.side_authority import NOW

from trusted_infrastructure.config.documents import NetworkAddress
from trusted_infrastructure.host.management import status_answer
from trusted_infrastructure.host.registered_services import Service
from trusted_infrastructure.host.withdrawals import LOOK, Withdrawals
from trusted_infrastructure.manager.operations.trust_hosts import AgentStatus
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.times import rfc3339

short_ticks = test_agent.short_ticks
SERVICE = Service("attestation-ta1", NetworkAddress("ta1"), GROUP)


@pytest.fixture
def host(tmp_path: Path) -> SoftwareHost:
    return SoftwareHost(tmp_path)


def watched(host: SoftwareHost) -> list[weakref.ref[Any]]:
    """The tokens with their session keys, to see whether anything still holds them."""
    sessions = [host.agent.attestations.held(f"attestation-{name}", NOW) for name in ("ta1", "ta2")]
    assert None not in sessions
    found: list[weakref.ref[Any]] = []
    for session in sessions:
        assert session is not None
        found += [weakref.ref(session), weakref.ref(session.sealing_key)]
    return found


def gone(references: list[weakref.ref[Any]]) -> bool:
    gc.collect()
    return [reference() for reference in references] == [None] * len(references)


def evidences(host: SoftwareHost) -> list[int]:
    """How often each service was attested with."""
    return [service.calls.count("evidence") for service in host.services]


# ---- the token ends --------------------------------------------------------------------------------------


def test_at_expiry_tokens_and_session_keys_are_gone(host: SoftwareHost) -> None:
    attest(host)
    sessions = watched(host)
    assert not gone(sessions)
    for service in host.services:
        service.away = True
    host.clock.now += 3600
    asyncio.run(host.agent.refresh())  # what the loop does each second
    assert gone(sessions)
    assert host.state()[0] == "EXPIRED"


def test_expired_since_is_when_the_token_ended(host: SoftwareHost) -> None:
    attest(host)
    host.clock.now += 9000
    asyncio.run(host.agent.refresh())
    status = host.agent.status(NOW + 9000)
    assert (status.state, status.since) == ("EXPIRED", NOW + 3600)


def test_the_host_is_attested_since_its_first_token_whichever_service_gave_the_latest(
    host: SoftwareHost,
) -> None:
    attest(host)
    for away in (0, 1, 0):
        host.clock.now += 600
        host.services[away].away, host.services[1 - away].away = True, False
        attest(host)
        assert host.agent.status(int(host.clock())).since == NOW


# ---- the host is denied ----------------------------------------------------------------------------------


def test_a_denial_by_one_attestation_service_drops_every_token(host: SoftwareHost) -> None:
    attest(host)
    sessions = watched(host)
    host.services[1].away = True
    host.services[0].refuse_attestation = Refusal("host_denied", "removed")
    attest(host)
    assert gone(sessions)
    assert host.state() == ("FAILED", "host_denied")
    assert key_check(host) == "not_attested"


@pytest.mark.usefixtures("short_ticks")
def test_a_service_that_knows_less_is_asked_again_after_a_denial(host: SoftwareHost) -> None:
    attest(host)
    host.services[1].away = True
    host.services[0].refuse_attestation = Refusal("host_denied", "removed")
    attest(host)
    assert host.state() == ("FAILED", "host_denied")
    host.services[1].away = False
    live(host, 20)
    assert host.states()["attestation-ta2"] == ("ATTESTED", None)


# ---- trust is withdrawn ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("short_ticks")
def test_a_withdrawal_is_learnt_without_asking_for_a_key(host: SoftwareHost) -> None:
    live(host, 3)
    assert evidences(host) == [1, 1]
    host.services[0].security_generation = 2
    live(host, LOOK + 5)
    assert evidences(host) == [2, 2], "all of the group judge again"
    session = host.agent.attestations.held("attestation-ta1", int(host.clock()))
    assert session is not None and session.claims.security_generation == 2
    live(host, 3 * LOOK)
    assert evidences(host) == [2, 2], "once"
    assert host.state() == ("ATTESTED", None)


@pytest.mark.usefixtures("short_ticks")
def test_a_token_whose_service_is_away_is_dropped_when_the_grace_period_is_over(host: SoftwareHost) -> None:
    """Key providers refuse it by then; the host must not call itself attested."""
    live(host, 3)
    first, second = host.services
    first.away = True
    second.security_generation = 2
    second.refuse_attestation = Refusal("base_image_retired", "image-1 was retired")
    live(host, LOOK + 5)
    assert host.states()["attestation-ta2"] == ("FAILED", "base_image_retired")
    assert host.state()[0] == "ATTESTED", "in the grace period, key providers take the other token"
    live(host, second.grace_period)
    assert host.states()["attestation-ta1"][0] == "EXPIRED"
    assert host.state() == ("FAILED", "base_image_retired")
    assert key_check(host) == "not_attested"


@pytest.mark.usefixtures("short_ticks")
def test_a_service_that_claims_withdrawals_takes_no_token_of_another(host: SoftwareHost) -> None:
    live(host, 3)
    host.services[0].security_generation = 10**9
    host.services[0].refuse_attestation = Refusal("base_image_mismatch", "no")
    live(host, LOOK + 5 + host.services[0].grace_period)
    assert host.states()["attestation-ta2"] == ("ATTESTED", None)


@pytest.mark.usefixtures("short_ticks")
def test_a_host_whose_image_was_retired_knows_it_soon_and_has_no_token(host: SoftwareHost) -> None:
    live(host, 3)
    for service in host.services:
        service.security_generation = 2
        service.refuse_attestation = Refusal("base_image_retired", "image-1 was retired")
    live(host, LOOK + 5)
    assert host.state() == ("FAILED", "base_image_retired")
    assert key_check(host) == "not_attested"


@pytest.mark.usefixtures("short_ticks")
@pytest.mark.parametrize("generation", [0, 1])
def test_no_withdrawal_no_attestation(host: SoftwareHost, generation: int) -> None:
    live(host, 3)
    for service in host.services:
        service.security_generation = generation
    live(host, 3 * LOOK)
    assert evidences(host) == [1, 1]
    assert all(service.calls.count("generation") >= 2 for service in host.services)


@pytest.mark.usefixtures("short_ticks")
def test_a_service_that_is_away_withdraws_nothing(host: SoftwareHost) -> None:
    live(host, 3)
    for service in host.services:
        service.away = True
    live(host, 2 * LOOK)
    assert host.state() == ("ATTESTED", None)


@pytest.mark.usefixtures("short_ticks")
def test_nobody_is_asked_without_a_token(host: SoftwareHost) -> None:
    for service in host.services:
        service.refuse_attestation = Refusal("ek_not_enrolled", "no")
    live(host, 2 * LOOK)
    assert [service.calls.count("generation") for service in host.services] == [0, 0]


class OneAnswer:
    """In place of the client: one body for every question."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    async def get(self, _service: Any, _path: str) -> OneAnswer:
        return self


@pytest.mark.parametrize(
    ("body", "spread"),
    [
        (b'{"security_generation": 6, "grace_period": 60}', 30.0),
        (b'{"security_generation": 6, "grace_period": 3600}', 30.0),
        (b'{"security_generation": 6, "grace_period": -5}', 0.0),
        (b'{"security_generation": 6}', 0.0),
        (b'{"security_generation": 5, "grace_period": 60}', None),
        (b'{"security_generation": "6"}', None),
        (b"[]", None),
        (b"\xff", None),
        (b"", None),
    ],
)
def test_what_is_made_of_an_answer(body: bytes, spread: float | None) -> None:
    client: Any = OneAnswer(body)
    assert asyncio.run(Withdrawals(client, lambda: 0.0).look(SERVICE, 5, 0.0)) == spread


@pytest.mark.parametrize("dice", [0.0, 0.5, 1.0])
def test_questions_are_spread(dice: float) -> None:
    client: Any = OneAnswer(b"")
    withdrawals = Withdrawals(client, lambda: dice)
    first = [second for second in range(200) if withdrawals.due("a", float(second))]
    apart = {later - before for before, later in zip(first, first[1:], strict=False)}
    assert apart == {math.ceil(LOOK * (0.5 + dice / 2))}
    # The clock is set back by a day: the next question comes as soon as ever.
    assert any(withdrawals.due("a", float(second) - 86400) for second in range(int(LOOK) + 1))


# ---- the host starts anew --------------------------------------------------------------------------------


@pytest.mark.usefixtures("short_ticks")
def test_after_a_reboot_there_is_no_token_until_the_host_attested_again(host: SoftwareHost) -> None:
    attest(host)
    session = host.agent.attestations.latest(NOW)
    assert session is not None
    kept = b"".join(path.read_bytes() for path in host.folder.rglob("*") if path.is_file())
    assert session.token.encode() not in kept, "nothing of it outlives the process"
    host.start()
    assert host.state()[0] != "ATTESTED"
    assert key_check(host) == "not_attested"
    live(host, 3)
    assert host.state() == ("ATTESTED", None)
    assert evidences(host) == [2, 2]


@pytest.mark.usefixtures("short_ticks")
def test_an_event_log_that_comes_later_than_the_agent_is_read(tmp_path: Path) -> None:
    logs: list[bytes] = []
    host = SoftwareHost(tmp_path, event_log=b"", read_event_log=lambda: logs[-1] if logs else b"")
    live(host, 3)
    assert host.state() == ("FAILED", "event_log_missing")
    logs.append(EVENT_LOG)
    live(host, 10)
    assert host.state() == ("ATTESTED", None)


def test_a_log_that_cannot_be_read_any_more_is_the_one_of_the_start(tmp_path: Path) -> None:
    host = SoftwareHost(tmp_path, read_event_log=lambda: b"")
    attest(host)
    assert host.state() == ("ATTESTED", None)


# ---- what is told -----------------------------------------------------------------------------------------


def test_a_staged_image_is_told(host: SoftwareHost) -> None:
    host.services[0].image_state = "STAGED"
    attest(host)
    first, second = host.agent.attestations.services(NOW)
    assert (first.base_image_state, second.base_image_state) == ("STAGED", "ACTIVE")


def test_the_manager_understands_what_it_is_told(host: SoftwareHost) -> None:
    host.services[1].away = True
    attest(host)
    status = msgspec.convert(status_answer(host.agent, NOW), AgentStatus)
    assert (status.state, status.base_image_state, status.service_address, status.since) == (
        "ATTESTED",
        "ACTIVE",
        "ta1:443",
        rfc3339(NOW),
    )
    assert status.attested_until == rfc3339(NOW + 3600)
    host.services[0].refuse_attestation = Refusal("base_image_retired", "image-1 was retired", "Upgrade it.")
    attest(host)
    status = msgspec.convert(status_answer(host.agent, NOW), AgentStatus)
    assert (status.state, status.reason, status.remedy) == ("FAILED", "base_image_retired", "Upgrade it.")
