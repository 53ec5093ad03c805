# SPDX-License-Identifier: GPL-3.0-or-later
"""Peers over TLS, as they are in a data centre: heads, clocks and generations, and the commands on a host."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import uvicorn
from services.peers.cluster import BASE, Cluster, Member
from services.side_authority import SideAuthority, forwarded

from trusted_infrastructure import cli
from trusted_infrastructure.config.documents import Document, Generation
from trusted_infrastructure.config.snapshot import publish, snapshot_of
from trusted_infrastructure.transport import Application

PROGRAM = "from trusted_infrastructure.cli import main; raise SystemExit(main())"
MANAGE = "/attestation/manage/v1"


class RealCluster(Cluster):
    """Certificates and clocks of now. Each host is on a port of its own of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.side = SideAuthority(now=int(time.time()))
        (folder / "side_ca.pem").write_text(self.side.certificate)
        self.members: dict[str, Member] = {}
        self.ports: dict[str, int] = {}
        for name in ("ta1", "ta2"):
            self.members[name] = Member(self, name, now=time.time())
            self.members[name].settings.state_directory.chmod(0o700)

    def configure(self) -> None:
        """Publish the cluster's document with the ports of its members."""
        peers = [
            {"host": name, "public_name": "localhost", "port": port} for name, port in self.ports.items()
        ]
        content = {"cluster": "c", "name": "ta", "state": "ENABLE", "group": "g", "peers": peers}
        document = Document("trust_authority_cluster", "cluster", Generation(1, 1), content)
        anchors = [{"host": name, "public_name": "localhost"} for name in self.members]
        for member in self.members.values():
            publish(
                member.settings.snapshot,
                snapshot_of(member.name, "trust_authority", member.generation, [document]),
            )
            (member.folder / "anchors" / "peers.json").write_bytes(msgspec.json.encode(anchors))


@contextlib.contextmanager
def served(cluster: RealCluster, member: Member, side: SideAuthority | None = None) -> Iterator[None]:
    """The public routes of a member over TLS. side: whose certificate the server shows."""
    folder = member.folder
    (side or cluster.side).write_leaf(folder, "server", "server", member.name, dns=("localhost",))
    listener = socket.create_server(("127.0.0.1", 0))
    cluster.ports[member.name] = listener.getsockname()[1]
    server = uvicorn.Server(
        uvicorn.Config(
            Application(member.oversight.routes.public(BASE)),
            interface="asgi3",
            ssl_certfile=folder / "server.pem",
            ssl_keyfile=folder / "server.key",
            lifespan="off",
            log_config=None,
        )
    )
    thread = threading.Thread(target=asyncio.run, args=(server.serve([listener]),))
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        thread.join(timeout=10)


@pytest.fixture
def cluster() -> Iterator[RealCluster]:
    # A unix socket's path takes 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ti-peers-") as name:
        yield RealCluster(Path(name))


def over_https(member: Member) -> None:
    """A new process's part, which asks its peers for itself."""
    member.start()
    member.oversight._fetch = None

    async def ask() -> None:
        await member.oversight.start()
        await member.oversight.close_client()

    asyncio.run(ask())


def problems(member: Member) -> str:
    errors, warnings = member.oversight.problems()
    return "\n".join(errors + warnings)


