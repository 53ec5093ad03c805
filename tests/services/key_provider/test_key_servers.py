# SPDX-License-Identifier: GPL-3.0-or-later
"""Key servers that hang: who waits for them, and for how long. Threads are real, and so are the seconds."""

from __future__ import annotations

import asyncio
import datetime
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from services.key_provider.harness import (
    CHECK_VALUE,
    KEY_ID,
    PREVIOUS_ID,
    PREVIOUS_KEY,
    PRIMARY_KEY,
)

from trusted_infrastructure import wrapping
from trusted_infrastructure.key_provider import key_servers
from trusted_infrastructure.key_provider.key_servers import (
    SETTLE,
    KeyServers,
    ProviderConfiguration,
    WantedKey,
)
from trusted_infrastructure.key_provider.obtaining import Obtaining
from trusted_infrastructure.key_provider.primary_keys import ServerAnswer
from trusted_infrastructure.key_provider.providers import PrimaryKeys
from trusted_infrastructure.kmip.connection import KeyServer
from trusted_infrastructure.kmip.pool import PrimaryKey
from trusted_infrastructure.refusal import Refusal

MAX_AGE = 1000.0
# A test that takes this long waited for a server that hangs.
HANGS = 60.0
SOON = HANGS / 4
PREVIOUS_CHECK = wrapping.check_value(PREVIOUS_KEY, PREVIOUS_ID)


@dataclass
class SlowServer:
    """A key server that answers when it is let, or after HANGS seconds. hanging: ids of such keys."""

    name: str
    hanging: set[str] = field(default_factory=set)
    state: str = "ACTIVE"
    asked: int = 0
    closed: bool = False
    certificate_end: datetime.datetime | None = None
    free: threading.Event = field(default_factory=threading.Event)

    @property
    def server(self) -> KeyServer:
        return KeyServer(self.name, "127.0.0.1", 5696, timeout=HANGS)

    def primary_key(self, key_id: str) -> PrimaryKey:
        self.asked += 1
        if key_id in self.hanging:
            self.free.wait(HANGS)
        material = PREVIOUS_KEY if key_id == PREVIOUS_ID else PRIMARY_KEY
        return PrimaryKey(key_id, self.name, material, self.state)

    def close(self) -> None:
        self.closed = True


class Setup:
    """Two servers, of which the first hangs for the key of now; a previous key."""

    def __init__(self) -> None:
        self.servers = [SlowServer("kms1", {KEY_ID}), SlowServer("kms2")]
        self.keys = PrimaryKeys(lambda _provider, _refusal: None, time.monotonic, lambda _given: self.servers)
        self.configuration = ProviderConfiguration(
            "finance",
            KEY_ID,
            CHECK_VALUE,
            tuple(server.server for server in self.servers),
            None,
            ("x",),
            previous=(WantedKey(PREVIOUS_ID, PREVIOUS_CHECK),),
        )
        self.keys.configure({"finance": self.configuration})

    def free(self) -> None:
        for server in self.servers:
            server.hanging.clear()
            server.free.set()


@pytest.fixture
def setup() -> Iterator[Setup]:
    made = Setup()
    yield made
    made.free()
    made.keys.close()


def until(condition: Callable[[], bool]) -> None:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < SOON
        time.sleep(0.001)


@pytest.fixture(autouse=True)
def nobody_waits() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < HANGS / 2


def test_the_next_server_serves_while_one_hangs(setup: Setup) -> None:
    started = time.monotonic()
    assert setup.keys.obtain("finance", KEY_ID, MAX_AGE).server == "kms2"
    assert time.monotonic() - started < SOON
    last = setup.keys.health()["finance"][KEY_ID]
    assert last is not None
    assert [server.health for server in last.servers] == ["ERROR", "OK"]
    assert "no answer in time" in last.servers[0].details[0]


