# SPDX-License-Identifier: GPL-3.0-or-later
"""The Attestation Service in three processes: what one of them gives, all of them take, and once."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec
import pytest
from bench.site import GROUP, HOST, Site
from services.side_authority import forwarded

from trusted_infrastructure import tokens
from trusted_infrastructure.attestation.token_keys import ROTATION
from trusted_infrastructure.audit import AuditRecord
from trusted_infrastructure.messages import AttestationResult, Challenge

WORKERS = 3
CHALLENGE, EVIDENCE = "/attestation/v1/challenge", "/attestation/v1/evidence"


@dataclass
class Service:
    """The running service. connections: some to each worker, worker by worker."""

    site: Site
    process: subprocess.Popen[bytes]
    connections: list[list[httpx.Client]] = field(default_factory=list)

    def pids(self) -> list[int]:
        """The workers, oldest first."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def client(self, name: str = "public.sock", headers: dict[str, str] | None = None) -> httpx.Client:
        """A client with a connection of its own, to whichever worker takes it."""
        transport = httpx.HTTPTransport(uds=str(self.site.folder / "run" / "attestation" / name))
        return httpx.Client(transport=transport, base_url="http://ta1", headers=headers, timeout=20)

    def connect(self, pid: int) -> httpx.Client:
        """A client whose connection this worker holds: the others are stopped while it is made."""
        others = [other for other in self.pids() if other != pid]
        with stopped(others):
            client = self.client()
            assert client.get("/attestation/v1/jwks").status_code == 200
        return client

    def challenge(self, client: httpx.Client, number: int = 0) -> Challenge:
        answer = client.post(CHALLENGE, content=self.site.attesters[number].request)
        assert answer.status_code == 200, answer.text
        return msgspec.json.decode(answer.content, type=Challenge)

    def token(self, client: httpx.Client, challenge: Challenge, number: int = 0) -> str:
        answer = client.post(EVIDENCE, content=self.site.attesters[number].evidence(challenge))
        assert answer.status_code == 200, answer.text
        return msgspec.json.decode(answer.content, type=AttestationResult).token

    def records(self) -> list[AuditRecord]:
        lines = (self.site.folder / "state" / "attestation" / "audit.jsonl").read_bytes().splitlines()
        return [msgspec.json.decode(line, type=AuditRecord) for line in lines]


@contextlib.contextmanager
def stopped(pids: Sequence[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def eventually(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def service() -> Iterator[Service]:
    # Not across the moment at which another token key is taken, once a day.
    left = ROTATION - time.time() % ROTATION
    time.sleep(left + 1 if left < 30 else 0)
    with tempfile.TemporaryDirectory(prefix="ti-w-") as name:
        site = Site(Path(name), hosts=3)
        settings = site.write(workers=WORKERS, lock_memory=False, allowed_users=[os.getuid()], burst=30)
        with notifications(Path(name)) as (ready, address):
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "trusted_infrastructure.cli", "serve", "attestation"),
                    *("--settings", str(settings)),
                ],
                env=os.environ
                | {"PYTHONPATH": str(Path(__file__).parents[3] / "src"), "NOTIFY_SOCKET": address},
                stderr=subprocess.DEVNULL,
            )
            try:
                assert ready() == b"READY=1"
                running = Service(site, process)
                running.connections = [[running.connect(pid), running.connect(pid)] for pid in running.pids()]
                yield running
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                    began = time.monotonic()
                    assert process.wait(timeout=15) == 0
                    assert time.monotonic() - began < 10
                    assert not list((site.folder / "run" / "attestation").glob("*.sock"))
            finally:
                process.kill()
                process.wait()


@contextlib.contextmanager
def notifications(folder: Path) -> Iterator[tuple[Callable[[], bytes], str]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(folder / "notify"))
        listener.settimeout(30)
        yield lambda: listener.recv(100), str(folder / "notify")


def test_a_challenge_is_taken_once_by_all_workers_together(service: Service) -> None:
    everybody = [client for clients in service.connections for client in clients]
    for giver in service.connections:
        challenge = service.challenge(giver[0])
        body = service.site.attesters[0].evidence(challenge)
        with ThreadPoolExecutor(len(everybody)) as threads:
            sent = [threads.submit(client.post, EVIDENCE, content=body) for client in everybody]
            answers = [future.result() for future in sent]
        found = Counter(answer.json()["error"]["code"] if answer.is_error else "ok" for answer in answers)
        assert found == {"ok": 1, "challenge_used": len(everybody) - 1}
    codes = Counter(record.code for record in service.records())
    assert codes == {"ok": WORKERS, "challenge_used": WORKERS * (len(everybody) - 1)}


