# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent's applications: who may ask, what a status says, and what bad questions get."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
from services.asgi_client import AsgiClient
from services.host.software_host import HOST, FakeTpm, SoftwareHost
from services.host.trust_authority import PROVIDER
from services.side_authority import NOW, SideAuthority, forwarded

from trusted_infrastructure.host.management import BODY_LIMIT, local_application, management_application
from trusted_infrastructure.host.tpm_worker import TpmWorker
from trusted_infrastructure.identity import LeafVerifier
from trusted_infrastructure.refusal import Refusal, Unavailable

BASE = "/agent/manage/v1"
ROUTES = [
    ("GET", f"{BASE}/status"),
    ("POST", f"{BASE}/attest"),
    ("POST", f"{BASE}/key-check"),
    ("GET", f"{BASE}/tpm"),
    ("GET", f"{BASE}/tpm/endorsement-keys"),
    ("GET", f"{BASE}/tpm/event-log"),
    ("GET", f"{BASE}/base-image"),
]
ELSEWHERE = [("GET", f"{BASE}/nothing"), ("GET", "/"), ("GET", "/agent/local/v1/token")]
WORKLOAD = SideAuthority("workload")


@pytest.fixture
def host(tmp_path: Path) -> SoftwareHost:
    (tmp_path / "side_ca.pem").write_text(WORKLOAD.certificate)
    return SoftwareHost(tmp_path)


def management(host: SoftwareHost, certificate: str | None) -> AsgiClient:
    verifier = LeafVerifier(host.folder / "side_ca.pem", "workload", {"manager"}, host.clock)
    application = management_application(host.agent, verifier, host.clock)
    return AsgiClient(application, {} if certificate is None else forwarded(certificate))


@pytest.fixture
def manager(host: SoftwareHost) -> AsgiClient:
    return management(host, WORKLOAD.leaf("manager", "workload-manager")[1])


@pytest.fixture
def root(host: SoftwareHost) -> AsgiClient:
    return AsgiClient(local_application(host.agent, host.clock))


CALLERS: dict[str, tuple[str | None, int, str]] = {
    "nobody": (None, 401, "client_certificate_missing"),
    "no certificate": ("hello", 403, "certificate_invalid"),
    "the other side's manager": (
        SideAuthority("trust_authority").leaf("manager", "ta-manager")[1],
        403,
        "certificate_invalid",
    ),
    "a manager of another CA": (
        SideAuthority("workload").leaf("manager", "m")[1],
        403,
        "certificate_invalid",
    ),
    "another agent": (WORKLOAD.leaf("agent", "host2")[1], 403, "certificate_invalid"),
    "an old manager": (
        WORKLOAD.leaf("manager", "m", now=NOW - 20 * 86400, days=10)[1],
        403,
        "certificate_expired",
    ),
}


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize(("method", "path"), ROUTES + ELSEWHERE)
def test_only_the_workload_manager_may_ask(host: SoftwareHost, caller: str, method: str, path: str) -> None:
    certificate, status, code = CALLERS[caller]
    answer = management(host, certificate).request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert host.tpm.proofs == 0


