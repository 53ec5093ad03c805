# SPDX-License-Identifier: GPL-3.0-or-later
"""What a round of answers means for a primary key: the rules one by one, and what the status says."""

from __future__ import annotations

import pytest
from services.key_provider.harness import CHECK_VALUE, KEY_ID, PRIMARY_KEY

from trusted_infrastructure import wrapping
from trusted_infrastructure.key_provider.primary_keys import (
    HeldKey,
    Round,
    ServerAnswer,
    agreed_check_value,
    check_candidate,
    judge_round,
    judge_unasked,
)
from trusted_infrastructure.kmip.connection import KeyServer, KeyServerFailure
from trusted_infrastructure.kmip.pool import PrimaryKey
from trusted_infrastructure.kmip.session import KeyServerRefusal
from trusted_infrastructure.refusal import Refusal

NOW, MAX_AGE = 10_000.0, 3600.0
SERVER = KeyServer("kms", "kms.test", 5696)
OTHER_KEY = bytes(32)

GOOD = "gives the key"
OTHER = "gives another key"
INACTIVE = "key not active"
DEACTIVATED = "gives the key, deactivated"
COMPROMISED = "key compromised"
DESTROYED = "key destroyed"
MISSING = "no such key"
DOWN = "cannot be reached"
UNTRUSTED = "its certificate is not trusted"
SHUT_OUT = "does not know our certificate"


def answer(kind: str, name: str = "kms1") -> ServerAnswer:
    if kind == GOOD:
        return ServerAnswer(name, key=PrimaryKey(KEY_ID, name, PRIMARY_KEY))
    if kind == OTHER:
        return ServerAnswer(name, key=PrimaryKey(KEY_ID, name, OTHER_KEY))
    if kind == DEACTIVATED:
        return ServerAnswer(name, key=PrimaryKey(KEY_ID, name, PRIMARY_KEY, "DEACTIVATED"))
    refusals: dict[str, Refusal] = {
        INACTIVE: Refusal("primary_key_state", f"primary key is PRE_ACTIVE on {name}"),
        COMPROMISED: Refusal("key_compromised", f"primary key is COMPROMISED on {name}"),
        DESTROYED: KeyServerRefusal(SERVER, "OBJECT_DESTROYED", "gone"),
        MISSING: KeyServerRefusal(SERVER, "ITEM_NOT_FOUND", "no such object"),
        DOWN: KeyServerFailure(SERVER, "Connection refused"),
        UNTRUSTED: KeyServerFailure(SERVER, "self-signed", client_trust_server=False),
        SHUT_OUT: KeyServerRefusal(SERVER, "AUTHENTICATION_NOT_SUCCESSFUL", "who are you"),
    }
    return ServerAnswer(name, refusal=refusals[kind])


def judged(
    *kinds: str, held_for: float | None = None, expected: str | None = CHECK_VALUE, max_age: float = MAX_AGE
) -> Round:
    answers = [answer(kind, f"kms{number}") for number, kind in enumerate(kinds, start=1)]
    held = None
    if held_for is not None:
        held = HeldKey(PrimaryKey(KEY_ID, "kms1", PRIMARY_KEY), NOW - held_for)
    return judge_round("finance", expected, answers, held, NOW, max_age)


