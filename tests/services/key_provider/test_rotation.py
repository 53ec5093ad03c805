# SPDX-License-Identifier: GPL-3.0-or-later
"""A provider with several primary keys: which wraps, which open, what is reported, what a restart does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from services.key_provider.harness import (
    CHECK_VALUE,
    KEY_ID,
    PREVIOUS_ID,
    PREVIOUS_KEY,
    PRIMARY_KEY,
    Host,
    provider,
    rotated,
    scope,
    wrapped_key,
)
from services.key_provider.mutations import PREVIOUS, REPORT, USAGE_PATH, reporting
from services.key_provider.running import PATH, Service, running

from trusted_infrastructure import messages, wrapping
from trusted_infrastructure.config.documents import KeyProvider
from trusted_infrastructure.key_provider.service import build
from trusted_infrastructure.key_provider.usage import Usage
from trusted_infrastructure.messages import KEY_CHECK_LABEL, KeyAnswer, PrimaryKeyIds
from trusted_infrastructure.refusal import Refusal

KEK = bytes([7] * 32)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running(tmp_path) as made:
        made.take()
        yield made


@pytest.fixture
def during(service: Service) -> Service:
    """The service, in the middle of a rotation."""
    change(service, rotated())
    return service


def change(service: Service, document: KeyProvider) -> None:
    service.authority.put("key_provider", "finance", document)
    service.publish()
    service.take()


def look_again(service: Service) -> None:
    """As every minute."""
    state = service.parts.state
    asyncio.run(state._check(["finance"], state.snapshot()))


def code(service: Service, body: bytes, action: str) -> str:
    response = service.ask(body, action)
    return "ok" if response.status_code == 200 else str(response.json()["error"]["code"])


def test_new_keys_are_under_the_new_primary_key(during: Service) -> None:
    answer, key = during.released(during.host.create_body(), "create")
    assert answer.wrapped_key is not None
    header, kek = wrapping.unwrap(PRIMARY_KEY, answer.wrapped_key)
    assert (header.primary_key_id, kek) == (KEY_ID, key)


def test_old_keys_open_as_before(during: Service) -> None:
    answer, key = during.released(during.host.unwrap_body(PREVIOUS), "unwrap")
    assert (key, answer.wrapped_key) == (KEK, None)


def test_a_key_is_wrapped_again(during: Service) -> None:
    answer, key = during.released(during.host.rewrap_body(PREVIOUS), "rewrap")
    assert key == KEK
    assert answer.wrapped_key is not None and answer.wrapped_key != PREVIOUS
    header, kek = wrapping.unwrap(PRIMARY_KEY, answer.wrapped_key)
    old = wrapping.parse(PREVIOUS).header
    assert kek == KEK
    assert header.primary_key_id == KEY_ID
    assert header.salt != old.salt
    for name in ("provider", "kek_id", "object_label", "scope", "algorithm", "version"):
        assert getattr(header, name) == getattr(old, name)
    record = during.audit()[-1]
    assert record["detail"]["operation"] == "rewrap"
    assert record["detail"]["primary_key_id"] == KEY_ID
    assert record["detail"]["previous_primary_key_id"] == PREVIOUS_ID
    # It opens, and the old form still does: a host that lost the new one before it was stored loses nothing.
    assert during.released(during.host.unwrap_body(answer.wrapped_key), "unwrap")[1] == KEK
    assert during.released(during.host.unwrap_body(PREVIOUS), "unwrap")[1] == KEK


def test_a_key_under_the_primary_key_of_now_is_answered_as_it_is(during: Service) -> None:
    current = wrapped_key()
    answer, key = during.released(during.host.rewrap_body(current), "rewrap")
    assert (answer.wrapped_key, key) == (current, KEK)
    assert during.parts.usage.of("finance") == []


def test_a_rewrapped_key_is_sealed_and_signed_like_any_other(during: Service) -> None:
    body, token = during.host.rewrap_body(PREVIOUS), during.host.token()
    proof = during.host.proof(token, body)
    headers = {"Authorization": f"DPoP {token}", "DPoP": proof}
    response = during.public.post(f"{PATH}?action=rewrap", content=body, headers=headers)
    answer = messages.decode(response.content, KeyAnswer)
    assert KEK.hex() not in response.text
    with pytest.raises(Refusal):
        Host(during.authority).open(answer, body, token, proof, during.response_key(answer.key_id))


def test_deactivated_keys_open_and_wrap_nothing(during: Service) -> None:
    for server in during.servers:
        server.states = {KEY_ID: "DEACTIVATED", PREVIOUS_ID: "DEACTIVATED"}
    look_again(during)
    host = during.host
    assert code(during, host.unwrap_body(wrapped_key()), "unwrap") == "ok"
    assert code(during, host.unwrap_body(PREVIOUS), "unwrap") == "ok"
    assert code(during, host.rewrap_body(wrapped_key()), "rewrap") == "ok"
    assert code(during, host.create_body(), "create") == "key_deactivated"
    assert code(during, host.rewrap_body(PREVIOUS), "rewrap") == "key_deactivated"
    finance = during.management.get("/kms/manage/v1/status").json()["providers"]["finance"]
    assert finance["health"] == "ERROR"
    assert any("key_deactivated" in line for line in finance["details"])


def test_a_previous_key_that_is_deactivated_is_as_it_should_be(during: Service) -> None:
    for server in during.servers:
        server.states = {PREVIOUS_ID: "DEACTIVATED"}
    look_again(during)
    assert code(during, during.host.rewrap_body(PREVIOUS), "rewrap") == "ok"
    finance = during.management.get("/kms/manage/v1/status").json()["providers"]["finance"]
    assert (finance["health"], finance["details"]) == ("OK", [])
    assert finance["servers"][0]["keys"] == [
        {"primary_key_id": KEY_ID, "state": "ACTIVE", "code": ""},
        {"primary_key_id": PREVIOUS_ID, "state": "DEACTIVATED", "code": ""},
    ]


@pytest.mark.parametrize(("compromised", "health"), [(False, "ERROR"), (True, "WARNING")])
def test_a_previous_key_that_is_gone(service: Service, compromised: bool, health: str) -> None:
    """The other key is not touched by it; of a compromised one it was expected."""
    for server in service.servers:
        server.refusals[PREVIOUS_ID] = Refusal("key_destroyed", "DESTROYED")
    change(service, rotated(compromised=compromised))
    assert code(service, service.host.create_body(), "create") == "ok"
    assert code(service, service.host.unwrap_body(PREVIOUS), "unwrap") == "key_destroyed"
    finance = service.management.get("/kms/manage/v1/status").json()["providers"]["finance"]
    assert finance["health"] == health
    assert any(PREVIOUS_ID in line for line in finance["details"])
    assert finance["servers"][0]["health"] == "OK"
    assert finance["servers"][0]["keys"][1]["code"] == "key_destroyed"


def test_what_a_compromised_key_wrapped_is_opened_and_not_wrapped_again(service: Service) -> None:
    change(service, rotated(compromised=True))
    assert code(service, service.host.unwrap_body(PREVIOUS), "unwrap") == "ok"
    assert code(service, service.host.rewrap_body(PREVIOUS), "rewrap") == "primary_key_compromised"
    for server in service.servers:
        server.refusals[PREVIOUS_ID] = Refusal("key_compromised", "COMPROMISED")
    look_again(service)
    assert code(service, service.host.unwrap_body(PREVIOUS), "unwrap") == "key_compromised"


def test_another_key_under_the_id_of_a_previous_one_is_an_alarm(service: Service) -> None:
    for server in service.servers:
        server.others[PREVIOUS_ID] = bytes(32)
    change(service, rotated())
    assert code(service, service.host.unwrap_body(PREVIOUS), "unwrap") == "primary_key_mismatch"
    assert code(service, service.host.create_body(), "create") == "ok"
    alarms = [record for record in service.audit() if record["host"] == ""]
    assert [alarm["code"] for alarm in alarms] == ["primary_key_mismatch"] * 2


# ---- steps in between, and restarts ------------------------------------------------------------------------


def test_a_rotation_asks_for_no_key_that_is_in_memory(service: Service) -> None:
    """The key of before is now a previous one, and the same key: key servers that are down do not matter."""
    change(service, provider(master_key_id=PREVIOUS_ID, primary_key_check_value=check(PREVIOUS_ID)))
    assert code(service, service.host.unwrap_body(PREVIOUS), "unwrap") == "ok"
    for server in service.servers:
        server.refusals[PREVIOUS_ID] = Refusal("key_server_unreachable", "down", status=503)
    service.authority.put("key_provider", "finance", rotated())
    service.publish()
    assert code(service, service.host.unwrap_body(PREVIOUS), "unwrap") == "ok"


def check(key_id: str) -> str:
    return wrapping.check_value(PREVIOUS_KEY if key_id == PREVIOUS_ID else PRIMARY_KEY, key_id)


BEFORE = provider(master_key_id=PREVIOUS_ID, primary_key_check_value=check(PREVIOUS_ID))
STEPS = [
    ("before", BEFORE, {PREVIOUS_ID}),
    ("rotated", rotated(), {PREVIOUS_ID, KEY_ID}),
    ("compromised", rotated(compromised=True), {PREVIOUS_ID, KEY_ID}),
    ("completed", provider(), {KEY_ID}),
]


@pytest.mark.parametrize(("step", "document", "readable"), STEPS, ids=[step for step, *_rest in STEPS])
def test_a_restart_at_any_step_leaves_every_key_readable(
    tmp_path: Path, step: str, document: KeyProvider, readable: set[str]
) -> None:
    """Twice, with nothing but what is on disk."""
    with running(tmp_path) as service:
        change(service, document)
        for _start in range(2):
            for key_id in readable:
                body = service.host.unwrap_body(wrapped_key(primary_key_id=key_id))
                assert service.released(body, "unwrap")[1] == KEK
            restart(service)


def restart(service: Service) -> None:
    """The service is built again, over the same files."""

    async def fetch(peer: object) -> str:
        raise Refusal("peer_unreachable", "no peer answers")

    service.parts.close()
    service.parts = build(service.settings, fetch, service.clock, lambda _configuration: service.servers)


def test_a_host_with_an_older_configuration_does_not_end_the_search(service: Service) -> None:
    """ta1 has not heard of the rotation; the key was wrapped by ta2, which has."""
    change(service, BEFORE)
    response = service.ask(service.host.unwrap_body(wrapped_key()), "unwrap")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "primary_key_unavailable")


def test_nothing_is_wrapped_under_a_key_that_was_just_replaced(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The document changes while the request waits for the key."""
    change(service, BEFORE)
    monkeypatch.setattr(service.parts.state.primary_keys, "wrapping_key_id", lambda _name: KEY_ID)
    assert code(service, service.host.create_body(), "create") == "primary_key_unavailable"
    assert service.parts.usage.of("finance") == []


