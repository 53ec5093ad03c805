# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys from the workload manager: what a host does not take, and how requests reach the manager."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from services.host.key_manager import BASE, KeyManager, sealed_for
from services.host.software_host import SoftwareHost

from trusted_infrastructure.host.key_encryption_keys import ObjectOfKey
from trusted_infrastructure.host.key_queue import KeyQueue
from trusted_infrastructure.key_delivery import (
    DeliveryTarget,
    KeyRequestAnswer,
    KeyRequests,
    StandardKey,
    StandardKeys,
)
from trusted_infrastructure.refusal import Refusal, Unavailable
from trusted_infrastructure.sealing import SealingKey

KEY, OTHER = os.urandom(32), os.urandom(32)
USE = ObjectOfKey("vm-1", "Virtual Machine", "web")
KEY_ID = "11111111-1111-4111-8111-111111111111"


@pytest.fixture
def manager(tmp_path: Path) -> KeyManager:
    return KeyManager(SoftwareHost(tmp_path))


def delivery(target: DeliveryTarget, **changes: Any) -> StandardKeys:
    """One key, "1" of "store". changes: of what it is sealed for."""
    sealed = {"key": KEY, "provider": "store", "key_id": "1"} | changes
    key = StandardKey(provider="store", key_id="1", sealed_key=sealed_for(target, **sealed))
    return StandardKeys(instance=target.instance, keys=[key])


def held(manager: KeyManager) -> list[tuple[str, str]]:
    names = asyncio.run(manager.call("GET", "standard-keys")).json()["keys"]
    return [(one["provider"], one["key_id"]) for one in names]


def deliver(manager: KeyManager, message: StandardKeys) -> tuple[int, str]:
    answer = asyncio.run(manager.call("POST", "standard-keys", message))
    return answer.status_code, answer.json().get("error", {}).get("code", "")


def target(manager: KeyManager) -> DeliveryTarget:
    return asyncio.run(manager.target())


# ---- what is not taken --------------------------------------------------------------------------------

SEALED_FOR: dict[str, dict[str, Any]] = {
    "another host": {"host": "host2"},
    "another provider": {"provider": "other"},
    "another key id": {"key_id": "2"},
    "another kind": {"kind": "native"},
    "a key that is too short": {"key": bytes(16)},
    "a key that is too long": {"key": bytes(33)},
}


@pytest.mark.parametrize("name", SEALED_FOR)
def test_a_key_that_is_sealed_for_something_else_is_not_taken(manager: KeyManager, name: str) -> None:
    message = delivery(target(manager), **SEALED_FOR[name])
    assert deliver(manager, message) == (403, "sealed_value_invalid")
    assert held(manager) == []


def test_a_key_for_an_earlier_start_is_not_taken(manager: KeyManager) -> None:
    before = target(manager)
    manager.host.start()
    manager.connect()
    now = target(manager)
    assert (now.instance, now.public_key) != (before.instance, before.public_key)
    assert deliver(manager, delivery(before)) == (409, "delivery_stale")
    # Nor under the instance of now, because it is sealed to the key of before.
    message = msgspec.structs.replace(delivery(before), instance=now.instance)
    assert deliver(manager, message) == (403, "sealed_value_invalid")
    assert held(manager) == []


def test_a_key_for_another_instance_of_the_same_key_is_not_taken(manager: KeyManager) -> None:
    now = target(manager)
    recorded = msgspec.structs.replace(now, instance="0" * 32)
    message = msgspec.structs.replace(delivery(recorded), instance=now.instance)
    assert deliver(manager, message) == (403, "sealed_value_invalid")


def test_another_key_under_the_same_id_is_refused_and_the_old_one_stays(manager: KeyManager) -> None:
    assert deliver(manager, delivery(target(manager))) == (200, "")
    assert deliver(manager, delivery(target(manager))) == (200, "")
    assert deliver(manager, delivery(target(manager), key=OTHER)) == (409, "key_mismatch")
    keys = manager.host.agent.host_keys.standard
    assert asyncio.run(keys.get("store", "1", b"", USE)).key == KEY


def test_a_delivery_is_taken_whole_or_not_at_all(manager: KeyManager) -> None:
    now = target(manager)
    good = StandardKey(provider="store", key_id="2", sealed_key=sealed_for(now, OTHER, "store", "2"))
    bad = delivery(now, host="host2").keys[0]
    assert (
        deliver(manager, StandardKeys(instance=now.instance, keys=[good, bad]))[1] == "sealed_value_invalid"
    )
    assert held(manager) == []
    twice = [
        StandardKey(provider="store", key_id="2", sealed_key=sealed_for(now, key, "store", "2"))
        for key in (KEY, OTHER)
    ]
    assert deliver(manager, StandardKeys(instance=now.instance, keys=twice))[1] == "key_mismatch"
    assert held(manager) == []


