# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the manager's tests: see harness.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import argon2
import pytest
from services.manager.harness import Api, Clock, FakeNodes, write_users

from trusted_infrastructure.manager import service, users
from trusted_infrastructure.manager.context import Manager
from trusted_infrastructure.manager.settings import ManagerSettings


@pytest.fixture(autouse=True)
def fast_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Argon2 with the least cost: its strength is not what these tests are about."""
    monkeypatch.setattr(users, "HASH", argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def nodes() -> FakeNodes:
    return FakeNodes()


Make = Callable[..., Api]


@pytest.fixture
def make_api(tmp_path: Path, clock: Clock, nodes: FakeNodes) -> Iterator[Make]:
    """Makes a manager of a side with an administrator who is logged in."""
    opened: list[tuple[Manager, asyncio.Runner]] = []

    def make(side: Literal["trust_authority", "workload"] = "trust_authority", **options: Any) -> Api:
        write_users(tmp_path / "users.json", [{"name": "administrator", "privileges": ["*"]}])
        settings = ManagerSettings(
            side=side,
            host="manager",
            public_names=["manager.example"],
            database=f"sqlite:///{tmp_path / 'manager.db'}",
            side_ca=tmp_path / "ca.pem",
            client_certificate=tmp_path / "client.pem",
            client_key=tmp_path / "client.key",
            run_directory=tmp_path,
            state_directory=tmp_path,
            users=tmp_path / "users.json",
            **options,
        )
        runner = asyncio.Runner()
        runner.get_loop()
        manager = service.build(settings, nodes, clock)
        opened.append((manager, runner))
        api = Api(manager, runner, nodes)
        api.login()
        return api

    yield make
    for manager, runner in opened:
        runner.run(service.close(manager))
        runner.close()


@pytest.fixture
def api(make_api: Make) -> Api:
    """A Trust Authority manager."""
    return make_api()
