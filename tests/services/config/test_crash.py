# SPDX-License-Identifier: GPL-3.0-or-later
"""SIGKILL in the middle of a configuration write: nothing acknowledged is lost, nothing is seen half."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from services.config.documents_of import DENIED, document, image
from services.side_authority import SideAuthority, forwarded

from trusted_infrastructure.config.documents import Document
from trusted_infrastructure.config.service import Batch, Configuration, Settings
from trusted_infrastructure.config.snapshot import SnapshotReader

# What SQLite executes between two kill points; small enough to meet every statement of a batch several times.
OPERATIONS_PER_POINT = 12

BATCHES = [
    [image(1), image(2), document("scope", "gone", None)],
    [image(1, 2, display_name="Other"), image(3), document("denied_host", "host1", DENIED)],
    [document("base_image", "image-2", None, 2), image(4)],
]

State = tuple[int, dict[tuple[str, str], str]]


def settings_in(directory: Path) -> Settings:
    for name in ("state", "run"):
        (directory / name).mkdir(exist_ok=True)
    return Settings(
        host="ta1",
        side="trust_authority",
        side_ca=directory / "side_ca.pem",
        snapshot=directory / "run" / "snapshot.json",
        state_directory=directory / "state",
        run_directory=directory / "run",
        anchors_directory=directory / "anchors",
        tls_directory=directory / "tls",
    )


def states_after() -> list[State]:
    """Security generation and documents after 0, 1, 2 and 3 batches."""
    documents: dict[tuple[str, str], Document] = {}
    states: list[State] = [(0, {})]
    for batch, generation in zip(BATCHES, (0, 1, 2), strict=True):
        documents |= {(item.kind, item.id): item for item in batch}
        states.append((generation, {key: item.digest for key, item in documents.items()}))
    return states


def stored_state(configuration: Configuration) -> State:
    overview = configuration.overview()
    digests = {(item["kind"], item["id"]): item["digest"] for item in overview["documents"]}
    return overview["security_generation"], digests


def published_ids(state: State) -> tuple[int, set[tuple[str, str]]]:
    """What a snapshot of the state shows."""
    deleted = document("x", "x", None).digest
    return state[0], {key for key, digest in state[1].items() if digest != deleted}


def killed_at(point: int, settings: Settings) -> tuple[int, bool]:
    """Apply the batches in a child that is killed at the given point: (acknowledged batches, completed)."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _install_kill_points(point)
            configuration = Configuration(settings)
            configuration.start()
            for batch in BATCHES:
                configuration.apply(Batch(batch))
                os.write(writing, b".")
            os._exit(0)
        finally:
            os._exit(99)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        acknowledged = len(pipe.read())
    _pid, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return acknowledged, not os.WIFSIGNALED(status)


def _install_kill_points(kill_at: int) -> None:
    """SIGKILL this process when it passes its kill_at-th point: around every system call that writes, and
    every few operations of SQLite."""
    passed = 0

    def point() -> None:
        nonlocal passed
        passed += 1
        if passed == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **keywords: Any) -> Any:
            point()
            result = function(*arguments, **keywords)
            point()
            return result

        return called

    for name in ("open", "fsync", "replace", "fchmod", "close"):
        setattr(os, name, around(getattr(os, name)))
    connect = sqlite3.connect

    def connect_with_points(*arguments: Any, **keywords: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **keywords)
        connection.set_progress_handler(point, OPERATIONS_PER_POINT)
        return connection

    sqlite3.connect = connect_with_points  # type: ignore[assignment]