@pytest.mark.parametrize(("method", "path"), ELSEWHERE)
def test_the_manager_gets_nothing_else(manager: AsgiClient, method: str, path: str) -> None:
    assert manager.request(method, path).status_code == 404


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_only_the_right_method(manager: AsgiClient, method: str, path: str) -> None:
    answer = manager.request("POST" if method == "GET" else "GET", path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")


def test_the_status_of_an_attested_host(manager: AsgiClient) -> None:
    before = manager.get(f"{BASE}/status").json()
    assert (before["host_id"], before["state"], before["reason"]) == (HOST, "FAILED", "not_attested")
    status = manager.post(f"{BASE}/attest").json()
    assert (status["state"], status["reason"], status["base_image"]) == ("ATTESTED", None, "image-1")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", status["attested_until"])
    assert status["key_check"] is None
    assert [(one["service"], one["state"], one["address"]) for one in status["attestations"]] == [
        ("attestation-ta1", "ATTESTED", "ta1:443"),
        ("attestation-ta2", "ATTESTED", "ta2:443"),
    ]
    assert status["attestations"][0]["since"] == status["since"] == "2027-01-15T08:00:00Z"


def test_reading_the_status_changes_nothing(host: SoftwareHost, manager: AsgiClient) -> None:
    manager.post(f"{BASE}/attest")
    calls = [list(service.calls) for service in host.services]
    first = manager.get(f"{BASE}/status").json()
    assert manager.get(f"{BASE}/status").json() == first
    assert [service.calls for service in host.services] == calls


def test_the_status_has_no_secret(host: SoftwareHost, manager: AsgiClient) -> None:
    text = manager.post(f"{BASE}/attest").text
    session = host.agent.attestations.latest(NOW)
    assert session is not None
    assert session.token not in text
    assert session.claims.jti not in text


def test_the_status_names_services_that_were_refused(host: SoftwareHost, manager: AsgiClient) -> None:
    host.publish({("kms_service", "kms-ta1"): host.registered("ta1", WORKLOAD.certificate)})
    manager.post(f"{BASE}/attest")
    refused = manager.get(f"{BASE}/status").json()["refused_services"]
    assert [(one["kind"], one["service"], one["reason"]) for one in refused] == [
        ("kms_service", "kms-ta1", "service_not_anchored")
    ]


def test_a_configuration_that_is_not_there_is_503(host: SoftwareHost, manager: AsgiClient) -> None:
    (host.folder / "snapshot.json").unlink()
    answer = manager.post(f"{BASE}/attest")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "configuration_unavailable")
    assert manager.get(f"{BASE}/status").json()["reason"] == "configuration_unavailable"


def test_key_checks(manager: AsgiClient) -> None:
    assert manager.post(f"{BASE}/key-check").json()["result"] == "not_attested"
    manager.post(f"{BASE}/attest")
    for body in (b"", b"{}", b'{"provider":null}', b'{"provider":"finance"}'):
        answer = manager.post(f"{BASE}/key-check", content=body).json()
        assert (answer["result"], answer["provider"], answer["message"]) == ("OK", PROVIDER, "")
    assert manager.get(f"{BASE}/status").json()["key_check"]["result"] == "OK"


def test_a_refused_key_check_is_an_answer_not_an_error(host: SoftwareHost, manager: AsgiClient) -> None:
    manager.post(f"{BASE}/attest")
    host.services[0].refuse_key = Refusal("provider_denied", "scope may not use it")
    answer = manager.post(f"{BASE}/key-check")
    assert answer.status_code == 200
    assert (answer.json()["result"], answer.json()["message"]) == ("provider_denied", "scope may not use it")


BODIES = {
    "no JSON": (b"{", "body"),
    "a list": (b"[]", "body"),
    "a number": (b'{"provider": 1}', "provider"),
    "an empty name": (b'{"provider": ""}', "provider"),
    "an unknown field": (b'{"providr": "x"}', "providr"),
    "another version": (b'{"version": 2}', "version"),
    "not UTF-8": (b'{"provider": "\xff"}', "body"),
}


