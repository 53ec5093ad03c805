# SPDX-License-Identifier: GPL-3.0-or-later
"""Known primary keys, of a real key server, are put through the Key Provider Service with the keys that it
makes under them, and looked for everywhere but in its memory: logs, state, answers, core dumps, what the
kernel shows of its processes. The agent's side is in test_known_key."""

from __future__ import annotations

import base64
import os
import resource
import signal
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from integration.key_traces import traces, traces_below, traces_of_process
from integration.software_key_server import SoftwareKeyServer
from integration.test_key_provider import CLIENT_NAME, PATH, POLICY, TrustAuthority, make, set_up
from integration.test_key_provider_process import Process, opened
from services.side_authority import forwarded

from trusted_infrastructure import wrapping
from trusted_infrastructure.config.documents import PreviousPrimaryKey

OLD, NEW = "1001", "1002"
PACE = 0.1  # of who asks until something has changed: half as often as a host may ask for keys
# The service without what keeps its memory to itself: what a core dump shows then.
NOT_HARDENED = (
    "from trusted_infrastructure import cli; cli.forbid_dumps = lambda: None; raise SystemExit(cli.main())"
)
DUMPS_ARE_HERE = not Path("/proc/sys/kernel/core_pattern").read_text().startswith(("|", "/"))
Keys = tuple[SoftwareKeyServer, dict[str, bytes]]


