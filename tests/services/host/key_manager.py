# SPDX-License-Identifier: GPL-3.0-or-later
"""A workload manager's side of key delivery, as a host sees it: a key server in a dictionary, and an agent's
management routes that are called as the manager calls them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
from services.host.software_host import HOST, SoftwareHost
from services.side_authority import SideAuthority, forwarded

from trusted_infrastructure import sealing, wrapping
from trusted_infrastructure.config.documents import KeyProviders
from trusted_infrastructure.host.management import management_application
from trusted_infrastructure.identity import LeafVerifier
from trusted_infrastructure.key_delivery import (
    DeliveryTarget,
    KeyRequest,
    KeyRequestAnswer,
    KeyRequests,
    NativeKey,
    NativeProviderPush,
    StandardKey,
    StandardKeys,
)
from trusted_infrastructure.messages import delivery_info

BASE = "/agent/manage/v1"
WORKLOAD = SideAuthority("workload")
CERTIFICATE = WORKLOAD.leaf("manager", "workload-manager")[1]


def sealed_for(
    target: DeliveryTarget, key: bytes, provider: str, key_id: str, kind: str = "standard", host: str = HOST
) -> bytes:
    """A key, sealed as the manager does."""
    info = delivery_info(kind=kind, host=host, instance=target.instance, provider=provider, key_id=key_id)
    return sealing.seal(target.suite, target.public_key, key, info)


@dataclass
class KeyManager:
    """keys: the key server's, by (provider, key id). refuse: answers all requests so. seen: requests."""

    host: SoftwareHost
    keys: dict[tuple[str, str], bytes] = field(default_factory=dict)
    refuse: KeyRequestAnswer | None = None
    seen: list[KeyRequest] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.host.folder / "side_ca.pem").write_text(WORKLOAD.certificate)
        self.connect()

    def connect(self) -> None:
        """To the agent that runs on the host now."""
        verifier = LeafVerifier(self.host.folder / "side_ca.pem", "workload", {"manager"}, self.host.clock)
        self.app = management_application(self.host.agent, verifier, self.host.clock)

    def providers(self, default: str | None = None, **types: Any) -> None:
        """Publish the document that names the providers."""
        document = KeyProviders(providers=types, default=default)
        self.host.publish({("key_providers", "key_providers"): document})

    async def call(self, method: str, path: str, body: Any = None) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(
            transport=transport, base_url="https://agent", headers=forwarded(CERTIFICATE), timeout=60
        ) as client:
            content = None if body is None else msgspec.json.encode(body)
            return await client.request(method, f"{BASE}/{path}", content=content)

    async def target(self) -> DeliveryTarget:
        answer = await self.call("GET", "key-delivery")
        return msgspec.json.decode(answer.content, type=DeliveryTarget)

    async def poll(self, wait: int = 1) -> KeyRequests:
        answer = await self.call("GET", f"key-requests?wait={wait}")
        assert answer.status_code == 200, answer.text
        return msgspec.json.decode(answer.content, type=KeyRequests)

    async def serve_once(self, wait: int = 5) -> None:
        """Answer what the host asks for now."""
        polled = await self.poll(wait)
        target = DeliveryTarget(instance=polled.instance, suite=polled.suite, public_key=polled.public_key)
        self.seen += polled.requests
        if not polled.requests:
            return
        answers = [self._answer(request) for request in polled.requests]
        delivered = [
            StandardKey(
                provider=request.provider,
                key_id=answer.key_id,
                sealed_key=sealed_for(
                    target, self.keys[request.provider, answer.key_id], request.provider, answer.key_id
                ),
            )
            for request, answer in zip(polled.requests, answers, strict=True)
            if answer.key_id is not None
        ]
        message = StandardKeys(instance=target.instance, keys=delivered, answers=answers)
        answer = await self.call("POST", "standard-keys", message)
        assert answer.status_code == 200, answer.text

    def _answer(self, request: KeyRequest) -> KeyRequestAnswer:
        if self.refuse is not None:
            return msgspec.structs.replace(self.refuse, id=request.id)
        if request.action == "create":
            key_id = secrets.token_hex(4)
            self.keys[request.provider, key_id] = os.urandom(32)
            return KeyRequestAnswer(id=request.id, key_id=key_id)
        if (request.provider, request.key_id) not in self.keys:
            return KeyRequestAnswer(id=request.id, code="key_missing", message="no such key")
        return KeyRequestAnswer(id=request.id, key_id=request.key_id)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Answer all that is asked, meanwhile."""

        async def serve() -> None:
            while True:
                await self.serve_once()

        task = asyncio.create_task(serve())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def push(self, provider: str, *keys: tuple[str, bytes], **changes: Any) -> httpx.Response:
        """Push a native provider; the current key first."""
        target = await self.target()
        message = NativeProviderPush(
            instance=target.instance,
            provider=provider,
            key_id=keys[0][0],
            tpm_required=False,
            keys=[
                NativeKey(
                    key_id=key_id,
                    sealed_key=sealed_for(target, key, provider, key_id, "native"),
                    check_value=wrapping.check_value(key, key_id),
                )
                for key_id, key in keys
            ],
        )
        return await self.call("POST", "native-providers", msgspec.structs.replace(message, **changes))
