# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts of a Trust Authority Cluster in one process: each with its audit log, its clock and its peers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from services.asgi_client import AsgiClient
from services.side_authority import NOW, SideAuthority

from trusted_infrastructure.audit import Decision
from trusted_infrastructure.clock_guard import Clocks
from trusted_infrastructure.config.documents import Document, Generation, Peer
from trusted_infrastructure.config.snapshot import publish, snapshot_of
from trusted_infrastructure.identity import load_key
from trusted_infrastructure.peers.oversight import Oversight
from trusted_infrastructure.refusal import Refusal, Unavailable
from trusted_infrastructure.settings import TrustAuthoritySettings
from trusted_infrastructure.tokens import PrivateKey
from trusted_infrastructure.transport import Application, answer_of

BASE = "/attestation/v1"


class Settings(TrustAuthoritySettings, frozen=True):
    """As the services have them."""

    host: str
    service_id: str
    side_ca: Path
    snapshot: Path
    state_directory: Path


@dataclass
class Member:
    """One host. reachable: whether its peers get an answer. lie: changes the answer that they get."""

    cluster: Cluster
    name: str
    now: float = NOW
    generation: int = 3
    reachable: bool = True
    lie: Callable[[dict[str, Any]], dict[str, Any]] = lambda answer: answer
    oversight: Oversight = field(init=False)

    def __post_init__(self) -> None:
        self.folder = self.cluster.folder / self.name
        for name in ("state", "anchors"):
            (self.folder / name).mkdir(parents=True)
        self.key, self.certificate = self.cluster.side.leaf("attestation-service", self.name)
        self.settings = Settings(
            host=self.name,
            service_id=f"attestation@{self.name}",
            side_ca=self.cluster.folder / "side_ca.pem",
            snapshot=self.folder / "snapshot.json",
            state_directory=self.folder / "state",
            anchors_directory=self.folder / "anchors",
            clock_max_unsynchronized=0,
            audit_segment_size=4096,
        )
        self.start()

    def start(self, ask: bool = False) -> None:
        """Start the service, or another process of it."""
        clocks = Clocks(wall=lambda: self.now)
        self.oversight = Oversight(
            self.settings, BASE, self.identity, lambda: self.now, self.cluster.fetch, clocks
        )
        if ask:
            asyncio.run(self.oversight.start())

    def identity(self) -> tuple[PrivateKey, list[str]]:
        return load_key(self.key), [self.certificate]

    def configure(self, members: list[str]) -> None:
        """Publish the cluster's document and write the anchors."""
        content = {
            "cluster": "domain-c1",
            "name": "ta",
            "state": "ENABLE",
            "group": "g",
            "peers": [{"host": name, "public_name": name} for name in members],
        }
        document = Document("trust_authority_cluster", "cluster", Generation(1, 1), content)
        publish(
            self.settings.snapshot, snapshot_of(self.name, "trust_authority", self.generation, [document])
        )
        anchors = [{"host": name, "public_name": name} for name in self.cluster.members]
        (self.folder / "anchors" / "peers.json").write_bytes(msgspec.json.encode(anchors))

    def append(self, number: int = 1) -> None:
        """Decide something."""
        for _count in range(number):
            self.oversight.log.append(
                Decision(
                    time=int(self.now), service=self.settings.service_id, host="h", address="", code="ok"
                )
            )

    def ask(self) -> None:
        """One round with the peers."""
        asyncio.run(self.oversight.watch.ask())

    def code(self) -> str:
        """What a decision is refused with; "" when it is not."""
        try:
            self.oversight.ready(self.generation)
        except Refusal as refusal:
            assert refusal.status == 503
            return refusal.code
        return ""

    @property
    def public(self) -> AsgiClient:
        return AsgiClient(Application(self.oversight.routes.public(BASE)))

    @property
    def management(self) -> AsgiClient:
        caller = msgspec.defstruct("Caller", [("role", str), ("host", str)])("manager", "ta-manager")
        routes = self.oversight.routes.management("/attestation/manage/v1")
        return AsgiClient(
            Application(routes, authenticate_client=lambda _pem: caller), {"X-Client-Certificate": "x"}
        )

    def log_files(self) -> list[Path]:
        """Files of the audit log, but for the lock."""
        return sorted(path for path in self.settings.state_directory.glob("audit*.jsonl"))


class Cluster:
    """ta1, ta2 and so on, each a peer of the others."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder
        self.side = SideAuthority()
        (folder / "side_ca.pem").write_text(self.side.certificate)
        self.members: dict[str, Member] = {}
        for index in range(1, number + 1):
            self.members[f"ta{index}"] = Member(self, f"ta{index}")
        self.configure()

    def configure(self) -> None:
        """Publish the documents of all members."""
        for member in self.members.values():
            member.configure(list(self.members))

    def __getitem__(self, name: str) -> Member:
        return self.members[name]

    async def fetch(self, peer: Peer) -> str:
        """A peer's head, by its own route."""
        member = self.members[peer.host]
        if not member.reachable:
            raise Unavailable("peer_unreachable", f"{peer.host} did not answer")
        import httpx

        application = Application(member.oversight.routes.public(BASE))
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(application), base_url="https://test"
        ) as client:
            answer = member.lie(answer_of(await client.get(f"{BASE}/audit-head"), peer.host))
        signed: str = answer["signed"]
        return signed
