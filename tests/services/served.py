# SPDX-License-Identifier: GPL-3.0-or-later
"""`transport.serve` in a child process, for tests of real unix sockets."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec

from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.transport import configure_logging, serve

OWN = os.getuid()


class Served:
    """`serve` in a child process."""

    def __init__(self, directory: Path, pid: int) -> None:
        self.directory, self.pid, self.status = directory, pid, 0

    def client(self, name: str) -> httpx.Client:
        transport = httpx.HTTPTransport(uds=str(self.directory / name))
        return httpx.Client(transport=transport, base_url="http://x", timeout=10)

    def log(self) -> list[dict[str, Any]]:
        lines = (self.directory / "log").read_bytes().splitlines()
        return [msgspec.json.decode(line) for line in lines]

    def wait(self) -> int:
        """The exit code; negative for a signal. A child that does not end is killed, and the test fails."""
        deadline = time.monotonic() + 20
        while self.pid:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid, self.status = 0, os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                self.pid = 0
                raise TimeoutError("the service did not end")
            else:
                time.sleep(0.01)
        return self.status


@contextlib.contextmanager
def serving(directory: Path, apps: dict[str, Any], **options: Any) -> Iterator[Served]:
    """Runs serve(apps, **options) in a child once it is ready; SIGTERM at the end. Exit code 3: a refusal."""
    ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    ready.bind(str(directory / "notify"))
    ready.settimeout(20)
    child = os.fork()
    if child == 0:
        try:
            os.environ["NOTIFY_SOCKET"] = str(directory / "notify")
            os.dup2(os.open(directory / "log", os.O_WRONLY | os.O_CREAT), 2)
            sys.stderr = open(2, "w", buffering=1, closefd=False)
            configure_logging("test")
            root_only = [directory / name for name in options.pop("root_only", [])]
            options.setdefault("allowed_users", [OWN])
            serve({directory / name: app for name, app in apps.items()}, root_only=root_only, **options)
            os._exit(0)
        except Refusal as refusal:
            os.write(2, msgspec.json.encode(refusal.as_dict()) + b"\n")
            os._exit(3)
        finally:
            os._exit(99)
    served = Served(directory, child)
    try:
        assert ready.recv(100) in (b"READY=1", b"STOPPING=1")
        yield served
    finally:
        if served.pid:
            os.kill(served.pid, signal.SIGTERM)
        served.wait()
        ready.close()
