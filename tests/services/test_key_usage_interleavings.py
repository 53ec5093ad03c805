# SPDX-License-Identifier: GPL-3.0-or-later
"""What the manager is told that hosts keep is never less than they keep, whatever overtakes what.

A primary key is given up when nothing is left under it. Here the host's real registry and reports, the real
counts of several Key Provider Services and the manager's sum of them meet over a network and a disk of which
the test decides what goes on next: requests arrive late, after the host has given them up, or in another
order; answers are lost; services hear of a rotation one after the other; callers go away; the agent is killed
and starts again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import tempfile
import types
import uuid
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trusted_infrastructure import messages, wrapping
from trusted_infrastructure.config.documents import NetworkAddress
from trusted_infrastructure.host import key_registry, object_keys
from trusted_infrastructure.host.key_encryption_keys import KeyEncryptionKey, ObjectOfKey
from trusted_infrastructure.host.key_registry import KeyRegistry
from trusted_infrastructure.host.keys import Keys
from trusted_infrastructure.host.object_keys import ObjectKeys
from trusted_infrastructure.host.registered_services import Service
from trusted_infrastructure.host.trusted_keys import TrustedKeys
from trusted_infrastructure.key_provider.usage import Holder, Usage
from trusted_infrastructure.manager.primary_key_usage import UsageAnswer, holders
from trusted_infrastructure.messages import KeyUsageReport, PrimaryKeyIds
from trusted_infrastructure.refusal import Refusal, Unavailable

PROVIDER, HOST = "finance", Holder("lab", "host1")
SERVICES = ("ta1", "ta2", "ta3")
PRIMARY_KEYS = ("K1", "K2", "K3")
KEY = bytes(32)
# Callbacks of one step that follow each other in the event loop, at most.
SPINS = 30
AT: ContextVar[str] = ContextVar("at")
Answer = TypeVar("Answer")


class World:
    """Services, their network and the host's disk. waiting: what goes on when the test lets it. unanswered:
    what the host still waits for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.usages = {name: Usage(folder / f"{name}.db", lambda: 1000.0) for name in SERVICES}
        for usage in self.usages.values():
            usage._database.execute("PRAGMA synchronous = OFF")
        self.current = dict.fromkeys(SERVICES, 0)
        self.waiting: list[asyncio.Future[None]] = []
        self.unanswered: list[asyncio.Future[Any]] = []
        self.seen: list[bytes] = []
        self.faults: list[BaseException] = []
        self._ids = itertools.count(1)
        self._serving: set[asyncio.Task[None]] = set()
        self.host = Agent(self)

    def uuid4(self) -> uuid.UUID:
        """The same ids with each run."""
        return uuid.UUID(int=next(self._ids), version=4)

    async def step(self) -> None:
        """Until the test lets it go on."""
        future = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        await future

    async def ask(self, work: Callable[[], Answer]) -> Answer:
        """A request; the service does it whether the host still waits or not."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.unanswered.append(answer)

        async def serve() -> None:
            await self.step()
            result = work()
            await self.step()
            if not answer.done():
                answer.set_result(result)

        task = asyncio.create_task(serve())
        self._serving.add(task)
        try:
            return await answer
        finally:
            self.unanswered.remove(answer)

    def kept(self, name: str, key_id: str) -> None:
        self.usages[name].kept(HOST, PROVIDER, key_id)

    def shown(self, key_id: str) -> int:
        """What the manager says."""
        known = [msgspec.to_builtins(usage.of(PROVIDER)) for usage in self.usages.values()]
        answers = [msgspec.convert({"usage": usage}, UsageAnswer) for usage in known]
        return sum(host.keys for host in holders(answers, key_id))

    def close(self) -> None:
        for task in self._serving:
            task.cancel()
        self.host.kill()
        for usage in self.usages.values():
            usage.close()


class TrustedKeysOfTheWorld(TrustedKeys):
    """What a service does for a host, without token and sealing."""

    def __init__(self, world: World, keys: Keys, registry: KeyRegistry) -> None:
        super().__init__(keys, registry.settled)
        self._world = world

    def _wrap(self, at: str, kek_id: str) -> KeyEncryptionKey:
        primary = PRIMARY_KEYS[self._world.current[at]]
        self._world.kept(at, primary)
        header = wrapping.WrappedKeyHeader(PROVIDER, primary, kek_id, "vm-1", "lab", os.urandom(32))
        return KeyEncryptionKey(kek_id, wrapping.wrap(KEY, header, KEY), bytearray(KEY))

    async def create(self, provider: str, use: ObjectOfKey) -> KeyEncryptionKey:
        at = AT.get()
        return await self._world.ask(lambda: self._wrap(at, str(self._world.uuid4())))

    async def get(self, provider: str, kek_id: str, reference: bytes, use: ObjectOfKey) -> KeyEncryptionKey:
        at = AT.get()

        def work() -> KeyEncryptionKey:
            if use.arrives:
                primary = wrapping.parse(reference).header.primary_key_id
                if PRIMARY_KEYS.index(primary) < self._world.current[at]:
                    raise Refusal("primary_key_previous", "it may be given up at any time")
                self._world.kept(at, primary)
            return KeyEncryptionKey(kek_id, reference, bytearray(KEY))

        return await self._refused_or(work)

    async def rewrap(
        self, provider: str, kek_id: str, reference: bytes, use: ObjectOfKey
    ) -> KeyEncryptionKey:
        at = AT.get()

        def work() -> KeyEncryptionKey:
            under = PRIMARY_KEYS.index(wrapping.parse(reference).header.primary_key_id)
            if under > self._world.current[at]:
                raise Unavailable("primary_key_unavailable", "it has not heard of the rotation")
            if under == self._world.current[at]:
                return KeyEncryptionKey(kek_id, reference, bytearray(KEY))
            return self._wrap(at, kek_id)

        return await self._refused_or(work)

    async def _refused_or(self, work: Callable[[], KeyEncryptionKey]) -> KeyEncryptionKey:
        def answered() -> KeyEncryptionKey | Refusal:
            try:
                return work()
            except Refusal as refusal:
                return refusal

        answer = await self._world.ask(answered)
        if isinstance(answer, Refusal):
            raise answer
        return answer


class Client:
    """Reports on their way to the services."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def post(self, service: Service, _path: str, body: bytes, _kind: Any, _headers: Any) -> Any:
        report, usage = messages.decode(body, KeyUsageReport), self._world.usages[service.id]

        def work() -> PrimaryKeyIds:
            known = usage.report(HOST, PROVIDER, report.keys, messages.number(report.known))
            return PrimaryKeyIds(primary_key_id="", previous=[], compromised=[], known=known or msgspec.UNSET)

        return await self._world.ask(work)