# What two servers say, for how long a key has been held unconfirmed, and the reason code; None: it serves.
RULES: list[tuple[tuple[str, ...], float | None, str | None]] = [
    ((GOOD, GOOD), None, None),
    ((GOOD, DOWN), None, None),
    ((DOWN, GOOD), None, None),
    ((MISSING, GOOD), None, None),
    ((OTHER, GOOD), None, None),
    ((UNTRUSTED, GOOD), None, None),
    ((SHUT_OUT, GOOD), None, None),
    # 1
    ((INACTIVE, GOOD), None, "primary_key_state"),
    ((GOOD, INACTIVE), 1, "primary_key_state"),
    ((DOWN, INACTIVE), 1, "primary_key_state"),
    ((INACTIVE, INACTIVE), 1, "primary_key_state"),
    ((COMPROMISED, GOOD), 1, "key_compromised"),
    ((GOOD, COMPROMISED), 1, "key_compromised"),
    ((DESTROYED, GOOD), 1, "key_destroyed"),
    ((GOOD, DESTROYED), 1, "key_destroyed"),
    ((INACTIVE, COMPROMISED), 1, "key_compromised"),
    ((DESTROYED, COMPROMISED), 1, "key_compromised"),
    ((INACTIVE, DESTROYED), 1, "key_destroyed"),
    ((MISSING, DESTROYED), 1, "key_destroyed"),
    ((DEACTIVATED, COMPROMISED), 1, "key_compromised"),
    # 2
    ((DEACTIVATED, DEACTIVATED), None, None),
    ((DEACTIVATED, DOWN), None, None),
    ((MISSING, DEACTIVATED), None, None),
    # 3
    ((MISSING, MISSING), 1, "key_missing"),
    ((DOWN, MISSING), 1, "key_missing"),
    ((MISSING, OTHER), 1, "key_missing"),
    ((SHUT_OUT, DOWN), 1, "primary_key_unavailable"),
    # 5
    ((OTHER, OTHER), None, "primary_key_mismatch"),
    ((OTHER, DOWN), None, "primary_key_mismatch"),
    ((OTHER, DOWN), MAX_AGE + 1, "primary_key_mismatch"),
    ((OTHER, OTHER), 1, None),
    # 6
    ((DOWN, DOWN), None, "key_server_unreachable"),
    ((DOWN, DOWN), 1, None),
    ((DOWN, DOWN), MAX_AGE, None),
    ((DOWN, DOWN), MAX_AGE + 1, "key_server_unreachable"),
    ((UNTRUSTED, UNTRUSTED), None, "key_server_unreachable"),
    ((UNTRUSTED, UNTRUSTED), 1, None),
    ((), None, "key_server_unreachable"),
]


@pytest.mark.parametrize(("kinds", "held_for", "code"), RULES)
def test_rules(kinds: tuple[str, ...], held_for: float | None, code: str | None) -> None:
    found = judged(*kinds, held_for=held_for)
    assert (found.refusal.code if found.refusal else None) == code
    if code is None:
        assert found.held is not None
        assert found.held.key.material == PRIMARY_KEY
    else:
        assert found.held is None
        assert found.health == "ERROR"


@pytest.mark.parametrize(
    ("kinds", "state"),
    [
        ((GOOD, GOOD), "ACTIVE"),
        ((GOOD, DEACTIVATED), "DEACTIVATED"),
        ((DEACTIVATED, GOOD), "DEACTIVATED"),
        ((DOWN, DEACTIVATED), "DEACTIVATED"),
        ((GOOD, OTHER), "ACTIVE"),
    ],
)
def test_one_server_that_says_deactivated_is_enough(kinds: tuple[str, ...], state: str) -> None:
    found = judged(*kinds, held_for=1)
    assert found.held is not None
    assert found.held.key.state == state


def test_a_key_with_another_check_value_says_nothing_of_the_state() -> None:
    wrong = ServerAnswer("kms2", key=PrimaryKey(KEY_ID, "kms2", OTHER_KEY, "DEACTIVATED"))
    found = judge_round("finance", CHECK_VALUE, [answer(GOOD), wrong], None, NOW, MAX_AGE)
    assert found.held is not None
    assert found.held.key.state == "ACTIVE"


def test_a_key_that_is_to_wrap_must_be_active_everywhere() -> None:
    answers = [answer(GOOD), answer(DEACTIVATED, "kms2")]
    assert agreed_check_value("finance", answers) == CHECK_VALUE
    with pytest.raises(Refusal) as refused:
        agreed_check_value("finance", answers, active=True)
    assert refused.value.code == "key_deactivated"
    assert "kms2" in refused.value.message


@pytest.mark.parametrize("known", [KEY_ID, "900"])
def test_a_key_with_the_bytes_of_an_old_one_replaces_nothing(known: str) -> None:
    """Under another id, of the key of now or of an earlier one."""
    values = {KEY_ID: CHECK_VALUE, "900": wrapping.check_value(OTHER_KEY, "900"), "899": None}
    material = PRIMARY_KEY if known == KEY_ID else OTHER_KEY
    answers = [ServerAnswer(name, key=PrimaryKey("1002", name, material)) for name in ("kms1", "kms2")]
    with pytest.raises(Refusal) as refused:
        check_candidate("finance", answers, values)
    assert (refused.value.code, refused.value.status) == ("primary_key_same", 409)
    assert known in refused.value.message
    new = [ServerAnswer("kms1", key=PrimaryKey("1002", "kms1", bytes([1] * 32)))]
    assert check_candidate("finance", new, values) == wrapping.check_value(bytes([1] * 32), "1002")
    # The key of now itself is no other key, and is not refused as one.
    assert check_candidate("finance", [answer(GOOD)], values) == CHECK_VALUE


