# SPDX-License-Identifier: GPL-3.0-or-later
"""Audit logs of Trust Authority hosts that are cut or replaced show at the manager."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from services.manager.harness import Api, Clock

from trusted_infrastructure import identity, tokens
from trusted_infrastructure.manager.maintenance import maintain

HEADS = "/trust/clusters/authority/audit-heads"
STATUS = "/vcenter/trusted-infrastructure/trust-authority-clusters/authority/attestation/service-status"
CHAIN = "ab" * 16


class Services:
    """The Attestation Services of two hosts, with what they say of their logs."""

    def __init__(self, api: Api, directory: Path, clock: Clock) -> None:
        self.clock = clock
        self.ca_key, self.ca = identity.create_authority("ca", "trust_authority", now=int(clock()))
        (directory / "ca.pem").write_text(self.ca)
        self.said: dict[str, tuple[str, int, str]] = {}
        self.identities = {host: self.leaf(host) for host in ("ta1", "ta2")}
        self.speakers = {"ta1": "ta1", "ta2": "ta2"}
        api.nodes.answers["GET", "/attestation/manage/v1/audit/head"] = self.answer
        api.nodes.answers["GET", "/attestation/manage/v1/status"] = lambda _host: {
            "health": "OK",
            "details": [],
        }

    def leaf(self, host: str) -> tuple[Any, str]:
        """A service's key and certificate."""
        uri = identity.role_uri("trust_authority", "attestation-service", host)
        key = identity.generate_key()
        request = identity.create_request(key, uri, [host], [])
        now = int(self.clock())
        pem = identity.sign_request(request, self.ca_key, self.ca, uri, [host], [], now=now)
        return identity.load_key(key), pem

    def answer(self, host: str) -> dict[str, str]:
        """The signed head of a host."""
        chain, seq, digest = self.said.get(host, (CHAIN, 1, "00" * 32))
        speaker = self.speakers[host]
        claims = tokens.AuditHeadClaims(
            service_id=f"attestation@{speaker}", chain=chain, seq=seq, hash=digest, iat=int(self.clock())
        )
        key, certificate = self.identities[speaker]
        return {"signed": tokens.sign_audit_head(claims, key, [certificate])}


@pytest.fixture
def services(api: Api, tmp_path: Path, clock: Clock) -> Services:
    """With the Trust Authority Cluster "authority" of ta1 and ta2."""
    found = Services(api, tmp_path, clock)
    api.ok("POST", "/trust/clusters", json={"name": "authority"})
    for name in ("ta1", "ta2"):
        api.done("POST", "/trust/clusters/authority/hosts", json={"name": name})
    return found


def after(api: Api, services: Services, *said: tuple[str, int, str]) -> dict[str, Any]:
    """service-status after ta1 said these things, one after the other."""
    for one in said:
        services.said["ta1"] = one
        api.run(maintain(api.manager))
    found: dict[str, Any] = api.done("GET", STATUS)
    return found


def test_growing_logs_are_in_order(api: Api, services: Services) -> None:
    status = after(api, services, (CHAIN, 4, "11" * 32), (CHAIN, 4, "11" * 32), (CHAIN, 9, "22" * 32))
    assert status == {"health": "OK", "details": []}
    heads = {head["host"]: head for head in api.ok("GET", HEADS)}
    assert (heads["ta1"]["sequence"], heads["ta1"]["hash"]) == (9, "22" * 32)
    assert "problem" not in heads["ta2"]


@pytest.mark.parametrize(
    ("then", "words"),
    [
        ((CHAIN, 3, "22" * 32), "lost records: it had 4, it has 3"),
        ((CHAIN, 4, "22" * 32), "record 4 of the audit log was changed"),
        (("cd" * 16, 9, "22" * 32), "was replaced"),
    ],
)
def test_a_log_that_was_cut_or_replaced_is_a_warning(
    api: Api, services: Services, then: tuple[str, int, str], words: str
) -> None:
    status = after(api, services, (CHAIN, 4, "11" * 32), then, then)
    assert status["health"] == "WARNING"
    assert words in status["details"][0]["default_message"]
    head = next(head for head in api.ok("GET", HEADS) if head["host"] == "ta1")
    assert (head["chain"], head["sequence"]) == (CHAIN, 4)
    assert words in head["problem"]


def test_a_head_of_another_service_is_not_taken(api: Api, services: Services) -> None:
    after(api, services, (CHAIN, 4, "11" * 32))
    services.speakers["ta1"] = "ta2"
    status = after(api, services, (CHAIN, 5, "22" * 32))
    assert "attestation@ta2 answered for ta1" in status["details"][0]["default_message"]


def test_a_head_that_is_not_signed_by_the_side_is_not_taken(
    api: Api, services: Services, tmp_path: Path
) -> None:
    after(api, services, (CHAIN, 4, "11" * 32))
    (tmp_path / "ca.pem").write_text(identity.create_authority("other", "trust_authority")[1])
    status = after(api, services, (CHAIN, 5, "22" * 32))
    assert "certificate_invalid" in status["details"][0]["default_message"]


def test_a_host_that_leaves_and_comes_back_begins_anew(api: Api, services: Services) -> None:
    after(api, services, (CHAIN, 4, "11" * 32))
    api.done("DELETE", "/trust/clusters/authority/hosts/ta1")
    api.done("POST", "/trust/clusters/authority/hosts", json={"name": "ta1"})
    assert after(api, services, ("cd" * 16, 1, "22" * 32)) == {"health": "OK", "details": []}


# ---- verify, and accept -----------------------------------------------------------------------------------

LOGS = "/trust/clusters/authority/audit-logs?action=verify"


