# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts whose agents hold keys of standard providers: what they answer the manager, with real sealing."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
from services.manager.harness import FakeNodes

from trusted_infrastructure import sealing
from trusted_infrastructure.key_delivery import (
    DeliveryTarget,
    KeyRequest,
    KeyRequestAnswer,
    KeyRequests,
    StandardKeys,
)
from trusted_infrastructure.manager.nodes import NodeError
from trusted_infrastructure.messages import delivery_info

AGENT = "/agent/manage/v1"


class Agent:
    """The agent of one host. held: (provider, key id) -> key. answers: to its requests, by id."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.answers: dict[str, KeyRequestAnswer] = {}
        self.restart()

    def restart(self) -> None:
        """A new start: another instance and key, and no key in memory."""
        self.instance = secrets.token_hex(16)
        self.key = sealing.SealingKey.generate(sealing.DEFAULT_SUITE)
        self.held: dict[tuple[str, str], bytes] = {}
        self.requests: list[KeyRequest] = []
        self.asked = asyncio.Event()

    def ask(self, **request: Any) -> str:
        """A request, for whoever waits for it; its id."""
        identifier = secrets.token_hex(8)
        self.requests.append(KeyRequest(id=identifier, **request))
        self.asked.set()
        return identifier

    @property
    def target(self) -> DeliveryTarget:
        return DeliveryTarget(
            instance=self.instance, suite=sealing.DEFAULT_SUITE, public_key=self.key.public_bytes()
        )

    async def waiting(self, wait: float) -> KeyRequests:
        if not self.requests:
            self.asked.clear()
            try:
                await asyncio.wait_for(self.asked.wait(), wait)
            except TimeoutError:
                pass
        target = self.target
        return KeyRequests(
            instance=target.instance,
            suite=target.suite,
            public_key=target.public_key,
            requests=list(self.requests),
        )

    def take(self, message: StandardKeys) -> None:
        if message.instance != self.instance:
            raise NodeError(self.host, "delivery_stale", "sealed for another start", 409)
        for key in message.keys:
            info = delivery_info(
                kind="standard",
                host=self.host,
                instance=self.instance,
                provider=key.provider,
                key_id=key.key_id,
            )
            self.held[key.provider, key.key_id] = self.key.open(key.sealed_key, info)
        self.answers.update({answer.id: answer for answer in message.answers})
        self.requests = [request for request in self.requests if request.id not in self.answers]


class AgentNodes(FakeNodes):
    """FakeNodes with an agent for each host that is asked. deaf: hosts that take no keys."""

    def __init__(self) -> None:
        super().__init__()
        self.agents: dict[str, Agent] = {}
        self.deaf: set[str] = set()
        self.longest_wait = 0.2

    def agent(self, host: str) -> Agent:
        return self.agents.setdefault(host, Agent(host))

    async def call(
        self, host: str, method: str, path: str, content: Any = None, timeout: float | None = None
    ) -> bytes:
        split = urlsplit(path)
        name = split.path.removeprefix(f"{AGENT}/")
        if not split.path.startswith(AGENT) or name.split("/")[0] not in {
            "key-requests",
            "key-delivery",
            "standard-keys",
        }:
            return await super().call(host, method, path, content, timeout)
        self.calls.append((host, method, path))
        self.bodies.append(msgspec.json.encode(content))
        if host in self.down:
            raise NodeError(host, "unreachable", "cannot be reached: connection refused")
        agent, query = self.agent(host), parse_qs(split.query)
        if name == "key-requests":
            wait = min(float(query["wait"][0]), self.longest_wait)
            return msgspec.json.encode(await agent.waiting(wait))
        if name == "key-delivery":
            return msgspec.json.encode(agent.target)
        if method == "POST":
            if host in self.deaf:
                raise NodeError(host, "unreachable", "connection reset")
            agent.take(msgspec.json.decode(msgspec.json.encode(content), type=StandardKeys))
            return b"{}"
        assert method == "DELETE"
        agent.held.pop((unquote(name.split("/")[1]), query["key_id"][0]), None)
        return b"{}"
