# SPDX-License-Identifier: GPL-3.0-or-later
"""How trusted key providers are: what a host can tell of them, and the events when that changes."""

from __future__ import annotations

from typing import Any

import pytest
from services.manager.harness import Api, Clock
from services.manager.workload import PROVIDERS, attach_all

from trusted_infrastructure.manager import attestation_states, events, provider_health
from trusted_infrastructure.manager.inventory import all_hosts
from trusted_infrastructure.manager.nodes import TEXT_LIMIT

UNHEALTHY = events.TRUST_AUTHORITY_UNHEALTHY
KMS_UNHEALTHY = events.TRUST_AUTHORITY_KMS_UNHEALTHY
UNAVAILABLE = events.TRUST_AUTHORITY_UNAVAILABLE


class Site:
    """Two attested hosts, one provider; what a host finds when it checks the provider."""

    def __init__(self, api: Api, clock: Clock) -> None:
        self.api = api
        self.clock = clock
        self.says: dict[str, str] = {}
        self.why = "why"
        self.asked: list[Any] = []
        attach_all(api)
        api.done("POST", PROVIDERS, json={"provider": "finance"})
        api.nodes.answers["POST", "/agent/manage/v1/key-check"] = self.answer
        self.attested("ATTESTED")

    def attested(self, state: str) -> None:
        """How all hosts stand."""
        with self.api.manager.database.transaction() as connection:
            seen = [(host, attestation_states.Seen(state=state)) for host in all_hosts(connection)]
            attestation_states.note(connection, seen, int(self.clock()))

    def answer(self, body: Any) -> dict[str, Any]:
        """Of the host that is asked."""
        host = self.api.nodes.calls[-1][0]
        self.asked.append((host, body))
        result = self.says.get(host, "OK")
        return {"result": result, "message": self.why, "provider": body["provider"], "checked": 1}

    def look(self, result: str | None = None, seconds: int = provider_health.CHECK_EVERY) -> dict[str, Any]:
        """Time passes, hosts say something, the manager asks; what it then shows of the provider."""
        if result is not None:
            self.says = dict.fromkeys(("host1", "host2"), result)
        self.clock.now += seconds
        self.api.login()
        self.api.run(provider_health.check_trusted(self.api.manager))
        return self.api.ok("GET", "/trust/key-providers")[0]

    def events(self) -> list[tuple[str, str | None]]:
        """(type, code) of the provider's health."""
        found = self.api.ok("GET", "/trust/events?operations=health")
        assert {event["object"] for event in found} <= {"finance"}
        return [(event["type"], event["details"].get("code")) for event in found]


@pytest.fixture
def site(workload: Api, clock: Clock) -> Site:
    return Site(workload, clock)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("peer_unreachable", UNAVAILABLE),
        ("key_server_unreachable", KMS_UNHEALTHY),
        ("primary_key_state", KMS_UNHEALTHY),
        ("key_destroyed", KMS_UNHEALTHY),
        ("provider_unknown", UNHEALTHY),
    ],
)
def test_what_does_not_work_is_one_event_until_it_works(site: Site, code: str, kind: str) -> None:
    assert site.look("OK")["health"] == "OK"
    for _again in range(3):
        shown = site.look(code)
    assert shown["health"] == "ERROR"
    assert shown["details"][0]["id"] == f"trusted.infrastructure.{code}"
    assert shown["details"][0]["default_message"] == "why"
    assert site.events() == [(kind, code)]
    event = site.api.ok("GET", "/trust/events?operations=health")[0]
    assert event["message"] == f"The key provider finance does not work: host1: {code}: why"
    assert site.look("OK") | {"details": []} == shown | {"health": "OK", "details": []}
    assert site.events() == [(kind, code), (kind, None)]


@pytest.mark.parametrize("code", ["not_attested", "host_denied", "token_invalid", "something_new"])
def test_what_is_wrong_with_a_host_says_nothing_of_the_provider(site: Site, code: str) -> None:
    site.says = {"host1": code}
    assert site.look()["health"] == "OK"
    assert [host for host, _body in site.asked] == ["host1", "host2"]
    assert site.look(code)["health"] == "OK", "what was known stays"
    assert site.events() == []


def test_what_a_host_says_at_length_is_cut(site: Site) -> None:
    site.why = "x" * 100_000
    site.look("key_missing")
    assert len(site.api.ok("GET", "/trust/events?operations=health")[0]["message"]) < TEXT_LIMIT + 100


def test_nothing_is_known_before_anybody_could_tell(site: Site) -> None:
    assert site.look("not_attested")["health"] == "NONE"
    site.attested("FAILED")
    site.asked.clear()
    assert site.look("OK")["health"] == "NONE"
    assert site.asked == []


def test_a_host_that_does_not_answer_is_passed_over(site: Site) -> None:
    site.api.nodes.down = {"host1"}
    assert site.look()["health"] == "OK"
    assert site.asked == [("host2", {"provider": "finance"})]


def test_hosts_are_not_asked_all_the_time(site: Site) -> None:
    site.look()
    for _minute in range(4):
        site.look(seconds=60)
    assert len(site.asked) == 1
    site.look(seconds=60)
    assert len(site.asked) == 2


def test_hosts_of_another_group_are_not_asked(site: Site) -> None:
    site.api.done("PATCH", f"{PROVIDERS}/finance", json={"group": "group-2"})
    assert site.look()["health"] == "NONE"
    assert site.asked == []


def test_a_provider_that_is_gone_is_forgotten(site: Site) -> None:
    site.look("key_missing")
    site.api.done("DELETE", f"{PROVIDERS}/finance")
    site.api.run(provider_health.check_trusted(site.api.manager))
    site.api.done("POST", PROVIDERS, json={"provider": "finance"})
    assert site.api.ok("GET", "/trust/key-providers")[0]["health"] == "NONE"


ON_HOST = "/vcenter/crypto-manager/hosts/host1/kms/providers"


def on_host(site: Site, attestation: str) -> tuple[str, list[str]]:
    """How the provider is on a host that says so of its attestation: health, reason codes."""
    answer = {"state": attestation, "reason": "quote_signature", "message": "no", "attestations": []}
    site.api.nodes.answers["GET", "/agent/manage/v1/status"] = lambda _host: answer
    shown = site.api.ok("GET", f"{ON_HOST}/finance")
    listed = {"provider": "finance", "type": "TRUST_AUTHORITY", "health": shown["health"]}
    assert site.api.ok("GET", f"{ON_HOST}?health={shown['health']}") == [listed]
    return shown["health"], [detail["id"].split(".")[-1] for detail in shown["details"]]


@pytest.mark.parametrize("code", ["key_missing", "key_destroyed", "provider_denied"])
def test_a_provider_that_does_not_work_is_well_on_no_host(site: Site, code: str) -> None:
    site.look(code)
    assert on_host(site, "ATTESTED") == ("ERROR", [code])
    assert on_host(site, "EXPIRED") == ("ERROR", ["quote_signature", code])
    site.look("OK")
    assert on_host(site, "ATTESTED") == ("OK", [])
    assert on_host(site, "EXPIRED") == ("WARNING", ["quote_signature"])
    assert on_host(site, "FAILED") == ("ERROR", ["quote_signature"])


def test_a_provider_of_which_nothing_is_known_is_as_the_host_is(site: Site) -> None:
    assert on_host(site, "ATTESTED") == ("OK", [])
    assert on_host(site, "FAILED") == ("ERROR", ["quote_signature"])
