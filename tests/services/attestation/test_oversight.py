# SPDX-License-Identifier: GPL-3.0-or-later
"""An Attestation Service that cannot trust its clock or its configuration gives nothing, and says why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from services.attestation.world import CHALLENGE, EVIDENCE, World

from trusted_infrastructure import tokens
from trusted_infrastructure.clock_guard import Measurement, accept_time
from trusted_infrastructure.messages import encode

STATUS = "/attestation/manage/v1/status"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.service.close()


def back(world: World) -> None:
    world.now -= 100


def off_peers(world: World) -> None:
    guard = world.service.oversight.guard
    guard.peers_show({"ta2": Measurement(guard._boot, guard._clocks.since_boot(), world.now + 500, 0.5)})


def stale(world: World) -> None:
    world.service.oversight.watch._required = ("ta2", world.security_generation + 1)


REASONS = {"clock_went_back": back, "clock_off_peers": off_peers, "configuration_stale": stale}


@pytest.mark.parametrize("code", REASONS)
def test_nothing_is_decided_and_each_refusal_is_one_record(world: World, code: str) -> None:
    request = world.request()
    evidence = world.host.evidence(request, world.challenge(request))
    before, results = len(world.audit()), world.results()
    REASONS[code](world)
    for path, body in ((CHALLENGE, request), (EVIDENCE, encode(evidence))):
        answer = world.public.post(path, content=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, code)
        assert answer.json()["error"]["remedy"]
    assert [record.code for record in world.audit()[before:]] == [code, code]
    assert world.results() == results and world.histories() == {}
    status = world.management.get(STATUS).json()
    assert status["health"] == "ERROR" and any(detail.startswith(code) for detail in status["details"])


@pytest.mark.parametrize("code", ["clock_went_back", "clock_off_peers"])
@pytest.mark.parametrize("path", ["keys", "jwks"])
def test_keys_are_not_vouched_for_either_and_heads_are(world: World, code: str, path: str) -> None:
    REASONS[code](world)
    answer = world.public.get(f"/attestation/v1/{path}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, code)
    # The head shows peers what this clock shows.
    signed = world.public.get("/attestation/v1/audit-head").json()["signed"]
    claims = tokens.verify_audit_head(
        signed, world.side.certificate, "trust_authority", "attestation-service", world.now
    )
    assert (claims.iat, claims.security_generation) == (world.now, world.security_generation)


HEALS: dict[str, Callable[[World], None]] = {
    "the clock catches up": lambda world: setattr(world, "now", world.now + 200),
    "an administrator accepts it": lambda world: (
        accept_time(world.settings.state_directory / "clock.json", world.service.oversight.guard._clocks)
        and None
    ),
}


@pytest.mark.parametrize("way", HEALS)
def test_it_goes_on_without_a_restart(world: World, way: str) -> None:
    world.attested()
    back(world)
    assert world.public.post(CHALLENGE, content=world.request()).status_code == 503
    HEALS[way](world)
    world.attested()
    assert world.management.get(STATUS).json()["health"] == "OK"


def test_a_restart_does_not_heal_it(world: World) -> None:
    world.attested()
    world.service.close()
    back(world)
    world.start()
    assert world.public.post(CHALLENGE, content=world.request()).json()["error"]["code"] == "clock_went_back"


def test_the_audit_log_alone_is_a_mark_as_well(world: World) -> None:
    world.now += 300
    world.attested()
    world.service.close()
    (world.settings.state_directory / "clock.json").unlink()
    back(world)
    world.start()
    assert world.public.post(CHALLENGE, content=world.request()).json()["error"]["code"] == "clock_went_back"


def test_it_goes_on_when_the_configuration_is_levelled(world: World) -> None:
    stale(world)
    assert world.public.post(CHALLENGE, content=world.request()).status_code == 503
    world.security_generation += 1
    world.publish()
    world.attested()
