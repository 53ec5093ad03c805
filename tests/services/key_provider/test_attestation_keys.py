# SPDX-License-Identifier: GPL-3.0-or-later
"""The peers' key sets: whose are taken, how long they last, and how often peers are asked."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from services.side_authority import NOW, SideAuthority

from trusted_infrastructure import identity, tokens
from trusted_infrastructure.config.documents import Peer
from trusted_infrastructure.key_provider.attestation_keys import UNKNOWN_KEY_INTERVAL, AttestationKeys
from trusted_infrastructure.peers.anchored import (
    Anchor,
    accepted_peers,
    read_anchors,
)
from trusted_infrastructure.refusal import Refusal, Unavailable

PEERS = [Peer("ta1", "ta1"), Peer("ta2", "ta2")]
SIDE = SideAuthority()


def key_set(
    host: str,
    *,
    key: ec.EllipticCurvePrivateKey | None = None,
    role: str = "attestation-service",
    side: SideAuthority = SIDE,
    certified_for: str | None = None,
    lifetime: int = 86400,
    made: int = NOW,
) -> str:
    key = key or ec.generate_private_key(ec.SECP256R1())
    private, certificate = side.leaf(role, certified_for or host)
    return tokens.sign_key_set(
        {tokens.thumbprint(key.public_key()): key.public_key()},
        f"attestation@{host}",
        identity.load_key(private),
        [certificate],
        made,
        lifetime,
    )


class Peers:
    """Peers that answer with `sets`, or cannot be reached."""

    def __init__(self, tmp_path: Path) -> None:
        self.sets: dict[str, str] = {}
        self.asked = 0
        self.now = 0.0
        self.path = tmp_path / "attestation-keys.json"
        (tmp_path / "ca.pem").write_text(SIDE.certificate)
        self.ca = tmp_path / "ca.pem"
        self.keys = self.make()

    def make(self) -> AttestationKeys:
        return AttestationKeys(self.path, self.ca, self.fetch, lambda: self.now)

    async def fetch(self, peer: Peer) -> str:
        self.asked += 1
        if peer.host not in self.sets:
            raise Unavailable("peer_unreachable", f"{peer.host} did not answer")
        return self.sets[peer.host]

    def refresh(self, peers: list[Peer] | None = None, now: int = NOW) -> None:
        asyncio.run(self.keys.refresh(peers if peers is not None else PEERS, now))

    def kids(self, peers: list[Peer] | None = None, now: int = NOW) -> int:
        return len(self.keys.known(peers if peers is not None else PEERS, now).keys)


@pytest.fixture
def peers(tmp_path: Path) -> Peers:
    return Peers(tmp_path)


def test_keys_and_issuers(peers: Peers) -> None:
    peers.sets = {"ta1": key_set("ta1"), "ta2": key_set("ta2")}
    peers.refresh()
    known = peers.keys.known(PEERS, NOW)
    assert len(known.keys) == 2
    assert sorted(map(sorted, known.issuers.values())) == [["attestation@ta1"], ["attestation@ta2"]]


def test_a_peer_cannot_take_anothers_key(peers: Peers) -> None:
    """A key set names public keys, which everybody knows: also those of the other services."""
    key = ec.generate_private_key(ec.SECP256R1())
    kid = tokens.thumbprint(key.public_key())
    peers.sets = {"ta1": key_set("ta1", key=key), "ta2": key_set("ta2", key=key)}
    peers.refresh()
    assert peers.keys.known(PEERS, NOW).issuers == {kid: {"attestation@ta1", "attestation@ta2"}}
    # One whose set has ended takes it along as little.
    peers.sets["ta2"] = key_set("ta2", key=key, lifetime=60)
    peers.refresh()
    known = peers.keys.known(PEERS, NOW + 60)
    assert (known.issuers, known.outdated) == ({kid: {"attestation@ta1"}}, {})


@pytest.mark.parametrize(
    ("jws", "words"),
    [
        (key_set("ta1", role="key-provider-service"), "role"),
        (key_set("ta1", side=SideAuthority()), "chain"),
        (key_set("ta1", side=SideAuthority(side="workload")), "certificate_invalid"),
        (key_set("ta2"), "anchors"),
        (key_set("ta1", certified_for="ta2"), "anchors"),
        (key_set("ta1", lifetime=30 * 86400), "key_set_invalid"),
        (key_set("ta1", made=NOW - 90000), "key_set_invalid"),
        (key_set("ta1", made=NOW + 600), "key_set_invalid"),
        ("nonsense", "key_set_invalid"),
        ("", "key_set_invalid"),
    ],
    ids=["role", "CA", "side", "peer", "certificate", "lifetime", "ended", "future", "nonsense", "empty"],
)
def test_key_sets_that_are_not_taken(peers: Peers, jws: str, words: str) -> None:
    peers.sets = {"ta1": jws}
    peers.refresh()
    assert peers.kids() == 0
    assert words in peers.keys.problems["ta1"]
    assert not peers.path.exists()


def test_a_bad_key_set_leaves_the_one_before(peers: Peers) -> None:
    peers.sets = {"ta1": key_set("ta1")}
    peers.refresh()
    peers.sets = {"ta1": "nonsense"}
    peers.refresh()
    assert peers.kids() == 1


def test_a_stopped_peer_outlasts_a_restart_until_its_keys_end(peers: Peers) -> None:
    peers.sets = {"ta2": key_set("ta2")}
    peers.refresh()
    peers.sets = {}
    peers.keys = peers.make()
    peers.refresh()
    assert peers.kids(now=NOW + 86399) == 1
    assert peers.kids(now=NOW + 86400) == 0
    assert "did not answer" in peers.keys.problems["ta2"]


def test_a_file_that_somebody_changed_gives_no_key(peers: Peers) -> None:
    peers.path.write_text(json.dumps({"ta1": key_set("ta1", side=SideAuthority()), "ta2": "nonsense"}))
    peers.path.chmod(0o600)
    peers.keys = peers.make()
    assert peers.kids() == 0
    peers.path.write_text("junk")
    peers.keys = peers.make()
    assert peers.kids() == 0


def test_a_peer_that_left_is_forgotten_at_once(peers: Peers) -> None:
    peers.sets = {"ta1": key_set("ta1"), "ta2": key_set("ta2")}
    peers.refresh()
    assert peers.kids(PEERS[:1]) == 1
    peers.refresh(PEERS[:1])
    assert peers.make().known(PEERS, NOW).issuers.keys() == peers.keys.known(PEERS[:1], NOW).issuers.keys()


def test_unknown_keys_do_not_flood_the_peers(peers: Peers) -> None:
    for _index in range(10):
        asyncio.run(peers.keys.refresh_for_unknown(PEERS, NOW))
    assert peers.asked == 2
    peers.now += UNKNOWN_KEY_INTERVAL
    asyncio.run(peers.keys.refresh_for_unknown(PEERS, NOW))
    assert peers.asked == 4


def test_a_peer_needs_an_anchor() -> None:
    """A manager writes the document; only local root writes anchors."""
    anchors = [Anchor("ta1", "ta1"), Anchor("ta2", "ta2.other")]
    accepted, problems = accepted_peers([*PEERS, Peer("ta3", "ta3")], anchors)
    assert [peer.host for peer in accepted] == ["ta1"]
    assert len(problems) == 2
    assert accepted_peers([], anchors) == ([], [])


@pytest.mark.parametrize(
    "content", [None, "junk", "{}", '[{"host":"ta1"}]', '[{"host":1,"public_name":"x"}]']
)
def test_anchors_that_cannot_be_read(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "peers.json").write_text(content)
    with pytest.raises(Refusal) as refused:
        read_anchors(tmp_path / "peers.json")
    assert refused.value.code == "configuration_unavailable"