# ---- reports and marks -------------------------------------------------------------------------------------


def test_a_report_is_answered_with_the_primary_keys(during: Service) -> None:
    response = reporting("", prepare=None).send(during)
    ids = messages.decode(response.content, PrimaryKeyIds)
    assert (ids.primary_key_id, ids.previous, ids.compromised) == (KEY_ID, [PREVIOUS_ID], [])
    change(during, rotated(compromised=True))
    response = reporting("", prepare=None).send(during)
    assert messages.decode(response.content, PrimaryKeyIds).compromised == [PREVIOUS_ID]
    assert messages.number(ids.known) == 0
    assert "known" not in response.json()  # what an earlier release does not understand
    record = during.audit()[-1]
    assert (record["code"], record["host"], record["detail"]["keys"]) == ("ok", "host1", 4)
    assert (record["detail"]["operation"], record["detail"]["provider"]) == ("usage", "finance")


def test_the_manager_reads_what_hosts_keep(during: Service) -> None:
    reporting("", prepare=None).send(during)
    during.released(during.host.create_body(), "create")
    path = "/kms/manage/v1/providers/finance/usage"
    (found,) = during.management.get(path).json()["usage"]
    assert (found["scope"], found["host"], found["keys"]) == ("cluster-a", "host1", {"1001": 3, "900": 1})
    assert found["unreported"] == {KEY_ID: 1}
    # A report that was counted before that key arrived is told so; the next one has it.
    known = 0
    for left in ({KEY_ID: 1}, {}):
        body = messages.encode(messages.KeyUsageReport(keys={"1001": 4}, known=known))
        response = reporting("", prepare=None, body=lambda _host, body=body: body).send(during)
        before, known = known, messages.number(messages.decode(response.content, PrimaryKeyIds).known)
        assert known and known == (before or known)
        assert during.parts.usage.of("finance")[0].marks == left
    assert during.management.get(path.replace("finance", "hr")).status_code == 404
    assert during.public.get(path).status_code == 404
    assert during.public.get(USAGE_PATH).status_code == 405


