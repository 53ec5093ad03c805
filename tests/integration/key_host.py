# SPDX-License-Identifier: GPL-3.0-or-later
"""A trusted host's agent as a process, with a software TPM, and what its workload manager sends it."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import httpx
import msgspec
from integration.certified_tpm import CertifiedTpm
from integration.pcr_policies import OURS, PolicyKey
from integration.unix_sockets import listens
from services.side_authority import SideAuthority, forwarded

from trusted_infrastructure import sealing, wrapping
from trusted_infrastructure.config.documents import Document, Generation, content_of
from trusted_infrastructure.config.snapshot import publish, snapshot_of
from trusted_infrastructure.host.tpm_device import TpmDevice
from trusted_infrastructure.key_delivery import (
    DeliveryTarget,
    KeyRequestAnswer,
    KeyRequests,
    NativeKey,
    NativeProviderPush,
    StandardKey,
    StandardKeys,
)
from trusted_infrastructure.messages import delivery_info, encode

HOST = "host1"
NATIVE, STANDARD = "branch", "department-a"


class KeyHost:
    """Context manager. answers: what the agent said to the manager. keks: id -> key, on the key server."""

    def __init__(self, keks: Mapping[str, bytes]) -> None:
        self.keks = keks
        self.tpm = CertifiedTpm()
        self.folder = self.tpm.folder / "host"
        self.policy_key = PolicyKey()
        self.answers: list[bytes] = []
        self.side = SideAuthority("workload", now=int(time.time()))
        self._principal = self.side.leaf("manager", "workload-manager")[1]
        self._agent: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> KeyHost:
        self.tpm.__enter__()
        for name in ("run", "state", "anchors", "working"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "side_ca.pem").write_text(self.side.certificate)
        (self.folder / "anchors/trust_authority_ca.pem").write_text(SideAuthority().certificate)
        (self.folder / "event_log").write_bytes(b"")
        with TpmDevice(self.tpm.tcti) as device:
            policy = self.policy_key.document(device.read_pcrs("sha256", (0, 4, 7)))
        documents = {
            ("pcr_policy", "now"): content_of(policy),
            ("key_providers", "key_providers"): {
                "providers": {NATIVE: "NATIVE", STANDARD: "STANDARD"},
                "default": NATIVE,
            },
        }
        published = [
            Document(kind, name, Generation(1, 1), content) for (kind, name), content in documents.items()
        ]
        publish(self.folder / "snapshot.json", snapshot_of(HOST, "workload", 1, published))
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._agent is not None:
            self._agent.kill()
            self._agent.wait(timeout=20)
        self.tpm.__exit__(kind, error, trace)

    # ---- the process --------------------------------------------------------------------------------------

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._agent is not None
        return self._agent

    def start(self) -> None:
        """Start the agent as systemd would, but with core dumps allowed by the limit; wait for it."""
        settings = {
            "host": HOST,
            "side_ca": str(self.folder / "side_ca.pem"),
            "snapshot": str(self.folder / "snapshot.json"),
            "anchors_directory": str(self.folder / "anchors"),
            "state_directory": str(self.folder / "state"),
            "run_directory": str(self.folder / "run"),
            "tcti": self.tpm.tcti,
            "event_log": str(self.folder / "event_log"),
            "lock_memory": False,
            "log_level": "debug",
        }
        (self.folder / "agent.json").write_text(json.dumps(settings))
        program = "from trusted_infrastructure.cli import main; raise SystemExit(main())"
        command = [sys.executable, "-c", program, "serve", "agent", "--settings"]
        sockets = [self.folder / f"run/{name}.sock" for name in ("local", "keys", "management")]
        with (self.folder / "log").open("ab") as log:
            self._agent = subprocess.Popen(
                [*command, str(self.folder / "agent.json")],
                cwd=self.folder / "working",
                stdout=log,
                stderr=log,
                env={"PYTHONPATH": ":".join(sys.path)},
                preexec_fn=allow_dumps,
            )
        deadline = time.monotonic() + 20
        while not all(map(listens, sockets)):
            if time.monotonic() > deadline or self._agent.poll() is not None:
                raise RuntimeError((self.folder / "log").read_text())
            time.sleep(0.02)

    # ---- who asks -----------------------------------------------------------------------------------------

    def manage(self, method: str, path: str, body: msgspec.Struct | None = None) -> httpx.Response:
        """A request of the workload manager."""
        content = encode(body) if body is not None else None
        answer = self._ask("management", method, f"/agent/manage/v1/{path}", content)
        self.answers.append(answer.content)
        return answer

    def use(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """A request of a program on the host, which may have keys."""
        content = json.dumps(body).encode() if body is not None else None
        answer: dict[str, Any] = self._ask("keys", method, f"/agent/keys/v1/{path}", content).json()
        return answer

    def target(self) -> DeliveryTarget:
        return msgspec.json.decode(self.manage("GET", "key-delivery").content, type=DeliveryTarget)

    def push(self, keys: Mapping[str, bytes], **changes: Any) -> httpx.Response:
        """Push the native provider with these keys, the current one first."""
        target = self.target()
        native = [
            NativeKey(
                key_id=key_id,
                sealed_key=seal(target, "native", NATIVE, key_id, key),
                check_value=changes.pop("check_value", wrapping.check_value(key, key_id)),
            )
            for key_id, key in keys.items()
        ]
        fields: dict[str, Any] = {
            "instance": target.instance,
            "provider": NATIVE,
            "key_id": next(iter(keys)),
            "tpm_required": True,
            "policy_public_key": self.policy_key.public,
            "policy_reference": OURS,
            "keys": native,
        }
        return self.manage("POST", "native-providers", NativeProviderPush(**{**fields, **changes}))

    def with_manager(self, *requests: tuple[str, str, Any]) -> list[dict[str, Any]]:
        """Requests of programs, while the manager answers requests for keys with those of the key server."""
        done = threading.Event()
        serving = threading.Thread(target=self._serve_keys, args=(done,))
        serving.start()
        try:
            return [self.use(*request) for request in requests]
        finally:
            done.set()
            serving.join(timeout=30)

    def _serve_keys(self, done: threading.Event) -> None:
        unused = iter(self.keks)
        while not done.is_set():
            waiting = msgspec.json.decode(self.manage("GET", "key-requests?wait=1").content, type=KeyRequests)
            target = self.target()
            for request in waiting.requests:
                key_id = request.key_id or next(unused)
                key = StandardKey(
                    provider=request.provider,
                    key_id=key_id,
                    sealed_key=seal(target, "standard", request.provider, key_id, self.keks[key_id]),
                )
                answer = KeyRequestAnswer(id=request.id, key_id=key_id)
                self.manage(
                    "POST",
                    "standard-keys",
                    StandardKeys(instance=target.instance, keys=[key], answers=[answer]),
                )

    def _ask(self, socket: str, method: str, path: str, content: bytes | None) -> httpx.Response:
        transport = httpx.HTTPTransport(uds=str(self.folder / f"run/{socket}.sock"))
        headers = forwarded(self._principal) if socket == "management" else {}
        with httpx.Client(
            transport=transport, base_url="http://agent", headers=headers, timeout=60
        ) as client:
            return client.request(method, path, content=content)


def seal(target: DeliveryTarget, kind: str, provider: str, key_id: str, key: bytes) -> bytes:
    """A key for the agent of this start."""
    info = delivery_info(kind=kind, host=HOST, instance=target.instance, provider=provider, key_id=key_id)
    return sealing.seal(target.suite, target.public_key, key, info)


def allow_dumps() -> None:
    """As large a core dump as this process may have."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