def test_a_key_that_a_server_gives_is_confirmed_now() -> None:
    found = judged(DOWN, GOOD, held_for=100)
    assert found.held is not None
    assert found.held.confirmed == NOW


def test_a_key_that_only_memory_has_is_not() -> None:
    found = judged(DOWN, DOWN, held_for=100)
    assert found.held is not None
    assert found.held.confirmed == NOW - 100
    assert any("3500 s more" in line for line in found.details)


def test_no_cache_when_none_is_wanted() -> None:
    assert judged(DOWN, DOWN, held_for=1, max_age=0).refusal is not None


@pytest.mark.parametrize("kinds", [(GOOD, GOOD), (OTHER, OTHER), (GOOD, DOWN)])
def test_without_a_check_value_no_key_is_used(kinds: tuple[str, ...]) -> None:
    """Rule 4: taking what the first server gives would be trust on first use."""
    found = judged(*kinds, expected=None)
    assert found.held is None
    assert found.refusal is not None
    assert found.refusal.code == "primary_key_unavailable"
    assert "check value" in found.refusal.message


@pytest.mark.parametrize(
    ("kinds", "health"),
    [
        ((GOOD, GOOD), "OK"),
        ((GOOD, DOWN), "WARNING"),
        ((GOOD, MISSING), "WARNING"),
        ((GOOD, OTHER), "ERROR"),
        ((DOWN, DOWN), "ERROR"),
    ],
)
def test_health(kinds: tuple[str, ...], health: str) -> None:
    found = judged(*kinds)
    assert found.health == health
    assert [server.name for server in found.servers] == ["kms1", "kms2"]
    if health != "OK":
        assert found.details


@pytest.mark.parametrize(
    ("kind", "client_trust_server", "server_trust_client", "health"),
    [
        (GOOD, True, True, "OK"),
        (OTHER, True, True, "ERROR"),
        (INACTIVE, True, True, "ERROR"),
        (MISSING, True, True, "ERROR"),
        (SHUT_OUT, True, False, "ERROR"),
        (UNTRUSTED, False, False, "ERROR"),
        (DOWN, False, False, "ERROR"),
    ],
)
def test_who_trusts_whom(
    kind: str, client_trust_server: bool, server_trust_client: bool, health: str
) -> None:
    (server,) = judged(kind).servers
    assert (server.client_trust_server, server.server_trust_client, server.health) == (
        client_trust_server,
        server_trust_client,
        health,
    )


def test_another_key_is_an_alarm_on_each_server() -> None:
    assert [alarm.code for alarm in judged(OTHER, GOOD, OTHER).alarms] == ["primary_key_mismatch"] * 2
    assert judged(GOOD, DOWN).alarms == []


def test_a_fault_of_our_own_configuration_is_rule_6() -> None:
    problem = Refusal("sealed_value_invalid", "not sealed for this host")
    held = HeldKey(PrimaryKey(KEY_ID, "kms1", PRIMARY_KEY), NOW - 10)
    with_key = judge_unasked(problem, ["kms1"], held, NOW, MAX_AGE)
    assert (with_key.held, with_key.refusal, with_key.health) == (held, None, "ERROR")
    for without in (None, HeldKey(held.key, NOW - MAX_AGE - 1)):
        found = judge_unasked(problem, ["kms1"], without, NOW, MAX_AGE)
        assert (found.held, found.refusal) == (None, problem)
    assert found.servers[0].client_trust_server is False


def test_the_first_check_value_needs_every_server() -> None:
    assert agreed_check_value("finance", [answer(GOOD), answer(GOOD, "kms2")]) == CHECK_VALUE
    for kinds, code in [
        ((GOOD, DOWN), "key_server_unreachable"),
        ((GOOD, INACTIVE), "primary_key_state"),
        ((MISSING, GOOD), "key_missing"),
        ((GOOD, OTHER), "primary_key_mismatch"),
        ((), "primary_key_unavailable"),
    ]:
        if not kinds:
            with pytest.raises(Refusal) as refused:
                agreed_check_value("finance", [])
        else:
            with pytest.raises(Refusal) as refused:
                agreed_check_value("finance", [answer(kind) for kind in kinds])
        assert refused.value.code == code


def test_nothing_shows_the_key() -> None:
    shown = repr(judged(GOOD, OTHER)) + repr(judged(DOWN, held_for=1)) + repr(answer(GOOD))
    for key in (PRIMARY_KEY, OTHER_KEY):
        assert key.hex() not in shown
        assert repr(key) not in shown
