# SPDX-License-Identifier: GPL-3.0-or-later
"""The keys in memory: when servers are asked, and what a change of the configuration does."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
from services.key_provider.harness import CHECK_VALUE, KEY_ID, PRIMARY_KEY, FakeKeyServer

from trusted_infrastructure.key_provider.key_servers import ProviderConfiguration, open_pools
from trusted_infrastructure.key_provider.providers import FRESH, RETRY_AFTER, PrimaryKeys
from trusted_infrastructure.kmip.connection import KeyServer, KeyServerFailure
from trusted_infrastructure.refusal import Refusal

SERVERS = (KeyServer("kms1", "kms1.test", 5696), KeyServer("kms2", "kms2.test", 5696))
CONFIGURATION = ProviderConfiguration("finance", KEY_ID, CHECK_VALUE, SERVERS, None, ("x",))
MAX_AGE = 1000.0
DOWN = KeyServerFailure(SERVERS[0], "Connection refused")


class Setup:
    """PrimaryKeys over two fake servers, with a clock of its own."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.servers = [FakeKeyServer("kms1"), FakeKeyServer("kms2")]
        self.opened: list[ProviderConfiguration] = []
        self.alarms: list[tuple[str, str]] = []
        self.keys = PrimaryKeys(
            lambda provider, refusal: self.alarms.append((provider, refusal.code)),
            lambda: self.now,
            self._open,
        )
        self.keys.configure({"finance": CONFIGURATION})

    def _open(self, configuration: ProviderConfiguration) -> list[FakeKeyServer]:
        self.opened.append(configuration)
        return self.servers

    def asked(self) -> int:
        return sum(server.asked for server in self.servers)

    def refusal(self) -> Refusal:
        with pytest.raises(Refusal) as refused:
            self.keys.obtain("finance", KEY_ID, MAX_AGE)
        return refused.value


@pytest.fixture
def setup() -> Setup:
    return Setup()


def test_a_key_in_memory_asks_nobody(setup: Setup) -> None:
    assert setup.keys.current("finance", KEY_ID, MAX_AGE) is None
    for _index in range(3):
        assert setup.keys.obtain("finance", KEY_ID, MAX_AGE).material == PRIMARY_KEY
    assert setup.asked() == 2


def test_unknown_provider(setup: Setup) -> None:
    with pytest.raises(Refusal) as refused:
        setup.keys.obtain("hr", KEY_ID, MAX_AGE)
    assert (refused.value.code, refused.value.status) == ("provider_unknown", 404)
    assert setup.keys.current("hr", KEY_ID, MAX_AGE) is None
    assert setup.keys.check("hr", KEY_ID, MAX_AGE) is None


def test_one_server_down_changes_nothing(setup: Setup) -> None:
    setup.servers[0].refusal = DOWN
    assert setup.keys.obtain("finance", KEY_ID, MAX_AGE).server == "kms2"


def test_all_servers_down_serves_until_the_key_is_too_old(setup: Setup) -> None:
    setup.keys.obtain("finance", KEY_ID, MAX_AGE)
    for server in setup.servers:
        server.refusal = DOWN
    setup.now += MAX_AGE
    setup.keys.check("finance", KEY_ID, MAX_AGE)
    assert setup.keys.obtain("finance", KEY_ID, MAX_AGE).material == PRIMARY_KEY
    setup.now += 1
    assert setup.keys.current("finance", KEY_ID, MAX_AGE) is None
    assert setup.refusal().code == "key_server_unreachable"


def test_without_a_cache_a_key_serves_until_servers_do_not_answer(setup: Setup) -> None:
    assert setup.keys.obtain("finance", KEY_ID, 0).material == PRIMARY_KEY
    assert setup.keys.obtain("finance", KEY_ID, 0).material == PRIMARY_KEY
    setup.now += 60
    assert setup.keys.current("finance", KEY_ID, 0) is not None
    for server in setup.servers:
        server.refusal = DOWN
    setup.keys.check("finance", KEY_ID, 0)
    assert setup.keys.current("finance", KEY_ID, 0) is None


def test_a_key_that_nobody_looked_at_is_not_used(setup: Setup) -> None:
    """The background task died or hangs: a request looks itself."""
    setup.keys.obtain("finance", KEY_ID, 0)
    setup.now += FRESH + 1
    setup.servers[0].refusal = Refusal("primary_key_state", "DEACTIVATED")
    with pytest.raises(Refusal):
        setup.keys.obtain("finance", KEY_ID, 0)


