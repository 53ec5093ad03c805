# SPDX-License-Identifier: GPL-3.0-or-later
"""Attacks of somebody who has read the protocol: several messages, several services, or time."""

from __future__ import annotations

import asyncio
import struct
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from services.attestation.world import BOOT, CHALLENGE, EVIDENCE, Host, World
from services.tpm.event_log_builder import LogBuilder, image_load, node, variable

from trusted_infrastructure.attestation.challenges import ChallengeEnvelope, new_state
from trusted_infrastructure.messages import encode
from trusted_infrastructure.tpm import event_types as types
from trusted_infrastructure.tpm.event_log import initial_value, parse_event_log, replay
from trusted_infrastructure.transport import Application

MB = 1 << 20


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    (tmp_path / "ta1").mkdir()
    world = World(tmp_path / "ta1")
    yield world
    world.service.close()


def code_of(answer: httpx.Response) -> str:
    code: str = answer.json()["error"]["code"]
    return code


# ---- challenges that are not what they were given out for -------------------------------------------------


@pytest.mark.parametrize("change", ["service_id", "purpose", "nonce", "request"])
def test_a_challenge_is_of_one_service_for_one_purpose(world: World, change: str) -> None:
    """Even of a service with the same envelope key, as the workers of one host have."""
    key = bytes(range(32))
    envelope = ChallengeEnvelope(key)
    issuer: Any = world.service._issuer
    issuer._envelope = envelope
    request = world.request()
    given = world.challenge(request)
    evidence = world.host.evidence(request, given)
    state = envelope.open(given.challenge, "attestation@ta1", "token", world.now)
    changes: dict[str, Any] = {
        "service_id": "attestation@ta2",
        "purpose": "enrolment",
        "nonce": bytes(32),
        "request": world.request(world.add_host(Host("host2", "p256:ek2", "p256:ak2"))),
    }
    other = envelope.close(msgspec.structs.replace(state, **{change: changes[change]}))
    answer = world.public.post(EVIDENCE, content=encode(msgspec.structs.replace(evidence, challenge=other)))
    expected = {
        "service_id": "challenge_invalid",
        "purpose": "challenge_invalid",
        "nonce": "quote_qualifying_data",
        "request": "quote_signature",
    }
    assert code_of(answer) == expected[change]


def test_no_two_challenges_share_anything(world: World) -> None:
    given = [world.challenge(world.request()) for _index in range(20)]
    for name in ("challenge", "challenge_id", "nonce", "credential_blob", "encrypted_secret"):
        assert len({getattr(one, name) for one in given}) == len(given), name
    state = new_state(b"", "token", "s", "sha256", (0,), 0)
    assert len(state.nonce) == len(state.secret) == 32 and len(state.identifier) == 16


def test_evidence_of_one_service_is_of_no_use_to_another(world: World, tmp_path: Path) -> None:
    (tmp_path / "ta2").mkdir()
    second = World(tmp_path / "ta2")
    try:
        for name in ("documents", "host", "principal_key", "principal_certificate"):
            setattr(second, name, getattr(world, name))
        second.publish()
        request = world.request()
        body = encode(world.host.evidence(request, world.challenge(request)))
        assert code_of(second.public.post(EVIDENCE, content=body)) == "challenge_invalid"
        assert world.public.post(EVIDENCE, content=body).status_code == 200
    finally:
        second.service.close()


