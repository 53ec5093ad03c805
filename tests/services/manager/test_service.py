# SPDX-License-Identifier: GPL-3.0-or-later
"""The manager as a process on its socket: starting, being killed, stopping."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from services.manager.harness import PASSWORD, write_users

from trusted_infrastructure.identity import (
    create_authority,
    create_request,
    generate_key,
    role_uri,
    sign_request,
)

SOURCE = Path(__file__).parents[3] / "src"
RUN = "import sys; from pathlib import Path; from trusted_infrastructure.manager.service import run; "
RUN += "run(Path(sys.argv[1]))"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Settings, users and certificates of a manager."""
    ca_key, ca = create_authority("workload", "workload")
    uri = role_uri("workload", "manager", "workload-manager")
    key = generate_key()
    leaf = sign_request(
        create_request(key, uri, ["workload-manager"], []), ca_key, ca, uri, ["workload-manager"], []
    )
    for name, content in (("ca.pem", ca), ("client.pem", leaf), ("client.key", key.decode())):
        (tmp_path / name).write_text(content)
    write_users(tmp_path / "users.json", [{"name": "administrator", "privileges": ["*"]}])
    settings = {
        "side": "workload",
        "host": "workload-manager",
        "public_names": ["workload-manager"],
        "database": f"sqlite:///{tmp_path}/manager.db",
        "side_ca": str(tmp_path / "ca.pem"),
        "client_certificate": str(tmp_path / "client.pem"),
        "client_key": str(tmp_path / "client.key"),
        "run_directory": str(tmp_path),
        "state_directory": str(tmp_path),
        "users": str(tmp_path / "users.json"),
        "allowed_users": [os.getuid()],
        "lock_memory": False,
    }
    (tmp_path / "manager.json").write_bytes(msgspec.json.encode(settings))
    return tmp_path


@contextlib.contextmanager
def manager(directory: Path) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """A manager process and a client that is logged in."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(directory / "manager.json")],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stderr=(directory / "log").open("ab"),
    )
    transport = httpx.HTTPTransport(uds=str(directory / "public.sock"))
    credentials = base64.b64encode(f"administrator:{PASSWORD}".encode()).decode()
    try:
        with httpx.Client(transport=transport, base_url="http://manager/api") as client:
            session = first_answer(client, credentials, process)
            client.headers["vmware-api-session-id"] = session
            yield process, client
    finally:
        process.kill()
        process.wait()


def first_answer(client: httpx.Client, credentials: str, process: subprocess.Popen[bytes]) -> str:
    """Logs in as soon as the socket answers."""
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        try:
            answer = client.post("/session", headers={"authorization": f"Basic {credentials}"})
        except httpx.TransportError:
            time.sleep(0.05)
            continue
        assert answer.status_code == 201, answer.text
        return str(answer.json())
    raise AssertionError(f"the manager did not start (exit code {process.poll()})")


def test_what_was_acknowledged_survives_sigkill(directory: Path) -> None:
    with manager(directory) as (process, client):
        assert (directory / "public.sock").stat().st_mode & 0o777 == 0o660
        for number in range(20):
            assert client.post("/trust/clusters", json={"name": f"cluster {number}"}).status_code == 201
        process.send_signal(signal.SIGKILL)
        process.wait()
    for name in ("manager.db", "audit.log"):
        assert (directory / name).stat().st_mode & 0o777 == 0o600
    with manager(directory) as (process, client):
        names = {cluster["name"] for cluster in client.get("/vcenter/cluster").json()}
        assert names == {f"cluster {number}" for number in range(20)}
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
        assert time.monotonic() - began < 10
    log = (directory / "log").read_text()
    assert "Traceback" not in log
    assert PASSWORD not in log


@pytest.mark.parametrize(
    "request_line", [b"hello", b"BREW /api/session HTTP/1.1", b"GET /api/\xc3\xa9 HTTP/1.1"]
)
def test_what_is_not_http_is_answered_in_the_form_of_the_api(directory: Path, request_line: bytes) -> None:
    with manager(directory), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(directory / "public.sock"))
        connection.sendall(request_line + b"\r\nHost: x\r\n\r\n")
        answer = b""
        while data := connection.recv(4096):
            answer += data
    assert answer.startswith(b"HTTP/1.1 400 ")
    error = msgspec.json.decode(answer.split(b"\r\n\r\n", 1)[1])
    assert (error["error_type"], error["messages"][0]["args"]) == ("INVALID_ARGUMENT", ["request"])


@pytest.mark.parametrize(
    ("change", "named"),
    [({"side": "middle"}, "side"), ({"more": 1}, "more"), ({"users": "relative"}, "users")],
)
def test_bad_settings_are_named(directory: Path, change: dict[str, object], named: str) -> None:
    settings = msgspec.json.decode((directory / "manager.json").read_bytes())
    (directory / "manager.json").write_bytes(msgspec.json.encode({**settings, **change}))
    found = subprocess.run(
        [sys.executable, "-c", RUN, str(directory / "manager.json")],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert found.returncode != 0
    assert named in found.stderr.decode()
