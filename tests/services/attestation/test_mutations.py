# SPDX-License-Identifier: GPL-3.0-or-later
"""Every mutation is refused: by its reason code, with 4xx, one audit record, and nothing else changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest
from services.attestation import evidence_mutations, request_mutations
from services.attestation.mutations import Fault, Mutation, Prepare, Stored
from services.attestation.world import CHALLENGE, EVIDENCE, Host, World

REQUESTS: dict[str, Mapping[str, tuple[str, Prepare]]] = {
    "unknown caller": request_mutations.UNKNOWN_CALLER,
    "enrolment": request_mutations.ENROLMENT,
    "attestation key": request_mutations.ATTESTATION_KEY,
}
EVIDENCES: dict[str, Mapping[str, Fault]] = {
    "quote": evidence_mutations.QUOTE,
    "identity": evidence_mutations.IDENTITY,
    "freshness": evidence_mutations.FRESHNESS,
    "event log": evidence_mutations.EVENT_LOG,
    "base image": evidence_mutations.BASE_IMAGE,
    "session keys": evidence_mutations.SESSION_KEYS,
}


def all_mutations() -> dict[str, Mutation]:
    """All rows, as 'area: name'."""
    found: dict[str, Mutation] = {}
    for area, rows in REQUESTS.items():
        for name, (code, prepare) in rows.items():
            vouched = area != "unknown caller" and code != "rate_limited"
            found[f"{area}: {name}"] = Mutation(code, CHALLENGE, prepare, vouched)
    for area, faults in EVIDENCES.items():
        found |= {f"{area}: {name}": fault.mutation() for name, fault in faults.items()}
    for name, (code, prepare) in evidence_mutations.NOT_OPENED.items():
        found[f"freshness: {name}"] = Mutation(code, EVIDENCE, prepare)
    return found


MUTATIONS = all_mutations()
RESULTS = ("state.db/host_results", "state.db/transitions")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.service.close()


@pytest.mark.parametrize("row", MUTATIONS)
def test_mutation_is_refused(world: World, row: str) -> None:
    mutation = MUTATIONS[row]
    # Something is there that a refusal could harm: this host's history for evidence, another host's else.
    world.attested(
        None if mutation.path == EVIDENCE else world.add_host(Host("host2", "p256:ek2", "p256:ak2"))
    )
    body = mutation.prepare(world)
    results, before, records = world.results(), Stored.of(world), len(world.audit())
    answer = world.public.post(mutation.path, content=body)

    error = answer.json()["error"]
    assert error["code"] == mutation.code, error
    assert 400 <= answer.status_code < 500 and answer.status_code == (mutation.status or answer.status_code)
    assert set(answer.json()) == {"error"} and set(error) == {"code", "message", "remedy"}
    assert error["message"] and mutation.reason in error["message"]

    audit = world.audit()
    assert len(audit) == records + 1
    assert audit[-1].code == mutation.code and audit[-1].address == "192.0.2.7"
    name = "host2" if mutation.code == "ek_other_host" else "host1"
    assert audit[-1].host == (name if mutation.vouched or mutation.code == "rate_limited" else "")
    assert "token" not in audit[-1].detail

    after = Stored.of(world)
    assert after.snapshot == before.snapshot
    assert after.used == before.used + mutation.uses_challenge
    changed = {table for table in after.state if after.state[table] != before.state[table]}
    assert changed <= set(RESULTS if mutation.vouched else ())
    others = [result for result in results if result["host"] != name]
    if not mutation.vouched:
        assert world.results() == results
        return
    assert [result for result in world.results() if result["host"] != name] == others
    (result,) = (result for result in world.results() if result["host"] == name)
    assert (result["state"], result["reason"], result["until"]) == ("FAILED", mutation.code, None)
    assert (result["message"], result["address"]) == (error["message"], "192.0.2.7")

    if mutation.uses_challenge:
        again = world.public.post(mutation.path, content=body)
        assert again.json()["error"]["code"] == "challenge_used"
        assert len(world.audit()) == records + 2


def test_mutations_are_all_that_is_wrong(world: World) -> None:
    """Without a lie, the same steps end in a token: the table refuses because of what it says it changes."""
    assert world.public.post(EVIDENCE, content=Fault("").evidence(world)).status_code == 200
    # The log explains PCR 4, so claiming its true value changes nothing.
    claims = b'{"pcr_values":{"4":"%s"}}' % world.host.pcrs[4].hex().encode()
    assert world.attest(claims=claims).status_code == 200
    request = request_mutations.text(lambda good: " " + good + "\n")(world)
    assert world.public.post(CHALLENGE, content=request).status_code == 200
    assert world.public.post(CHALLENGE, content=request_mutations.jws()(world)).status_code == 200


def test_another_text_of_a_challenge_is_no_other_challenge(world: World) -> None:
    """base64 has several texts for the same bytes; what counts is the id inside the envelope."""
    plain = msgspec.json.decode(Fault("").evidence(world))
    codes = []
    for text in (plain["challenge"], plain["challenge"] + "=" * (-len(plain["challenge"]) % 4)):
        body = msgspec.json.encode(plain | {"challenge": text})
        codes.append(world.public.post(EVIDENCE, content=body).json().get("error", {}).get("code"))
    assert codes == [None, "challenge_used"]


def test_selection_with_octets_of_zeros_is_the_same_selection(world: World) -> None:
    """A TPM with more than 24 PCRs has a longer bitmap; what is selected is what counts."""
    longer = Fault("", {"selections": evidence_mutations.bitmaps(lambda bits: [bits + bytes(1)])})
    assert world.public.post(EVIDENCE, content=longer.evidence(world)).status_code == 200
