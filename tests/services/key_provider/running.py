# SPDX-License-Identifier: GPL-3.0-or-later
"""A Key Provider Service over fake key servers, as its callers see it, and one attested host."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from services.asgi_client import AsgiClient
from services.key_provider.harness import (
    NOW,
    SERVICE_ID,
    Authority,
    FakeKeyServer,
    Host,
    service_settings,
    write_identity,
)
from services.side_authority import SideAuthority, forwarded

from trusted_infrastructure import identity, messages, tokens
from trusted_infrastructure.audit import verify
from trusted_infrastructure.config.documents import Peer
from trusted_infrastructure.key_provider.service import Parts, Settings, build
from trusted_infrastructure.messages import KeyAnswer

PATH = "/kms/v1/providers/finance/keys"


@dataclass(eq=False)
class Clock:
    """The service's clock, to be moved by a test."""

    now: int = NOW

    def __call__(self) -> int:
        return self.now


@dataclass
class Service:
    """The service over fake key servers, its side, and one attested host."""

    parts: Parts
    authority: Authority
    side: SideAuthority
    host: Host
    servers: list[FakeKeyServer]
    folder: Path
    settings: Settings
    clock: Clock

    def publish(self) -> None:
        self.authority.publish(self.folder / "snapshot.json")

    def take(self) -> None:
        asyncio.run(self.parts.state.take_configuration())

    @property
    def public(self) -> AsgiClient:
        return AsgiClient(self.parts.public, {"X-Real-IP": "192.0.2.7"})

    @property
    def management(self) -> AsgiClient:
        _key, certificate = self.side.leaf("manager", "ta-manager")
        return AsgiClient(self.parts.management, forwarded(certificate))

    def ask(self, body: bytes, action: str, token: str | None = None, **headers: str) -> httpx.Response:
        token = token or self.host.token()
        sent = {"Authorization": f"DPoP {token}", "DPoP": self.host.proof(token, body), **headers}
        return self.public.post(f"{PATH}?action={action}", content=body, headers=sent)

    def released(self, body: bytes, action: str) -> tuple[KeyAnswer, bytes]:
        """The answer, and the key that the host gets out of it."""
        token = self.host.token()
        proof = self.host.proof(token, body)
        response = self.public.post(
            f"{PATH}?action={action}",
            content=body,
            headers={"Authorization": f"DPoP {token}", "DPoP": proof},
        )
        assert response.status_code == 200, response.text
        answer = messages.decode(response.content, KeyAnswer)
        key = self.host.open(answer, body, token, proof, self.response_key(answer.key_id))
        return answer, key

    def response_key(self, key_id: str) -> tokens.PublicKey:
        jws = self.public.get("/kms/v1/keys").json()["keys"]
        found = tokens.verify_key_set(
            jws, self.side.certificate, "trust_authority", "key-provider-service", {"ta1"}, NOW
        )
        assert found.service_id == SERVICE_ID
        return found.keys[key_id]

    def audit(self) -> list[dict[str, Any]]:
        path = self.folder / "state" / "audit.jsonl"
        assert verify(path).intact
        return [json.loads(line) for line in path.read_text().splitlines()]


@contextmanager
def running(folder: Path) -> Iterator[Service]:
    """A service that was asked nothing yet, not even by itself: no key server knows it."""
    for name in ("state", "run", "anchors"):
        (folder / name).mkdir()
    side, authority = SideAuthority(now=NOW), Authority()
    write_identity(folder, side)
    (folder / "anchors" / "peers.json").write_text('[{"host":"ta1","public_name":"ta1"}]')
    authority.publish(folder / "snapshot.json")
    settings = service_settings(folder, requests_per_second=1000, burst=1000)
    clock = Clock()
    servers = [FakeKeyServer("kms1"), FakeKeyServer("kms2")]

    async def fetch(peer: Peer) -> str:
        key, certificate = side.leaf("attestation-service", peer.host)
        return tokens.sign_key_set(
            authority.keys(), f"attestation@{peer.host}", identity.load_key(key), [certificate], NOW, 3600
        )

    parts = build(settings, fetch, clock, lambda _configuration: servers)
    made = Service(parts, authority, side, Host(authority), servers, folder, settings, clock)
    try:
        yield made
    finally:
        parts.close()
