# SPDX-License-Identifier: GPL-3.0-or-later
"""The key provider service as systemd starts it: a process on two unix sockets."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from integration.key_host import allow_dumps
from services.key_provider.harness import SERVICE_ID, Authority, provider, write_identity
from services.side_authority import SideAuthority, forwarded

from trusted_infrastructure import tokens
from trusted_infrastructure.config.documents import KmipServer, NetworkAddress, Sealed


def opened(path: Path) -> httpx.Client:
    """A client of a unix socket."""
    return httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://x", timeout=10)


def prepared(folder: Path) -> SideAuthority:
    """What the service needs in its folder."""
    for name in ("state", "run", "anchors"):
        (folder / name).mkdir()
    side = SideAuthority(now=int(time.time()))
    write_identity(folder, side)
    (folder / "anchors" / "peers.json").write_text('[{"host":"ta1","public_name":"ta1"}]')
    Authority().publish(folder / "snapshot.json")
    return side


class Process:
    """The service in `folder`; its settings and its program can be changed before it starts. It works in
    `folder`/working, where a core dump would be: the limit of its parent allows one."""

    def __init__(self, folder: Path, side: SideAuthority | None = None) -> None:
        """side: of a folder that has what the service needs."""
        self.folder = folder
        self.side = side or prepared(folder)
        (folder / "working").mkdir()
        self.program = ["-m", "trusted_infrastructure.cli"]
        self.settings: dict[str, Any] = {
            "host": "ta1",
            "service_id": SERVICE_ID,
            "public_name": "ta1",
            "side_ca": str(folder / "side_ca.pem"),
            "identity_certificate": str(folder / "key-provider-service.pem"),
            "identity_key": str(folder / "key-provider-service.key"),
            "anchors_directory": str(folder / "anchors"),
            "snapshot": str(folder / "snapshot.json"),
            "state_directory": str(folder / "state"),
            "run_directory": str(folder / "run"),
            "clock_max_unsynchronized": 0,
            "lock_memory": False,
            "allowed_users": [os.getuid()],
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        path = self.folder / "settings.json"
        path.write_text(json.dumps(self.settings))
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.program, "serve", "key-provider", "--settings", str(path)],
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
                cwd=self.folder / "working",
                stdout=log,
                stderr=log,
                preexec_fn=allow_dumps,
            )
        return self.process

    def wait_for_sockets(self) -> None:
        """Until somebody accepts on both: the socket of one that was killed is there, too."""
        deadline = time.monotonic() + 30
        for name in ("public", "management"):
            while True:
                try:
                    with socket.socket(socket.AF_UNIX) as connection:
                        connection.connect(str(self.folder / "run" / f"{name}.sock"))
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise TimeoutError(self.log()) from None
                    time.sleep(0.05)

    def log(self) -> str:
        return (self.folder / "log").read_text()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Process]:
    made = Process(tmp_path)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait()


def test_it_serves_and_ends(service: Process) -> None:
    process = service.start()
    service.wait_for_sockets()
    run = service.folder / "run"
    for name in ("public", "management"):
        assert (run / f"{name}.sock").stat().st_mode & 0o777 == 0o660
    with opened(run / "public.sock") as public:
        jws = public.get("/kms/v1/keys").json()["keys"]
        found = tokens.verify_key_set(
            jws,
            service.side.certificate,
            "trust_authority",
            "key-provider-service",
            {"ta1"},
            int(time.time()),
        )
        assert len(found.keys) == 1
        assert public.get("/kms/manage/v1/status").status_code == 404
    _key, certificate = service.side.leaf("manager", "ta-manager")
    with opened(run / "management.sock") as management:
        assert management.get("/kms/manage/v1/status").status_code == 401
        answer = management.get("/kms/manage/v1/status", headers=forwarded(certificate))
        # No peer can be reached here, and the provider has no client certificate.
        assert answer.json()["health"] == "ERROR"
        assert "no client certificate" in answer.text
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0
    assert time.monotonic() - started < 8
    assert not list(run.glob("*.sock"))


def test_it_ends_while_a_key_server_hangs(service: Process) -> None:
    """It accepts connections and says nothing, and may take five minutes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        authority = Authority()
        process = service.start()
        service.wait_for_sockets()
        _key, certificate = service.side.leaf("manager", "ta-manager")
        run = service.folder / "run"
        with opened(run / "management.sock") as management:
            base, headers = "/kms/manage/v1", forwarded(certificate)
            own = management.get(f"{base}/sealing-key", headers=headers).json()
            path = f"{base}/providers/finance/client-certificate"
            made = management.post(path, headers=headers, json={"hosts": {"ta1": own}}).json()
            sealed = made["private_key"]
            parts = {host: base64.b64decode(part) for host, part in sealed["sealed"].items()}
            document = provider(
                servers=[KmipServer("kms1", NetworkAddress("127.0.0.1", listener.getsockname()[1]))],
                connection_timeout=300,
                client_certificate=made["certificate"],
                client_private_key=Sealed(sealed["suite"], sealed["digest"], parts),
                trusted_certificates=[made["certificate"]],
            )
            authority.put("key_provider", "finance", document)
            authority.publish(service.folder / "snapshot.json")
            connection, _address = listener.accept()
            with connection:
                # The service answers meanwhile.
                status = management.get(f"{base}/status", headers=headers).json()
                assert status["providers"]["finance"]["health"] == "NONE"
                started = time.monotonic()
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=15) == 0, service.log()
                assert time.monotonic() - started < 8