def test_tokens_of_all_workers_verify_with_the_key_set_of_any(service: Service) -> None:
    sets = []
    for clients in service.connections:
        jws = clients[0].get("/attestation/v1/keys").json()["keys"]
        ca = service.site.side.certificate
        sets.append(
            tokens.verify_key_set(jws, ca, "trust_authority", "attestation-service", {HOST}, int(time.time()))
        )
        published = clients[0].get("/attestation/v1/jwks")
        assert published.headers["content-type"] == "application/jwk-set+json"
        assert [key["kid"] for key in published.json()["keys"]] == list(sets[-1].keys)
    assert all(set(one.keys) == set(sets[0].keys) and len(one.keys) == 3 for one in sets)
    kids = set()
    for giver, taker in zip(
        service.connections, service.connections[1:] + service.connections[:1], strict=True
    ):
        token = service.token(taker[1], service.challenge(giver[0]))
        assert tokens.verify_token(token, sets[0].keys, GROUP, int(time.time())).sub == "host0"
        kids.add(tokens.unverified_kid(token))
    assert len(kids) == 1


def test_a_killed_worker_is_replaced_and_its_challenges_hold(service: Service) -> None:
    before = service.pids()
    challenges = [service.challenge(clients[0], 1) for clients in service.connections]
    os.kill(before[0], signal.SIGKILL)
    # Another worker takes what the dead one gave.
    service.token(service.connections[1][0], challenges[0], 1)
    eventually(lambda: len(service.pids()) == WORKERS and before[0] not in service.pids())
    (new,) = set(service.pids()) - set(before)
    # The new worker takes what an old one gave, and the other way round, and signs with the same key.
    eventually(lambda: listening(service, new))
    client = service.connect(new)
    kids = {tokens.unverified_kid(service.token(client, challenges[1], 1))}
    kids.add(tokens.unverified_kid(service.token(service.connections[2][0], service.challenge(client, 1), 1)))
    published = service.connections[1][0].get("/attestation/v1/jwks").json()["keys"]
    assert kids == {published[1]["kid"]}


def listening(service: Service, pid: int) -> bool:
    """Whether a worker has come so far that it answers."""
    others = [other for other in service.pids() if other != pid]
    with stopped(others):
        transport = httpx.HTTPTransport(uds=str(service.site.folder / "run" / "attestation" / "public.sock"))
        with httpx.Client(transport=transport, base_url="http://ta1", timeout=0.5) as client:
            with contextlib.suppress(httpx.TransportError):
                return client.get("/attestation/v1/jwks").status_code == 200
    return False


def test_the_rate_of_a_host_is_one_for_all_workers(service: Service) -> None:
    everybody = [client for clients in service.connections for client in clients]
    codes: list[int] = []
    began = time.monotonic()
    while 429 not in codes[-1:]:
        # 30 at once, and one more for every two seconds.
        assert len(codes) <= 30 + (time.monotonic() - began) / 2 + 1
        client = everybody[len(codes) % len(everybody)]
        codes.append(client.post(CHALLENGE, content=service.site.attesters[2].request).status_code)
    assert len(codes) > 30 and codes[:-1] == [200] * (len(codes) - 1)
    # Another host is not concerned.
    assert everybody[0].post(CHALLENGE, content=service.site.attesters[0].request).status_code == 200


def test_metrics_are_those_of_all_workers(service: Service) -> None:
    for clients in service.connections:
        service.challenge(clients[0])
        clients[0].post(CHALLENGE, content=b"{}")
    _key, certificate = service.site.side.leaf("manager", "ta-manager")
    with service.client("management.sock", forwarded(certificate)) as management:
        text = management.get("/attestation/manage/v1/metrics").text
    assert f'attestation_decisions_total{{code="ok",operation="challenge"}} {WORKERS}.0' in text
    assert (
        f'attestation_decisions_total{{code="malformed_request",operation="challenge"}} {WORKERS}.0' in text
    )
    assert f'attestation_seconds_count{{operation="challenge"}} {2 * WORKERS}.0' in text


def test_workers_end_with_their_parent(service: Service) -> None:
    pids = service.pids()
    service.process.kill()
    service.process.wait()
    eventually(lambda: not any(alive(pid) for pid in pids), 10)


def alive(pid: int) -> bool:
    """Whether a process is there and not only waits to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
