# SPDX-License-Identifier: GPL-3.0-or-later
"""What peers notice of each other: logs that were cut, clocks that differ, configurations that are older."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from services.peers.cluster import BASE, Cluster, Member
from services.side_authority import NOW, SideAuthority

from trusted_infrastructure import tokens
from trusted_infrastructure.audit import Decision, Head, records, verify
from trusted_infrastructure.clock_guard import accept_time
from trusted_infrastructure.config.documents import Peer
from trusted_infrastructure.identity import load_key
from trusted_infrastructure.peers import watch as watch_module
from trusted_infrastructure.peers.heads import DAYS, HOURS, Heard, KeptHead, after_hearing, thinned
from trusted_infrastructure.refusal import Refusal

AUDIT = "/attestation/manage/v1/audit"


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    made = Cluster(tmp_path, 3)
    for member in made.members.values():
        member.append(5)
        member.ask()
    return made


def status(member: Member) -> str:
    errors, warnings = member.oversight.problems()
    return "\n".join(errors + warnings)


# ---- heads ----


def test_heads_are_public_signed_and_kept(cluster: Cluster) -> None:
    head = cluster["ta1"].public.get(f"{BASE}/audit-head").json()
    assert cluster["ta1"].management.get(f"{AUDIT}/head").json() | {"signed": ""} == head | {"signed": ""}
    kept = cluster["ta2"].public.get(f"{BASE}/peer-heads").json()["heads"]
    assert set(kept) == {"ta1", "ta3"}
    for host, found in (("ta3", {"ta3"}), ("nobody", set())):
        assert set(cluster["ta2"].public.get(f"{BASE}/peer-heads?host={host}").json()["heads"]) == found
    claims = tokens.verify_kept_audit_head(
        kept["ta1"][0], cluster.side.certificate, "trust_authority", "attestation-service"
    )
    assert (claims.service_id, claims.seq, claims.security_generation) == ("attestation@ta1", 5, 3)
    described = cluster["ta2"].management.get(f"{AUDIT}/peer-heads").json()["peers"]["ta1"]
    assert (described["seq"], described["problem"], described["hash"]) == (5, "", head["hash"])
    assert status(cluster["ta2"]) == ""


Tampering = Callable[[Member], None]


def cut(member: Member) -> None:
    path = member.settings.state_directory / "audit.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))


def replace(member: Member) -> None:
    for path in member.log_files():
        path.unlink()
    member.start()
    member.append(9)


def change(member: Member) -> None:
    cut(member)
    member.start()
    member.append(2)
    member.oversight.log.append(another_decision(member))


def another_decision(member: Member) -> Decision:
    return Decision(time=1, service=member.settings.service_id, host="x", address="", code="ok")


@pytest.mark.parametrize(
    ("tamper", "words"),
    [(cut, "lost records"), (replace, "was replaced"), (change, "record 5 of the audit log was changed")],
)
def test_a_log_that_was_cut_replaced_or_changed_shows_on_its_peers(
    cluster: Cluster, tamper: Tampering, words: str
) -> None:
    before = cluster["ta2"].oversight.watch.known()["ta1"].last
    tamper(cluster["ta1"])
    cluster["ta1"].start()
    for member in (cluster["ta2"], cluster["ta3"]):
        member.ask()
        member.ask()
        assert "audit_log_shortened: peer 'ta1': " in status(member) and words in status(member)
        assert member.code() == ""
    assert cluster["ta2"].oversight.watch.known()["ta1"].last == before
    # And ta1 itself sees it when it asks what its peers keep.
    kept = Head(before.chain, before.seq, before.hash)
    assert not verify(cluster["ta1"].settings.state_directory / "audit.jsonl", [kept]).intact


def test_it_is_kept_over_a_restart_and_ends_by_an_administrators_act(cluster: Cluster) -> None:
    replace(cluster["ta1"])
    ta2 = cluster["ta2"]
    ta2.ask()
    ta2.start(ask=True)
    assert "audit_log_shortened" in status(ta2)
    assert ta2.management.post(f"{AUDIT}/peer-heads/ta1/accept").json() == {"changed": True}
    assert ta2.management.post(f"{AUDIT}/peer-heads/nobody/accept").json() == {"changed": False}
    ta2.ask()
    assert status(ta2) == ""
    last = list(records(ta2.settings.state_directory / "audit.jsonl"))[-1]
    assert (last.code, last.detail) == ("audit_log_accepted", {"peer": "ta1", "by": "ta-manager"})


def test_a_host_that_left_and_came_back_begins_anew(cluster: Cluster) -> None:
    replace(cluster["ta1"])
    ta2 = cluster["ta2"]
    ta2.configure(["ta2", "ta3"])
    ta2.ask()
    assert set(ta2.oversight.watch.known()) == {"ta3"}
    ta2.configure(["ta1", "ta2", "ta3"])
    ta2.ask()
    assert status(ta2) == ""


def test_a_log_that_was_cut_and_grew_beyond_its_head_is_found_by_an_older_one(cluster: Cluster) -> None:
    ta1, ta2 = cluster["ta1"], cluster["ta2"]
    for hour in range(1, 4):
        for member in cluster.members.values():
            member.now = NOW + hour * 3600
        ta1.append(5)
        ta2.oversight.routes._signed = (-1, {})
        ta2.ask()
    cut(ta1)
    ta1.now += 5
    ta2.now += 5
    ta1.start()
    ta1.append(40)
    ta2.ask()
    assert "audit_log_shortened" not in status(ta2)  # the newest head alone says nothing
    signed = ta2.public.get(f"{BASE}/peer-heads").json()["heads"]["ta1"]
    assert len(signed) >= 3
    claims = [
        tokens.verify_kept_audit_head(jws, cluster.side.certificate, "trust_authority", "attestation-service")
        for jws in signed
    ]
    heads = [Head(one.chain, one.seq, one.hash) for one in claims]
    assert not verify(ta1.settings.state_directory / "audit.jsonl", heads).intact


def head_of(member: Member, **changes: Any) -> str:
    key = changes.pop("key", None) or load_key(member.key)
    certificate = changes.pop("certificate", member.certificate)
    fields = {
        "service_id": member.settings.service_id,
        "chain": "ab" * 16,
        "seq": 7,
        "hash": "00" * 32,
        "iat": int(member.now),
    } | changes
    return tokens.sign_audit_head(tokens.AuditHeadClaims(**fields), key, [certificate])


def lies(cluster: Cluster) -> dict[str, str]:
    ta1, ta3 = cluster["ta1"], cluster["ta3"]
    other, workload = SideAuthority(), SideAuthority("workload")
    made = {"not JSON at all": "nonsense", "empty": ""}
    for name, (key, certificate) in {
        "another CA": other.leaf("attestation-service", "ta1"),
        "the other side": workload.leaf("attestation-service", "ta1"),
        "another role": cluster.side.leaf("key-provider-service", "ta1"),
        "a manager": cluster.side.leaf("manager", "ta1"),
    }.items():
        made[name] = head_of(ta1, key=load_key(key), certificate=certificate)
    made["another host"] = head_of(ta3)
    made["another host's name"] = head_of(ta3, service_id="attestation@ta1")
    made["another key"] = head_of(ta1, key=load_key(ta3.key))
    made["a lower number than none"] = head_of(ta1, seq=-1)
    return made


def test_heads_that_are_not_taken(cluster: Cluster) -> None:
    ta1, ta2 = cluster["ta1"], cluster["ta2"]
    before = ta2.oversight.watch.known()["ta1"]
    for name, signed in lies(cluster).items():
        ta1.lie = lambda _answer, signed=signed: {"signed": signed}
        ta2.ask()
        assert ta2.oversight.watch.known()["ta1"] == before, name
        assert "peer 'ta1' does not say where its audit log is" in status(ta2), name


def test_a_kept_head_outlives_the_certificate_that_signed_it(cluster: Cluster) -> None:
    ca, role, later = cluster.side.certificate, "attestation-service", NOW + 100 * 86_400
    signed = head_of(cluster["ta1"])
    with pytest.raises(Refusal) as refusal:
        tokens.verify_audit_head(signed, ca, "trust_authority", role, later)
    assert refusal.value.code == "certificate_expired"
    assert tokens.verify_kept_audit_head(signed, ca, "trust_authority", role).seq == 7
    for iat in (later, NOW - 100 * 86_400):
        with pytest.raises(Refusal):
            tokens.verify_kept_audit_head(head_of(cluster["ta1"], iat=iat), ca, "trust_authority", role)


def test_a_peer_that_is_no_anchor_is_not_asked(cluster: Cluster) -> None:
    ta2 = cluster["ta2"]
    (ta2.folder / "anchors" / "peers.json").write_text('[{"host":"ta3","public_name":"ta3"}]')
    ta2.ask()
    assert set(ta2.oversight.watch.known()) == {"ta3"}


def test_a_state_file_that_cannot_be_read_stops_nothing(cluster: Cluster) -> None:
    ta2 = cluster["ta2"]
    (ta2.settings.state_directory / "peer-heads.json").write_bytes(b"{")
    ta2.start(ask=True)
    assert ta2.code() == "" and set(ta2.oversight.watch.known()) == {"ta1", "ta3"}


@given(st.lists(st.integers(0, 40 * 86_400), max_size=300))
def test_old_heads_are_thinned_and_the_newest_stays(times: list[int]) -> None:
    heads = [KeptHead("c", seen, "h", "s", seen) for seen in sorted(set(times), reverse=True)]
    kept = thinned(heads)
    assert len(kept) <= HOURS + DAYS and thinned(kept) == kept
    assert [head.seen for head in kept] == sorted((head.seen for head in kept), reverse=True)
    assert set(kept) <= set(heads)
    if heads:
        newest_day = [head for head in heads if head.seen // 86_400 == heads[0].seen // 86_400]
        assert newest_day[-1] in kept


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.sampled_from("ab")), max_size=30))
def test_a_kept_head_is_never_lower_and_never_of_another_chain(said: list[tuple[int, int, str]]) -> None:
    known = None
    for now, (seq, number, chain) in enumerate(said):
        claims = tokens.AuditHeadClaims(service_id="s", chain=chain, seq=seq, hash=f"{number:064d}", iat=now)
        after = after_hearing(known, Heard(claims, "s", now, None))
        if known is not None and known.last.seq:
            assert after.last.chain == known.last.chain and after.last.seq >= known.last.seq
            assert (after.last.head == known.last.head) or not after.problem
        known = after


# ---- security generation ----


def test_a_service_that_starts_with_an_older_generation_does_not_serve(cluster: Cluster) -> None:
    cluster["ta1"].generation = 4
    cluster["ta1"].now += 5
    cluster.configure()
    ta2 = cluster["ta2"]
    ta2.start(ask=True)
    assert ta2.code() == "configuration_stale"
    assert "configuration_stale" in ta2.oversight.problems()[0][0]
    ta2.generation = 4
    ta2.configure(list(cluster.members))
    assert ta2.code() == ""


def test_a_service_that_runs_is_levelled_by_the_manager(cluster: Cluster) -> None:
    ta2 = cluster["ta2"]
    ta2.start(ask=True)
    cluster["ta1"].generation = 9
    cluster["ta1"].now += 5
    ta2.now += 5
    cluster["ta1"].configure(list(cluster.members))
    ta2.ask()
    assert ta2.code() == ""
    assert "peer 'ta1' has security generation 9, this host 3" in status(ta2)


def test_where_no_peer_answers_it_serves_and_says_so(cluster: Cluster) -> None:
    ta2 = cluster["ta2"]
    for name in ("ta1", "ta3"):
        cluster[name].reachable = False
    cluster["ta1"].generation = 9
    cluster["ta1"].configure(list(cluster.members))
    ta2.now += 5
    ta2.start(ask=True)
    assert ta2.code() == "" and "no peer has told its security generation" in status(ta2)
    # The first that a peer says after all counts.
    cluster["ta1"].reachable = True
    cluster["ta1"].now += 5
    ta2.ask()
    assert ta2.code() == "configuration_stale"
    # A peer that is taken out of the cluster holds nobody.
    ta2.configure(["ta2", "ta3"])
    ta2.ask()
    assert ta2.code() == ""


def test_another_process_learns_what_the_first_heard(cluster: Cluster) -> None:
    ta2 = cluster["ta2"]
    first = ta2.oversight
    ta2.now += 5
    ta2.start()
    cluster["ta1"].generation, cluster["ta1"].now = 4, ta2.now + 5
    cluster["ta1"].configure(list(cluster.members))
    ta2.now += 5
    asyncio.run(first.watch.ask())
    ta2.oversight.watch._adopt(ta2.oversight.watch._read())
    assert ta2.code() == "configuration_stale"


def test_a_first_deployment_has_no_peers_and_no_configuration(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, 2)
    ta1 = cluster["ta1"]
    ta1.settings.snapshot.unlink()
    ta1.start(ask=True)
    assert ta1.code() == "" and status(ta1) == ""
    head = ta1.public.get(f"{BASE}/audit-head").json()
    assert head["seq"] == 0


def test_a_slow_peer_does_not_hold_the_start(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    ta2 = cluster["ta2"]
    cluster["ta1"].generation, cluster["ta1"].now = 4, NOW + 5
    cluster.configure()

    async def never(peer: Peer) -> str:
        if peer.host == "ta3":
            await asyncio.sleep(60)
        return await cluster.fetch(peer)

    monkeypatch.setattr(watch_module, "START_LIMIT", 2)
    ta2.start()
    ta2.oversight._fetch = never
    asyncio.run(asyncio.wait_for(ta2.oversight.start(), 15))
    assert ta2.code() == "configuration_stale"  # what the others say counts all the same
    assert "ta3 did not answer" in status(ta2)


# ---- clocks ----


def test_a_host_whose_clock_is_off_refuses_and_its_peers_do_not(cluster: Cluster) -> None:
    cluster["ta1"].now += 120
    for member in cluster.members.values():
        member.oversight.routes._signed = (-1, {})
        member.ask()
    assert cluster["ta1"].code() == "clock_off_peers"
    assert cluster["ta2"].code() == cluster["ta3"].code() == ""
    assert "ta1 is 12" in status(cluster["ta2"])


def test_two_hosts_that_differ_both_refuse(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, 2)
    cluster["ta1"].now += 120
    for member in cluster.members.values():
        member.ask()
        assert member.code() == "clock_off_peers"
    accept_time(cluster["ta1"].settings.state_directory / "clock.json")
    cluster["ta1"].now -= 120
    cluster["ta1"].start()
    assert cluster["ta1"].code() == "clock_went_back" or cluster["ta1"].code() == ""


def test_the_clocks_of_peers_are_known_to_another_process(cluster: Cluster) -> None:
    ta1 = cluster["ta1"]
    ta1.now += 120
    ta1.ask()
    ta1.start()
    assert ta1.code() == "clock_off_peers"


# ---- watching ----


def test_one_process_asks_and_another_takes_over(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    ta2 = cluster["ta2"]
    first = ta2.oversight
    ta2.start()
    assert first.watch._leads() and first.watch._leads()
    assert not ta2.oversight.watch._leads()
    monkeypatch.setattr(first.watch, "_interval", 0.01)
    monkeypatch.setattr(ta2.oversight.watch, "_interval", 0.01)

    async def both() -> None:
        tasks = [asyncio.create_task(one.watch.watch()) for one in (first, ta2.oversight)]
        cluster["ta1"].append(3)
        cluster["ta1"].now += 5
        ta2.now += 5
        for _count in range(300):
            await asyncio.sleep(0.02)
            if ta2.oversight.watch.known()["ta1"].last.seq == 8:
                break
        tasks[0].cancel()
        await asyncio.sleep(0.1)
        assert ta2.oversight.watch._leads()
        tasks[1].cancel()

    asyncio.run(both())
    assert ta2.oversight.watch.known()["ta1"].last.seq == 8


def test_a_head_is_signed_once_a_second_at_most(cluster: Cluster) -> None:
    ta1 = cluster["ta1"]
    ta1.now += 5
    calls = []
    identity = ta1.oversight.routes._identity
    ta1.oversight.routes._identity = lambda: calls.append(1) or identity()  # type: ignore[func-returns-value]
    for _count in range(5):
        ta1.public.get(f"{BASE}/audit-head")
    assert len(calls) == 1


# ---- verify for the manager ----


def test_verify_takes_heads_and_says_where_it_breaks(cluster: Cluster) -> None:
    ta1 = cluster["ta1"]
    ta1.append(40)
    head = ta1.oversight.log.head()
    body = {"heads": [{"chain": head.chain, "seq": head.seq, "hash": head.hash}]}
    good = ta1.management.post(f"{AUDIT}/verify", json=body).json()
    assert (good["intact"], good["records"], good["first"], good["heads"]) == (True, 45, 1, 1)
    ta1.log_files()[-1].unlink()  # the open file: "audit.jsonl" sorts last
    broken = ta1.management.post(f"{AUDIT}/verify", json=body).json()
    assert not broken["intact"] and broken["record"] == 45 and broken["missing"]["seq"] == 45


@pytest.mark.parametrize("body", [b"{", b'{"heads":[{}]}', b'{"other":1}', b"[]"])
def test_verify_refuses_what_it_does_not_understand(cluster: Cluster, body: bytes) -> None:
    answer = cluster["ta1"].management.post(f"{AUDIT}/verify", content=body)
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "malformed_request"


def test_a_checkpoint_is_signed_by_the_service(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, 1)
    ta1 = cluster["ta1"]
    ta1.settings = msgspec.structs.replace(ta1.settings, audit_segments_kept=1)
    ta1.start()
    ta1.append(60)
    answer = ta1.management.post(f"{AUDIT}/verify").json()
    assert answer["intact"] and answer["first"] > 1
    # With another CA, the same log does not account for what is missing.
    (tmp_path / "side_ca.pem").write_text(SideAuthority().certificate)
    answer = ta1.management.post(f"{AUDIT}/verify").json()
    assert not answer["intact"] and "checkpoint is not good" in answer["reason"]


def test_accepting_a_refusal_of_the_audit_log_changes_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_decision: object) -> None:
        raise Refusal("audit_unavailable", "full", status=503)

    ta2 = cluster["ta2"]
    monkeypatch.setattr(ta2.oversight.log, "append", refuse)
    assert ta2.management.post(f"{AUDIT}/peer-heads/ta1/accept").status_code == 503
    assert "ta1" in ta2.oversight.watch.known()
