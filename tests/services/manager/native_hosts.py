# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts that take native key providers, at the level of their answers; what they are sent is opened."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from services.manager.harness import FakeNodes

from trusted_infrastructure.host.delivery import DeliveryKey
from trusted_infrastructure.key_delivery import (
    DeliveryTarget,
    KeyRecord,
    KeyRecords,
    NativeProviderPush,
    NativeProviderState,
    NativeProviderStates,
)
from trusted_infrastructure.manager.nodes import NodeError
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.wrapping import check_value

AGENT = "/agent/manage/v1"


class Agent:
    """One host. keys: provider -> key id -> secret, opened. tpm: whether it has one. refuses: reason code of
    every push."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.delivery = DeliveryKey(name, "MLKEM768_X25519")
        self.keys: dict[str, dict[str, bytes]] = {}
        self.states: dict[str, NativeProviderState] = {}
        self.records: list[KeyRecord] = []
        self.unreadable = 0
        self.pushes: list[NativeProviderPush] = []
        self.tpm = True
        self.refuses = ""

    def target(self) -> DeliveryTarget:
        """What keys for it are sealed to."""
        return self.delivery.target()

    def restart(self) -> None:
        """Another delivery key; without a TPM, nothing is left."""
        self.delivery = DeliveryKey(self.name, "MLKEM768_X25519")
        if not self.tpm:
            self.keys, self.states = {}, {}

    def lock(self, provider: str) -> None:
        """As after a boot that no policy describes."""
        state = msgspec.structs.replace(
            self.states[provider], state="LOCKED", code="pcr_policy_mismatch", message="PCR 4 differs"
        )
        self.states[provider] = state

    def page(self, after: str, limit: str) -> KeyRecords:
        """Keys of objects: those after one."""
        later = sorted((key for key in self.records if key.key_id > after), key=lambda key: key.key_id)
        return KeyRecords(keys=later[: int(limit)], unreadable=self.unreadable)

    def receive(self, content: Any) -> NativeProviderState:
        push = msgspec.json.decode(msgspec.json.encode(content), type=NativeProviderPush)
        if self.refuses or (push.tpm_required and not self.tpm):
            raise Refusal(self.refuses or "tpm_required", "not on this host", status=409)
        self.delivery.check(push.instance)
        opened = {
            key.key_id: self.delivery.open("native", push.provider, key.key_id, key.sealed_key)
            for key in push.keys
        }
        for key in push.keys:
            assert key.check_value == check_value(opened[key.key_id], key.key_id)
        assert push.keys[0].key_id == push.key_id
        self.pushes.append(push)
        before = self.states.get(push.provider)
        kept = before.keys.keys() - opened.keys() - set(push.removed) if before else set()
        opened |= {key_id: self.keys[push.provider][key_id] for key_id in sorted(kept)}
        self.keys[push.provider] = opened
        self.states[push.provider] = NativeProviderState(
            provider=push.provider,
            key_id=push.key_id,
            keys={key_id: check_value(secret, key_id) for key_id, secret in opened.items()},
            state="AVAILABLE",
            sealed=self.tpm,
            tpm_required=push.tpm_required,
            code="" if self.tpm else "tpm_unavailable",
        )
        return self.states[push.provider]

    def forget(self, provider: str) -> dict[str, str]:
        self.keys.pop(provider, None)
        self.states.pop(provider, None)
        return {}


class NativeHosts(FakeNodes):
    """FakeNodes whose hosts have agents for native providers."""

    def __init__(self) -> None:
        super().__init__()
        self.agents: dict[str, Agent] = {}

    def agent(self, host: str) -> Agent:
        return self.agents.setdefault(host, Agent(host))

    async def call(
        self, host: str, method: str, path: str, content: Any = None, timeout: float | None = None
    ) -> bytes:
        url = urlsplit(path)
        part = url.path.removeprefix(f"{AGENT}/").split("/")
        if host in self.down or part[0] not in {"native-providers", "key-delivery", "keys"}:
            return await super().call(host, method, path, content, timeout)
        self.calls.append((host, method, path))
        agent = self.agent(host)
        try:
            if part[0] == "key-delivery":
                return msgspec.json.encode(agent.target())
            if part[0] == "keys":
                return msgspec.json.encode(agent.page(**dict(parse_qsl(url.query, keep_blank_values=True))))
            if method == "POST":
                return msgspec.json.encode(agent.receive(content))
            if method == "DELETE":
                return msgspec.json.encode(agent.forget(unquote(part[1])))
            return msgspec.json.encode(NativeProviderStates(providers=list(agent.states.values())))
        except Refusal as refusal:
            raise NodeError(host, refusal.code, refusal.message, refusal.status) from None
