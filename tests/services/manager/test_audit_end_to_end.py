# SPDX-License-Identifier: GPL-3.0-or-later
"""The manager's check of audit logs against real services: their routes, their logs, their peers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from services.manager.harness import Api, Clock, FakeNodes, open_api
from services.peers.cluster import Cluster
from services.side_authority import NOW

from trusted_infrastructure.manager.maintenance import maintain
from trusted_infrastructure.manager.nodes import NodeError, refused

AUDIT = "/attestation/manage/v1/audit"
LOGS = "/trust/clusters/authority/audit-logs?action=verify"
STATUS = "/vcenter/trusted-infrastructure/trust-authority-clusters/authority/attestation/service-status"


class RealAudit(FakeNodes):
    """Audit routes of the Attestation Services are the real ones; the rest is as in other tests."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self.cluster = cluster
        self.answers["GET", "/attestation/manage/v1/status"] = lambda _host: {"health": "OK", "details": []}

    async def call(
        self, host: str, method: str, path: str, content: Any = None, timeout: float | None = None
    ) -> bytes:
        if not path.startswith(AUDIT):
            return await super().call(host, method, path, content, timeout)
        if host in self.down:
            raise NodeError(host, "unreachable", "cannot be reached")
        body = None if content is None else msgspec.json.encode(content)
        client = self.cluster[host].management
        answer = await asyncio.to_thread(client.request, method, path, content=body)
        if not answer.is_success:
            raise refused(host, answer)
        return answer.content


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    (tmp_path / "hosts").mkdir()
    return Cluster(tmp_path / "hosts", 3)


@pytest.fixture
def api(tmp_path: Path, cluster: Cluster) -> Iterator[Api]:
    (tmp_path / "ca.pem").write_text(cluster.side.certificate)
    clock = Clock()
    clock.now = NOW
    with open_api(tmp_path, "trust_authority", RealAudit(cluster), clock) as made:
        made.ok("POST", "/trust/clusters", json={"name": "authority"})
        for name in ("ta1", "ta2", "ta3"):
            made.done("POST", "/trust/clusters/authority/hosts", json={"name": name})
        yield made


def logs(api: Api) -> dict[str, dict[str, Any]]:
    found = api.done("POST", LOGS)
    return {log["host"]: log for log in found if log["role"] == "attestation-service"}


def decide(api: Api, cluster: Cluster, number: int = 5) -> None:
    """Every service decides, and everybody reads everybody's head."""
    for member in cluster.members.values():
        member.append(number)
        member.now += 1
    for member in cluster.members.values():
        member.ask()
    api.run(maintain(api.manager))


def test_whole_logs(api: Api, cluster: Cluster) -> None:
    decide(api, cluster)
    decide(api, cluster, 40)
    found = logs(api)
    assert {host: log["intact"] for host, log in found.items()} == {"ta1": True, "ta2": True, "ta3": True}
    assert found["ta1"]["keepers"] == ["manager", "ta2", "ta3"] and found["ta1"]["records"] == 45


def test_a_cut_tail_shows_everywhere_and_accepting_it_ends_that(api: Api, cluster: Cluster) -> None:
    decide(api, cluster)
    path = cluster["ta1"].settings.state_directory / "audit.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    cluster["ta1"].start()
    found = logs(api)
    assert found["ta1"]["intact"] is False and found["ta2"]["intact"] is True
    assert found["ta1"]["record"] == 5 and "kept by manager, ta2, ta3" in found["ta1"]["reason"]
    decide(api, cluster, 1)
    assert "lost records" in str(api.done("GET", STATUS))
    assert "audit_log_shortened" in str(cluster["ta3"].oversight.problems())
    # The kms side of these hosts does not answer: the task says so, and the attestation side is accepted.
    assert "Not accepted by" in str(
        api.failed("POST", "/trust/clusters/authority/audit-heads/ta1?action=accept")
    )
    decide(api, cluster, 1)
    assert logs(api)["ta1"]["intact"] is True
    assert "audit_log_shortened" not in str(cluster["ta3"].oversight.problems())
    assert "lost records" not in str(api.done("GET", STATUS))


def test_a_rewritten_log_is_found_by_older_heads(api: Api, cluster: Cluster) -> None:
    decide(api, cluster)
    path = cluster["ta1"].settings.state_directory / "audit.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    cluster["ta1"].start()
    cluster["ta1"].now += 7
    decide(api, cluster, 20)
    log = logs(api)["ta1"]
    assert (log["intact"], log["record"], log["line"]) == (False, 5, 5) and "kept by" in log["reason"]


def test_a_host_that_is_down_is_not_checked(api: Api, cluster: Cluster) -> None:
    decide(api, cluster)
    nodes = api.nodes
    nodes.down.add("ta1")
    found = logs(api)
    assert found["ta1"].get("intact") is None and found["ta2"]["intact"] is True
