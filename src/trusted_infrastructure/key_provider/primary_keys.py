# SPDX-License-Identifier: GPL-3.0-or-later
"""What a round of answers from a provider's key servers means for one of its primary keys. Pure.

All servers of a provider are asked in each round; they replicate keys, so they must agree. Rules, in order
(docs/protocol.md 7.4):

1. One server says that the key must not be used (compromised, destroyed, not active yet): nobody uses it,
   whatever the others say, and the copy in memory goes. What was revoked on one server may be under way to
   the others.
2. A server gives a key whose check value is the provider's: that is the primary key. Where one of those that
   give it says that it is deactivated, it is: it opens, and wraps nothing.
3. A server answered, over a verified connection, that it has no such key, or not for us, and no server gave
   the key: the copy in memory goes.
4. No check value is set on the provider: nothing says which key is the right one, so none is used.
5. A server gives another key under the same id: it is not used, and an alarm is raised.
6. No server can be reached, or only ones with another key: the copy in memory, which was the right one,
   serves until it was not confirmed for `key_cache_max_age` seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from trusted_infrastructure import wrapping
from trusted_infrastructure.kmip.connection import KeyServerFailure
from trusted_infrastructure.kmip.pool import ACTIVE, DEACTIVATED, PrimaryKey, require_active
from trusted_infrastructure.kmip.session import KeyServerRefusal
from trusted_infrastructure.refusal import Refusal, Unavailable

Health = Literal["NONE", "OK", "WARNING", "ERROR"]
# Rule 1, the gravest first.
NOT_TO_BE_USED = ("key_compromised", "key_destroyed", "primary_key_state")


@dataclass(frozen=True)
class ServerAnswer:
    """What one key server said: a key, or why not. Exactly one of the two is set."""

    server: str
    key: PrimaryKey | None = None
    refusal: Refusal | None = None

    @property
    def check_value(self) -> str | None:
        """Check value of the key that came."""
        return None if self.key is None else wrapping.check_value(self.key.material, self.key.key_id)


@dataclass(frozen=True)
class HeldKey:
    """The primary key in memory. confirmed: when a server last gave it (seconds of a steady clock)."""

    key: PrimaryKey
    confirmed: float


@dataclass(frozen=True)
class ServerHealth:
    """One key server, as the status shows it. client_trust_server: this side trusts its certificate.

    state: of the key there, where it gave the key (ACTIVE, DEACTIVATED); code: why it did not."""

    name: str
    health: Health
    details: list[str] = field(default_factory=list)
    client_trust_server: bool = False
    server_trust_client: bool = False
    state: str = ""
    code: str = ""


@dataclass(frozen=True)
class Round:
    """What came of a round. held: the key to use and keep, or None; refusal: why there is none.

    alarms: refusals `primary_key_mismatch` that must be audited.
    """

    held: HeldKey | None
    refusal: Refusal | None
    health: Health
    details: list[str]
    servers: list[ServerHealth]
    alarms: list[Refusal]


def judge_round(
    provider: str,
    expected: str | None,
    answers: Sequence[ServerAnswer],
    held: HeldKey | None,
    now: float,
    max_age: float,
) -> Round:
    """Apply the rules of this module. expected: the provider's check value. held: of the same key id."""
    alarms = [
        _mismatch(provider, answer)
        for answer in answers
        if expected is not None and answer.key is not None and answer.check_value != expected
    ]
    kept, refusal = _choose(provider, expected, answers, alarms, held, now, max_age)
    servers = [server_health(answer, expected) for answer in answers]
    details = [] if refusal is None else [str(refusal)]
    if kept is not None and kept is held:
        details.append(_serves_for(kept, now, max_age))
    health: Health = "OK"
    if refusal is not None or alarms:
        health = "ERROR"
    elif any(server.health != "OK" for server in servers) or details:
        health = "WARNING"
    details += [f"{server.name}: {line}" for server in servers for line in server.details]
    return Round(kept, refusal, health, details, servers, alarms)


def judge_unasked(
    problem: Refusal, servers: Sequence[str], held: HeldKey | None, now: float, max_age: float
) -> Round:
    """The round in which no server could be asked, because of this side's own configuration: rule 6."""
    kept = held if held is not None and now - held.confirmed <= max_age else None
    details = [str(problem)] + ([] if kept is None else [_serves_for(kept, now, max_age)])
    unasked = [
        ServerHealth(name, "ERROR", ["not asked: " + problem.message], code=problem.code) for name in servers
    ]
    return Round(kept, None if kept else problem, "ERROR", details, unasked, [])


