# SPDX-License-Identifier: GPL-3.0-or-later
"""What is remembered of verifications outlives neither a configuration nor the time for which it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from services.attestation.vendor import Vendor
from services.attestation.world import CHALLENGE, World
from services.side_authority import NOW

from trusted_infrastructure.attestation import endorsement_policy, verifier
from trusted_infrastructure.attestation.verified import BoundedMemory, Verified, key_of

DAY = 86_400


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def refusal(world: World) -> str:
    answer = world.public.post(CHALLENGE, content=world.request())
    return "" if answer.status_code == 200 else answer.json()["error"]["code"]


# ---- the memory


def test_it_holds_until_the_first_boundary_after_verification() -> None:
    memory: Verified[str] = Verified()
    key = key_of(b"x")
    memory.put(key, "value", 100, [50, 100, 200.5, 300])
    assert [memory.get(key, now) for now in (99, 100, 199, 200, 250)] == [None, "value", "value", None, None]


def test_nothing_is_kept_without_an_end() -> None:
    memory: Verified[str] = Verified()
    memory.put(key_of(b"x"), "value", 100, [50, 100])
    assert memory.get(key_of(b"x"), 100) is None


def test_it_is_bounded() -> None:
    memory: BoundedMemory[int, int] = BoundedMemory(3)
    for number in range(5):
        memory.put(number, number)
    assert [memory.get(number) for number in range(5)] == [None, None, 2, 3, 4]


def test_keys_do_not_run_into_each_other() -> None:
    assert key_of(b"a", b"bc") != key_of(b"ab", b"c") != key_of(b"abc")


# ---- in the service


def test_the_second_time_nothing_is_verified_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    request = world.request()
    assert world.public.post(CHALLENGE, content=request).status_code == 200

    def never(*_arguments: Any) -> None:
        raise AssertionError("verified again")

    monkeypatch.setattr(verifier, "verify_assertion", never)
    monkeypatch.setattr(endorsement_policy, "verify_endorsement", never)
    assert world.public.post(CHALLENGE, content=request).status_code == 200
    # Another configuration begins anew.
    world.publish()
    assert world.public.post(CHALLENGE, content=request).json()["error"]["code"] == "verification_failed"


def test_one_changed_byte_is_verified(world: World) -> None:
    request = world.request()
    assert world.public.post(CHALLENGE, content=request).status_code == 200
    message = msgspec.json.decode(request)
    head, payload, signature = message["assertion"].split(".")
    message["assertion"] = ".".join([head, payload, ("A" if signature[0] != "A" else "B") + signature[1:]])
    answer = world.public.post(CHALLENGE, content=msgspec.json.encode(message))
    assert answer.json()["error"]["code"] == "assertion_invalid"


def test_an_assertion_ends_though_it_is_remembered(world: World) -> None:
    request = world.request()
    assert world.public.post(CHALLENGE, content=request).status_code == 200
    world.now += 30 * DAY - 1
    assert world.public.post(CHALLENGE, content=request).status_code == 200
    world.now += 1
    answer = world.public.post(CHALLENGE, content=request)
    assert answer.json()["error"]["code"] == "assertion_expired"


def test_a_principals_certificate_ends_though_its_assertion_is_remembered(world: World) -> None:
    world.now = NOW + 60 * DAY
    request = world.request(assertion=world.assertion(world.host, exp=NOW + 120 * DAY))
    assert world.public.post(CHALLENGE, content=request).status_code == 200
    world.now = NOW + 80 * DAY
    assert world.public.post(CHALLENGE, content=request).status_code == 200
    world.now = NOW + 92 * DAY  # leaves live 90 days
    answer = world.public.post(CHALLENGE, content=request)
    assert answer.json()["error"]["code"] == "certificate_expired"


def test_an_ek_certificate_ends_though_its_path_is_remembered(world: World) -> None:
    world.host.certificates = [world.vendor.certify(world.host.ek, days=40)]  # began 30 days ago
    assert refusal(world) == ""
    world.now += 10 * DAY - 60
    assert refusal(world) == ""
    world.now += 120
    assert refusal(world) == "ek_certificate_invalid"


@pytest.mark.parametrize(
    ("kind", "name", "code"),
    [
        ("ca_certificate", "vendor", "ek_certificate_invalid"),
        ("endorsement_key", "host1", "ek_not_enrolled"),
        ("consumer_principal", "principal-1", "principal_unknown"),
        ("scope", "scope-1", "scope_unknown"),
        ("base_image", "image-1", "no_base_image"),
    ],
)
def test_withdrawn_trust_is_not_remembered(world: World, kind: str, name: str, code: str) -> None:
    assert refusal(world) == ""
    document = world.documents.pop((kind, name))
    world.publish()
    assert refusal(world) == code
    world.documents[kind, name] = document
    world.publish()
    assert refusal(world) == ""


def test_a_denied_host_is_not_remembered(world: World) -> None:
    assert refusal(world) == ""
    for content in (
        {"host": "host1", "ek_digest": "00" * 32, "reason": "by the test"},
        {"host": "other", "ek_digest": world.host.ek.digest, "reason": "by the test"},
    ):
        world.documents["denied_host", "removed"] = content
        world.publish()
        assert refusal(world) == "host_denied"


def test_a_certificate_of_another_ca_is_not_taken_for_the_remembered_one(world: World) -> None:
    assert refusal(world) == ""
    world.host.certificates = [Vendor(NOW).certify(world.host.ek)]
    assert refusal(world) == "ek_certificate_invalid"