@dataclass
class Served(TrustAuthority):
    """The Trust Authority host as a process. answers: all that it said."""

    process: Process = field(kw_only=True)
    answers: list[bytes] = field(default_factory=list)

    def request(self, socket: str, method: str, path: str, **options: Any) -> httpx.Response:
        with opened(self.folder / "run" / f"{socket}.sock") as client:
            answer = client.request(method, path, **options)
        self.answers.append(answer.content)
        return answer

    def public(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.request("public", method, path, **options)

    def manage(self, method: str, path: str, body: Any = None) -> Any:
        headers = forwarded(self.side.leaf("manager", "ta-manager")[1])
        answer = self.request("management", method, f"/kms/manage/v1{path}", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def start(self, workers: int) -> None:
        self.process.settings |= {"log_level": "debug", "workers": workers}
        self.process.start()
        self.process.wait_for_sockets()

    def pids(self) -> list[int]:
        """Of the process, and of its workers."""
        assert self.process.process is not None
        pid = self.process.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    def key(self, wrapped: bytes | None = None, action: str = "create") -> tuple[bytes, bytes]:
        """(KEK, wrapped key) as soon as the service took the configuration."""
        end = time.monotonic() + 20
        while (answer := self.ask(wrapped, action))[0] != "ok":
            assert time.monotonic() < end, answer[0]
            time.sleep(PACE)
        assert answer[2] is not None
        return answer[1], answer[2].wrapped_key or b""


@pytest.fixture(scope="module")
def primary_keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    """A key server, and its keys."""
    server = SoftwareKeyServer(tmp_path_factory.mktemp("key-servers") / "kms1", "kms1")
    server.allow({POLICY: [CLIENT_NAME, "kms1"]})
    with server:
        server.ensure_keys(
            [{"name": f"key {key_id}", "id": key_id, "policy": POLICY} for key_id in (OLD, NEW)]
        )
        with sqlite3.connect(server.folder / "keys.db") as database:
            found = dict(database.execute("SELECT uid, value FROM managed_objects"))
        yield server, {str(key_id): bytes(found[key_id]) for key_id in found}


@pytest.fixture
def service(tmp_path: Path, primary_keys: Keys) -> Iterator[Served]:
    """Set up, and not started."""
    made = make(tmp_path, (primary_keys[0],))
    set_up(made)
    assert made.ask()[0] == "ok"  # and it keeps what tokens are verified with
    made.parts.close()
    served = Served(**vars(made), process=Process(tmp_path, made.side))
    yield served
    if served.process.process is not None:
        served.process.process.kill()
        served.process.process.wait()


def used(service: Served, primary_keys: dict[str, bytes]) -> dict[str, bytes]:
    """Put all keys to use, with a rotation in between; name -> key."""
    kek, wrapped = service.key()
    assert wrapping.unwrap(primary_keys[OLD], wrapped)[1] == kek
    assert service.key(wrapped, "unwrap")[0] == kek
    body = {"master_key_id": NEW}
    value = service.manage("POST", "/providers/finance/check-value", body)["check_value"]
    previous = PreviousPrimaryKey(OLD, wrapping.check_value(primary_keys[OLD], OLD), int(time.time()))
    service.set(master_key_id=NEW, primary_key_check_value=value, previous_keys=[previous])
    end = time.monotonic() + 20
    while (moved := service.key(wrapped, "rewrap"))[1] == wrapped:
        assert time.monotonic() < end
        time.sleep(PACE)
    assert moved[0] == kek == wrapping.unwrap(primary_keys[NEW], moved[1])[1]
    assert service.key(moved[1], "unwrap")[0] == kek
    another = service.key()
    assert wrapping.unwrap(primary_keys[NEW], another[1])[1] == another[0]
    return {f"primary key {key_id}": key for key_id, key in primary_keys.items()} | {
        "KEK": kek,
        "another KEK": another[0],
    }


def provoked(service: Served, primary_keys: dict[str, bytes]) -> set[str]:
    """Refusals of a request, of its wrapped key, and of a primary key, whose messages must not tell either;
    their codes."""
    stolen = primary_keys[NEW]
    _kek, wrapped = service.key()
    changed = wrapped[:-1] + bytes([wrapped[-1] ^ 1])
    codes = {service.ask(body, "unwrap")[0] for body in (stolen, changed, wrapped + stolen)}
    body = {"wrapped_key": base64.b64encode(stolen).decode(), "key": base64.b64encode(stolen).decode()}
    codes.add(service.public("POST", f"{PATH}?action=unwrap", json=body).json()["error"]["code"])
    service.set(primary_key_check_value="0" * 64)
    end = time.monotonic() + 20
    while (code := service.ask()[0]) != "primary_key_mismatch":
        assert time.monotonic() < end, code
        time.sleep(PACE)
    return codes


def found(service: Served, keys: dict[str, bytes]) -> list[str]:
    answers = traces(b"\n".join(service.answers), keys)
    found = traces_below([service.folder], keys) + [f"answers: {one}" for one in answers]
    return found + [f"key server's log: {one}" for one in traces(service.servers[0].log().encode(), keys)]


@pytest.mark.parametrize("workers", [1, 2])
def test_known_keys_are_nowhere(service: Served, primary_keys: Keys, workers: int) -> None:
    service.start(workers)
    keys = used(service, primary_keys[1])
    assert provoked(service, primary_keys[1]) == {"token_invalid", "wrapped_key_invalid"}
    assert found(service, keys) == []
    assert len(service.pids()) == {1: 1, 2: 3}[workers]
    for pid in service.pids():
        assert traces_of_process(pid, keys) == []
    # It ran: there is a log, and records of what was released.
    assert "primary_key_mismatch" in service.process.log()
    assert (service.folder / "state/audit.jsonl").read_text().count('"rewrap"') >= 1
    for path in (service.folder / "state").iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
        assert b"PRIVATE KEY" not in path.read_bytes(), path
    # And a key that is there is found.
    (service.folder / "state/canary").write_text(f"KEK: {keys['KEK'].hex()}")
    assert found(service, keys) == [f"{service.folder}/state/canary: KEK as hex"]


@pytest.mark.parametrize(
    ("workers", "death"),
    [(1, signal.SIGABRT), (1, signal.SIGSEGV), (1, signal.SIGKILL), (1, signal.SIGTERM), (2, signal.SIGSEGV)],
)
def test_a_service_that_dies_leaves_no_key(
    service: Served, primary_keys: Keys, workers: int, death: signal.Signals
) -> None:
    """Of two workers, one dies, which may be the one that released keys or not; both have primary keys."""
    service.start(workers)
    keys = used(service, primary_keys[1])
    pids = service.pids()
    for pid in pids:
        limits = Path(f"/proc/{pid}/limits").read_text()
        core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
        assert core.split()[4:6] == ["0", "0"]
    os.kill(pids[-1], death)
    end = time.monotonic() + 20
    process = service.process.process
    assert process is not None
    while pids[-1] in service.pids() if workers > 1 else process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert list((service.folder / "working").iterdir()) == []
    assert found(service, keys) == []
    if workers == 1:
        service.start(workers)
    service.key()
    assert found(service, keys) == []


def test_a_service_that_is_not_hardened_leaves_its_primary_key(service: Served, primary_keys: Keys) -> None:
    """What a core dump shows, where this machine writes one: so the tests above can fail."""
    service.process.program = ["-c", NOT_HARDENED]
    service.start(1)
    keys = used(service, primary_keys[1])
    process = service.process.process
    assert process is not None
    process.send_signal(signal.SIGABRT)
    process.wait(timeout=20)
    allowed = resource.getrlimit(resource.RLIMIT_CORE)[1] != 0
    if DUMPS_ARE_HERE and allowed:
        assert any("primary key 1002 as raw" in one for one in found(service, keys))