class KeysOfTheWorld(Keys):
    """The real reports."""

    def _authorization(self, *_what: Any) -> tuple[dict[str, str], str]:
        return {}, ""


class Agent:
    """One life of the host's agent, over the files of the one before."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.dead = False
        self.tasks: dict[asyncio.Task[Any], None] = {}
        attested: Any = types.SimpleNamespace(
            key_provider_services=lambda _provider: [
                Service(name, NetworkAddress(name, 443), "group-1") for name in SERVICES
            ],
            session=lambda _group: None,
        )
        client: Any = Client(world)
        sets: Any = None
        self.registry = KeyRegistry(world.folder / "keys")
        keys = KeysOfTheWorld(attested, client, sets, lambda: 1000.0)
        self.trusted = TrustedKeysOfTheWorld(world, keys, self.registry)
        known: Any = types.SimpleNamespace(type_of=lambda _name: "TRUSTED")
        self.objects = ObjectKeys(self.registry, {"TRUSTED": self.trusted}, lambda: known, lambda: 1000.0)

    def begin(self, work: Coroutine[Any, Any, Any], at: str = "") -> asyncio.Task[Any]:
        AT.set(at)

        async def run() -> None:
            with contextlib.suppress(Refusal):
                await work

        task = asyncio.create_task(run())
        self.tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        del self.tasks[task]
        if not task.cancelled() and (fault := task.exception()) is not None:
            self.world.faults.append(fault)

    async def generate(self) -> None:
        made = await self.objects.generate(ObjectOfKey("vm-1"), PROVIDER)
        self.world.seen.append(made.wrapped_key)

    def kill(self) -> None:
        self.dead = True
        for task in self.tasks:
            task.cancel()


def begin_something(world: World, number: int) -> None:
    """Something that a caller, the manager or an accident does. What is common is there more than once."""
    host, at = world.host, SERVICES[number % len(SERVICES)]
    ids = [kept.record.key_id for kept in host.objects.list()]
    one = ids[number % len(ids)] if ids else ""
    things: list[Callable[[], object]] = [lambda: host.begin(host.generate(), at)] * 3
    things += [lambda: host.begin(host.trusted.report(PROVIDER))] * 4
    if ids:
        things += [lambda: host.begin(host.objects.rewrap(one), at)] * 3
        things += [lambda: host.begin(host.objects.forget(one))] * 2
    if world.seen:
        wrapped = world.seen[number % len(world.seen)]
        things += [lambda: host.begin(host.objects.get_wrapped(wrapped), at)] * 2
    if world.current[at] + 1 < len(PRIMARY_KEYS):
        things.append(lambda: world.current.update({at: world.current[at] + 1}))
    if host.tasks:
        things.append(list(host.tasks)[number % len(host.tasks)].cancel)
    if world.unanswered:
        lost = Unavailable("peer_unreachable", "no answer in time")
        things.append(lambda: world.unanswered[number % len(world.unanswered)].set_exception(lost))

    def restart() -> None:
        host.kill()
        world.host = Agent(world)

    things.append(restart)
    things[number // 7 % len(things)]()


async def go_on(world: World, number: int) -> None:
    """One step further, and as far as it goes without the next."""
    going = world.waiting.pop(number % len(world.waiting))
    if not going.done():
        going.set_result(None)
    await spin()


async def spin() -> None:
    for _spin in range(SPINS):
        await asyncio.sleep(0)


def check(world: World) -> None:
    assert world.faults == []
    for key_id, count in world.host.registry.counts(PROVIDER).items():
        assert world.shown(key_id) >= count, key_id


async def play(folder: Path, numbers: list[int]) -> None:
    world = World(folder)

    async def to_thread(work: Callable[..., Answer], *given: Any) -> Answer:
        agent = world.host
        await world.step()
        if agent.dead:
            raise asyncio.CancelledError
        return work(*given)

    with pytest.MonkeyPatch.context() as patch:
        shim = types.SimpleNamespace(Event=asyncio.Event, shield=asyncio.shield, to_thread=to_thread)
        patch.setattr(key_registry, "asyncio", shim)
        patch.setattr(key_registry, "write_state", write)
        patch.setattr(object_keys, "uuid", world)
        try:
            for number in numbers:
                if number % 3 and world.waiting:
                    await go_on(world, number // 3)
                else:
                    begin_something(world, number // 3)
                    await spin()
                check(world)
            await settle(world)
        finally:
            world.close()
            await spin()


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(0o600)


async def settle(world: World) -> None:
    """When all has arrived and the host has reported, it is exactly what is there, with every service."""

    async def until_idle(awaited: Callable[[], bool]) -> None:
        while world.waiting and not awaited():
            await go_on(world, 0)
            check(world)

    await until_idle(lambda: False)
    for _report in range(2):
        told = world.host.begin(world.host.trusted.report(PROVIDER))
        await spin()
        await until_idle(told.done)
        assert told.done()
    await until_idle(lambda: False)
    there = world.host.registry.counts(PROVIDER)
    for usage in world.usages.values():
        (known,) = usage.of(PROVIDER)
        assert (known.keys, known.marks) == (there, {})
    assert {key_id: world.shown(key_id) for key_id in PRIMARY_KEYS} == {
        key_id: there.get(key_id, 0) for key_id in PRIMARY_KEYS
    }


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2**20), min_size=60, max_size=120))
def test_never_fewer_are_shown_than_there_are(numbers: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder), numbers))
