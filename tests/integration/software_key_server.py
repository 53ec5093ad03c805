# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's key server on a loopback port: a real PyKMIP server in a process of its own, to test against.

Its folder holds the database; a server that is stopped and started again keeps port and keys. Servers
replicate when they are told of each other (`replicate`) before they start.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any

from trusted_infrastructure.kmip.client_certificates import self_signed
from trusted_infrastructure.kmip.connection import ClientCredentials, KeyServer, client_context
from trusted_infrastructure.kmip.servers import KeyServerGroup
from trusted_infrastructure.refusal import Refusal

FILES = Path(__file__).parents[2] / "roles" / "key_server" / "files"
READ = ("LOCATE", "GET", "GET_ATTRIBUTES", "GET_ATTRIBUTE_LIST")
ALL = (*READ, "ADD_ATTRIBUTE", "MODIFY_ATTRIBUTE", "ACTIVATE", "REVOKE", "DESTROY")


class SoftwareKeyServer:
    """Context manager: a running key server. administrator: common name of its own certificate."""

    def __init__(
        self, folder: Path, name: str, address: str = "127.0.0.1", authority: Path | None = None
    ) -> None:
        """authority: folder of the CA; None makes one for this server alone."""
        self.folder = folder
        self.name = name
        self.address = address
        self.port = held_port(self, address)
        self.clients = folder / "clients"
        self.clients.mkdir(parents=True)
        folder.chmod(0o700)
        self.number = 0
        self.peers: list[SoftwareKeyServer] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._certify(authority or folder / "authority", name, address)
        self.certificate = (folder / "server.pem").read_text()
        self.allow({})

    def _certify(self, authority: Path, name: str, address: str) -> None:
        files = {"certificate": str(self.folder / "server.pem"), "key": str(self.folder / "server.key")}
        authority.mkdir(exist_ok=True)
        ca = self.command("authority", {"directory": str(authority), "name": "key servers"})["certificate"]
        csr = self.command("request", {**files, "name": name, "addresses": [address]})["csr"]
        signed = self.command(
            "sign",
            {
                "directory": str(authority),
                "csr": csr,
                "name": name,
                "addresses": [address],
                "server": True,
            },
        )["certificate"]
        self.command("install", {**files, "content": signed})
        self.trust("authority", ca)
        self.authority = authority

    def allow(self, readers: dict[str, list[str]]) -> None:
        """Write the policies. readers: policy name -> common names that may read its keys."""
        policies = {
            name: {
                "groups": {reader: {"SYMMETRIC_KEY": dict.fromkeys(READ, "ALLOW_ALL")} for reader in names},
                "preset": {"SYMMETRIC_KEY": dict.fromkeys(ALL, "ALLOW_OWNER")},
            }
            for name, names in readers.items()
        }
        (self.folder / "policies.json").write_text(json.dumps(policies))

    def trust(self, name: str, certificate: str) -> None:
        """Let a client connect."""
        (self.clients / f"{name}.pem").write_text(certificate)

    def __enter__(self) -> SoftwareKeyServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start, and wait until it listens."""
        settings = self.folder / "settings.json"
        settings.write_text(
            json.dumps(
                {
                    "address": self.address,
                    "port": self.port,
                    "certificate": str(self.folder / "server.pem"),
                    "key": str(self.folder / "server.key"),
                    "clients": str(self.clients),
                    "database": str(self.folder / "keys.db"),
                    "policies": str(self.folder / "policies.json"),
                    "administrators": [server.name for server in (self, *self.peers)],
                    "number": self.number,
                    "peers": [{"host": peer.address, "port": peer.port} for peer in self.peers],
                    "authority": str(self.folder / "clients" / "authority.pem"),
                    "compare_interval": 0.3,
                }
            )
        )
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-W",
                    "ignore",
                    "-m",
                    "key_server.command",
                    "serve",
                    "--settings",
                    str(settings),
                ],
                env=_environment(),
                stderr=log,
            )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection((self.address, self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise TimeoutError(f"the key server does not listen: {self.log()[-2000:]}")

    def stop(self, how: int = signal.SIGTERM) -> float:
        """Stop; answers how many seconds it took."""
        started = time.monotonic()
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=15)
            self._process = None
        return time.monotonic() - started

    def status(self, name: str) -> str:
        """A line of the process's /proc status."""
        assert self._process is not None
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:"))

    def pause(self, *, resume: bool = False) -> None:
        """Stop the process without ending it, or let it go on: a server that hangs."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT if resume else signal.SIGSTOP)

    def log(self) -> str:
        """What the server wrote to standard error."""
        return (self.folder / "log").read_text()

    def ensure_keys(
        self, keys: list[dict[str, str]], first: SoftwareKeyServer | None = None
    ) -> dict[str, Any]:
        """Run `primary-keys`. first: the server to replicate from."""
        origin = None
        if first is not None:
            (self.folder / "first.pem").write_text(first.certificate)
            origin = self._endpoint(first.address, first.port, self.folder / "first.pem")
        return self.command("primary-keys", {"keys": keys, "here": self.endpoint(), "first": origin})

    def command(self, name: str, wanted: dict[str, Any], *options: str) -> dict[str, Any]:
        """Run one command of the role. Raises CalledProcessError, whose stderr says why."""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "key_server.command", name, *options],
            env=_environment(),
            input=json.dumps(wanted).encode(),
            capture_output=True,
            check=True,
            timeout=60,
        )
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def run_python(self, script: str, stdin: str) -> None:
        """Run a script that uses the role's modules."""
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script],
            env=_environment(),
            input=stdin.encode(),
            check=True,
            timeout=60,
        )

    def endpoint(self) -> dict[str, Any]:
        """This server, with its own certificate as the client's."""
        return self._endpoint(self.address, self.port, self.folder / "server.pem")

    def _endpoint(self, host: str, port: int, trusted: Path) -> dict[str, Any]:
        return {
            "host": host,
            "port": port,
            "trusted": str(trusted),
            "certificate": str(self.folder / "server.pem"),
            "key": str(self.folder / "server.key"),
        }


