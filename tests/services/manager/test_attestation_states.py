# SPDX-License-Identifier: GPL-3.0-or-later
"""How hosts stand and stood, on both sides: what is kept, what is asked, and the events that follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from services.manager.harness import PASSWORD, Api, Clock, write_users

from trusted_infrastructure.host import agent, withdrawals
from trusted_infrastructure.key_provider.host_state import Intervals
from trusted_infrastructure.manager import attestation_states, attestation_verdicts, events
from trusted_infrastructure.manager.attestation_states import KEPT, KEPT_PER_HOST
from trusted_infrastructure.manager.nodes import NodeError
from trusted_infrastructure.manager.operations import trust_settings
from trusted_infrastructure.manager.watching import watch
from trusted_infrastructure.times import rfc3339

HISTORY = "/trust/attestation/history"
EVENTS = "/trust/events"
NOW = 1_800_000_000


def status(state: str = "ATTESTED", since: int | None = NOW - 10, **fields: Any) -> dict[str, Any]:
    """An agent's answer."""
    values: dict[str, Any] = {"state": state, "attestations": []}
    if state == "ATTESTED":
        values |= {
            "base_image": "2026.11",
            "base_image_state": "ACTIVE",
            "attested_until": rfc3339(NOW + 3600),
            "service": "registered-1",
            "service_address": "ta1:443",
        }
    if since is not None:
        values["since"] = rfc3339(since)
    return {**values, **fields}


class Agents:
    """The agents of host1 and host2: what they say next."""

    def __init__(self, api: Api, clock: Clock) -> None:
        self.api = api
        self.clock = clock
        self.says: dict[str, Any] = {"host1": status(), "host2": status()}
        api.nodes.answers["GET", "/agent/manage/v1/status"] = lambda host: self.says[host]

    def look(self, seconds: float = 60, **says: Any) -> None:
        """Time passes, hosts say something, the manager looks."""
        self.clock.now += seconds
        self.says |= says
        self.api.run(watch(self.api.manager))


@pytest.fixture
def agents(workload: Api, clock: Clock) -> Agents:
    return Agents(workload, clock)


def past(api: Api, host: str) -> list[tuple[Any, ...]]:
    """(state, reason, since, until), newest first; times as seconds after NOW."""
    return [
        (
            entry["state"],
            entry.get("reason"),
            after(entry["since"]),
            after(entry["until"]) if "until" in entry else None,
        )
        for entry in api.ok("GET", f"{HISTORY}?hosts={host}")
    ]


def after(text: str) -> int:
    """Seconds after NOW."""
    found = attestation_states.seconds_of(text)
    assert found is not None and rfc3339(found) == text
    return found - NOW


# ---- the workload side -----------------------------------------------------------------------------------


def test_states_are_kept_with_their_times_and_who_judged(agents: Agents) -> None:
    agents.look(0)
    agents.look(60)
    failed = status("FAILED", NOW + 95, reason="base_image_mismatch", message="PCR 4")
    agents.look(60, host1=failed)
    agents.look(60, host1=status(since=NOW + 150))
    assert past(agents.api, "host1") == [
        ("ATTESTED", None, 150, None),
        ("FAILED", "base_image_mismatch", 95, 150),
        ("ATTESTED", None, -10, 95),
    ]
    first = agents.api.ok("GET", f"{HISTORY}?hosts=host-1")[-1]
    assert (first["host"], first["name"], first["base_image"], first["base_image_state"]) == (
        "host-1",
        "host1",
        "2026.11",
        "ACTIVE",
    )
    assert (first["service"], first["service_address"]) == ("registered-1", "ta1:443")
    assert first["attested_until"] == rfc3339(NOW + 3600)
    assert past(agents.api, "host2") == [("ATTESTED", None, -10, None)]
    assert [entry["name"] for entry in agents.api.ok("GET", f"{HISTORY}?limit=1")] == ["host1", "host2"]


