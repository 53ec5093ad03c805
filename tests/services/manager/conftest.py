# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the manager's tests: see harness.py."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import argon2
import pytest
from services.manager.harness import Api, Clock, FakeNodes, Side, open_api, prepared
from services.manager.native_hosts import NativeHosts
from services.manager.workload import EK, SIGNER

from trusted_infrastructure.manager import users


@pytest.fixture(autouse=True, scope="session")
def fast_hashes() -> Iterator[None]:
    """Argon2 with the least cost: its strength is not what these tests are about."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(users, "HASH", argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
        yield


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def nodes() -> FakeNodes:
    return FakeNodes()


@pytest.fixture
def make_api(tmp_path: Path, clock: Clock, nodes: FakeNodes) -> Iterator[Callable[..., Api]]:
    """Makes a manager of a side with an administrator who is logged in."""
    with contextlib.ExitStack() as stack:

        def make(side: Side = "trust_authority", **options: Any) -> Api:
            return stack.enter_context(open_api(tmp_path, side, nodes, clock, **options))

        yield make


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    """A Trust Authority manager."""
    return make_api()


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Api]]:
    """A manager of each side with one cluster and host, for tests that change nothing."""
    with contextlib.ExitStack() as stack:
        yield {
            side: prepared(
                stack.enter_context(open_api(tmp_path_factory.mktemp(side), side, FakeNodes(), Clock()))
            )
            for side in ("trust_authority", "workload")
        }


@pytest.fixture
def workload(make_api: Callable[..., Api], tmp_path: Path) -> Api:
    """A workload manager with a principal, and the cluster "trusted" of two hosts, which uses nothing yet."""
    certificate, key = tmp_path / "principal.pem", tmp_path / "principal.key"
    certificate.write_text(SIGNER.pem)
    key.write_text(SIGNER.key_pem)
    api = make_api("workload", principal_certificate=certificate, principal_key=key)
    api.ok("POST", "/trust/clusters", json={"name": "trusted"})
    for name in ("host1", "host2"):
        body = {"name": name, "ek_digest": EK, "scope": "lab"}
        api.done("POST", "/trust/clusters/trusted/hosts", json=body)
    return api


@pytest.fixture
def hosts() -> NativeHosts:
    return NativeHosts()


@pytest.fixture
def manager(tmp_path: Path, hosts: NativeHosts, clock: Clock) -> Iterator[Api]:
    """A workload manager with the cluster "trusted" of host1 and host2."""
    certificate, key = tmp_path / "principal.pem", tmp_path / "principal.key"
    certificate.write_text(SIGNER.pem)
    key.write_text(SIGNER.key_pem)
    with open_api(
        tmp_path, "workload", hosts, clock, principal_certificate=certificate, principal_key=key
    ) as api:
        api.ok("POST", "/trust/clusters", json={"name": "trusted"})
        for name in ("host1", "host2"):
            body = {"name": name, "ek_digest": "ab" * 32, "scope": "lab"}
            api.done("POST", "/trust/clusters/trusted/hosts", json=body)
        yield api
