# SPDX-License-Identifier: GPL-3.0-or-later
"""A Trust Authority host and a trusted host on this machine: both services over TLS, a software TPM with a
measured boot, and the agent as a process of its own. Only the key server is not real.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import uvicorn
from integration.certified_tpm import CertifiedTpm
from integration.unix_sockets import listens
from services.attestation.world import BOOT, Boot
from services.host.trust_authority import GROUP, PROVIDER, SCOPE
from services.key_provider.harness import FakeKeyServer, provider
from services.side_authority import SideAuthority, forwarded
from services.tpm.event_log_builder import LogBuilder
from starlette.requests import Request

from trusted_infrastructure import tokens
from trusted_infrastructure.attestation.service import AttestationService, Settings, public_application
from trusted_infrastructure.config.documents import Document, Generation, Peer, content_of
from trusted_infrastructure.config.snapshot import publish, snapshot_of
from trusted_infrastructure.identity import load_key
from trusted_infrastructure.key_provider import service as key_provider
from trusted_infrastructure.tokens import AssertionClaims

HOST = "host1"
ISSUER = "https://workload-manager/sts"


class TrustedSite:
    """Context manager. The agent runs when `start_agent` was called."""

    def __init__(self) -> None:
        self.now = int(time.time())
        self.tpm = CertifiedTpm()
        self.folder = self.tpm.folder
        self.trust_authority = SideAuthority(now=self.now)
        self.workload = SideAuthority("workload", now=self.now)
        self.principal_key, self.principal = self.workload.leaf("manager", "workload-manager")
        self.key_server = FakeKeyServer()
        self.providers_of_scope = ["*"]
        self.port = 0
        self.security_generation = 1
        self.documents: dict[tuple[str, str], dict[str, Any]] = {}
        self._agent: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> TrustedSite:
        self.tpm.__enter__()
        for name in ("ta/run", "host/run", "host/state", "host/anchors"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "host/anchors/trust_authority_ca.pem").write_text(self.trust_authority.certificate)
        (self.folder / "host/side_ca.pem").write_text(self.workload.certificate)
        self._start_services()
        self.boot()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_agent()
        self._server.should_exit = True
        self._thread.join(timeout=10)
        self.attestation.close()
        self.key_provider.close()
        self.tpm.__exit__(kind, error, trace)

    # ---- the trusted host ---------------------------------------------------------------------------------

    def boot(self, boot: Boot = BOOT) -> None:
        """Power cycle: the TPM starts, and the firmware measures a boot into it and writes its log."""
        self.tpm.reboot()
        log = LogBuilder(("sha256",))
        extends = []
        for pcr, kind, content in boot:
            log.add(pcr, kind, content)
            extends.append(f"{pcr}:sha256={hashlib.sha256(content).hexdigest()}")
        self.tpm.tool("tpm2_pcrextend", *extends)
        (self.folder / "host/event_log").write_bytes(log.data)

    def start_agent(self) -> None:
        """Start the agent's process, and wait until it answers."""
        self.stop_agent()
        settings = {
            "host": HOST,
            "side_ca": str(self.folder / "host/side_ca.pem"),
            "snapshot": str(self.folder / "host/snapshot.json"),
            "anchors_directory": str(self.folder / "host/anchors"),
            "state_directory": str(self.folder / "host/state"),
            "run_directory": str(self.folder / "host/run"),
            "tcti": self.tpm.tcti,
            "event_log": str(self.folder / "host/event_log"),
            "lock_memory": False,
        }
        (self.folder / "host/agent.json").write_text(json.dumps(settings))
        program = "from trusted_infrastructure.cli import main; raise SystemExit(main())"
        command = [
            sys.executable,
            "-c",
            program,
            "serve",
            "agent",
            "--settings",
            self.folder / "host/agent.json",
        ]
        with (self.folder / "host/log").open("ab") as log:
            self._agent = subprocess.Popen(command, stderr=log, env={"PYTHONPATH": ":".join(sys.path)})
        sockets = [self.folder / f"host/run/{name}.sock" for name in ("local", "keys", "management")]
        deadline = time.monotonic() + 20
        while not all(map(listens, sockets)):
            if time.monotonic() > deadline or self._agent.poll() is not None:
                raise RuntimeError(f"the agent did not start:\n{self.log()}")
            time.sleep(0.02)

    def stop_agent(self) -> float:
        """SIGTERM; how many seconds it took."""
        started = time.monotonic()
        if self._agent is not None:
            self._agent.terminate()
            self._agent.wait(timeout=20)
            self._agent = None
        return time.monotonic() - started

    def log(self) -> str:
        """What the agent wrote."""
        return (self.folder / "host/log").read_text()

    def ask(
        self, method: str, path: str, body: Any = None, socket_name: str = "local.sock"
    ) -> httpx.Response:
        """A request to the agent. On the management socket: as the manager, through the proxy."""
        transport = httpx.HTTPTransport(uds=str(self.folder / "host/run" / socket_name))
        headers = forwarded(self.principal) if socket_name == "management.sock" else {}
        with httpx.Client(
            transport=transport, base_url="http://agent", headers=headers, timeout=60
        ) as client:
            return client.request(method, f"/agent/manage/v1/{path}", json=body)

    def attest(self) -> dict[str, Any]:
        """Attest now; the status."""
        status: dict[str, Any] = self.ask("POST", "attest").json()
        return status

    # ---- configuration ------------------------------------------------------------------------------------

    def enroll(self) -> None:
        """What an administrator does once: vendor CA, endorsement key and base image, read from the host."""
        keys = self.ask("GET", "tpm/endorsement-keys", socket_name="management.sock").json()
        key = next(one for one in keys["endorsement_keys"] if one["identity"])
        self.documents["ca_certificate", "vendor"] = {"cert_chain": self.tpm.vendor_chain}
        self.documents["endorsement_key", HOST] = {"public_key": key["public_key"]}
        self.documents["base_image", "image-1"] = self.ask("GET", "base-image?image_version=image-1").json()
        self.publish_trust_authority()
        self.publish_host(key["key"])

    def publish_trust_authority(self) -> None:
        """Publish the Trust Authority's side."""
        fixed: dict[tuple[str, str], dict[str, Any]] = {
            ("trust_authority_cluster", "cluster"): {
                "cluster": "domain-c1",
                "name": "Trust Authority",
                "state": "ENABLE",
                "group": GROUP,
                "grace_period": 0,
                "peers": [{"host": "ta1", "public_name": "localhost", "port": self.port}],
            },
            ("key_provider", PROVIDER): content_of(provider()),
            ("consumer_principal", "principal-1"): {
                "issuer": ISSUER,
                "issuer_alias": "workload",
                "principal": {"id": {"name": "workload", "domain": "local"}, "type": "STS_USER"},
                "certificates": [[self.principal]],
            },
            ("scope", SCOPE): {
                "principal": ISSUER,
                "trusted_cluster": "domain-c9",
                "base_images": ["*"],
                "providers": self.providers_of_scope,
            },
            ("tpm2_settings", "settings"): {},
        }
        self._publish(self.folder / "ta/run/snapshot.json", "ta1", "trust_authority", fixed | self.documents)

    def publish_host(self, ek_digest: str) -> None:
        """Publish the workload side's configuration for the host."""
        claims = AssertionClaims(
            iss=ISSUER,
            sub=HOST,
            scope=SCOPE,
            ek_digest=ek_digest,
            aud=GROUP,
            iat=self.now,
            exp=self.now + 86400,
            jti="assertion-1",
        )
        assertion = tokens.sign_assertion(claims, load_key(self.principal_key), self.principal)
        service = {
            "address": {"hostname": "localhost", "port": self.port},
            "trusted_ca": [self.trust_authority.certificate],
            "group": GROUP,
            "trust_authority_cluster": "domain-c1",
        }
        contents: dict[tuple[str, str], dict[str, Any]] = {
            ("attestation_service", "attestation-1"): service,
            ("kms_service", "kms-1"): service,
            ("host_assertion", "assertion"): {"host": HOST, "scope": SCOPE, "assertion": assertion},
            ("trusted_key_provider", PROVIDER): {"group": GROUP, "default": True},
        }
        self._publish(self.folder / "host/snapshot.json", HOST, "workload", contents)

    def _publish(
        self, path: Path, host: str, side: str, contents: dict[tuple[str, str], dict[str, Any]]
    ) -> None:
        documents = [
            Document(kind, name, Generation(1, 1), content) for (kind, name), content in contents.items()
        ]
        publish(path, snapshot_of(host, side, self.security_generation, documents))

    # ---- the Trust Authority host -------------------------------------------------------------------------

    def _start_services(self) -> None:
        folder = self.folder / "ta"
        for role in ("attestation-service", "key-provider-service"):
            self.trust_authority.write_leaf(folder, role, role, "ta1")
        self.trust_authority.write_leaf(folder, "server", "server", "ta1", dns=("localhost",))
        (folder / "side_ca.pem").write_text(self.trust_authority.certificate)
        (folder / "anchors").mkdir()
        (folder / "anchors/peers.json").write_text('[{"host": "ta1", "public_name": "localhost"}]')
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.attestation = AttestationService(
            Settings(**self._settings("attestation"), public_name="localhost", burst=1000)
        )
        self.key_provider = key_provider.build(
            key_provider.Settings(
                **self._settings("key-provider"),
                public_name="localhost",
                public_port=self.port,
                anchors_directory=folder / "anchors",
            ),
            self._key_set,
            pools=lambda _configuration: [self.key_server],
        )
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._both,
                interface="asgi3",
                ssl_certfile=folder / "server.pem",
                ssl_keyfile=folder / "server.key",
                lifespan="off",
                log_config=None,
            )
        )
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(listener),))
        self._thread.start()

    def _settings(self, service: str) -> dict[str, Any]:
        folder = self.folder / "ta"
        state = folder / service
        state.mkdir()
        return {
            "host": "ta1",
            "service_id": f"{service}@ta1",
            "side_ca": folder / "side_ca.pem",
            "identity_certificate": folder / f"{service}-service.pem",
            "identity_key": folder / f"{service}-service.key",
            "snapshot": folder / "run/snapshot.json",
            "state_directory": state,
            "run_directory": folder / "run",
            "clock_max_unsynchronized": 0,
        }

    async def _key_set(self, _peer: Peer) -> str:
        keys: dict[str, str] = json.loads(
            bytes((await self.attestation.keys(Request({"type": "http"}))).body)
        )
        return keys["keys"]

    async def _serve(self, listener: socket.socket) -> None:
        state = self.key_provider.state
        watching = [
            asyncio.create_task(watch())
            for watch in (state.watch_configuration, state.watch_key_servers, state.watch_peers)
        ]
        await self._server.serve([listener])
        for task in watching:
            task.cancel()

    async def _both(self, scope: Any, receive: Any, send: Any) -> None:
        attestation = scope["path"].startswith("/attestation/")
        app = public_application(self.attestation) if attestation else self.key_provider.public
        await app(scope, receive, send)