def check_after_crash(settings: Settings, acknowledged: int) -> None:
    """What readers and a restarted service see is the state after the acknowledged batches, or one more."""
    allowed = states_after()[acknowledged : acknowledged + 2]
    if acknowledged or settings.snapshot.exists():
        snapshot = SnapshotReader(settings.snapshot).current()
        shown = {(kind, key) for kind in ("base_image", "denied_host") for key in snapshot.documents(kind)}
        assert (snapshot.security_generation, shown) in [published_ids(state) for state in allowed]
    configuration = Configuration(settings)
    configuration.start()
    assert stored_state(configuration) in allowed
    for batch in BATCHES[acknowledged:]:
        configuration.apply(Batch(batch))
    assert stored_state(configuration) == states_after()[-1]
    configuration.close()
    assert SnapshotReader(settings.snapshot).current().security_generation == states_after()[-1][0]
    assert [path.name for path in settings.run_directory.iterdir()] == ["snapshot.json"]


def test_killed_at_every_write_point(tmp_path: Path) -> None:
    points, completed, seen = 0, False, set()
    while not completed:
        points += 1
        directory = tmp_path / str(points)
        directory.mkdir()
        settings = settings_in(directory)
        acknowledged, completed = killed_at(points, settings)
        seen.add(acknowledged)
        check_after_crash(settings, acknowledged)
    assert seen == {0, 1, 2, 3}
    assert points > 60, "the kill points are not reached any more"


# ---- the real service, at random moments ----

ROUNDS = 6
STARTUP = 20.0


@pytest.fixture
def running(
    tmp_path: Path,
) -> Iterator[tuple[Settings, dict[str, str], Callable[[], subprocess.Popen[bytes]]]]:
    """Settings, the manager's header, and a function that starts the service and waits until it answers."""
    authority = SideAuthority(now=int(time.time()))
    settings = settings_in(tmp_path)
    settings.side_ca.write_text(authority.certificate)
    file = tmp_path / "config.json"
    file.write_bytes(msgspec.json.encode(settings, enc_hook=str))
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "trusted_infrastructure.cli",
            "serve",
            "config",
            "--settings",
            str(file),
        ]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        started.append(process)
        return process

    yield settings, forwarded(authority.leaf()[1]), start
    for process in started:
        process.kill()
        process.wait()


def _client(settings: Settings, headers: dict[str, str]) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=str(settings.run_directory / "management.sock"))
    return httpx.Client(transport=transport, base_url="http://config", headers=headers, timeout=10)


def _wait_for(client: httpx.Client) -> dict[str, Any]:
    """The documents, once the service answers."""
    deadline = time.monotonic() + STARTUP
    while True:
        try:
            answer: dict[str, Any] = client.get("/config/v1/documents").raise_for_status().json()
            return answer
        except httpx.HTTPError:
            assert time.monotonic() < deadline, "the service did not start"
            time.sleep(0.02)


def test_the_service_killed_at_random_moments(running: Any) -> None:
    settings, headers, start = running
    acknowledged, sent, moments = 0, 0, random.Random(7)
    for number in range(1, 5 * ROUNDS):
        if number > ROUNDS and acknowledged:
            break
        process = start()
        with _client(settings, headers) as client:
            counters = {item["id"]: item["generation"]["counter"] for item in _wait_for(client)["documents"]}
            assert acknowledged <= counters.get("image-1", 0) <= sent
            assert counters.get("image-1") == counters.get("image-2"), "a batch was applied half"
            published = SnapshotReader(settings.snapshot).current().get("base_image", "image-1")
            assert (published.display_name if published else "0") == str(counters.get("image-1", 0))
            killer = threading.Timer(moments.uniform(0.001, 0.15 * number), process.kill)
            killer.start()
            sent = max(sent, counters.get("image-1", 0))
            while True:
                sent += 1
                batch = [image(number, sent, display_name=str(sent)) for number in (1, 2)]
                try:
                    answer = client.post(
                        "/config/v1/documents", content=msgspec.json.encode({"documents": batch})
                    )
                except httpx.HTTPError:
                    break
                assert answer.status_code == 200
                acknowledged = sent
            killer.join()
        assert process.wait() == -signal.SIGKILL
        published = SnapshotReader(settings.snapshot).current().get("base_image", "image-1")
        assert acknowledged <= int(published.display_name if published else 0) <= sent
    assert acknowledged > 0
