# SPDX-License-Identifier: GPL-3.0-or-later
"""The manager against real configuration services, in one process: certificates, generations, snapshots."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from services.manager.harness import Api, FakeNodes, open_api
from services.manager.material import Issuer

from trusted_infrastructure.config import service as config_service
from trusted_infrastructure.config.documents import CaCertificate, TrustAuthorityCluster
from trusted_infrastructure.config.snapshot import SnapshotReader
from trusted_infrastructure.identity import (
    create_authority,
    create_request,
    generate_key,
    role_uri,
    sign_request,
)
from trusted_infrastructure.manager.nodes import HttpNodes

BASE = "/vcenter/trusted-infrastructure/trust-authority-clusters/authority"
VENDOR = Issuer("vendor root")
CA_BODY = {"name": "vendor", "cert_chain": {"cert_chain": [VENDOR.pem]}}
CA_PATH = f"{BASE}/attestation/tpm2/ca-certificates"


class Switch(httpx.AsyncBaseTransport):
    """A host's front door, which can be shut, and can lose the answer after the work was done."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.inner = inner
        self.shut = False
        self.losing = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.shut:
            raise httpx.ConnectError("connection refused", request=request)
        response = await self.inner.handle_async_request(request)
        if self.losing and request.method == "POST":
            raise httpx.ReadError("connection reset", request=request)
        return response


class Hosts:
    """Configuration services by host name."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.switches: dict[str, Switch] = {}
        self.ca_key, ca = create_authority("trust authority", "trust_authority")
        (directory / "ca.pem").write_text(ca)
        self.ca = ca
        self.certificate = self.leaf("manager", "ta-manager")

    def leaf(self, role: str, host: str) -> str:
        """A certificate of the side's CA, PEM."""
        uri = role_uri("trust_authority", role, host)
        request = create_request(generate_key(), uri, [host], [])
        return sign_request(request, self.ca_key, self.ca, uri, [host], [])

    def start(self, name: str) -> None:
        """A host with an empty store."""
        state = self.directory / name
        state.mkdir()
        settings = config_service.Settings(
            host=name,
            side="trust_authority",
            side_ca=self.directory / "ca.pem",
            snapshot=state / "snapshot.json",
            state_directory=state,
            run_directory=state,
            anchors_directory=state,
        )
        configuration = config_service.Configuration(settings)
        configuration.start()
        application = config_service.application(configuration, settings)
        self.switches[name] = Switch(httpx.ASGITransport(app=application))

    def client_for(self, name: str) -> httpx.AsyncClient:
        """As nginx: it hands on the client's certificate."""
        headers = {"x-client-certificate": quote(self.certificate, safe="")}
        return httpx.AsyncClient(transport=self.switches[name], headers=headers)

    def snapshot(self, name: str, kind: str, content: type) -> dict:
        """What the services of a host read."""
        return dict(
            SnapshotReader(self.directory / name / "snapshot.json").current().documents(kind, content)
        )

    def generation(self, name: str) -> int:
        """Security generation of a host."""
        return SnapshotReader(self.directory / name / "snapshot.json").current().security_generation


Open = Callable[[], contextlib.AbstractContextManager[Api]]


@pytest.fixture
def hosts(tmp_path: Path) -> Hosts:
    """Three hosts that nobody has configured."""
    found = Hosts(tmp_path)
    for name in ("ta1", "ta2", "ta3"):
        found.start(name)
    return found


@pytest.fixture
def start_manager(tmp_path: Path, hosts: Hosts) -> Open:
    """Starts the manager; its database outlives it."""

    def start() -> contextlib.AbstractContextManager[Api]:
        nodes = HttpNodes(hosts.client_for)
        return open_api(tmp_path, "trust_authority", FakeNodes(), time.time, real_nodes=nodes)

    return start


@pytest.fixture
def authority(start_manager: Open) -> Iterator[Api]:
    """With the Trust Authority Cluster "authority" of ta1 and ta2."""
    with start_manager() as api:
        api.ok("POST", "/trust/clusters", json={"name": "authority"})
        for name in ("ta1", "ta2"):
            api.done("POST", "/trust/clusters/authority/hosts", json={"name": name})
        api.done("PATCH", BASE, json={"state": "ENABLE"})
        yield api


