# SPDX-License-Identifier: GPL-3.0-or-later
"""`trusted-infrastructure audit verify`, `audit show` and `clock accept`, on a host with two peers."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from services.peers.cluster import Cluster, Member
from services.side_authority import NOW

from trusted_infrastructure import cli, tokens
from trusted_infrastructure.audit import Decision, Head, records, segments, verify
from trusted_infrastructure.clock_guard import read_clock_state
from trusted_infrastructure.config.documents import Peer
from trusted_infrastructure.peers import commands
from trusted_infrastructure.refusal import Refusal, Unavailable
from trusted_infrastructure.state_files import write_state

Text = pytest.CaptureFixture[str]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """ta1 has decided 40 times, its peers keep its head, and the commands run on it."""
    made = Cluster(tmp_path, 3)
    made["ta1"].append(40)
    for name in ("ta2", "ta3"):
        made[name].ask()
    write_settings(made["ta1"])

    def kept_by(peer: Peer, files: commands.ServiceFiles, _base: str) -> list[Head]:
        member = made[peer.host]
        if not member.reachable:
            raise Unavailable("peer_unreachable", f"{peer.host} did not answer")
        signed = member.public.get("/attestation/v1/peer-heads").json()["heads"].get(files.host, [])
        claims = [
            tokens.verify_kept_audit_head(
                jws, made.side.certificate, "trust_authority", "attestation-service"
            )
            for jws in signed
        ]
        return [Head(one.chain, one.seq, one.hash) for one in claims]

    monkeypatch.setattr(commands, "kept_by", kept_by)
    return made


def write_settings(member: Member) -> None:
    settings = {
        name: str(getattr(member.settings, name))
        for name in ("host", "service_id", "side_ca", "snapshot", "state_directory", "anchors_directory")
    }
    (member.folder / "attestation.json").write_text(json.dumps({**settings, "workers": 2}))


def run(member: Member, *arguments: str) -> int:
    return cli.main([*arguments, "--settings-directory", str(member.folder)])


def report(member: Member, capsys: Text, *arguments: str) -> tuple[int, dict[str, Any]]:
    code = run(member, "audit", "verify", "--format", "json", *arguments)
    (log,) = json.loads(capsys.readouterr().out)["logs"]
    return code, log


def test_an_intact_log_with_heads_of_peers(cluster: Cluster, capsys: Text) -> None:
    code, log = report(cluster["ta1"], capsys)
    assert (code, log["intact"], log["records"], log["heads"]) == (0, True, 40, {"ta2": 1, "ta3": 1})
    assert run(cluster["ta1"], "audit", "verify") == 0
    assert "attestation@ta1: intact, 40 records" in capsys.readouterr().out


def test_a_broken_log_is_named_by_file_line_record_and_reason(cluster: Cluster, capsys: Text) -> None:
    ta1 = cluster["ta1"]
    path = segments(ta1.settings.state_directory / "audit.jsonl")[0].path
    path.write_bytes(path.read_bytes().replace(b'"seq":3,', b'"seq":4,'))
    code, log = report(ta1, capsys)
    assert (code, log["intact"], log["file"], log["line"], log["record"]) == (1, False, str(path), 3, 3)
    assert run(ta1, "audit", "verify") == 1
    text = capsys.readouterr().out
    assert "BROKEN" in text and f"{path}, line 3, record 3" in text


def test_a_cut_tail_names_who_keeps_the_head(cluster: Cluster, capsys: Text) -> None:
    (cluster["ta1"].settings.state_directory / "audit.jsonl").unlink()
    code, log = report(cluster["ta1"], capsys)
    assert code == 1 and "kept by: ta2, ta3" in log["reason"] and log["record"] == 40
    code, log = report(cluster["ta1"], capsys, "--no-peers")
    assert code == 0 and log["heads"] == {}


def test_without_peers_it_says_what_it_cannot_see(cluster: Cluster, capsys: Text) -> None:
    for name in ("ta2", "ta3"):
        cluster[name].reachable = False
    code, log = report(cluster["ta1"], capsys)
    assert code == 0 and set(log["not_asked"]) == {"ta2", "ta3"}
    run(cluster["ta1"], "audit", "verify")
    assert "a tail that was cut off would not show" in capsys.readouterr().out


def test_a_head_from_a_third_place(cluster: Cluster, capsys: Text) -> None:
    head = cluster["ta1"].oversight.log.head()
    given = ["--service", "attestation", "--no-peers", "--head"]
    assert report(cluster["ta1"], capsys, *given, f"{head.chain}:{head.seq}:{head.hash}")[0] == 0
    code, log = report(cluster["ta1"], capsys, *given, f"{head.chain}:{head.seq + 1}:{head.hash}")
    assert code == 1 and "kept by: command line" in log["reason"]
    assert run(cluster["ta1"], "audit", "verify", *given, "nonsense") == 1
    assert "is not CHAIN:NUMBER:HASH" in capsys.readouterr().err
    assert run(cluster["ta1"], "audit", "verify", "--head", "a:1:b") == 1


def test_what_cannot_be_read_is_another_exit_code(cluster: Cluster, capsys: Text, tmp_path: Path) -> None:
    for path in cluster["ta1"].log_files():
        path.unlink()
    code, log = report(cluster["ta1"], capsys)
    assert code == 2 and log["intact"] is None and "audit_unavailable" in log["reason"]
    assert cli.main(["audit", "verify", "--settings-directory", str(tmp_path / "none")]) == 1
    (cluster["ta1"].folder / "key-provider.json").write_text("{")
    assert run(cluster["ta1"], "audit", "verify") == 1
    assert "key-provider.json" in capsys.readouterr().err


def test_show_filters_and_obeys_no_control_characters(cluster: Cluster, capsys: Text) -> None:
    ta1 = cluster["ta1"]
    ta1.oversight.log.append(
        Decision(
            time=int(NOW) + 60, service="attestation@ta1", host="host9", address="\x1b[2J", code="ek_weak"
        )
    )
    assert run(ta1, "audit", "show", "--code", "ek_weak") == 0
    text = capsys.readouterr().out
    assert "host9" in text and "\x1b" not in text and len(text.splitlines()) == 1
    run(ta1, "audit", "show", "--host", "h", "--last", "3", "--format", "json")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["seq"] for row in rows] == [38, 39, 40]
    run(ta1, "audit", "show", "--since", "2027-01-15T08:00:30Z", "--format", "json")
    assert [json.loads(line)["host"] for line in capsys.readouterr().out.splitlines()] == ["host9"]
    run(ta1, "audit", "show", "--last", "0")
    assert capsys.readouterr().out == ""
    assert run(ta1, "audit", "show", "--since", "yesterday") == 1


def test_clock_accept_is_audited_and_taken_over(cluster: Cluster, capsys: Text) -> None:
    ta1 = cluster["ta1"]
    path = ta1.settings.state_directory
    # What the service saw lies ahead of this machine's clock.
    seen = max(NOW, int(time.time())) + 86_400
    state = msgspec.structs.replace(read_clock_state(path / "clock.json"), mark=seen)
    write_state(path / "clock.json", msgspec.json.encode(state))
    assert run(ta1, "clock", "accept", "--format", "json") == 0
    (answer,) = json.loads(capsys.readouterr().out)["clocks"]
    assert answer["before"] == seen and answer["accepted"] < seen
    last = list(records(path / "audit.jsonl"))[-1]
    assert last.code == "service_clock_accepted" and last.detail["before"] == seen
    assert verify(path / "audit.jsonl").intact
    ta1.now = answer["accepted"]
    assert ta1.code() == ""
    ta1.start()
    assert ta1.code() == ""
    owner = path.stat().st_uid
    assert {file.stat().st_uid for file in path.iterdir()} == {owner}


def test_clock_accept_leaves_files_to_the_services_user(cluster: Cluster, capsys: Text) -> None:
    ta1 = cluster["ta1"]
    folder = ta1.settings.state_directory
    owner = 12345 if os.geteuid() == 0 else os.geteuid()  # only root can act as another user
    for parent in [folder, *folder.iterdir()]:
        os.chown(parent, owner, -1)
    for parent in folder.parents:
        if parent.stat().st_mode & 0o011 != 0o011 and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    (folder / "clock.json").unlink()
    (folder / "clock.json.lock").unlink(missing_ok=True)
    assert run(ta1, "clock", "accept") == 0
    assert {file.stat().st_uid for file in folder.iterdir()} == {owner}
    assert os.geteuid() in (0, owner)
    assert "is accepted" in capsys.readouterr().out


# ---- what a peer may say ----


class Answer:
    """In place of a client of a peer."""

    def __init__(self, content: Any, status: int = 200) -> None:
        self.content = json.dumps(content).encode()
        self.status_code = status
        self.is_success = status < 400

    async def __aenter__(self) -> Answer:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        return None

    async def request(self, _method: str, _url: str, params: dict[str, str]) -> Answer:
        assert params == {"host": "ta1"}
        return self


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ({}, "peer_answer_invalid"),
        ([], "peer_answer_invalid"),
        ({"heads": {"ta1": "x"}}, "peer_answer_invalid"),
        ({"heads": {"ta1": ["nonsense"]}}, "audit_head_invalid"),
        ({"heads": {"ta1": ["OTHER"]}}, "audit_head_invalid"),
    ],
)
def test_a_peer_cannot_make_up_heads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, code: str
) -> None:
    cluster = Cluster(tmp_path, 2)
    write_settings(cluster["ta1"])
    other = cluster["ta2"].public.get("/attestation/v1/audit-head").json()["signed"]
    text = json.dumps(content).replace("OTHER", other)
    monkeypatch.setattr(
        "trusted_infrastructure.transport.public_client", lambda *_a, **_o: Answer(json.loads(text))
    )
    files = commands.ServiceFiles(
        "ta1", "attestation@ta1", str(tmp_path / "side_ca.pem"), "/none", str(tmp_path)
    )
    with pytest.raises(Refusal) as refusal:
        commands.kept_by(Peer("ta2", "ta2"), files, "/attestation/v1")
    assert refusal.value.code == code


def test_heads_of_this_host_that_a_peer_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(tmp_path, 2)
    signed = cluster["ta1"].public.get("/attestation/v1/audit-head").json()["signed"]
    answer = Answer({"heads": {"ta1": [signed], "ta3": ["x"]}})
    monkeypatch.setattr("trusted_infrastructure.transport.public_client", lambda *_a, **_o: answer)
    files = commands.ServiceFiles(
        "ta1", "attestation@ta1", str(tmp_path / "side_ca.pem"), "/none", str(tmp_path)
    )
    (head,) = commands.kept_by(Peer("ta2", "ta2"), files, "/attestation/v1")
    assert head.chain == cluster["ta1"].oversight.log.head().chain
