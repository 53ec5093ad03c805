# SPDX-License-Identifier: GPL-3.0-or-later
"""Usage reports: every service is told, again and again until it was, and nobody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from services.host.key_manager import KeyManager
from services.host.software_host import SoftwareHost
from services.host.test_object_keys import FIRST, KEY, KINDS, USE, generate, restart, rewrap, rotate
from services.host.trust_authority import PROVIDER

from trusted_infrastructure.host import usage_reports
from trusted_infrastructure.refusal import Refusal, Unavailable


@pytest.fixture
def manager(tmp_path: Path) -> KeyManager:
    manager = KeyManager(SoftwareHost(tmp_path))
    manager.providers(default=PROVIDER, **KINDS)
    asyncio.run(manager.host.agent.attest())
    asyncio.run(manager.push("local", (FIRST, KEY)))
    return manager


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(usage_reports, "FIRST", (0.0, 0.0))
    monkeypatch.setattr(usage_reports, "DEBOUNCE", 0.02)
    monkeypatch.setattr(usage_reports, "RETRY", (0.05, 0.1))
    yield


def told(manager: KeyManager) -> list[list[tuple[str, dict[str, int]]]]:
    """What each service was told, in order."""
    return [service.reports for service in manager.host.services]


def tell(manager: KeyManager) -> bool:
    return asyncio.run(manager.host.agent.host_keys.reports.tell())


def test_every_service_is_told_and_only_once(manager: KeyManager) -> None:
    generate(manager)
    generate(manager, "local")
    generate(manager, "store")
    assert tell(manager) and tell(manager)
    assert told(manager) == [[(PROVIDER, {"key-1": 1})]] * 2


def test_a_report_is_complete(manager: KeyManager) -> None:
    made = generate(manager)
    generate(manager)
    rotate(manager, "key-2")
    asyncio.run(manager.host.agent.host_keys.objects.rewrap(made.record.key_id))
    assert tell(manager)
    assert told(manager)[0][-1] == (PROVIDER, {"key-1": 1, "key-2": 1})
    rewrap(manager)
    assert tell(manager)
    assert told(manager)[0][-1] == (PROVIDER, {"key-2": 2})
    for kept in manager.host.agent.host_keys.objects.list():
        asyncio.run(manager.host.agent.host_keys.objects.forget(kept.record.key_id))
    assert tell(manager)
    assert told(manager)[0][-1] == (PROVIDER, {})


def test_after_a_start_all_is_told_even_that_there_is_nothing(manager: KeyManager) -> None:
    """A crash between a change and its report must not leave a service with an older number."""
    made = generate(manager)
    assert tell(manager)
    asyncio.run(manager.host.agent.host_keys.objects.forget(made.record.key_id))
    restart(manager)
    assert tell(manager)
    assert told(manager)[0] == [(PROVIDER, {"key-1": 1}), (PROVIDER, {})]


def test_a_service_that_is_away_is_told_later(manager: KeyManager) -> None:
    generate(manager)
    manager.host.services[1].away = True
    assert not tell(manager)
    assert [len(reports) for reports in told(manager)] == [1, 0]
    manager.host.services[1].away = False
    assert tell(manager)
    assert told(manager)[1] == [(PROVIDER, {"key-1": 1})]


@pytest.mark.parametrize(
    "refusal", [Refusal("not_found", "no such path", status=404), Unavailable("service_busy", "later")]
)
def test_a_service_that_refuses_is_told_again(manager: KeyManager, refusal: Refusal) -> None:
    generate(manager)
    manager.host.services[0].refuse_usage = refusal
    assert not tell(manager)
    manager.host.services[0].refuse_usage = None
    assert tell(manager)


def test_without_an_attestation_nothing_is_told_and_nothing_breaks(manager: KeyManager) -> None:
    generate(manager)
    manager.host.agent.attestations.forget()
    assert not tell(manager)
    assert told(manager) == [[], []]


def test_a_key_whose_file_cannot_be_read_is_not_told_as_none(manager: KeyManager) -> None:
    """A rotation would be completed, and the primary key that opens it would be taken away."""
    generate(manager)
    (path,) = (manager.host.folder / "state/keys").iterdir()
    path.chmod(0o644)
    restart(manager)
    assert not tell(manager)
    assert told(manager) == [[], []]
    path.chmod(0o600)
    restart(manager)
    assert tell(manager)
    assert told(manager) == [[(PROVIDER, {"key-1": 1})]] * 2


def test_without_a_configuration_nothing_breaks(manager: KeyManager) -> None:
    (manager.host.folder / "snapshot.json").unlink()
    assert tell(manager)


def test_changes_are_told_by_themselves_and_together(manager: KeyManager) -> None:
    async def run() -> None:
        keys = manager.host.agent.host_keys
        running = asyncio.create_task(keys.run())
        await asyncio.sleep(0.1)
        assert told(manager)[0] == [(PROVIDER, {})]
        manager.host.services[0].away = True
        for _key in range(5):
            await keys.objects.generate(USE)
        await asyncio.sleep(0.3)
        assert told(manager)[0] == [(PROVIDER, {})]
        manager.host.services[0].away = False
        for _moment in range(100):
            await asyncio.sleep(0.02)
            if told(manager)[0][-1] == (PROVIDER, {"key-1": 5}):
                break
        running.cancel()

    asyncio.run(run())
    assert told(manager)[0][-1] == (PROVIDER, {"key-1": 5})
    assert len(told(manager)[0]) < 5


def test_a_lagging_service_does_not_make_an_old_key_new(manager: KeyManager) -> None:
    """One service has not heard of the rotation and names the old primary key as the current one."""
    generate(manager)
    manager.host.services[0].rotate("key-2", b"\2" * 32)
    found = asyncio.run(manager.host.agent.host_keys.trusted.primary_keys(PROVIDER))
    assert found.current == {"key-1", "key-2"}
    assert (found.rests("key-1"), found.rests("key-2"), found.rests("key-0")) == (False, True, False)