def test_heads_clocks_and_generations_over_tls(
    cluster: RealCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    ta1, ta2 = cluster["ta1"], cluster["ta2"]
    ta1.append(30)
    with served(cluster, ta1), served(cluster, ta2):
        cluster.configure()
        for member in (ta1, ta2):
            member.now = time.time()
            over_https(member)
            assert (member.code(), problems(member)) == ("", "")
        assert ta2.oversight.watch.known()["ta1"].last.seq == 30
        clock = ta2.oversight.watch.known()["ta1"].clock
        assert clock is not None and clock.uncertainty < 5
        # ta2 keeps the head of ta1, and gives it to whoever asks: ta2's routes are those that are served.
        ta2.oversight.watch._adopt(ta2.oversight.watch._read())
    with served(cluster, ta2):
        cluster.configure()
        settings = {
            name: str(getattr(ta1.settings, name))
            for name in ("host", "service_id", "side_ca", "snapshot", "state_directory", "anchors_directory")
        }
        (ta1.folder / "attestation.json").write_text(json.dumps(settings))
        verify = ["audit", "verify", "--settings-directory", str(ta1.folder), "--format", "json"]
        assert cli.main(verify) == 0
        assert json.loads(capsys.readouterr().out)["logs"][0]["heads"] == {"ta2": 1}
        path = ta1.settings.state_directory / "audit.jsonl"
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
        assert cli.main(verify) == 1
        assert "kept by: ta2" in json.loads(capsys.readouterr().out)["logs"][0]["reason"]


def test_a_server_of_another_ca_is_no_peer(cluster: RealCluster) -> None:
    with served(cluster, cluster["ta1"], SideAuthority(now=int(time.time()))):
        cluster.configure()
        over_https(cluster["ta2"])
    assert cluster["ta2"].oversight.watch.known() == {}
    assert "peer_unreachable" in problems(cluster["ta2"])


def service(cluster: RealCluster, member: Member, **changes: Any) -> subprocess.Popen[bytes]:
    """The Attestation Service of a member, as systemd starts it."""
    cluster.side.write_leaf(member.folder, "attestation-service", "attestation-service", member.name)
    member.oversight.close()
    settings = msgspec.to_builtins(member.settings, enc_hook=str) | {
        "identity_certificate": str(member.folder / "attestation-service.pem"),
        "identity_key": str(member.folder / "attestation-service.key"),
        "run_directory": str(member.folder),
        "public_name": member.name,
        "lock_memory": False,
        "allowed_users": [os.getuid()],
        **changes,
    }
    path = member.folder / "attestation.json"
    path.write_bytes(msgspec.json.encode(settings))
    command = [sys.executable, "-c", PROGRAM, "serve", "attestation", "--settings", str(path)]
    environment = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def ask(member: Member, name: str, path: str, **headers: str) -> httpx.Response:
    transport = httpx.HTTPTransport(uds=str(member.folder / f"{name}.sock"))
    with httpx.Client(transport=transport, base_url="http://x", headers=headers) as client:
        return client.get(path)


def answers(member: Member) -> bool:
    try:
        return ask(member, "public", "/").status_code == 404
    except httpx.TransportError:
        return False


@contextlib.contextmanager
def running(cluster: RealCluster, member: Member, **changes: Any) -> Iterator[None]:
    process = service(cluster, member, **changes)
    try:
        deadline = time.monotonic() + 60
        while not answers(member):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_service_that_starts_behind_its_peer_refuses_until_it_is_levelled(
    cluster: RealCluster, workers: int
) -> None:
    ta1, ta2 = cluster["ta1"], cluster["ta2"]
    ta1.generation = 4
    with served(cluster, ta1):
        cluster.ports["ta2"] = 1
        cluster.configure()
        ta1.now = time.time()
        _key, manager = cluster.side.leaf("manager", "ta-manager")
        with running(cluster, ta2, workers=workers):
            status = ask(ta2, "management", f"{MANAGE}/status", **forwarded(manager)).json()
            assert status["health"] == "ERROR"
            assert any(detail.startswith("configuration_stale") for detail in status["details"])
            ta2.generation = 4
            cluster.configure()
            status = ask(ta2, "management", f"{MANAGE}/status", **forwarded(manager)).json()
            assert not any(detail.startswith("configuration_stale") for detail in status["details"])
            peers = ask(ta2, "management", f"{MANAGE}/audit/peer-heads", **forwarded(manager)).json()["peers"]
            assert peers["ta1"]["security_generation"] == 4 and peers["ta1"]["problem"] == ""
            assert ask(ta2, "public", f"{BASE}/peer-heads").json()["heads"].keys() == {"ta1"}


def test_a_service_with_a_wrong_clock_starts_and_refuses(cluster: RealCluster) -> None:
    ta1, ta2 = cluster["ta1"], cluster["ta2"]
    ta1.now = time.time() + 3600
    with served(cluster, ta1):
        cluster.ports["ta2"] = 1
        cluster.configure()
        with running(cluster, ta2):
            refused = ask(ta2, "public", f"{BASE}/keys")
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "clock_off_peers")