def signed(services: Services, seq: int, digest: str, host: str = "ta1") -> str:
    key, certificate = services.identities[host]
    claims = tokens.AuditHeadClaims(
        service_id=f"attestation@{host}", chain=CHAIN, seq=seq, hash=digest, iat=int(services.clock())
    )
    return tokens.sign_audit_head(claims, key, [certificate])


def verifying(api: Api, answers: dict[str, Any], kept: dict[str, Any]) -> list[dict[str, Any]]:
    """audit_logs.verify of the Attestation Services. answers: by what is asked; kept: peer-heads of ta2."""
    nodes = api.nodes
    nodes.answers["POST", "/attestation/manage/v1/audit/verify"] = lambda _given: answers
    nodes.answers["GET", "/attestation/manage/v1/audit/peer-heads"] = lambda host: {
        "peers": kept if host == "ta2" else {}
    }
    found = api.done("POST", LOGS)
    return [log for log in found if log["role"] == "attestation-service"]


def sent_heads(api: Api) -> list[list[int]]:
    """The record numbers that each host was asked to have."""
    path = "/attestation/manage/v1/audit/verify"
    asked = [i for i, call in enumerate(api.nodes.calls) if call[2] == path]
    return [sorted(head["seq"] for head in msgspec.json.decode(api.nodes.bodies[i])["heads"]) for i in asked]


GOOD = {"intact": True, "records": 9, "first": 1, "head": {"chain": CHAIN, "seq": 9, "hash": "22" * 32}}


def test_each_host_checks_against_all_heads_that_others_keep(api: Api, services: Services) -> None:
    after(api, services, (CHAIN, 4, "11" * 32))
    services.clock.now += 3600
    api.login()
    after(api, services, (CHAIN, 9, "22" * 32))
    kept = {"ta1": {"signed": signed(services, 8, "33" * 32), "earlier": [signed(services, 2, "44" * 32)]}}
    logs = verifying(api, GOOD, kept)
    assert [(log["host"], log["intact"], log["keepers"]) for log in logs] == [
        ("ta1", True, ["manager", "ta2"]),
        ("ta2", True, ["manager"]),
    ]
    assert [2, 4, 8, 9] in sent_heads(api)
    assert (logs[0]["records"], logs[0]["last"]) == (9, 9)


def test_a_broken_log_is_named_with_its_place_and_keepers(api: Api, services: Services) -> None:
    after(api, services, (CHAIN, 4, "11" * 32))
    missing = {"chain": CHAIN, "seq": 4, "hash": "11" * 32}
    answer = GOOD | {"intact": False, "reason": "record 4 is missing", "record": 4, "missing": missing}
    log = verifying(api, answer, {})[0]
    assert (log["intact"], log["record"]) == (False, 4)
    assert log["reason"] == "record 4 is missing (kept by manager)"


def test_a_host_that_says_all_is_well_is_contradicted_by_keepers(api: Api, services: Services) -> None:
    after(api, services, (CHAIN, 4, "11" * 32))
    log = verifying(api, GOOD, {"ta1": {"signed": signed(services, 4, "99" * 32)}})[0]
    assert log["intact"] is False and "manager and ta2 keep different heads for record 4" in log["reason"]
    log = verifying(
        api, GOOD, {"ta1": {"signed": signed(services, 4, "11" * 32), "problem": "was replaced"}}
    )[0]
    assert log["intact"] is False and "ta2 says: was replaced" in log["reason"]


def test_a_peer_cannot_make_another_host_look_bad(api: Api, services: Services) -> None:
    after(api, services, (CHAIN, 4, "11" * 32))
    forged = [signed(services, 4, "99" * 32, "ta2"), "nonsense"]
    logs = verifying(api, GOOD, {"ta1": {"signed": forged[0], "earlier": forged}})
    assert logs[0]["intact"] is True and logs[0]["keepers"] == ["manager"]


def test_a_host_that_does_not_answer_is_neither_whole_nor_broken(api: Api, services: Services) -> None:
    api.nodes.down.add("ta1")
    log = verifying(api, GOOD, {})[0]
    assert log.get("intact") is None and "unreachable" in log["reason"]


def test_accepting_lets_all_keepers_forget(api: Api, services: Services) -> None:
    after(api, services, (CHAIN, 4, "11" * 32), ("cd" * 16, 1, "22" * 32))
    told = []
    for service in ("attestation", "kms"):
        path = f"/{service}/manage/v1/audit/peer-heads/ta1/accept"
        api.nodes.answers["POST", path] = lambda given: told.append(given) or {"changed": True}
    assert api.done("POST", f"{HEADS}/ta1?action=accept") is True
    assert len(told) == 2
    assert {host for host, method, path in api.nodes.calls if path.endswith("/ta1/accept")} == {"ta2"}
    assert after(api, services, ("cd" * 16, 1, "22" * 32)) == {"health": "OK", "details": []}
    assert api.failed("POST", f"{HEADS}/nobody?action=accept")["error_type"] == "NOT_FOUND"
    api.nodes.down.add("ta2")
    assert "ta2" in str(api.failed("POST", f"{HEADS}/ta1?action=accept"))


def test_an_older_head_is_kept_beside_the_last(api: Api, services: Services) -> None:
    for hour in range(40):
        services.clock.now += 3600
        services.said["ta1"] = (CHAIN, 4 + hour, f"{hour:064d}")
        api.run(maintain(api.manager))
    api.login()
    verifying(api, GOOD, {})
    asked = max(sent_heads(api), key=len)
    assert 12 <= len(asked) <= 16 and asked[-1] == 43
