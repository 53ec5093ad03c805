# SPDX-License-Identifier: GPL-3.0-or-later
"""Usage reports: every service is told, again and again until it was, and nobody waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from services.host.key_manager import KeyManager
from services.host.software_host import SoftwareHost
from services.host.test_object_keys import FIRST, KEY, KINDS, USE, generate, get, restart, rewrap, rotate
from services.host.trust_authority import PROVIDER

from trusted_infrastructure.host import key_registry, usage_reports
from trusted_infrastructure.host.keys import ROUNDS
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
        await until(lambda: bool(told(manager)[0]))
        assert told(manager)[0] == [(PROVIDER, {})]
        manager.host.services[0].away = True
        for _key in range(5):
            await keys.objects.generate(USE)
        await asyncio.sleep(0.3)
        assert told(manager)[0] == [(PROVIDER, {})]
        manager.host.services[0].away = False
        await until(lambda: told(manager)[0][-1] == (PROVIDER, {"key-1": 5}))
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


# ---- what overtakes what -----------------------------------------------------------------------------------


def test_a_report_is_repeated_until_the_service_has_wrapped_nothing_else(manager: KeyManager) -> None:
    """The service answers with the number of what it wrapped last; a report with another may lack keys."""
    service = manager.host.services[0]
    service.known = 3
    generate(manager)
    assert tell(manager)
    assert [known for known, _keys in service.covers] == [0, 3]
    service.known = 4
    asyncio.run(manager.host.agent.host_keys.trusted.report(PROVIDER))
    assert [known for known, _keys in service.covers] == [0, 3, 3, 4]
    assert [known for known, _keys in manager.host.services[1].covers] == [0, 0]


def test_a_number_that_a_service_does_not_take_is_forgotten(manager: KeyManager) -> None:
    service = manager.host.services[0]
    service.known = 3
    assert tell(manager)
    service.refuse_usage = Refusal("malformed_request", "known: is 3", status=400)
    assert asyncio.run(manager.host.agent.host_keys.trusted.report(PROVIDER))
    service.refuse_usage = None
    assert not asyncio.run(manager.host.agent.host_keys.trusted.report(PROVIDER))
    assert [known for known, _keys in service.covers] == [0, 3, 0, 3]


def test_a_number_beyond_all_is_not_understood(manager: KeyManager) -> None:
    for number in (-1, 2**53):
        manager.host.services[0].known = number
        assert asyncio.run(manager.host.agent.host_keys.trusted.report(PROVIDER))
    manager.host.services[0].known = 3
    assert not asyncio.run(manager.host.agent.host_keys.trusted.report(PROVIDER))
    assert [known for known, _keys in manager.host.services[0].covers] == [0, 0, 0, 3]


def test_a_service_that_always_wrapped_something_else_is_asked_again_later(manager: KeyManager) -> None:
    generate(manager)
    manager.host.services[0].known = None
    assert not tell(manager)
    assert len(manager.host.services[0].covers) == ROUNDS
    # What it says of the primary keys counts all the same.
    assert asyncio.run(manager.host.agent.host_keys.trusted.primary_keys(PROVIDER)).current == {"key-1"}


def test_a_key_that_is_on_its_way_is_waited_for(manager: KeyManager) -> None:
    async def run() -> None:
        keys = manager.host.agent.host_keys
        with keys.registry.arriving(PROVIDER):
            report = asyncio.create_task(keys.trusted.report(PROVIDER))
            await asyncio.sleep(0.05)
            assert told(manager) == [[], []]
            with keys.registry.arriving(PROVIDER):  # this one began later, and keeps nobody waiting
                pass
            await keys.objects.generate(USE)
        await report

    asyncio.run(run())
    assert told(manager)[0] == [(PROVIDER, {"key-1": 1})]


def test_a_key_that_nobody_waits_for_any_more_arrives_all_the_same(
    manager: KeyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller goes away while it is written: it is on the disk in a moment, and no report may miss it."""
    goes_on = threading.Event()
    written = key_registry.write_state

    def slow(path: Path, data: bytes) -> None:
        goes_on.wait(60)
        written(path, data)

    monkeypatch.setattr(key_registry, "write_state", slow)

    async def run() -> None:
        keys = manager.host.agent.host_keys
        making = asyncio.create_task(keys.objects.generate(USE))
        while not manager.host.services[0].calls.count("create"):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        making.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await making
        report = asyncio.create_task(keys.trusted.report(PROVIDER))
        await asyncio.sleep(0.05)
        assert told(manager) == [[], []]
        goes_on.set()
        await report

    asyncio.run(run())
    assert told(manager)[0] == [(PROVIDER, {"key-1": 1})]


def test_a_key_from_elsewhere_is_said_to_be_kept(manager: KeyManager) -> None:
    objects = manager.host.agent.host_keys.objects
    made = generate(manager)
    get(manager, made.record.key_id)
    asyncio.run(objects.forget(made.record.key_id))
    asyncio.run(objects.get_wrapped(made.wrapped_key))
    asyncio.run(objects.get_wrapped(made.wrapped_key))
    assert manager.host.services[0].kept == [False, True, False]


