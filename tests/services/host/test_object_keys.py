# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys of objects: refusals, and that a caller cannot tell the three kinds of provider apart."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from services.host.key_manager import KeyManager
from services.host.software_host import SoftwareHost
from services.host.trust_authority import PROVIDER

from trusted_infrastructure import data_keys
from trusted_infrastructure.host.key_encryption_keys import ObjectOfKey
from trusted_infrastructure.host.object_keys import ObjectKey
from trusted_infrastructure.host.rewrapping import Rewrapping
from trusted_infrastructure.key_delivery import KeyRecord, KeyRequestAnswer, RewrapKeys, RewrapReport
from trusted_infrastructure.refusal import Refusal, Unavailable

USE = ObjectOfKey("vm-1", "Virtual Machine", "web 1")
KINDS = {PROVIDER: "TRUSTED", "store": "STANDARD", "local": "NATIVE"}
FIRST, SECOND = ("11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222")
KEY = os.urandom(32)
T = TypeVar("T")


@pytest.fixture
def host(tmp_path: Path) -> SoftwareHost:
    return SoftwareHost(tmp_path)


@pytest.fixture
def manager(host: SoftwareHost) -> KeyManager:
    """A manager with a provider of each kind, and an attested host."""
    manager = KeyManager(host)
    manager.providers(default=PROVIDER, **KINDS)
    asyncio.run(host.agent.attest())
    assert asyncio.run(manager.push("local", (FIRST, KEY))).status_code == 200
    return manager