@pytest.mark.parametrize(
    ("action", "body", "marked"),
    [
        ("create", "create", KEY_ID),
        ("unwrap", "arrives", KEY_ID),
        ("rewrap", "rewrap", KEY_ID),
    ],
)
def test_what_a_host_keeps_from_now_on_is_marked(
    during: Service, action: str, body: str, marked: str
) -> None:
    bodies = {
        "create": during.host.create_body,
        "arrives": lambda: during.host.unwrap_body(wrapped_key(), keep=True),
        "rewrap": lambda: during.host.rewrap_body(PREVIOUS),
    }
    for number in (1, 2):
        during.released(bodies[body](), action)
        (found,) = during.parts.usage.of("finance")
        assert (found.reported, found.marks) == (None, {marked: number})


@pytest.mark.parametrize("more", [{}, {"keep": False}])
def test_what_a_host_keeps_already_is_not(during: Service, more: dict[str, bool]) -> None:
    """It was marked when it came, or was reported: opening it costs no write."""
    during.released(during.host.unwrap_body(PREVIOUS, **more), "unwrap")
    assert during.parts.usage.of("finance") == []


@pytest.mark.parametrize("document", [rotated(), provider()], ids=["rotated", "given up"])
@pytest.mark.parametrize("action", ["create", "unwrap"])
def test_a_mark_of_a_key_that_was_just_replaced_is_counted_or_no_key_leaves(
    during: Service, monkeypatch: pytest.MonkeyPatch, action: str, document: KeyProvider
) -> None:
    """The rotation is published while the mark is written: whoever counts may have counted before that."""
    kept = during.parts.usage.kept

    def late(*mark: Any) -> None:
        during.authority.put("key_provider", "finance", document)
        during.publish()
        kept(*mark)

    change(during, BEFORE)
    monkeypatch.setattr(during.parts.usage, "kept", late)
    arrives = during.host.unwrap_body(PREVIOUS, keep=True)
    assert code(during, during.host.create_body() if action == "create" else arrives, action) == (
        "primary_key_unavailable"
    )
    assert [one.marks for one in during.parts.usage.of("finance")] == [{PREVIOUS_ID: 1}]
    monkeypatch.undo()
    assert code(during, during.host.create_body(), "create") == "ok"