def test_a_deactivated_key_stops_at_the_next_look(setup: Setup) -> None:
    setup.keys.obtain("finance", KEY_ID, MAX_AGE)
    setup.servers[1].refusal = Refusal("primary_key_state", "DEACTIVATED")
    setup.keys.check("finance", KEY_ID, MAX_AGE)
    assert setup.keys.current("finance", KEY_ID, MAX_AGE) is None
    assert setup.refusal().code == "primary_key_state"


def test_a_failing_provider_is_not_asked_for_every_request(setup: Setup) -> None:
    for server in setup.servers:
        server.refusal = DOWN
    for _index in range(5):
        assert setup.refusal().code == "key_server_unreachable"
    assert setup.asked() == 2
    setup.now += RETRY_AFTER + 1
    setup.servers[0].refusal = None
    assert setup.keys.obtain("finance", KEY_ID, MAX_AGE).material == PRIMARY_KEY


def test_another_key_is_an_alarm_once(setup: Setup) -> None:
    setup.keys.obtain("finance", KEY_ID, MAX_AGE)
    setup.servers[0].material = bytes(32)
    for _index in range(3):
        setup.keys.check("finance", KEY_ID, MAX_AGE)
    assert setup.alarms == [("finance", "primary_key_mismatch")]
    assert setup.keys.obtain("finance", KEY_ID, MAX_AGE).material == PRIMARY_KEY
    setup.servers[0].material = PRIMARY_KEY
    setup.keys.check("finance", KEY_ID, MAX_AGE)
    setup.servers[0].material = bytes(32)
    setup.keys.check("finance", KEY_ID, MAX_AGE)
    assert len(setup.alarms) == 2


def test_another_key_everywhere_and_none_in_memory(setup: Setup) -> None:
    for server in setup.servers:
        server.material = bytes(32)
    assert setup.refusal().code == "primary_key_mismatch"
    assert len(setup.alarms) == 2


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"trusted_certificates": ("y",)}, True),
        ({"servers": SERVERS[:1]}, True),
        ({"primary_key_id": "7"}, False),
        ({"check_value": "0" * 64}, False),
        ({"check_value": None}, False),
    ],
)
def test_a_change_asks_anew_and_keeps_the_key_that_is_meant(
    setup: Setup, changes: dict[str, Any], kept: bool
) -> None:
    setup.keys.obtain("finance", KEY_ID, MAX_AGE)
    changed = setup.keys.configure({"finance": replace(CONFIGURATION, **changes)})
    assert changed == ["finance"]
    assert all(server.closed for server in setup.servers)
    assert (setup.keys.current("finance", KEY_ID, MAX_AGE) is not None) is kept
    setup.keys.check("finance", changes.get("primary_key_id", KEY_ID), MAX_AGE)
    assert len(setup.opened) == 2


def test_no_change_asks_nobody(setup: Setup) -> None:
    assert setup.keys.configure({"finance": replace(CONFIGURATION)}) == []


def test_a_removed_provider_is_forgotten(setup: Setup) -> None:
    setup.keys.obtain("finance", KEY_ID, MAX_AGE)
    setup.keys.configure({})
    assert setup.keys.current("finance", KEY_ID, MAX_AGE) is None
    assert all(server.closed for server in setup.servers)
    assert setup.keys.health() == {}


def test_secrets_that_cannot_be_opened(setup: Setup) -> None:
    problem = Refusal("sealed_value_invalid", "not sealed for host ta1")
    setup.keys.configure({"finance": replace(CONFIGURATION, problem=problem)})
    assert setup.refusal() is problem
    assert setup.asked() == 0
    last = setup.keys.health()["finance"][KEY_ID]
    assert last is not None
    assert last.health == "ERROR"
    assert [server.name for server in last.servers] == ["kms1", "kms2"]


def test_no_client_certificate() -> None:
    with pytest.raises(Refusal) as refused:
        open_pools(CONFIGURATION)
    assert refused.value.code == "primary_key_unavailable"
    assert "no client certificate" in refused.value.message


def test_the_first_check_value(setup: Setup) -> None:
    setup.keys.configure({"finance": replace(CONFIGURATION, check_value=None)})
    assert setup.refusal().code == "primary_key_unavailable"
    assert setup.keys.first_check_value("finance") == CHECK_VALUE
    setup.servers[1].material = bytes(32)
    with pytest.raises(Refusal) as refused:
        setup.keys.first_check_value("finance")
    assert refused.value.code == "primary_key_mismatch"


def test_requests_at_once_ask_once(setup: Setup) -> None:
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(setup.keys.obtain("finance", KEY_ID, MAX_AGE).material))
        for _index in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [PRIMARY_KEY] * 10
    assert setup.asked() == 2
