# SPDX-License-Identifier: GPL-3.0-or-later
"""A Key Provider Service that cannot trust its clock, configuration or peers' keys releases no key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from services.key_provider.harness import NOW
from services.key_provider.running import Service, running
from services.key_provider.test_attestation_keys import PEERS, Peers, key_set

from trusted_infrastructure.clock_guard import Measurement
from trusted_infrastructure.key_provider.attestation_keys import AttestationKeys
from trusted_infrastructure.refusal import Refusal, Unavailable

STATUS = "/kms/manage/v1/status"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running(tmp_path) as made:
        made.take()
        yield made


def create(service: Service) -> httpx.Response:
    return service.ask(service.host.create_body(), "create")


def back(service: Service) -> None:
    service.clock.now -= 100


def off_peers(service: Service) -> None:
    guard = service.parts.oversight.guard
    shown = Measurement(guard._boot, guard._clocks.since_boot(), service.clock.now + 500, 0.5)
    guard.peers_show({"ta2": shown})


def stale(service: Service) -> None:
    service.parts.oversight.watch._required = ("ta2", service.authority.security_generation + 1)


REASONS: dict[str, Callable[[Service], None]] = {
    "clock_went_back": back,
    "clock_off_peers": off_peers,
    "configuration_stale": stale,
}


@pytest.mark.parametrize("code", REASONS)
def test_no_key_is_released_and_the_refusal_is_one_record(service: Service, code: str) -> None:
    assert create(service).status_code == 200
    before = len(service.audit())
    REASONS[code](service)
    answer = create(service)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, code)
    assert [record["code"] for record in service.audit()[before:]] == [code]
    vouched = service.public.get("/kms/v1/keys").status_code
    assert vouched == (200 if code == "configuration_stale" else 503)
    assert service.public.get("/kms/v1/audit-head").status_code == 200
    status = service.management.get(STATUS).json()
    assert status["health"] == "ERROR" and any(detail.startswith(code) for detail in status["details"])


def test_tokens_of_a_service_that_is_down_are_accepted_up_to_a_maximum_age(service: Service) -> None:
    """The key set itself lives for an hour in this world; what counts here is the lower of both."""
    assert create(service).status_code == 200
    keys = service.parts.state.attestation_keys

    async def down(_peer: object) -> str:
        raise Unavailable("peer_unreachable", "ta1 did not answer")

    keys._fetch = down
    keys._max_age = 600
    service.clock.now = service.host.now = NOW + 599
    assert create(service).status_code == 200
    service.clock.now = service.host.now = NOW + 600
    keys._asked = -1e9
    answer = create(service)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "token_keys_outdated")
    assert service.audit()[-1]["code"] == "token_keys_outdated"


@pytest.fixture
def peers(tmp_path: Path) -> Peers:
    return Peers(tmp_path)


@pytest.mark.parametrize(
    ("max_age", "lifetime", "now", "known"),
    [
        (600, 3600, 599, True),
        (600, 3600, 600, False),
        (600, 300, 299, True),
        (600, 300, 300, False),
        (7 * 86400, 86400, 86399, True),
        (7 * 86400, 86400, 86400, False),
    ],
)
def test_the_lower_of_maximum_age_and_own_end_counts(
    peers: Peers, max_age: int, lifetime: int, now: int, known: bool
) -> None:
    peers.sets = {"ta1": key_set("ta1", lifetime=lifetime)}
    peers.keys._max_age = max_age
    peers.refresh()
    found = peers.keys.known(PEERS, NOW + now)
    assert bool(found.keys) == known and bool(found.outdated) != known
    if not known:
        assert set(found.outdated.values()) == {"attestation@ta1"}


def test_a_restart_does_not_make_keys_younger(peers: Peers) -> None:
    peers.sets = {"ta1": key_set("ta1")}
    peers.refresh()
    again = peers.make()
    again._max_age = 600
    assert not again.known(PEERS, NOW + 600).keys


def test_peers_are_asked_at_once(tmp_path: Path) -> None:
    waiting = []

    async def fetch(peer: object) -> str:
        waiting.append(peer)
        while len(waiting) < len(PEERS):
            await asyncio.sleep(0)
        raise Refusal("peer_unreachable", "no")

    keys = AttestationKeys(tmp_path / "keys.json", tmp_path / "ca.pem", fetch, lambda: 0.0)
    asyncio.run(asyncio.wait_for(keys.refresh(PEERS, NOW), 5))
    assert set(keys.problems) == {peer.host for peer in PEERS}