@pytest.mark.parametrize("compromised", [False, True])
def test_a_key_under_an_earlier_primary_key_is_not_kept_as_it_is(during: Service, compromised: bool) -> None:
    """What is left under that one may be counted already, and given up next."""
    change(during, rotated(compromised=compromised))
    assert code(during, during.host.unwrap_body(PREVIOUS, keep=True), "unwrap") == "primary_key_previous"
    assert during.parts.usage.of("finance") == []
    assert code(during, during.host.unwrap_body(PREVIOUS), "unwrap") == "ok"


def test_a_key_check_keeps_nothing(during: Service) -> None:
    during.released(during.host.create_body(KEY_CHECK_LABEL), "create")
    checked = wrapped_key(object_label=KEY_CHECK_LABEL)
    during.released(during.host.unwrap_body(checked, keep=True), "unwrap")
    assert during.parts.usage.of("finance") == []


def test_marks_and_reports_outlast_a_kill(during: Service) -> None:
    """What was answered is on disk: the service is not closed, as after a kill."""
    during.released(during.host.create_body(), "create")
    reporting("", prepare=None, body=lambda _host: REPORT).send(during)
    during.released(during.host.unwrap_body(wrapped_key(), keep=True), "unwrap")
    before = during.parts.usage.of("finance")
    again = Usage(during.settings.state_directory / "usage.db", during.clock)
    assert again.of("finance") == before
    again.close()