def served(manager: KeyManager, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives while the manager answers key requests."""

    async def run() -> T:
        async with manager.serving():
            return await work

    return asyncio.run(run())


def generate(
    manager: KeyManager, provider: str | None = None, use: ObjectOfKey = USE, owner: int = 0
) -> ObjectKey:
    return served(manager, manager.host.agent.host_keys.objects.generate(use, provider, owner))


def get(manager: KeyManager, key_id: str, owner: int = 0) -> ObjectKey:
    return served(manager, manager.host.agent.host_keys.objects.get(key_id, owner))


def rewrap(manager: KeyManager, **asked: Any) -> RewrapReport:
    return served(manager, Rewrapping(manager.host.agent.host_keys.objects, RewrapKeys(**asked)).run())


def refused(work: Coroutine[Any, Any, Any]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        asyncio.run(work)
    return caught.value


def restart(manager: KeyManager) -> None:
    """The agent starts again: what was in memory is gone."""
    asyncio.run(manager.host.agent.close())
    manager.host.start()
    manager.connect()
    asyncio.run(manager.host.agent.attest())


def records(manager: KeyManager) -> list[KeyRecord]:
    return [kept.record for kept in manager.host.agent.host_keys.objects.list()]


# ---- refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("use", "field"),
    [
        (ObjectOfKey("key-check"), "object_id"),
        (ObjectOfKey("a\u200bb"), "object_id"),
        (ObjectOfKey("a", "b\u2028"), "component"),
        (ObjectOfKey("a", "b", "c\u202e"), "name"),
    ],
)
def test_names_that_cannot_be_used(manager: KeyManager, use: ObjectOfKey, field: str) -> None:
    refusal = refused(manager.host.agent.host_keys.objects.generate(use))
    assert (refusal.code, refusal.message.split(":")[0]) == ("malformed_request", field)
    assert records(manager) == []


def test_an_unknown_provider_is_refused_before_anybody_is_asked(manager: KeyManager) -> None:
    for service in manager.host.services:
        service.calls.clear()
    assert refused(manager.host.agent.host_keys.objects.generate(USE, "hr")).code == "provider_unknown"
    assert manager.host.services[0].calls == []


def test_without_a_default_a_provider_must_be_named(manager: KeyManager) -> None:
    manager.providers(default=None, **KINDS)
    assert refused(manager.host.agent.host_keys.objects.generate(USE)).code == "provider_unknown"
    manager.providers(default="gone", **KINDS)
    assert refused(manager.host.agent.host_keys.objects.generate(USE)).code == "provider_unknown"
    assert generate(manager, PROVIDER).record.provider == PROVIDER


def test_without_attestation_there_is_no_key_of_a_trusted_provider(host: SoftwareHost) -> None:
    manager = KeyManager(host)
    manager.providers(default=PROVIDER, **KINDS)
    with pytest.raises(Refusal):
        asyncio.run(host.agent.host_keys.objects.generate(USE))
    assert records(manager) == []


def test_a_native_provider_that_is_not_there(manager: KeyManager) -> None:
    manager.providers(default=PROVIDER, **KINDS, other="NATIVE")
    assert refused(manager.host.agent.host_keys.objects.generate(USE, "other")).code == "provider_unknown"
    made = generate(manager, "local")
    asyncio.run(manager.call("DELETE", "native-providers/local"))
    assert refused(manager.host.agent.host_keys.objects.get(made.record.key_id)).code == "provider_unknown"


def test_a_manager_that_does_not_come_is_an_answer(
    manager: KeyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager.host.agent.host_keys.queue, "_patience", 0.05)
    refusal = refused(manager.host.agent.host_keys.objects.generate(USE, "store"))
    assert isinstance(refusal, Unavailable)
    assert refusal.code == "key_not_delivered"
    assert "store" in refusal.message and refusal.remedy
    assert records(manager) == []


def test_the_managers_reason_reaches_the_caller(manager: KeyManager) -> None:
    manager.refuse = KeyRequestAnswer(id="x", code="key_server_unreachable", message="m", remedy="r")
    with pytest.raises(Unavailable) as caught:
        generate(manager, "store")
    assert caught.value.as_dict() == {"code": "key_server_unreachable", "message": "m", "remedy": "r"}
    manager.refuse = KeyRequestAnswer(id="x", code="key_missing", message="m")
    with pytest.raises(Refusal) as decided:
        generate(manager, "store")
    assert (decided.value.code, decided.value.status) == ("key_missing", 409)


@pytest.mark.parametrize("provider", KINDS)
def test_a_wrapped_key_that_was_changed_is_not_opened(manager: KeyManager, provider: str) -> None:
    made = generate(manager, provider)
    objects = manager.host.agent.host_keys.objects
    served(manager, objects.forget(made.record.key_id))
    changed = bytearray(made.wrapped_key)
    changed[-1] ^= 1
    with pytest.raises(Refusal) as caught:
        served(manager, objects.get_wrapped(bytes(changed)))
    assert caught.value.code == "wrapped_key_invalid"
    assert records(manager) == []


def test_a_key_cannot_be_moved_to_another_object(manager: KeyManager) -> None:
    made = generate(manager)
    moved = made.wrapped_key.replace(b"vm-1", b"vm-2", 1)
    objects = manager.host.agent.host_keys.objects
    assert refused(objects.get_wrapped(moved)).code == "wrapped_key_invalid"


def test_the_key_encryption_key_of_another_is_not_taken(manager: KeyManager) -> None:
    """A reference that opens, but is of another key."""
    first, second = generate(manager), generate(manager, use=ObjectOfKey("vm-2"))
    parsed, other = data_keys.parse(first.wrapped_key), data_keys.parse(second.wrapped_key)
    forged = dataclasses.replace(parsed.header, kek_reference=other.header.kek_reference)
    wrapped = data_keys.encode_header(forged) + parsed.ciphertext
    asyncio.run(manager.host.agent.host_keys.objects.forget(first.record.key_id))
    assert refused(manager.host.agent.host_keys.objects.get_wrapped(wrapped)).code == "wrapped_key_invalid"


# ---- three kinds, one interface -----------------------------------------------------------------------


@pytest.mark.parametrize("provider", KINDS)
def test_a_key_comes_back(manager: KeyManager, provider: str) -> None:
    made = generate(manager, provider)
    assert len(made.key) == 32
    assert made.record == KeyRecord(
        key_id=made.record.key_id,
        object_id="vm-1",
        component="Virtual Machine",
        name="web 1",
        provider=provider,
        type=KINDS[provider],
        kek_id=made.record.kek_id,
        primary_key_id={PROVIDER: "key-1", "store": None, "local": FIRST}[provider],
        created=int(manager.host.clock()),
    )
    for again in (
        get(manager, made.record.key_id),
        served(manager, manager.host.agent.host_keys.objects.get_wrapped(made.wrapped_key)),
    ):
        assert (again.key, again.record, again.wrapped_key) == (made.key, made.record, made.wrapped_key)


def test_kinds_differ_by_nothing_but_names_and_sizes(manager: KeyManager) -> None:
    """The same calls, the same fields, the same form of what is kept."""
    made = {provider: generate(manager, provider) for provider in KINDS}
    headers = [data_keys.parse(one.wrapped_key).header for one in made.values()]
    assert len({one.key_id for one in headers}) == 3
    assert {(one.object_id, one.component) for one in headers} == {("vm-1", "Virtual Machine")}
    assert {one.wrapped_key[:6] for one in made.values()} == {b"TIDK\x01\x01"}
    assert len({bytes(one.key) for one in made.values()}) == 3


@pytest.mark.parametrize("provider", KINDS)
def test_a_key_comes_back_after_a_restart(manager: KeyManager, provider: str) -> None:
    made = generate(manager, provider)
    restart(manager)
    if provider == "local":
        assert (
            refused(manager.host.agent.host_keys.objects.get(made.record.key_id)).code == "provider_unknown"
        )
        asyncio.run(manager.push("local", (FIRST, KEY)))
    assert get(manager, made.record.key_id).key == made.key
    assert records(manager) == [made.record]


def test_native_keys_need_nobody(manager: KeyManager) -> None:
    """The manager is away, and so is the Trust Authority."""
    for service in manager.host.services:
        service.away = True
    objects = manager.host.agent.host_keys.objects
    made = asyncio.run(objects.generate(USE, "local"))
    assert asyncio.run(objects.get(made.record.key_id)).key == made.key


def test_keys_of_standard_providers_are_put_to_use_for_the_object(manager: KeyManager) -> None:
    made = generate(manager, "store")
    (request,) = manager.seen
    assert (request.action, request.key_id) == ("create", None)
    assert (request.component, request.name, request.identifier) == ("Virtual Machine", "web 1", "vm-1")
    get(manager, made.record.key_id)
    assert len(manager.seen) == 1  # from memory
    restart(manager)
    manager.seen.clear()
    get(manager, made.record.key_id)
    (request,) = manager.seen
    assert (request.action, request.key_id, request.identifier) == ("get", made.record.kek_id, "vm-1")


def test_the_last_key_takes_its_key_encryption_key_out_of_memory(manager: KeyManager) -> None:
    made = generate(manager, "store")
    keys = manager.host.agent.host_keys
    assert keys.standard.holds("store", made.record.kek_id)
    asyncio.run(keys.objects.forget(made.record.key_id))
    assert not keys.standard.holds("store", made.record.kek_id)


def test_a_wrapped_key_of_another_host_is_kept_once_it_was_used(manager: KeyManager, tmp_path: Path) -> None:
    made = generate(manager, "local")
    (tmp_path / "other").mkdir()
    other = KeyManager(SoftwareHost(tmp_path / "other"))
    other.providers(default="local", local="NATIVE")
    asyncio.run(other.push("local", (FIRST, KEY)))
    objects = other.host.agent.host_keys.objects
    assert refused(objects.get_wrapped(made.wrapped_key, owner=1000)).code == "key_unknown"
    assert asyncio.run(objects.get_wrapped(made.wrapped_key)).key == made.key
    (record,) = records(other)
    assert (record.key_id, record.primary_key_id) == (made.record.key_id, FIRST)


def test_an_older_copy_that_opens_late_does_not_replace_a_newer_one(
    manager: KeyManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = generate(manager, "local")
    (tmp_path / "other").mkdir()
    other = KeyManager(SoftwareHost(tmp_path / "other"))
    other.providers(default="local", local="NATIVE")
    asyncio.run(other.push("local", (FIRST, KEY)))
    objects = other.host.agent.host_keys.objects
    opened = objects._opened

    async def late(wrapped_key: bytes, use: ObjectOfKey) -> bytearray:
        key = await opened(wrapped_key, use)
        monkeypatch.setattr(objects, "_opened", opened)
        await objects.get_wrapped(made.wrapped_key)
        await other.push("local", (SECOND, os.urandom(32)), (FIRST, KEY))
        await objects.rewrap(made.record.key_id)
        return key

    monkeypatch.setattr(objects, "_opened", late)
    found = asyncio.run(objects.get_wrapped(made.wrapped_key))
    assert (found.key, found.record.primary_key_id) == (made.key, SECOND)
    assert [record.primary_key_id for record in records(other)] == [SECOND]


# ---- whose key ----------------------------------------------------------------------------------------


def test_a_user_sees_his_own_keys_alone(manager: KeyManager) -> None:
    objects = manager.host.agent.host_keys.objects
    mine, his = generate(manager, "local", owner=1000), generate(manager, "local", owner=1001)
    of_root = generate(manager, "local")
    assert [one.record.key_id for one in objects.list(1000)] == [mine.record.key_id]
    assert len(objects.list(0)) == 3
    for other in (his, of_root):
        assert refused(objects.get(other.record.key_id, 1000)).code == "key_unknown"
        assert refused(objects.get_wrapped(other.wrapped_key, 1000)).code == "key_unknown"
        assert refused(objects.rewrap(other.record.key_id, owner=1000)).code == "key_unknown"
        assert refused(objects.forget(other.record.key_id, 1000)).code == "key_unknown"
    assert asyncio.run(objects.get(mine.record.key_id, 1000)).key == mine.key
    assert asyncio.run(objects.get(mine.record.key_id)).key == mine.key
    restart(manager)
    assert [kept.owner for kept in manager.host.agent.host_keys.objects.list()].count(1000) == 1


def test_asking_for_keys_that_are_not_there_leaves_nothing(manager: KeyManager) -> None:
    objects = manager.host.agent.host_keys.objects
    for number in range(100):
        assert refused(objects.forget(f"key-{number}")).code == "key_unknown"
        assert refused(objects.rewrap(f"key-{number}")).code == "key_unknown"
    assert len(objects._changing) == 0


# ---- wrapping again -----------------------------------------------------------------------------------


def rotate(manager: KeyManager, key_id: str, *, compromise: bool = False) -> None:
    key = os.urandom(32)
    for service in manager.host.services:
        service.rotate(key_id, key, compromise=compromise)


def test_after_a_rotation_keys_move_to_the_new_primary_key(manager: KeyManager) -> None:
    made = [generate(manager, use=ObjectOfKey(f"vm-{number}")) for number in range(3)]
    assert rewrap(manager) == RewrapReport(rewrapped=[], left=[], deep_recrypt=[])
    rotate(manager, "key-2")
    assert get(manager, made[0].record.key_id).key == made[0].key  # the old one still opens
    assert generate(manager, use=ObjectOfKey("vm-9")).record.primary_key_id == "key-2"
    dry = rewrap(manager, dry_run=True)
    assert [one.object_id for one in dry.rewrapped] == ["vm-0", "vm-1", "vm-2"]
    assert [one.primary_key_id for one in records(manager)] == ["key-1", "key-1", "key-1", "key-2"]
    report = rewrap(manager)
    assert [(one.object_id, one.primary_key_id) for one in report.rewrapped] == [
        ("vm-0", "key-2"),
        ("vm-1", "key-2"),
        ("vm-2", "key-2"),
    ]
    assert (report.left, report.deep_recrypt) == ([], [])
    assert [one.kek_id for one in report.rewrapped] == [one.record.kek_id for one in made]
    for service in manager.host.services:
        service.previous.clear()
    for one in made:
        assert get(manager, one.record.key_id).key == one.key
    assert rewrap(manager).rewrapped == []


def test_an_older_copy_of_a_wrapped_key_still_leads_to_the_key(manager: KeyManager) -> None:
    made = generate(manager)
    rotate(manager, "key-2")
    rewrap(manager)
    for service in manager.host.services:
        service.previous.clear()
    again = served(manager, manager.host.agent.host_keys.objects.get_wrapped(made.wrapped_key))
    assert again.key == made.key
    assert again.wrapped_key != made.wrapped_key


def test_under_a_compromised_primary_key_key_encryption_keys_are_new(manager: KeyManager) -> None:
    made = generate(manager)
    rotate(manager, "key-2", compromise=True)
    report = rewrap(manager)
    (record,) = report.rewrapped
    assert (record.primary_key_id, record.deep_recrypt) == ("key-2", True)
    assert record.kek_id != made.record.kek_id
    assert report.deep_recrypt == [record]
    assert get(manager, record.key_id).key == made.key
    again = rewrap(manager)
    assert (again.rewrapped, again.deep_recrypt) == ([], [record])  # until the object has another key
    asyncio.run(manager.host.agent.host_keys.objects.forget(record.key_id))
    assert rewrap(manager).deep_recrypt == []


def test_what_a_stolen_key_wrapped_before_a_rotation_gets_new_keys_too(manager: KeyManager) -> None:
    """It rests on the second primary key with the same KEK; who has the first and an old copy knows it."""
    made = [generate(manager, use=ObjectOfKey(f"vm-{number}")) for number in range(2)]
    rotate(manager, "key-2")
    assert len(rewrap(manager, object_ids=["vm-0"]).rewrapped) == 1
    rotate(manager, "key-3", compromise=True)
    report = rewrap(manager)
    assert [one.object_id for one in report.deep_recrypt] == ["vm-0", "vm-1"]
    assert report.rewrapped == report.deep_recrypt
    for record, before in zip(report.rewrapped, made, strict=True):
        assert record.primary_key_id == "key-3" and record.kek_id != before.record.kek_id
        assert get(manager, record.key_id).key == before.key


def test_the_service_has_the_last_word_on_a_compromise(manager: KeyManager) -> None:
    """No usage report comes through, so the host does not know; the service refuses to wrap the key again."""
    made = generate(manager)
    rotate(manager, "key-2", compromise=True)
    for service in manager.host.services:
        service.refuse_usage = Refusal("not_found", "no such path", status=404)
    (record,) = rewrap(manager).rewrapped
    assert record.deep_recrypt and record.kek_id != made.record.kek_id


@pytest.mark.parametrize("moves", [{"replace": True}, {"target": "local"}])
def test_what_may_be_compromised_does_not_move_without_its_mark(
    manager: KeyManager, moves: dict[str, Any]
) -> None:
    """The service opens it, and does not say by that whether its primary key is compromised."""
    made = generate(manager)
    rotate(manager, "key-2", compromise=True)
    for service in manager.host.services:
        service.refuse_usage = Refusal("rate_limited", "too many requests", status=429)
    report = rewrap(manager, **moves)
    assert (report.rewrapped, [one.code for one in report.left]) == ([], ["rate_limited"])
    assert records(manager) == [made.record]
    for service in manager.host.services:
        service.refuse_usage = None
    (record,) = rewrap(manager, **moves).rewrapped
    assert record.deep_recrypt and record.kek_id != made.record.kek_id


@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("source", KINDS)
def test_a_key_moves_from_any_provider_to_any_other(manager: KeyManager, source: str, target: str) -> None:
    made = generate(manager, source)
    report = rewrap(manager, provider=source, target=target)
    assert report.left == []
    if source == target:
        assert report.rewrapped == []
    else:
        assert [(one.provider, one.type) for one in report.rewrapped] == [(target, KINDS[target])]
        assert rewrap(manager, target=target).rewrapped == []
    again = get(manager, made.record.key_id)
    assert (again.key, again.record.provider, again.record.key_id) == (made.key, target, made.record.key_id)


@pytest.mark.parametrize("provider", KINDS)
def test_replacing_makes_new_key_encryption_keys(manager: KeyManager, provider: str) -> None:
    made = generate(manager, provider)
    (record,) = rewrap(manager, replace=True).rewrapped
    assert record.kek_id != made.record.kek_id and not record.deep_recrypt
    assert get(manager, record.key_id).key == made.key
    if provider == "store":
        assert not manager.host.agent.host_keys.standard.holds("store", made.record.kek_id)


def test_native_keys_move_to_the_providers_new_key(manager: KeyManager) -> None:
    made, new = generate(manager, "local"), os.urandom(32)
    asyncio.run(manager.push("local", (SECOND, new), (FIRST, KEY)))
    assert get(manager, made.record.key_id).key == made.key
    (record,) = rewrap(manager).rewrapped
    assert (record.primary_key_id, record.kek_id) == (SECOND, made.record.kek_id)
    asyncio.run(manager.push("local", (SECOND, new)))
    assert get(manager, made.record.key_id).key == made.key


def test_only_what_is_meant_is_wrapped_again(manager: KeyManager) -> None:
    made = {
        (provider, number): generate(manager, provider, ObjectOfKey(f"vm-{number}"))
        for provider in ("local", PROVIDER)
        for number in (1, 2)
    }
    report = rewrap(manager, provider="local", target=PROVIDER, object_ids=["vm-1"])
    assert [one.key_id for one in report.rewrapped] == [made["local", 1].record.key_id]
    chosen = made["local", 2].record.key_id
    report = rewrap(manager, key_ids=[chosen], target=PROVIDER)
    assert [one.key_id for one in report.rewrapped] == [chosen]
    assert {one.provider for one in records(manager)} == {PROVIDER}


def test_an_unknown_target_changes_nothing(manager: KeyManager) -> None:
    generate(manager)
    objects = manager.host.agent.host_keys.objects
    assert refused(Rewrapping(objects, RewrapKeys(target="hr")).run()).code == "provider_unknown"
    assert records(manager)[0].provider == PROVIDER


def test_what_cannot_be_wrapped_again_is_named_and_stays(manager: KeyManager) -> None:
    made = [generate(manager, use=ObjectOfKey(f"vm-{number}")) for number in range(20)]
    other = generate(manager, "local")
    rotate(manager, "key-2")
    for service in manager.host.services:
        service.away = True
    attempts = manager.host.network.attempts.copy()
    report = rewrap(manager, target=None)
    assert report.rewrapped == []
    assert {one.code for one in report.left} == {"peer_unreachable"}
    assert [one.object_id for one in report.left] == sorted(one.record.object_id for one in made)
    # Who is away is not asked for each key.
    assert sum((manager.host.network.attempts - attempts).values()) < 10
    assert {one.primary_key_id for one in records(manager)} == {"key-1", other.record.primary_key_id}
    for service in manager.host.services:
        service.away = False
    assert len(rewrap(manager).rewrapped) == 20


def test_a_refusal_of_one_key_does_not_keep_the_others(manager: KeyManager) -> None:
    lost = generate(manager, "store", ObjectOfKey("vm-lost"))
    kept = generate(manager, "store", ObjectOfKey("vm-kept"))
    restart(manager)
    asyncio.run(manager.push("local", (FIRST, KEY)))
    del manager.keys["store", lost.record.kek_id]
    report = rewrap(manager, provider="store", target="local")
    assert [one.key_id for one in report.rewrapped] == [kept.record.key_id]
    assert [(one.object_id, one.code) for one in report.left] == [("vm-lost", "key_missing")]


def test_a_request_that_takes_too_long_says_what_is_left(manager: KeyManager) -> None:
    made = [generate(manager, use=ObjectOfKey(f"vm-{number}")) for number in range(3)]
    rotate(manager, "key-2")
    moments = iter([0.0, 1.0, 100.0, 100.0])
    work = Rewrapping(manager.host.agent.host_keys.objects, RewrapKeys(), monotonic=lambda: next(moments))
    report = asyncio.run(work.run())
    assert len(report.rewrapped) == 1
    assert [one.code for one in report.left] == ["rewrap_unfinished"] * 2
    assert len(rewrap(manager).rewrapped) == len(made) - 1


def test_a_key_that_is_forgotten_meanwhile_does_not_come_back(manager: KeyManager) -> None:
    made = generate(manager)
    rotate(manager, "key-2")
    objects = manager.host.agent.host_keys.objects

    async def both() -> None:
        work = asyncio.create_task(Rewrapping(objects, RewrapKeys()).run())
        await asyncio.sleep(0)
        await objects.forget(made.record.key_id)
        await work

    asyncio.run(both())
    assert records(manager) == []
    restart(manager)
    assert records(manager) == []


# ---- key check ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", KINDS)
def test_the_key_check_works_for_a_default_of_any_kind(manager: KeyManager, provider: str) -> None:
    manager.providers(default=provider, **KINDS)
    check = served(manager, manager.host.agent.key_check(None))
    assert (check.result, check.provider) == ("OK", provider)
    assert records(manager) == []


def test_key_checks_leave_one_key_on_the_key_server(manager: KeyManager) -> None:
    for _time in range(3):
        assert served(manager, manager.host.agent.key_check("store")).result == "OK"
        restart(manager)
    assert len(manager.keys) == 1
    manager.keys.clear()  # somebody destroyed it
    assert served(manager, manager.host.agent.key_check("store")).result == "OK"
    assert len(manager.keys) == 1


def test_key_checks_at_the_same_time_leave_one_key_on_the_key_server(manager: KeyManager) -> None:
    check = manager.host.agent.host_keys.check

    async def both() -> list[str]:
        return [one.result for one in await asyncio.gather(*(check("store") for _each in range(3)))]

    assert served(manager, both()) == ["OK"] * 3
    assert len(manager.keys) == 1


def test_a_key_check_says_what_is_wrong(manager: KeyManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager.host.agent.host_keys.queue, "_patience", 0.05)
    assert asyncio.run(manager.host.agent.key_check("store")).result == "key_not_delivered"
    assert asyncio.run(manager.host.agent.key_check("hr")).result == "provider_unknown"