def test_all_four_states(agents: Agents) -> None:
    agents.look(0)
    agents.look(60, host1=status("EXPIRED", NOW + 30, reason="token_expired", message="ended"))
    agents.look(60, host1=status("FAILED", NOW + 90, reason="no_base_image", message="none"))
    agents.api.nodes.down = {"host1"}
    agents.look(60)
    agents.look(60)
    assert [entry[:2] for entry in past(agents.api, "host1")] == [
        ("UNREACHABLE", "unreachable"),
        ("FAILED", "no_base_image"),
        ("EXPIRED", "token_expired"),
        ("ATTESTED", None),
    ]
    # Since the first question that it did not answer, whoever asks.
    assert past(agents.api, "host1")[0][2] == 180
    assert agents.api.ok("GET", "/trust/hosts/host1/attestation")["since"] == rfc3339(NOW + 180)
    listed = agents.api.ok("GET", "/trust/attestation?names=host1")
    assert [(one["state"], one["since"]) for one in listed] == [("UNREACHABLE", rfc3339(NOW + 180))]


@pytest.mark.parametrize(
    ("since", "kept"),
    [
        (NOW + 95, 95),
        (NOW + 999_999, 120),  # a host whose clock is ahead
        (NOW - 999_999, 120),  # and one whose clock was set back
        (None, 120),
    ],
)
def test_a_time_that_does_not_fit_is_not_believed(agents: Agents, since: int | None, kept: int) -> None:
    agents.look(0)
    agents.look(120, host1=status("FAILED", since, reason="ek_mismatch"))
    assert past(agents.api, "host1")[0][2] == kept


@pytest.mark.parametrize("end", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "soon"])
def test_an_end_that_no_calendar_has_keeps_no_other_host(agents: Agents, end: str) -> None:
    agents.look(0)
    failed = status("FAILED", NOW, reason="ek_mismatch")
    agents.look(60, host1=status(base_image="2026.12", attested_until=end), host2=failed)
    assert past(agents.api, "host2")[0][:2] == ("FAILED", "ek_mismatch")
    (entry, _earlier) = agents.api.ok("GET", f"{HISTORY}?hosts=host1")
    assert (entry["base_image"], "attested_until" in entry) == ("2026.12", False)


def test_what_a_host_says_at_length_is_cut(agents: Agents) -> None:
    long = "x" * 100_000
    texts = ("message", "base_image", "base_image_state", "service", "service_address")
    agents.look(0, host1=status("FAILED", reason=long, **dict.fromkeys(texts, long)))
    (entry,) = agents.api.ok("GET", f"{HISTORY}?hosts=host1")
    (event,) = agents.api.ok("GET", "/trust/events?hosts=host1")
    assert len(msgspec.json.encode([entry, event])) < 20_000


def test_renewing_and_other_services_are_no_change(agents: Agents) -> None:
    for number in range(5):
        until = rfc3339(NOW + 3600 + number)
        agents.look(60, host1=status(attested_until=until, service=f"registered-{number % 2}"))
    (entry,) = agents.api.ok("GET", f"{HISTORY}?hosts=host1")
    assert entry["attested_until"] == rfc3339(NOW + 3604)
    assert len(agents.api.ok("GET", f"{EVENTS}?hosts=host1")) == 1


def test_another_image_is_a_change_and_staged_is_said(agents: Agents) -> None:
    agents.look(0)
    agents.look(60, host1=status(base_image="2026.12", base_image_state="STAGED"))
    found = agents.api.ok("GET", f"{HISTORY}?hosts=host1")
    assert [(one["base_image"], one["base_image_state"]) for one in found] == [
        ("2026.12", "STAGED"),
        ("2026.11", "ACTIVE"),
    ]
    assert "2026.12 (staged)" in agents.api.ok("GET", f"{EVENTS}?hosts=host1")[-1]["message"]


def test_what_an_operator_asks_is_kept_too(agents: Agents) -> None:
    agents.api.ok("GET", "/trust/attestation")
    assert past(agents.api, "host1") == [("ATTESTED", None, -10, None)]
    agents.clock.now += 30
    agents.api.nodes.answers["POST", "/agent/manage/v1/attest"] = lambda _host: status(
        "FAILED", NOW + 30, reason="ek_mismatch"
    )
    agents.api.ok("POST", "/trust/hosts/host1/attestation?action=attest")
    assert past(agents.api, "host1")[0] == ("FAILED", "ek_mismatch", 30, None)
    agents.look(30, host1=status("FAILED", NOW + 30, reason="ek_mismatch"))
    assert len(agents.api.ok("GET", f"{EVENTS}?hosts=host1")) == 2