def test_a_mark_that_cannot_be_written_gives_no_key(during: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise its primary key could be given up under it."""
    during.parts.usage._database.execute("PRAGMA query_only = ON")
    assert code(during, during.host.create_body(), "create") == "state_unusable"
    assert code(during, during.host.rewrap_body(PREVIOUS), "rewrap") == "state_unusable"
    assert code(during, during.host.unwrap_body(wrapped_key()), "unwrap") == "ok"
    during.parts.usage._database.execute("PRAGMA query_only = OFF")
    assert code(during, during.host.create_body(), "create") == "ok"


# ---- providers side by side --------------------------------------------------------------------------------


def test_two_providers_and_two_scopes(service: Service) -> None:
    """Neither reads the other's keys, wraps them again, or reports for it; on the same key servers."""
    hr_key, hr_id = bytes(range(130, 162)), "2001"
    for server in service.servers:
        server.others[hr_id] = hr_key
    value = wrapping.check_value(hr_key, hr_id)
    hr = provider(master_key_id=hr_id, primary_key_check_value=value)
    service.authority.put("key_provider", "hr", hr)
    service.authority.put("scope", "cluster-b", scope(providers=["hr"], trusted_cluster="domain-c2"))
    service.publish()
    service.take()
    finance_host = service.host
    hr_host = Host(service.authority, claims={"scope": "cluster-b", "sub": "host1"})

    def ask(host: Host, name: str, action: str, body: bytes) -> str:
        path = f"/kms/v1/providers/{name}/" + ("usage" if action == "usage" else "keys")
        token = host.token()
        headers = {
            "Authorization": f"DPoP {token}",
            "DPoP": host.proof(token, body, url=f"https://ta1{path}"),
        }
        query = "" if action == "usage" else f"?action={action}"
        response = service.public.post(path + query, content=body, headers=headers)
        if response.status_code != 200:
            return str(response.json()["error"]["code"])
        if action == "create":
            wrapped[name] = messages.decode(response.content, KeyAnswer).wrapped_key or b""
        return "ok"

    wrapped: dict[str, bytes] = {}
    assert ask(finance_host, "finance", "create", finance_host.create_body()) == "ok"
    assert ask(hr_host, "hr", "create", hr_host.create_body()) == "ok"
    for host, own, other in ((finance_host, "finance", "hr"), (hr_host, "hr", "finance")):
        for action in ("create", "unwrap", "rewrap", "usage"):
            bodies = {
                "create": host.create_body(),
                "unwrap": host.unwrap_body(wrapped[other]),
                "rewrap": host.rewrap_body(wrapped[other]),
                "usage": host.usage_body(_1001=5),
            }
            assert ask(host, other, action, bodies[action]) == "provider_denied", (own, action)
            if action in ("unwrap", "rewrap"):
                assert ask(host, own, action, bodies[action]) == "wrapped_key_invalid"
                mine = (
                    host.unwrap_body(wrapped[own]) if action == "unwrap" else host.rewrap_body(wrapped[own])
                )
                assert ask(host, own, action, mine) == "ok"
    # With both providers allowed, the scope still parts them: a key opens for hosts of its own scope alone.
    for name, cluster in (("cluster-a", "domain-c1"), ("cluster-b", "domain-c2")):
        service.authority.put("scope", name, scope(providers=["*"], trusted_cluster=cluster))
    service.publish()
    for host, other in ((finance_host, "hr"), (hr_host, "finance")):
        for action, body in (
            ("unwrap", host.unwrap_body(wrapped[other])),
            ("rewrap", host.rewrap_body(wrapped[other])),
        ):
            assert ask(host, other, action, body) == "scope_mismatch"
    assert ask(hr_host, "finance", "usage", hr_host.usage_body(_1001=7)) == "ok"
    known = {(found.scope, found.host): found.keys for found in service.parts.usage.of("finance")}
    assert known == {("cluster-a", "host1"): {}, ("cluster-b", "host1"): {"1001": 7}}
    marks = {found.scope: set(found.marks) for found in service.parts.usage.of("finance")}
    assert marks == {"cluster-a": {KEY_ID}, "cluster-b": set()}
    assert CHECK_VALUE != value