@pytest.mark.parametrize("name", BODIES)
def test_bad_bodies_name_the_field(manager: AsgiClient, name: str) -> None:
    body, field = BODIES[name]
    answer = manager.post(f"{BASE}/key-check", content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed_request")
    assert field in answer.json()["error"]["message"]


def test_a_large_body_is_refused(manager: AsgiClient) -> None:
    answer = manager.post(f"{BASE}/key-check", content=b" " * (BODY_LIMIT + 1))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


def test_the_tpm(manager: AsgiClient) -> None:
    answer = manager.get(f"{BASE}/tpm").json()
    assert (answer["tpm"], answer["active"], answer["major_version"]) == ("tpm0", True, 2)
    assert (answer["manufacturer"], answer["model"], answer["firmware_version"]) == (
        "IBM",
        "SW TPM",
        "1.2.3.4",
    )
    assert answer["banks"]["sha256"]["23"] == "0" * 64


@pytest.mark.parametrize("path", ["tpm", "tpm/endorsement-keys"])
def test_a_tpm_that_is_away_is_503(host: SoftwareHost, manager: AsgiClient, path: str) -> None:
    host.tpm.fault = Unavailable("tpm_unavailable", "gone")
    answer = manager.get(f"{BASE}/{path}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "tpm_unavailable")


@pytest.mark.parametrize("path", ["tpm/event-log", "base-image"])
def test_a_log_that_is_none_is_said_to_be_malformed(manager: AsgiClient, path: str) -> None:
    answer = manager.get(f"{BASE}/{path}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "event_log_malformed")


@pytest.mark.parametrize("path", ["tpm/event-log", "base-image"])
def test_a_missing_log_is_503(tmp_path: Path, path: str) -> None:
    (tmp_path / "side_ca.pem").write_text(WORKLOAD.certificate)
    host = SoftwareHost(tmp_path, event_log=b"")
    client = management(host, WORKLOAD.leaf("manager", "workload-manager")[1])
    answer = client.get(f"{BASE}/{path}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "event_log_missing")


def test_root_sees_the_same_and_the_token(host: SoftwareHost, root: AsgiClient, manager: AsgiClient) -> None:
    answer = root.get("/agent/local/v1/token")
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "not_attested")
    assert root.post(f"{BASE}/attest").json() == manager.get(f"{BASE}/status").json()
    session = host.agent.attestations.latest(NOW)
    assert session is not None
    assert root.get("/agent/local/v1/token").json()["token"] == session.token


def test_too_many_questions_to_the_tpm_are_503(host: SoftwareHost, monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    properties = host.tpm.properties

    def slow() -> Any:
        free.wait(60)
        return properties()

    monkeypatch.setattr(host.tpm, "properties", slow)

    async def ask() -> list[int]:
        client = management(host, WORKLOAD.leaf("manager", "workload-manager")[1])
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(client.app), base_url="https://test", headers=client.headers
        ) as http:
            questions = [asyncio.create_task(http.get(f"{BASE}/tpm")) for _number in range(12)]
            while sum(question.done() for question in questions) < 4:
                await asyncio.sleep(0.001)
            status = await http.get(f"{BASE}/status")
            free.set()
            return [(await question).status_code for question in questions] + [status.status_code]

    statuses = asyncio.run(ask())
    assert statuses.count(503) == 4
    assert statuses.count(200) == 9, "eight that waited, and the status, which needs no TPM"


# ---- the worker ---------------------------------------------------------------------------------------


def test_visits_do_not_overlap(host: SoftwareHost) -> None:
    inside: list[int] = []

    @contextmanager
    def visit() -> Iterator[FakeTpm]:
        inside.append(1)
        yield host.tpm
        inside.pop()

    worker = TpmWorker(visit)

    async def many() -> list[int]:
        return await asyncio.gather(*(worker.run(lambda _tpm: len(inside)) for _number in range(8)))

    assert asyncio.run(many()) == [1] * 8


def test_a_visit_that_fails_frees_its_place(host: SoftwareHost) -> None:
    def fail(_tpm: Any) -> None:
        raise Unavailable("tpm_error", "no")

    async def many() -> None:
        for _number in range(20):
            with pytest.raises(Unavailable):
                await host.agent.tpm.run(fail)

    asyncio.run(many())


def test_a_visit_that_hangs_is_given_up_but_keeps_its_place(host: SoftwareHost) -> None:
    free = threading.Event()
    worker = TpmWorker(lambda: nullcontext(host.tpm), waiting=1, time=0.05)

    async def hang() -> None:
        with pytest.raises(Unavailable, match="tpm_busy"):
            await worker.run(lambda _tpm: free.wait(60))
        with pytest.raises(Unavailable, match="tpm_busy"):
            await worker.run(lambda _tpm: None)
        free.set()
        async with asyncio.timeout(20):
            while worker._waiting:
                await asyncio.sleep(0.001)
        worker._time = 60
        await worker.run(lambda _tpm: None)

    asyncio.run(hang())