def test_a_native_provider_for_an_earlier_start_is_not_taken(manager: KeyManager) -> None:
    answer = asyncio.run(manager.push("local", (KEY_ID, KEY), instance="0" * 32))
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "delivery_stale")


def test_a_native_key_does_not_come_as_a_standard_one(manager: KeyManager) -> None:
    """What is recorded of one way in is of no use on the other."""
    now = target(manager)
    sealed = sealed_for(now, KEY, "p", KEY_ID, "native")
    message = StandardKeys(
        instance=now.instance, keys=[StandardKey(provider="p", key_id=KEY_ID, sealed_key=sealed)]
    )
    assert deliver(manager, message)[1] == "sealed_value_invalid"


QUERIES = ["wait=31", "wait=-1", "wait=x", "wait=1.5", "wait=", "wait=\u0661"]


@pytest.mark.parametrize("query", QUERIES)
def test_a_wait_that_is_none(manager: KeyManager, query: str) -> None:
    answer = asyncio.run(manager.call("GET", f"key-requests?{query}"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed_request")
    assert "wait" in answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b'{"instance": "x"}'])
@pytest.mark.parametrize("path", ["standard-keys", "native-providers"])
def test_bad_bodies(manager: KeyManager, path: str, body: bytes) -> None:
    answer = asyncio.run(manager.call("POST", path, msgspec.Raw(body)))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed_request")


def test_forgetting_needs_the_key(manager: KeyManager) -> None:
    deliver(manager, delivery(target(manager)))
    assert asyncio.run(manager.call("DELETE", "standard-keys/store")).status_code == 400
    for forgotten in (True, False):
        answer = asyncio.run(manager.call("DELETE", "standard-keys/store?key_id=1"))
        assert answer.json() == {"forgotten": forgotten}
    assert held(manager) == []


def test_provider_names_may_have_slashes(manager: KeyManager) -> None:
    now = target(manager)
    key = StandardKey(provider="a/b", key_id="1", sealed_key=sealed_for(now, KEY, "a/b", "1"))
    deliver(manager, StandardKeys(instance=now.instance, keys=[key]))
    assert asyncio.run(manager.call("DELETE", "standard-keys/a%2Fb?key_id=1")).json() == {"forgotten": True}


def test_keys_are_wiped_at_the_end(manager: KeyManager) -> None:
    deliver(manager, delivery(target(manager)))
    keys = manager.host.agent.host_keys.standard
    (kept,) = keys._held.values()
    asyncio.run(manager.host.agent.close())
    assert (kept, keys._held) == (bytearray(32), {})


# ---- requests -----------------------------------------------------------------------------------------


async def stays() -> bool:
    return False


async def gone() -> bool:
    return True


def test_a_poll_waits_for_the_first_request(manager: KeyManager) -> None:
    async def run() -> KeyRequests:
        poll = asyncio.create_task(manager.poll(wait=30))
        await asyncio.sleep(0.05)
        assert not poll.done()
        asking = asyncio.create_task(manager.host.agent.host_keys.standard.create("store", USE))
        polled = await asyncio.wait_for(poll, 60)
        asking.cancel()
        return polled

    polled = asyncio.run(run())
    assert [(one.action, one.provider, one.identifier) for one in polled.requests] == [
        ("create", "store", "vm-1")
    ]
    assert polled.instance == target(manager).instance


def test_a_poll_without_requests_ends_in_time(manager: KeyManager) -> None:
    assert asyncio.run(manager.poll(wait=0)).requests == []
    assert asyncio.run(manager.poll(wait=1)).requests == []


def test_a_newer_poll_ends_an_older_one() -> None:
    async def run() -> None:
        queue = KeyQueue()
        older = asyncio.create_task(queue.offered(20, stays))
        await asyncio.sleep(0)
        newer = asyncio.create_task(queue.offered(20, stays))
        assert await asyncio.wait_for(older, 10) == []
        asking = asyncio.create_task(queue.ask("create", "store", None, USE))
        assert len(await asyncio.wait_for(newer, 10)) == 1
        asking.cancel()

    asyncio.run(run())


def test_a_connection_that_is_closed_takes_no_request_with_it() -> None:
    async def run() -> None:
        queue = KeyQueue()
        asking = asyncio.create_task(queue.ask("create", "store", None, USE))
        await asyncio.sleep(0)
        assert await queue.offered(1, gone) == []
        assert len(await queue.offered(1, stays)) == 1
        asking.cancel()

    asyncio.run(run())