def agreed_check_value(provider: str, answers: Sequence[ServerAnswer], active: bool = False) -> str:
    """The check value that every configured server leads to: the first setting. Raises Refusal.

    active: the key is to wrap from now on, so it must be active on every server. Other than in a round, one
    silent server is enough to refuse: this decides what is right from now on.
    """
    if not answers:
        raise Unavailable("primary_key_unavailable", f"provider {provider!r} has no key servers")
    for answer in answers:
        if answer.refusal is not None:
            raise answer.refusal
        if active and answer.key is not None:
            require_active(answer.key)
    values = {answer.check_value for answer in answers if answer.check_value is not None}
    if len(values) != 1:
        servers = ", ".join(answer.server for answer in answers)
        raise Refusal(
            "primary_key_mismatch",
            f"the key servers of provider {provider!r} ({servers}) have different keys under the same id",
            "Servers of one provider must replicate keys: repair that, or make one provider for each.",
            status=409,
        )
    return values.pop()


def check_candidate(provider: str, answers: Sequence[ServerAnswer], known: Mapping[str, str | None]) -> str:
    """The check value of a key that is to wrap from now on: active on every server, and really another one.

    known: id -> check value of the provider's primary keys. Raises Refusal as `agreed_check_value`, and
    `primary_key_same`.
    """
    value = agreed_check_value(provider, answers, active=True)
    for answer in answers:
        for key_id, check_value in known.items():
            if answer.key is None or answer.key.key_id == key_id:
                continue
            if wrapping.check_value(answer.key.material, key_id) == check_value:
                raise Refusal(
                    "primary_key_same",
                    f"key {answer.key.key_id!r} has the same bytes as primary key {key_id!r} of provider"
                    f" {provider!r}: it would replace nothing",
                    "Make a new key on the key servers.",
                    status=409,
                )
    return value


def server_health(answer: ServerAnswer, expected: str | None) -> ServerHealth:
    """How one server does, and who trusts whom."""
    refusal = answer.refusal
    if refusal is None:
        state = "" if answer.key is None else answer.key.state
        if expected is None or answer.check_value == expected:
            return ServerHealth(answer.server, "OK", [], True, True, state)
        details = ["it has another key under the primary key's id"]
        return ServerHealth(answer.server, "ERROR", details, True, True, state, "primary_key_mismatch")
    if isinstance(refusal, KeyServerFailure):
        client, server = bool(refusal.client_trust_server), bool(refusal.server_trust_client)
    elif isinstance(refusal, KeyServerRefusal):
        client, server = True, refusal.server_trust_client
    else:
        client = server = True  # a judgement on the key: the connection was good
    return ServerHealth(answer.server, "ERROR", [refusal.message], client, server, "", refusal.code)


def _choose(
    provider: str,
    expected: str | None,
    answers: Sequence[ServerAnswer],
    alarms: Sequence[Refusal],
    held: HeldKey | None,
    now: float,
    max_age: float,
) -> tuple[HeldKey | None, Refusal | None]:
    refusals = [answer.refusal for answer in answers if answer.refusal is not None]
    # 1
    for code in NOT_TO_BE_USED:
        for refusal in refusals:
            if refusal.code == code:
                return None, refusal
    # 2
    given = [
        answer.key
        for answer in answers
        if answer.key is not None and expected is not None and answer.check_value == expected
    ]
    if given:
        state = ACTIVE if all(key.state == ACTIVE for key in given) else DEACTIVATED
        return HeldKey(replace(given[0], state=state), now), None
    # 3
    for refusal in refusals:
        if not isinstance(refusal, KeyServerFailure):
            return None, refusal
    # 4
    if expected is None and any(answer.key is not None for answer in answers):
        return None, Unavailable(
            "primary_key_unavailable",
            f"provider {provider!r} has no primary key check value yet",
            "The manager sets it as soon as all key servers of the provider agree on the key.",
        )
    # 5, 6
    if held is not None and now - held.confirmed <= max_age:
        return held, None
    if alarms:
        return None, alarms[0]
    return None, _unreachable(provider, refusals)


def _unreachable(provider: str, refusals: Sequence[Refusal]) -> Refusal:
    if len(refusals) == 1:
        return refusals[0]
    causes = "; ".join(refusal.message for refusal in refusals) or "it has no key servers"
    return Unavailable(
        "key_server_unreachable",
        f"no key server of provider {provider!r} can be used: {causes}",
        "Check that the key servers run and can be reached from this host.",
    )


def _serves_for(held: HeldKey, now: float, max_age: float) -> str:
    left = int(max_age - (now - held.confirmed))
    return f"no key server confirms the primary key; the copy in memory serves for {left} s more"


def _mismatch(provider: str, answer: ServerAnswer) -> Refusal:
    return Refusal(
        "primary_key_mismatch",
        f"key server {answer.server!r} gives another key than the primary key of provider {provider!r}",
        "Find out who replaced the key. If the change is meant, set the new primary key on the provider.",
    )