@pytest.mark.parametrize("compromise", [False, True])
def test_a_key_under_an_earlier_primary_key_is_wrapped_again_as_it_comes(
    manager: KeyManager, compromise: bool
) -> None:
    objects = manager.host.agent.host_keys.objects
    made = generate(manager)
    asyncio.run(objects.forget(made.record.key_id))
    for service in manager.host.services:
        service.rotate("key-2", bytes(range(32)), compromise=compromise)
    found = asyncio.run(objects.get_wrapped(made.wrapped_key))
    assert (bytes(found.key), found.record.primary_key_id) == (bytes(made.key), "key-2")
    assert found.record.deep_recrypt is compromise
    assert found.wrapped_key != made.wrapped_key
    assert objects.registry.counts(PROVIDER) == {"key-2": 1}
    assert get(manager, made.record.key_id).key == made.key


def test_a_key_that_cannot_be_wrapped_again_does_not_come(
    manager: KeyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One service has heard of the rotation, and the one that is asked to wrap it again has not."""
    keys, objects = manager.host.agent.host_keys, manager.host.agent.host_keys.objects
    made = generate(manager)
    asyncio.run(objects.forget(made.record.key_id))

    async def rotated(*_key: object) -> None:
        raise Refusal("primary_key_previous", "rotated", status=409)

    monkeypatch.setattr(keys.trusted, "get", rotated)
    with pytest.raises(Refusal) as refused:
        asyncio.run(objects.get_wrapped(made.wrapped_key))
    assert refused.value.code == "primary_key_previous"
    assert objects.registry.counts(PROVIDER) == {}


# ---- when --------------------------------------------------------------------------------------------------


def running(manager: KeyManager, work: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        reporting = asyncio.create_task(manager.host.agent.host_keys.reports.run())
        await asyncio.sleep(0.1)
        try:
            await work()
        finally:
            reporting.cancel()

    asyncio.run(run())


async def until(wanted: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not wanted():
            await asyncio.sleep(0.01)


def test_the_first_report_waits_its_turn_but_not_with_a_change(
    manager: KeyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a start, hosts that have nothing new to say are spread; a rewrap is waited for by somebody."""
    monkeypatch.setattr(usage_reports, "FIRST", (600.0, 600.0))

    async def work() -> None:
        assert told(manager)[0] == []
        await manager.host.agent.host_keys.objects.generate(USE)
        await until(lambda: told(manager)[0] == [(PROVIDER, {"key-1": 1})])

    running(manager, work)


def test_a_change_is_told_soon_although_something_else_has_failed_for_long(
    manager: KeyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_reports, "RETRY", (0.02, 600.0))
    pauses: list[float] = []

    async def work() -> None:
        manager.host.services[0].away = True
        await manager.host.agent.host_keys.objects.generate(USE)
        await asyncio.sleep(1.5)  # 0.02, 0.04 and so on, up to 1.28 s: the next is far
        await manager.host.agent.host_keys.objects.generate(USE)
        await asyncio.sleep(0.06)
        manager.host.services[0].away = False
        begun = asyncio.get_running_loop().time()
        await until(lambda: (PROVIDER, {"key-1": 2}) in told(manager)[0])
        pauses.append(asyncio.get_running_loop().time() - begun)

    running(manager, work)
    assert pauses[0] < 1.2


def test_a_new_token_is_used_at_once(manager: KeyManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attestation refused for a moment: what could not be told for want of a token does not wait for more."""
    monkeypatch.setattr(usage_reports, "RETRY", (600.0, 600.0))
    agent = manager.host.agent
    for service in manager.host.services:
        service.refuse_attestation = Refusal("base_image_mismatch", "for a moment", status=403)
    asyncio.run(agent.attest())

    async def work() -> None:
        assert told(manager) == [[], []]
        for service in manager.host.services:
            service.refuse_attestation = None
        await agent.attest()
        await until(lambda: told(manager) == [[(PROVIDER, {})]] * 2)

    running(manager, work)


def test_a_rewrap_has_all_told_again(manager: KeyManager) -> None:
    """A service may have lost, or counted too much of, what it was told; hosts without keys tell, too."""

    async def work() -> None:
        await until(lambda: len(told(manager)[0]) == 1)
        answer = await manager.call("POST", "keys/rewrap", {"provider": PROVIDER})
        assert answer.status_code == 200
        await until(lambda: told(manager) == [[(PROVIDER, {}), (PROVIDER, {})]] * 2)

    running(manager, work)


def test_a_provider_that_is_gone_is_not_told_for_ever(manager: KeyManager) -> None:
    generate(manager)
    assert tell(manager)
    made = manager.host.agent.host_keys.objects.list()[0]
    manager.providers(default=None, local="NATIVE")
    for service in manager.host.services:
        service.refuse_usage = Refusal("provider_unknown", "removed", status=404)
    # As long as something is kept of it, it is told, or else tried.
    manager.host.agent.host_keys.reports.again()
    assert not tell(manager)
    asyncio.run(manager.host.agent.host_keys.objects.forget(made.record.key_id))
    assert tell(manager)
