# SPDX-License-Identifier: GPL-3.0-or-later
"""The identity of a host is its endorsement key: another key for the host, or another host for the key, is
refused until an administrator releases the host."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from services.attestation.world import EVIDENCE, ISSUER, SCOPE, Host, World, with_area
from services.side_authority import NOW, SideAuthority

from trusted_infrastructure.attestation.identity_bindings import HostIdentity, check_identity
from trusted_infrastructure.attestation.state import State
from trusted_infrastructure.identity import load_key
from trusted_infrastructure.messages import encode
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tpm.quote import ClockInfo

IDENTITIES = "/attestation/manage/v1/identities"
OTHER_ISSUER = "https://another-manager/sts"
CLOCK = ClockInfo(1000, 1, 0, True, 1)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.service.close()


def release(world: World, host: str = "host1", principal: str = ISSUER) -> httpx.Response:
    path = f"/attestation/manage/v1/hosts/{host}/release"
    return world.management.post(path, params={"principal": principal})


def refused(world: World, host: Host, code: str) -> str:
    """A whole attestation that is refused with this code: one record, unchanged state. The message."""
    before = (world.histories(), world.management.get(IDENTITIES).json())
    records = len(world.audit())
    answer = world.attest(host)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, code), answer.text
    assert (world.histories(), world.management.get(IDENTITIES).json()) == before
    (record,) = world.audit()[records:]
    assert (record.code, record.host) == (code, host.name)
    message: str = answer.json()["error"]["message"]
    return message


def other_tpm(world: World, name: str = "host1") -> Host:
    """Another TPM, enrolled and certified, in a host of this name."""
    host = Host(name, "p256:ek2", "p256:ak2")
    host.certificates = [world.vendor.certify(host.ek)]
    world.documents["endorsement_key", "other"] = {"public_key": host.ek.subject_public_key_info()}
    world.publish()
    return host


def test_another_key_for_the_host(world: World) -> None:
    world.attested()
    other = other_tpm(world)
    for _index in range(2):
        message = refused(world, other, "ek_changed")
        assert world.host.ek.digest in message and other.ek.digest in message
    (result,) = world.results()
    assert (result["state"], result["reason"]) == ("FAILED", "ek_changed")
    assert world.attested().sub == "host1"  # the host that it is attests as before


def test_the_key_for_another_host(world: World) -> None:
    world.attested()
    moved = Host("host2", world.host.ek_kind, "p256:ak2")
    moved.certificates = world.host.certificates
    message = refused(world, moved, "ek_other_host")
    assert "is that of host 'host1', not of 'host2'" in message
    assert world.attested().sub == "host1"


def test_the_key_for_the_same_host_of_another_principal(world: World) -> None:
    """A second workload manager, with a scope of its own, vouches for a host of the same name."""
    world.attested()
    second = SideAuthority(side="workload")
    key, certificate = second.leaf("manager", "another-manager", side="workload")
    world.documents["consumer_principal", "principal-2"] = world.documents[
        "consumer_principal", "principal-1"
    ] | {"issuer": OTHER_ISSUER, "certificates": [[certificate]]}
    world.documents["scope", "scope-2"] = world.documents["scope", SCOPE] | {"principal": OTHER_ISSUER}
    world.publish()
    world.principal_certificate, first = certificate, world.principal_certificate
    assertion = world.assertion(world.host, load_key(key), iss=OTHER_ISSUER, scope="scope-2")
    world.principal_certificate = first
    request = world.request(assertion=assertion)
    evidence = world.host.evidence(request, world.challenge(request))
    answer = world.public.post(EVIDENCE, content=encode(evidence))
    assert answer.json()["error"]["code"] == "ek_other_host"
    assert "a host of another principal" in answer.json()["error"]["message"]
    assert "host1'" not in answer.json()["error"]["message"].replace("not of 'host1'", "")


def test_the_same_key_in_another_public_area_is_the_same_key(world: World) -> None:
    """The digest in the assertion is over the public area. One TPM must not be two hosts by sending two."""
    world.attested()
    twin = Host("host2", world.host.ek_kind, "p256:ak2")
    twin.ek = with_area(twin.ek, auth_policy=bytes(32))
    twin.certificates = world.host.certificates
    assert twin.ek.digest != world.host.ek.digest and twin.ek.key_digest == world.host.ek.key_digest
    assert "is that of host 'host1'" in refused(world, twin, "ek_other_host")
    twin.name = "host1"
    assert "in another public area" in refused(world, twin, "ek_changed")


def test_nothing_is_bound_by_what_is_refused(world: World) -> None:
    world.host.safe = 1
    assert world.attest(event_log=Host(boot=()).event_log).status_code == 403
    assert world.management.get(IDENTITIES).json()["identities"] == []
    other = other_tpm(world)
    assert world.attested(other).ek_digest == other.ek.digest
    assert "ek_changed" == world.attest().json()["error"]["code"]


def test_release(world: World) -> None:
    world.attested()
    other = other_tpm(world)
    refused(world, other, "ek_changed")
    assert release(world).json() == {"changed": True}
    record = world.audit()[-1]
    assert (record.code, record.host, record.address) == ("identity_released", "host1", "")
    assert record.detail == {"principal": ISSUER, "ek_digest": world.host.ek.digest, "by": "ta-manager"}
    records = len(world.audit())
    assert release(world).json() == {"changed": False}
    assert len(world.audit()) == records
    assert world.attested(other).ek_digest == other.ek.digest
    # From now on, it is the old one that is another.
    refused(world, world.host, "ek_changed")
    assert release(world, "host2").json() == {"changed": False}
    assert release(world, principal=OTHER_ISSUER).json() == {"changed": False}
    refused(world, world.host, "ek_changed")


def test_release_frees_the_key_for_another_host(world: World) -> None:
    world.attested()
    release(world)
    moved = Host("host2", world.host.ek_kind, "p256:ak2")
    moved.certificates = world.host.certificates
    assert world.attested(moved).sub == "host2"
    refused(world, world.host, "ek_other_host")


def test_release_wants_a_principal(world: World) -> None:
    answer = release(world, principal="")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed_request")
    assert "principal: is required" in answer.json()["error"]["message"]


def test_list(world: World) -> None:
    world.attested()
    world.now = NOW + 5
    second = world.add_host(Host("host2", "p256:ek3", "p256:ak3"))
    world.attested(second)
    world.attested()
    found = world.management.get(IDENTITIES).json()
    assert found["service"] == "attestation@ta1"
    first = {
        "principal": ISSUER,
        "host": "host1",
        "ek_digest": world.host.ek.digest,
        "key_digest": world.host.ek.key_digest,
        "since": NOW,
    }
    assert found["identities"][0] == first
    assert [one["host"] for one in found["identities"]] == ["host1", "host2"]
    narrowed = world.management.get(IDENTITIES, params={"host": "host2"}).json()["identities"]
    assert [one["since"] for one in narrowed] == [NOW + 5]


def test_identity_outlives_a_restart(world: World) -> None:
    world.attested()
    world.service.close()
    world.start()
    refused(world, other_tpm(world), "ek_changed")


def identity(host: str, key: str, area: str = "", principal: str = "p") -> HostIdentity:
    return HostIdentity(principal=principal, host=host, ek_digest=area or key, key_digest=key, since=0)


@pytest.mark.parametrize(
    ("bound", "owner", "code"),
    [
        (None, None, None),
        (identity("h", "k"), identity("h", "k"), None),
        (identity("h", "other"), None, "ek_changed"),
        (identity("h", "k", "area"), identity("h", "k", "area"), "ek_changed"),
        (None, identity("other", "k"), "ek_other_host"),
        (None, identity("h", "k", principal="other"), "ek_other_host"),
        (identity("h", "other"), identity("other", "k"), "ek_other_host"),
    ],
)
def test_rules(bound: HostIdentity | None, owner: HostIdentity | None, code: str | None) -> None:
    if code is None:
        check_identity(identity("h", "k"), bound, owner)
        return
    with pytest.raises(Refusal) as refusal:
        check_identity(identity("h", "k"), bound, owner)
    assert refusal.value.code == code and "tpm2_endorsement_key_replace" in refusal.value.remedy


def test_of_two_hosts_at_once_one_gets_the_key(tmp_path: Path) -> None:
    """Two processes of a service: each with its own connection to one database."""
    states = [State(tmp_path / "state.db") for _index in range(4)]
    start = threading.Barrier(len(states))
    codes: list[str] = []

    def attest(number: int) -> None:
        start.wait()
        try:
            states[number].advance(identity(f"host{number}", "k"), CLOCK, NOW)
            codes.append("ok")
        except Refusal as refusal:
            codes.append(refusal.code)

    threads = [threading.Thread(target=attest, args=(number,)) for number in range(len(states))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == ["ek_other_host", "ek_other_host", "ek_other_host", "ok"]
    (kept,) = states[0].identities()
    assert kept.key_digest == "k" and states[1].identity("p", kept.host) == kept
    for state in states:
        state.close()


def test_a_clock_that_is_refused_binds_nothing(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")
    state.advance(identity("host1", "k"), CLOCK, NOW)
    assert state.release("p", "host1")
    with pytest.raises(Refusal, match="tpm_cleared"):
        state.advance(identity("host1", "k"), ClockInfo(1000, 0, 0, True, 1), NOW)
    assert state.identities() == []
    state.close()