def test_the_past_of_a_host_is_bounded(agents: Agents) -> None:
    for number in range(KEPT_PER_HOST + 20):
        agents.look(1, host1=status("FAILED", None, reason=f"reason_{number % 2}"))
    assert len(agents.api.ok("GET", f"{HISTORY}?hosts=host1&limit=100")) == KEPT_PER_HOST
    agents.look(KEPT + 1, host1=status(since=None))
    agents.look(KEPT + 1)
    agents.api.login()
    assert [entry[0] for entry in past(agents.api, "host1")] == ["ATTESTED"]


def test_a_host_that_left_is_forgotten_and_its_events_are_not(agents: Agents) -> None:
    agents.look(0)
    agents.api.done("DELETE", "/trust/clusters/trusted/hosts/host1")
    agents.look()
    with agents.api.manager.database.transaction() as connection:
        assert attestation_states.history(connection, "host1", 10) == []
    assert len(agents.api.ok("GET", f"{EVENTS}?hosts=host1")) == 1


def test_a_round_asks_each_host_once_and_writes_nothing_while_nothing_changes(
    agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents.look(0)
    agents.api.nodes.calls.clear()
    written: list[str] = []
    record = attestation_states.note

    def noting(connection: Any, *arguments: Any) -> Any:
        before = connection.exec_driver_sql("SELECT total_changes()").scalar()
        found = record(connection, *arguments)
        written.append(connection.exec_driver_sql("SELECT total_changes()").scalar() - before)
        return found

    monkeypatch.setattr(attestation_states, "note", noting)
    agents.look()
    assert written == [0]
    assert sorted(agents.api.nodes.calls) == [
        ("host1", "GET", "/agent/manage/v1/status"),
        ("host2", "GET", "/agent/manage/v1/status"),
    ]


def test_a_restart_makes_no_new_events(make_api: Callable[..., Api], clock: Clock) -> None:
    for _start in range(2):
        api = make_api("workload")
        if not api.ok("GET", "/vcenter/cluster"):
            api.ok("POST", "/trust/clusters", json={"name": "trusted"})
            body = {"name": "host1", "ek_digest": "ab" * 32, "scope": "lab"}
            api.done("POST", "/trust/clusters/trusted/hosts", json=body)
        Agents(api, clock).look()
    assert [event["id"] for event in api.ok("GET", EVENTS)] == [1]


def test_a_round_that_fails_does_not_end_the_watch(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(attestation_states, "note", lambda *_arguments: 1 / 0)
        agents.look()
    agents.look()
    assert len(past(agents.api, "host1")) == 1


# ---- the Trust Authority side ----------------------------------------------------------------------------


class Services:
    """The Attestation Services of ta1 and ta2: a database each."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.history = dict.fromkeys(("ta1", "ta2"), "first")
        self.rows: dict[str, list[dict[str, Any]]] = {"ta1": [], "ta2": []}
        api.ok("POST", "/trust/clusters", json={"name": "authority"})
        for host in ("ta1", "ta2"):
            api.done("POST", "/trust/clusters/authority/hosts", json={"name": host})
        self.page = 500
        for number in range(50):
            path = f"/attestation/manage/v1/transitions?after={number}&limit=500"
            api.nodes.answers["GET", path] = lambda host, number=number: self.feed(host, number)

    def feed(self, host: str, number: int) -> dict[str, Any]:
        """An answer about transitions."""
        rows = [row for row in self.rows[host] if row["sequence"] > number]
        return {
            "service": f"attestation@{host}",
            "history": self.history[host],
            "last": len(self.rows[host]),
            "transitions": rows[: self.page],
            "more": len(rows) > self.page,
        }

    def judge(self, authority: str, host: str, state: str, since: int = NOW, **fields: Any) -> None:
        """A transition."""
        row = {"principal": "p", "host": host, "state": state, "since": since, **fields}
        self.rows[authority].append({"sequence": len(self.rows[authority]) + 1, **row})

    def look(self) -> list[tuple[str, str, str]]:
        """A round; all events since the first: (kind, host, service)."""
        self.api.run(watch(self.api.manager))
        return [
            (event["type"].rpartition(".")[2], event["host"], event["details"]["service"])
            for event in self.api.ok("GET", f"{EVENTS}?after=0&limit=1000")
        ]


@pytest.fixture
def services(api: Api) -> Services:
    return Services(api)


def test_each_transition_of_each_service_is_one_event(services: Services) -> None:
    services.judge("ta1", "host1", "ATTESTED", base_image="2026.11", image_state="STAGED")
    services.judge("ta2", "host1", "FAILED", NOW + 1, reason="tpm_cleared", message="It was.")
    assert sorted(services.look()) == [
        ("TaHostAttestFailEvent", "host1", "attestation@ta2"),
        ("TaHostAttestPassEvent", "host1", "attestation@ta1"),
    ]
    services.judge("ta1", "host1", "EXPIRED", NOW + 2, reason="token_expired")
    for _round in range(3):
        found = services.look()
    assert found[2:] == [("TaHostAttestUnsetEvent", "host1", "attestation@ta1")]
    newest = services.api.ok("GET", f"{EVENTS}?limit=1")[0]
    assert newest["type"] == "com.vmware.vc.TaHostAttestUnsetEvent"
    assert newest["time"] == "2027-01-15T08:00:02.000Z"
    staged = services.api.ok("GET", f"{EVENTS}?types={events.HOST_ATTESTED}")[0]
    assert staged["message"] == "attestation@ta1 attested host1 with base image 2026.11 (staged)"
    assert staged["details"]["base_image_state"] == "STAGED"


def test_what_a_service_noted_while_it_was_away_comes_later(services: Services) -> None:
    services.api.nodes.down = {"ta1"}
    services.judge("ta1", "host1", "ATTESTED")
    services.judge("ta2", "host1", "ATTESTED")
    assert len(services.look()) == 1
    services.api.nodes.down = set()
    assert len(services.look()) == 2


def test_pages_are_read_to_the_end(services: Services) -> None:
    services.page = 7
    for number in range(40):
        services.judge("ta1", f"host{number}", "ATTESTED")
    assert len(services.look()) == 40


def test_a_service_that_was_set_up_anew_is_read_from_the_start(services: Services) -> None:
    for number in range(3):
        services.judge("ta1", f"host{number}", "ATTESTED")
    services.look()
    services.history["ta1"], services.rows["ta1"] = "second", []
    services.judge("ta1", "host9", "FAILED", reason="ek_weak")
    assert services.look()[-1] == ("TaHostAttestFailEvent", "host9", "attestation@ta1")
    assert len(services.look()) == 4


def test_nonsense_from_a_service_makes_no_event(services: Services) -> None:
    services.judge("ta1", "host1", "GRAND")
    services.judge("ta2", "host1", "ATTESTED")
    assert services.look() == [("TaHostAttestPassEvent", "host1", "attestation@ta2")]


@pytest.mark.parametrize("field", ["since", "until", "attested_until", "sequence"])
@pytest.mark.parametrize("value", [-1, 253402300800, 2**63])
def test_a_time_that_no_date_has_ends_nobodys_round(services: Services, field: str, value: int) -> None:
    """Sequences go further than times."""
    services.judge("ta1", "host1", "FAILED")
    services.rows["ta1"][0][field] = value
    services.judge("ta2", "host1", "ATTESTED")
    foreign = field == "sequence" and value == 253402300800
    found = services.look()
    assert ("TaHostAttestPassEvent", "host1", "attestation@ta2") in found
    assert len(found) == 1 + foreign


def test_reading_on_costs_one_question_for_each_service(services: Services) -> None:
    for number in range(49):
        services.judge("ta1", f"host{number}", "ATTESTED")
    services.look()
    services.api.nodes.calls.clear()
    services.look()
    assert sorted(host for host, _method, _path in services.api.nodes.calls) == ["ta1", "ta2"]


def verdict(state: str, host: str = "host1", **fields: Any) -> dict[str, Any]:
    """A row of GET hosts."""
    return {"principal": "p", "host": host, "state": state, "since": NOW, "last": NOW + 5, **fields}


def test_the_state_of_a_host_is_the_best_verdict_and_all_are_shown(services: Services) -> None:
    said = {
        "ta1": [verdict("FAILED", reason="tpm_cleared", message="It was.")],
        "ta2": [
            verdict("ATTESTED", until=NOW + 3600, base_image="2026.11", image_state="ACTIVE"),
            verdict("EXPIRED", "host2", until=NOW, reason="token_expired"),
        ],
    }
    services.api.nodes.answers["GET", "/attestation/manage/v1/hosts"] = lambda host: {
        "service": f"attestation@{host}",
        "hosts": said[host],
    }
    first, second = services.api.ok("GET", "/trust/attestation")
    assert (first["name"], first["state"], first["service"], first["base_image_state"]) == (
        "host1",
        "ATTESTED",
        "attestation@ta2",
        "ACTIVE",
    )
    assert (first["cluster"], first["principal"]) == ("domain-c1", "p")
    assert first["attested_until"] == rfc3339(NOW + 3600)
    assert [(one["service"], one["state"], one.get("reason")) for one in first["attestations"]] == [
        ("attestation@ta1", "FAILED", "tpm_cleared"),
        ("attestation@ta2", "ATTESTED", None),
    ]
    assert (second["name"], second["state"]) == ("host2", "EXPIRED")
    assert [one["name"] for one in services.api.ok("GET", "/trust/attestation?names=host2")] == ["host2"]
    assert services.api.ok("GET", "/trust/attestation?clusters=domain-c9") == []
    services.api.nodes.down = {"ta2"}
    (left,) = services.api.ok("GET", "/trust/attestation")
    assert left["state"] == "FAILED"
    assert left["attestations"][-1]["state"] == "UNREACHABLE"
    services.api.nodes.down = {"ta1", "ta2"}
    response = services.api.request("GET", "/trust/attestation")
    assert response.json()["error_type"] == "RESOURCE_INACCESSIBLE"


def test_the_past_of_a_host_at_each_service(services: Services) -> None:
    path = "/attestation/manage/v1/hosts/host1/history?limit=2"
    row = {
        "sequence": 1,
        "principal": "p",
        "host": "host1",
        "state": "FAILED",
        "since": NOW,
        "until": NOW + 1,
    }
    services.api.nodes.answers["GET", path] = lambda host: {
        "service": f"attestation@{host}",
        "history": [{**row, "reason": "ek_weak"}],
    }
    found = services.api.ok("GET", f"{HISTORY}?hosts=host1&limit=2")
    assert [(one["service"], one["reason"], one["since"], one["until"]) for one in found] == [
        ("attestation@ta1", "ek_weak", rfc3339(NOW), rfc3339(NOW + 1)),
        ("attestation@ta2", "ek_weak", rfc3339(NOW), rfc3339(NOW + 1)),
    ]
    services.api.nodes.down = {"ta1"}
    assert len(services.api.ok("GET", f"{HISTORY}?hosts=host1&limit=2")) == 1
    services.api.nodes.down = {"ta1", "ta2"}
    assert services.api.request("GET", f"{HISTORY}?hosts=host1").status_code == 500


@pytest.mark.parametrize(
    ("query", "field"),
    [("limit=0", "limit"), ("limit=101", "limit"), ("&".join(["hosts=x"] * 101), "hosts"), ("a=1", "a")],
)
def test_bad_questions_about_the_past_name_the_field(sides, query: str, field: str) -> None:
    for api in sides.values():
        response = api.request("GET", f"{HISTORY}?{query}")
        assert (response.status_code, response.json()["messages"][0]["args"]) == (400, [field])


# ---- events ----------------------------------------------------------------------------------------------


def fill(api: Api, count: int, **fields: Any) -> None:
    """Events one second apart."""
    with api.manager.database.transaction() as connection:
        for number in range(count):
            values = {"type": "t", "time": NOW + number, "message": str(number), **fields}
            assert events.record(connection, events.Event(**values))


def test_events_are_paged_by_id_without_gaps_or_repetitions(api: Api) -> None:
    fill(api, 25)
    seen: list[int] = []
    while page := api.ok("GET", f"{EVENTS}?after={seen[-1] if seen else 0}&limit=10"):
        seen += [event["id"] for event in page]
    assert seen == list(range(1, 26))
    assert [event["id"] for event in api.ok("GET", f"{EVENTS}?limit=3")] == [23, 24, 25], "the latest"


def test_events_are_filtered(api: Api) -> None:
    fill(api, 3)
    fill(api, 3, type="u", host="host1", object="vm-1", user="administrator", details={"a": [1]})
    assert len(api.ok("GET", f"{EVENTS}?types=t")) == len(api.ok("GET", f"{EVENTS}?hosts=host1")) == 3
    assert len(api.ok("GET", f"{EVENTS}?types=t&types=u")) == 6
    assert api.ok("GET", f"{EVENTS}?types=t&hosts=host1") == []
    between = f"since={rfc3339(NOW + 1)}&until={rfc3339(NOW + 2)}"
    assert [event["message"] for event in api.ok("GET", f"{EVENTS}?{between}")] == ["1", "1"]
    elsewhere = "since=2027-01-15T09:00:02%2B01:00"
    assert len(api.ok("GET", f"{EVENTS}?{elsewhere}")) == 2
    event = api.ok("GET", f"{EVENTS}?limit=1")[0]
    assert (event["object"], event["user"], event["details"]) == ("vm-1", "administrator", {"a": [1]})


def test_the_same_origin_is_recorded_once(api: Api) -> None:
    event = events.Event(type="t", time=NOW, message="m", origin="service:1")
    for expected in (True, False):
        with api.manager.database.transaction() as connection:
            assert events.record(connection, event) is expected


def test_old_events_and_too_many_go(api: Api) -> None:
    fill(api, 10)
    with api.manager.database.transaction() as connection:
        events.forget(connection, NOW + 104, retention=100, limit=1000)
    assert [event["id"] for event in api.ok("GET", EVENTS)] == list(range(5, 11))
    for _round in range(4):
        with api.manager.database.transaction() as connection:
            events.forget(connection, NOW, retention=100, limit=2)
    assert [event["id"] for event in api.ok("GET", EVENTS)] == [9, 10]
    fill(api, 1)
    assert [event["id"] for event in api.ok("GET", f"{EVENTS}?after=10")] == [11]


def test_a_host_with_many_events_does_not_push_out_the_others(api: Api) -> None:
    fill(api, 3, host="calm")
    fill(api, 90, host="noisy")
    for _round in range(8):
        with api.manager.database.transaction() as connection:
            events.forget(connection, NOW, retention=100, limit=20)
    assert len(api.ok("GET", f"{EVENTS}?hosts=calm")) == 3
    assert [event["message"] for event in api.ok("GET", f"{EVENTS}?hosts=noisy")] == [
        str(number) for number in range(73, 90)
    ]


def test_a_user_of_one_cluster_sees_its_events_only(agents: Agents) -> None:
    agents.look()
    fill(agents.api, 1)
    fill(agents.api, 1, cluster=99)
    users = [{"name": "limited", "privileges": ["System.View"], "cluster": "trusted"}]
    write_users(agents.api.manager.settings.users, users)
    assert agents.api.login("limited", PASSWORD).status_code == 201
    assert {event.get("host") for event in agents.api.ok("GET", EVENTS)} == {"host1", "host2"}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("since=yesterday", "since"),
        ("since=2026-01-31T12:00:00", "since"),
        ("until=", "until"),
        ("after=-1", "after"),
        ("after=99999999999", "after"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("&".join(["types=x"] * 101), "types"),
        ("hosts[]=a", "hosts[]"),
    ],
)
def test_bad_filters_of_events_name_the_field(sides, query: str, field: str) -> None:
    response = sides["workload"].request("GET", f"{EVENTS}?{query}")
    assert (response.status_code, response.json()["messages"][0]["args"]) == (400, [field])


# ---- bounds ----------------------------------------------------------------------------------------------


def test_the_bounds_are_those_of_the_services(services: Services) -> None:
    services.api.done("PATCH", "/trust/clusters/authority/settings", json={"grace_period": 90})
    bounds = services.api.done("GET", "/trust/clusters/authority/settings")["bounds"]
    assert bounds == {
        "token_lifetime_maximum": 86400,
        "withdrawn_trust": 90 + Intervals().watch,
        "denied_host": Intervals().watch,
        "agent_learns": withdrawals.LOOK,
        "agent_wipes": agent.TICK,
    }
    assert trust_settings.LONGEST_TOKEN == 86400


def test_a_service_that_says_no_is_asked_again(services: Services) -> None:
    def refuse(host: str) -> None:
        raise NodeError(host, "service_down", "said no", 502)

    services.api.nodes.answers["GET", "/attestation/manage/v1/hosts"] = refuse
    assert services.api.request("GET", "/trust/attestation").status_code == 500
    assert attestation_verdicts.PAGES * attestation_verdicts.PAGE >= 10_000