def test_of_the_same_evidence_at_once_one_gets_a_token(world: World) -> None:
    request = world.request()
    body = encode(world.host.evidence(request, world.challenge(request)))

    async def all_at_once() -> list[int]:
        transport = httpx.ASGITransport(world.public.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            answers = await asyncio.gather(*(client.post(EVIDENCE, content=body) for _index in range(12)))
        return sorted(answer.status_code for answer in answers)

    assert asyncio.run(all_at_once()) == [200] + [400] * 11
    assert [record.code for record in world.audit()].count("ok") == 1


def test_another_hosts_evidence_does_not_answer_a_challenge(world: World) -> None:
    """host2's quote, log and keys, for its own challenge, with the challenge of host1 put in."""
    other = world.add_host(Host("host2", "p256:ek2", "p256:ak2"))
    mine = world.challenge(world.request())
    request = world.request(other)
    evidence = other.evidence(request, world.challenge(request))
    mixed = encode(msgspec.structs.replace(evidence, challenge=mine.challenge))
    assert code_of(world.public.post(EVIDENCE, content=mixed)) == "quote_signature"


# ---- what costs -------------------------------------------------------------------------------------------


def test_a_body_that_never_ends_is_given_up(world: World) -> None:
    """nginx waits 10 s for each part of a body; behind it the service has a limit of its own."""
    application = Application(world.public.app.routes, time_limit=0.2)
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": CHALLENGE,
        "raw_path": CHALLENGE.encode(),
        "query_string": b"",
        "headers": [],
    }
    asyncio.run(application(scope, receive, send))
    assert sent[0]["status"] == 503 and b"time_limit_exceeded" in sent[1]["body"]


def logs() -> dict[str, bytes]:
    """Logs that are as dear to read as we know how to make them."""
    log = LogBuilder(("sha256",))
    head = log.data
    path = b"".join(node(4, 4, b"a\0") for _index in range(30_000)) + node(0x7F, 0xFF, b"")
    spaces = "root=\0 ".encode("utf-16-le") * 70_000
    several = LogBuilder(("sha1", "sha256", "sha384", "sha512"))
    return {
        "many events": head + LogBuilder.event(log, 4, 13, {"sha256": bytes(32)}, b"") * 16_000,
        "many events of four banks": several.data
        + several.event(
            8, 13, {b: bytes(s) for b, s in zip(several.banks, (20, 32, 48, 64), strict=True)}, b""
        )
        * 6_000,
        "many separators": head + log.event(4, 4, {"sha256": bytes(32)}, bytes(4)) * 16_000,
        "one text": head + log.event(8, 13, {"sha256": bytes(32)}, b"grub_cmd: " + b"a" * MB),
        "one command line": head + log.event(12, 13, {"sha256": bytes(32)}, spaces),
        "many command lines": head + log.event(12, 13, {"sha256": bytes(32)}, spaces[:2000]) * 500,
        "one device path": head
        + log.event(4, types.EV_EFI_BOOT_SERVICES_APPLICATION, {"sha256": bytes(32)}, image_load(path)),
        "one variable": head
        + log.event(
            7,
            types.EV_EFI_VARIABLE_DRIVER_CONFIG,
            {"sha256": bytes(32)},
            variable("dbx", struct.pack("<16sIII", bytes(16), 28 + MB, 0, 16) + bytes(MB)),
        ),
        "padding": head + bytes(MB),
    }


@pytest.mark.parametrize("name", logs())
def test_no_log_is_dear(world: World, name: str) -> None:
    """The host's TPM signs for it, so it is judged to the end. 2 s, 64 MB."""
    data = logs()[name]
    never_extended = {pcr: initial_value(pcr, "sha256") for pcr in range(24)}
    world.host.pcrs = never_extended | replay(parse_event_log(data), "sha256")
    request = world.request()
    bodies = [
        encode(world.host.evidence(request, world.challenge(request), event_log=data)) for _index in range(2)
    ]
    assert len(bodies[0]) < 2 * MB
    began = time.process_time()
    answer = world.public.post(EVIDENCE, content=bodies[0])
    seconds = time.process_time() - began
    tracemalloc.start()
    world.public.post(EVIDENCE, content=bodies[1])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert code_of(answer) == "base_image_mismatch"
    assert seconds < 2 and peak < 64 * MB, (seconds, peak)
    print(f"{name}: {seconds:.2f} s, {peak / MB:.0f} MB")


def test_a_dear_log_that_replays(world: World) -> None:
    """As dear, and all true: every event is compared with the image, and the refusal says what differs."""
    boot = (*BOOT, *((4, 13, b"event %d" % index) for index in range(15_000)))
    world.host.start(boot)
    began = time.process_time()
    answer = world.attest()
    assert code_of(answer) == "base_image_mismatch"
    assert time.process_time() - began < 4  # our own attester is in it
    assert len(answer.json()["error"]["message"]) < 2000
