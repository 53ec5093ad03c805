# SPDX-License-Identifier: GPL-3.0-or-later
"""The service as systemd starts it: settings file, two sockets, SIGTERM."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from services.attestation.world import World
from services.side_authority import forwarded


@pytest.fixture
def folder() -> Iterator[Path]:
    # A unix socket's path takes 107 bytes: not under pytest's own, long tmp_path.
    with tempfile.TemporaryDirectory(prefix="ti-att-") as name:
        yield Path(name)


def start(folder: Path, **changes: object) -> subprocess.Popen[bytes]:
    world = World(folder)
    world.service.close()
    # The world's clock is ahead of this machine's, to which its service would hold the process.
    (folder / "state" / "clock.json").unlink()
    plain = msgspec.to_builtins(world.settings, enc_hook=str)
    plain |= {"lock_memory": False, "allowed_users": [os.getuid()], **changes}
    settings = folder / "attestation.json"
    settings.write_bytes(msgspec.json.encode(plain))
    command = [sys.executable, "-m", "trusted_infrastructure.cli", "serve", "attestation"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3] / "src")}
    return subprocess.Popen([*command, "--settings", str(settings)], env=environment, stderr=subprocess.PIPE)


def listens(path: Path) -> bool:
    """A socket is there before anybody listens to it."""
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(str(path)) == 0


def client(folder: Path, name: str, headers: dict[str, str] | None = None) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=str(folder / "run" / name))
    return httpx.Client(transport=transport, base_url="http://ta1", headers=headers)


def test_serves_both_sockets_until_sigterm(folder: Path) -> None:
    process = start(folder)
    try:
        deadline = time.monotonic() + 30
        while not all(listens(folder / "run" / name) for name in ("public.sock", "management.sock")):
            assert time.monotonic() < deadline and process.poll() is None, process.stderr
            time.sleep(0.05)
        with client(folder, "public.sock") as public:
            jws = public.get("/attestation/v1/keys").json()["keys"]
            assert jws.count(".") == 2
            refused = public.post("/attestation/v1/challenge", content=b"{}")
            assert refused.json()["error"]["code"] == "malformed_request"
            assert public.get("/attestation/manage/v1/status").status_code == 404
        with client(folder, "management.sock", forwarded("PEM")) as management:
            assert management.get("/attestation/manage/v1/status").status_code == 403
        for name in ("public.sock", "management.sock"):
            assert (folder / "run" / name).stat().st_mode & 0o777 == 0o660
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert process.wait(timeout=15) == 0
        assert time.monotonic() - began < 10
    finally:
        process.kill()
        process.communicate()
    assert not list((folder / "run").glob("*.sock"))
    assert len((folder / "state" / "audit.jsonl").read_bytes().splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"service_id": "attestation@ta2"}, b"service_id"),
        ({"unknown": 1}, b"unknown"),
        ({"workers": 0}, b"workers"),
        ({"workers": 65}, b"workers"),
        ({"workers": 2, "state_directory": "/nonexistent/state"}, b"/nonexistent/state"),
        ({"state_directory": "relative"}, b"absolute path"),
        ({"state_directory": "/nonexistent/state"}, b"/nonexistent/state"),
    ],
)
def test_wrong_settings_are_named_and_nothing_is_served(
    folder: Path, change: dict[str, object], names: bytes
) -> None:
    process = start(folder, **change)
    _out, error = process.communicate(timeout=60)
    assert process.returncode == 1 and names in error and b"Traceback" not in error
    assert not list((folder / "run").glob("*.sock"))