def replicate(*servers: SoftwareKeyServer) -> None:
    """Tell servers, of one authority and not started yet, of each other."""
    for number, server in enumerate(servers):
        server.number = number
        server.peers = [peer for peer in servers if peer is not server]


def settle(*servers: SoftwareKeyServer) -> None:
    """Wait until servers that replicate have found each other: what one makes, the other has at once."""
    key, certificate = self_signed("settle", int(time.time()))
    for server in servers:
        server.trust("settle", certificate)
    credentials = ClientCredentials(certificate, key)
    context = client_context(credentials, [server.certificate for server in servers])
    groups = [
        KeyServerGroup(
            [KeyServer(server.name, server.address, server.port, timeout=20)], credentials, context
        )
        for server in servers
    ]
    deadline = time.monotonic() + 30
    try:
        for here, there in itertools.permutations(groups, 2):
            while not _has(there, here.create({}, {}).key_id):
                if time.monotonic() > deadline:
                    raise TimeoutError("the key servers do not replicate")
                time.sleep(0.2)
    finally:
        for group in groups:
            group.close()


def _has(group: KeyServerGroup, key_id: str) -> bool:
    try:
        group.get(key_id)
    except Refusal:
        return False
    return True


def _environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(FILES), "PYTHONDONTWRITEBYTECODE": "1"}


def held_port(owner: object, address: str) -> int:
    """A port that nobody else is given as long as its owner lives, also while its server is stopped: it is
    bound, and a server, which has SO_REUSEADDR as well, may listen on it."""
    held = socket.socket()
    weakref.finalize(owner, held.close)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((address, 0))
    port: int = held.getsockname()[1]
    return port