def test_a_request_is_offered_again_under_its_id() -> None:
    moment = 0.0

    async def run() -> None:
        nonlocal moment
        queue = KeyQueue(monotonic=lambda: moment)
        asking = [
            asyncio.create_task(queue.ask("create", "store", None, USE)),
            asyncio.create_task(queue.ask("get", "store", "1", USE)),
        ]
        await asyncio.sleep(0)
        first = await queue.offered(0, stays)
        assert [one.action for one in first] == ["create", "get"]
        assert await queue.offered(0, stays) == []
        moment = 6.0
        assert await queue.offered(0, stays) == first
        for task in asking:
            task.cancel()

    asyncio.run(run())


def test_several_callers_ask_once(manager: KeyManager) -> None:
    manager.keys["store", "1"] = KEY

    async def run() -> list[bytes]:
        keys = manager.host.agent.host_keys.standard
        async with manager.serving():
            found = await asyncio.gather(*(keys.get("store", "1", b"", USE) for _caller in range(5)))
        return [bytes(one.key) for one in found]

    assert asyncio.run(run()) == [KEY] * 5
    assert len(manager.seen) == 1


def test_one_caller_who_gives_up_does_not_end_it_for_the_others() -> None:
    async def run() -> None:
        queue = KeyQueue()
        first = asyncio.create_task(queue.ask("get", "store", "1", USE))
        second = asyncio.create_task(queue.ask("get", "store", "1", USE))
        await asyncio.sleep(0)
        (request,) = await queue.offered(1, stays)
        first.cancel()
        await asyncio.sleep(0)
        queue.answer(KeyRequestAnswer(id=request.id, key_id="1"), lambda _provider, _key: True)
        assert await asyncio.wait_for(second, 10) == "1"

    asyncio.run(run())


ANSWERS: dict[str, tuple[dict[str, Any], bool, str]] = {
    "a reason": ({"code": "key_missing", "message": "gone"}, True, "key_missing"),
    "no key and no reason": ({}, True, "key_not_delivered"),
    "a key that did not come": ({"key_id": "1"}, False, "key_not_delivered"),
    "another key": ({"key_id": "2"}, True, "key_not_delivered"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_that_give_no_key(name: str) -> None:
    answer, held_here, code = ANSWERS[name]

    async def run() -> None:
        queue = KeyQueue()
        asking = asyncio.create_task(queue.ask("get", "store", "1", USE))
        await asyncio.sleep(0)
        (request,) = await queue.offered(1, stays)
        queue.answer(KeyRequestAnswer(id=request.id, **answer), lambda _provider, _key: held_here)
        await asking

    with pytest.raises(Refusal) as caught:
        asyncio.run(run())
    assert caught.value.code == code


def test_an_answer_to_nothing_is_not_heard(manager: KeyManager) -> None:
    answer = KeyRequestAnswer(id="unknown", code="key_missing")
    assert deliver(manager, StandardKeys(instance=target(manager).instance, answers=[answer])) == (200, "")


def test_a_key_that_comes_unasked_is_what_others_wait_for(manager: KeyManager) -> None:
    async def run() -> bytes:
        asking = asyncio.create_task(manager.host.agent.host_keys.standard.get("store", "1", b"", USE))
        await asyncio.sleep(0)
        assert (await manager.call("POST", "standard-keys", delivery(await manager.target()))).is_success
        return bytes((await asyncio.wait_for(asking, 10)).key)

    assert asyncio.run(run()) == KEY


def test_patience_ends_and_the_queue_is_empty_again() -> None:
    async def run() -> None:
        queue = KeyQueue(patience=0.05)
        with pytest.raises(Unavailable) as caught:
            await queue.ask("create", "store", None, USE)
        assert caught.value.code == "key_not_delivered"
        assert "does not ask" in caught.value.message
        queue._patience = 0.5
        asking = asyncio.create_task(queue.ask("create", "store", None, USE))
        await asyncio.sleep(0)
        await queue.offered(0, stays)
        with pytest.raises(Unavailable, match="did not answer"):
            await asking
        assert queue._waiting == {}

    asyncio.run(run())


def test_not_everybody_waits() -> None:
    async def run() -> None:
        queue = KeyQueue(patience=60)
        asking = [asyncio.create_task(queue.ask("create", "store", None, USE)) for _one in range(256)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable) as caught:
            await queue.ask("create", "store", None, USE)
        assert caught.value.code == "service_busy"
        assert len(await queue.offered(0, stays)) == 256
        for task in asking:
            task.cancel()

    asyncio.run(run())


def test_the_agent_speaks_its_suite(manager: KeyManager) -> None:
    now = target(manager)
    assert now.suite == manager.host.agent.facts.hpke_suite
    assert len(now.public_key) == len(SealingKey.generate(now.suite).public_bytes())
    assert BASE == "/agent/manage/v1"