def test_services_of_every_host_read_what_was_configured(authority: Api, hosts: Hosts) -> None:
    authority.done("POST", CA_PATH, json=CA_BODY)
    for name in ("ta1", "ta2"):
        cluster = hosts.snapshot(name, "trust_authority_cluster", TrustAuthorityCluster)["cluster"]
        assert [peer.host for peer in cluster.peers] == ["ta1", "ta2"]
        assert hosts.snapshot(name, "ca_certificate", CaCertificate)["vendor"].cert_chain == [VENDOR.pem]
    assert authority.done("GET", CA_PATH) == [{"name": "vendor", "health": "OK"}]
    authority.done("DELETE", f"{CA_PATH}/vendor")
    assert hosts.snapshot("ta2", "ca_certificate", CaCertificate) == {}
    assert hosts.generation("ta1") == hosts.generation("ta2") > 0


def test_a_host_that_was_away_catches_up(authority: Api, hosts: Hosts) -> None:
    hosts.switches["ta2"].shut = True
    error = authority.failed("POST", CA_PATH, json=CA_BODY)
    assert error["error_type"] == "RESOURCE_INACCESSIBLE"
    assert error["messages"][0]["args"] == ["ta2"]
    hosts.switches["ta2"].shut = False
    assert authority.done("GET", CA_PATH) == [{"name": "vendor", "health": "ERROR"}]
    authority.done("POST", "/trust/clusters/authority?action=remediate")
    assert authority.done("GET", CA_PATH) == [{"name": "vendor", "health": "OK"}]


def test_a_lost_answer_is_made_good_by_repetition(authority: Api, hosts: Hosts) -> None:
    hosts.switches["ta1"].losing = True
    authority.failed("POST", CA_PATH, json=CA_BODY)
    hosts.switches["ta1"].losing = False
    authority.done("POST", "/trust/clusters/authority?action=remediate")
    assert authority.done("GET", "/trust/clusters/authority/status")["health"] == "OK"


def test_a_new_host_has_everything_and_the_same_security_generation(authority: Api, hosts: Hosts) -> None:
    authority.done("POST", CA_PATH, json=CA_BODY)
    authority.done("DELETE", f"{CA_PATH}/vendor")
    authority.done("POST", CA_PATH, json={**CA_BODY, "name": "second"})
    authority.done("POST", "/trust/clusters/authority/hosts", json={"name": "ta3"})
    assert list(hosts.snapshot("ta3", "ca_certificate", CaCertificate)) == ["second"]
    assert hosts.generation("ta3") == hosts.generation("ta1")
    authority.done("DELETE", "/trust/clusters/authority/hosts/ta3")
    assert hosts.snapshot("ta3", "trust_authority_cluster", TrustAuthorityCluster) == {}
    authority.done("POST", "/trust/clusters/authority/hosts", json={"name": "ta3"})
    assert authority.done("GET", "/trust/clusters/authority/status")["health"] == "OK"


def test_a_manager_of_another_side_is_refused_by_the_hosts(authority: Api, hosts: Hosts) -> None:
    hosts.certificate = hosts.leaf("agent", "ta1")
    authority.run(authority.manager.nodes.close())
    error = authority.failed("POST", CA_PATH, json=CA_BODY)
    assert error["error_type"] == "RESOURCE_INACCESSIBLE"
    assert error["messages"][1]["id"] == "trusted.infrastructure.certificate_invalid"


def test_a_manager_that_is_killed_keeps_what_it_committed(
    start_manager: Open, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start_manager() as first:
        first.ok("POST", "/trust/clusters", json={"name": "authority"})
        first.done("POST", "/trust/clusters/authority/hosts", json={"name": "ta1"})
        first.done("PATCH", BASE, json={"state": "ENABLE"})

        async def begin_and_die() -> str:
            """Stops between the commit and the replication, without a chance to tidy up."""
            reached = asyncio.Event()

            async def never(*_arguments: object) -> None:
                reached.set()
                await asyncio.Event().wait()

            monkeypatch.setattr(first.manager.replication, "remediate", never)
            response = await first.send("POST", f"{CA_PATH}?vmw-task=true", json=CA_BODY)
            await reached.wait()
            return response.json()

        task = first.run(begin_and_die())
        # A second process on the same database, while the first can do nothing more.
        with start_manager() as second:
            info = second.ok("GET", f"/cis/tasks/{task}")
            assert info["status"] == "FAILED"
            assert info["error"]["messages"][0]["id"] == "trusted.infrastructure.task_interrupted"
            assert second.done("GET", CA_PATH) == [{"name": "vendor", "health": "ERROR"}]
            second.done("POST", "/trust/clusters/authority?action=remediate")
            assert second.done("GET", CA_PATH) == [{"name": "vendor", "health": "OK"}]