def test_other_servers_may_object_for_a_moment(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that answers a little later that the key is deactivated is heard."""
    monkeypatch.setattr(key_servers, "SETTLE", SOON)
    setup.servers[0].state = "DEACTIVATED"
    threading.Timer(SETTLE / 3, setup.free).start()
    assert setup.keys.obtain("finance", KEY_ID, MAX_AGE).state == "DEACTIVATED"


def test_a_look_in_the_background_holds_up_no_request(setup: Setup) -> None:
    """For the key that it looks at, and for any other; in memory or not."""
    look = threading.Thread(target=setup.keys.check, args=("finance", KEY_ID, MAX_AGE), daemon=True)
    look.start()
    started = time.monotonic()
    assert setup.keys.obtain("finance", PREVIOUS_ID, MAX_AGE).material == PREVIOUS_KEY
    assert time.monotonic() - started < SETTLE
    assert setup.keys.obtain("finance", KEY_ID, MAX_AGE).material == PRIMARY_KEY
    assert time.monotonic() - started < SOON
    for _request in range(100):
        setup.keys.obtain("finance", KEY_ID, MAX_AGE)
    assert time.monotonic() - started < SOON
    assert look.is_alive()
    # What the slow one says in the end counts.
    setup.servers[0].state = "DEACTIVATED"
    setup.free()
    look.join(5)
    assert setup.keys.obtain("finance", KEY_ID, MAX_AGE).state == "DEACTIVATED"


def test_a_server_that_hangs_is_asked_once(setup: Setup) -> None:
    """However often a key is looked at: threads do not pile up."""
    threads = threading.active_count()
    for _time in range(3):
        setup.keys.obtain("finance", KEY_ID, 0)
        setup.keys.configure({"finance": setup.configuration})
        provider = setup.keys._providers["finance"]
        with provider.key(KEY_ID).checking:
            setup.keys._ask(provider, provider.key(KEY_ID), MAX_AGE)
    assert setup.servers[0].asked == 1
    assert setup.servers[1].asked > 1
    assert threading.active_count() <= threads + 1


def test_closing_answers_who_waits(setup: Setup) -> None:
    """As when the provider is changed, or the service ends."""
    setup.servers[1].hanging.add(KEY_ID)
    found: list[str] = []

    def wait() -> None:
        try:
            setup.keys.obtain("finance", KEY_ID, MAX_AGE)
        except Refusal as refusal:
            found.append(refusal.code)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    until(lambda: all(server.asked for server in setup.servers))
    setup.keys.close()
    waiting.join(5)
    assert found == ["provider_unknown"]
    assert all(server.closed for server in setup.servers)


def test_a_change_while_somebody_waits_is_asked_anew(setup: Setup) -> None:
    """The request is not lost: it gets the key by the new configuration."""
    setup.servers[1].hanging.add(KEY_ID)
    found: list[bytes] = []
    waiting = threading.Thread(
        target=lambda: found.append(setup.keys.obtain("finance", KEY_ID, MAX_AGE).material), daemon=True
    )
    waiting.start()
    until(lambda: all(server.asked for server in setup.servers))
    for server in setup.servers:
        server.hanging.clear()  # who asks from now on is answered
    changed = ProviderConfiguration(
        "finance", KEY_ID, CHECK_VALUE, setup.configuration.servers[1:], None, ("y",)
    )
    setup.keys.configure({"finance": changed})
    waiting.join(5)
    assert found == [PRIMARY_KEY]


def test_a_fault_of_ours_is_an_answer_and_not_a_hang() -> None:
    class Broken(SlowServer):
        def primary_key(self, key_id: str) -> PrimaryKey:
            raise ZeroDivisionError(PRIMARY_KEY.hex())

    (answer,) = KeyServers([Broken("kms1")]).ask(KEY_ID).answers()
    assert isinstance(answer, ServerAnswer) and answer.refusal is not None
    assert answer.refusal.code == "key_server_unreachable"
    assert PRIMARY_KEY.hex() not in answer.refusal.message


# ---- many requests at once ---------------------------------------------------------------------------------


def test_many_requests_for_a_missing_key_wait_together(setup: Setup) -> None:
    """One thread waits for all of them, and a host that goes away ends nothing."""

    async def ask() -> tuple[list[PrimaryKey], int]:
        obtaining = Obtaining(setup.keys)
        requests = [
            asyncio.create_task(obtaining._key("finance", KEY_ID, MAX_AGE)) for _request in range(200)
        ]
        await asyncio.sleep(0.1)
        threads = len(obtaining._threads._threads)
        requests[0].cancel()
        return await asyncio.gather(*requests[1:]), threads

    found, threads = asyncio.run(ask())
    assert {key.material for key in found} == {PRIMARY_KEY}
    assert threads == 1
    assert setup.servers[1].asked == 1


def test_a_missing_key_of_one_provider_holds_up_no_other(setup: Setup) -> None:
    setup.servers[1].hanging.add(KEY_ID)
    other = PrimaryKeys(lambda _provider, _refusal: None, time.monotonic, lambda _given: [SlowServer("kms3")])
    other.configure({"finance": setup.configuration})

    async def ask() -> float:
        obtaining = Obtaining(setup.keys)
        hanging = [asyncio.create_task(obtaining._key("finance", KEY_ID, MAX_AGE)) for _request in range(50)]
        await asyncio.sleep(0.1)
        started = time.monotonic()
        await obtaining._key("finance", PREVIOUS_ID, MAX_AGE)
        took = time.monotonic() - started
        setup.free()
        await asyncio.gather(*hanging)
        return took

    assert asyncio.run(ask()) < SOON
    assert other.obtain("finance", KEY_ID, MAX_AGE).server == "kms3"
    other.close()