def test_workers_are_one_service(service: Process) -> None:
    """The same key signs all answers, one audit log has all records, and who dies is replaced."""
    service.settings["workers"] = 3
    process = service.start()
    service.wait_for_sockets()

    def workers() -> list[str]:
        return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()

    def ask(path: str) -> Any:
        with opened(service.folder / "run" / "public.sock") as public:
            if path.endswith("keys"):
                return public.get(path).json()["keys"]
            return public.post(path, content=b"{}").status_code

    deadline = time.monotonic() + 30
    while service.log().count('"worker_ready"') < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    before = workers()
    assert len(before) == 3
    # Each of them serves what comes to it while the others are held.
    kids, codes = set(), []
    for worker in before:
        for other in before:
            os.kill(int(other), signal.SIGCONT if other == worker else signal.SIGSTOP)
        jws = ask("/kms/v1/keys")
        found = tokens.verify_key_set(
            jws,
            service.side.certificate,
            "trust_authority",
            "key-provider-service",
            {"ta1"},
            int(time.time()),
        )
        kids |= set(found.keys)
        codes.append(ask("/kms/v1/providers/finance/keys?action=unwrap"))
    for worker in before:
        os.kill(int(worker), signal.SIGCONT)
    assert len(kids) == 1
    assert codes == [401] * 3
    os.kill(int(before[0]), signal.SIGKILL)
    while set(workers()) == set(before) or len(workers()) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert ask("/kms/v1/providers/finance/keys?action=unwrap") == 401
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0
    from trusted_infrastructure.audit import verify

    found_records = verify(service.folder / "state" / "audit.jsonl")
    assert (found_records.intact, found_records.records) == (True, 4)


def test_a_kill_loses_no_record(service: Process) -> None:
    from trusted_infrastructure.audit import verify

    service.start()
    service.wait_for_sockets()
    with opened(service.folder / "run" / "public.sock") as public:
        codes = [
            public.post("/kms/v1/providers/finance/keys?action=create", content=b"{}").status_code
            for _index in range(5)
        ]
    assert codes == [401] * 5
    assert service.process is not None
    service.process.kill()
    service.process.wait()
    found = verify(service.folder / "state" / "audit.jsonl")
    assert (found.intact, found.records) == (True, 5)
    service.start()
    service.wait_for_sockets()
    assert verify(service.folder / "state" / "audit.jsonl").records == 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"host": 1}, "host"),
        ({"more": 1}, "more"),
        ({"public_port": 0}, "public_port"),
        ({"side_ca": "relative.pem"}, "side_ca"),
        ({"workers": 0}, "workers"),
        ({"state_check_interval": 301}, "state_check_interval"),
        ({"sealing_suite": "ROT13"}, "ROT13"),
    ],
)
def test_wrong_settings_are_one_sentence(service: Process, changes: dict[str, Any], words: str) -> None:
    service.settings |= changes
    assert service.start().wait(timeout=30) == 1
    assert words in service.log()
    assert "Traceback" not in service.log()


def test_state_that_others_can_read_is_refused(service: Process) -> None:
    (service.folder / "state" / "sealing-key.json").write_text("{}")
    (service.folder / "state" / "sealing-key.json").chmod(0o644)
    assert service.start().wait(timeout=30) == 1
    assert "state_unusable" in service.log()
