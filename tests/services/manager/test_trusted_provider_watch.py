# SPDX-License-Identifier: GPL-3.0-or-later
"""What the Trust Authority side tells of its key providers by itself: health that changed, certificates that
end."""

from __future__ import annotations

import datetime
import time
from typing import Any

import msgspec
import pytest
from services.manager.harness import Api, Clock
from services.manager.test_key_providers import report, with_provider

from trusted_infrastructure.config.documents import KeyProvider
from trusted_infrastructure.kmip import client_certificates
from trusted_infrastructure.manager import desired, events, maintenance
from trusted_infrastructure.manager.desired import Change
from trusted_infrastructure.manager.inventory import all_clusters

CLIENT = events.TRUSTED_CLIENT_CERTIFICATE_EXPIRES
SERVER = events.TRUSTED_SERVER_CERTIFICATE_EXPIRES
UNHEALTHY = events.TRUST_AUTHORITY_UNHEALTHY
KMS_UNHEALTHY = events.TRUST_AUTHORITY_KMS_UNHEALTHY
DAY = 86400


class Site:
    """Two Trust Authority hosts, and what their Key Provider Services say of the provider "finance"."""

    def __init__(self, api: Api, clock: Clock) -> None:
        self.api = api
        self.clock = clock
        self.says: dict[str, dict[str, Any]] = {"ta1": {}, "ta2": {}}
        api.nodes.answers["GET", "/kms/manage/v1/status"] = lambda host: report(**self.says[host])

    def round(self, seconds: int = 60) -> None:
        """What the manager does every minute."""
        self.clock.now += seconds
        self.api.login()
        self.api.run(maintenance.maintain(self.api.manager))

    def say(self, **changes: Any) -> None:
        """All hosts say the same."""
        self.says = {"ta1": changes, "ta2": changes}
        self.round()

    def told(self, *types: str) -> list[dict[str, Any]]:
        """Events of these types, about the provider and seen by who may see the cluster."""
        found = self.api.ok("GET", "/trust/events?limit=1000")
        return [event for event in found if event["type"] in types and event["object"] == "finance"]

    def health(self) -> list[tuple[str, str]]:
        """(type, health) of the events of health."""
        found = self.told(UNHEALTHY, KMS_UNHEALTHY)
        assert {event["operation"] for event in found} <= {"health"}
        return [(event["type"], event["details"]["health"]) for event in found]


@pytest.fixture
def site(api: Api, clock: Clock) -> Site:
    return Site(with_provider(api), clock)


def of_servers(health: str, **first: Any) -> list[dict[str, Any]]:
    """The provider's two servers; `first` changes kms1."""
    servers: list[dict[str, Any]] = report()["providers"]["finance"]["servers"]
    return [servers[0] | {"health": health} | first, servers[1]]


def text(moment: float) -> str:
    return f"{datetime.datetime.fromtimestamp(moment, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"


# ---- health -----------------------------------------------------------------------------------------------


def test_what_is_well_is_no_event(site: Site) -> None:
    site.round()
    site.say(health="NONE")
    site.api.nodes.down = {"ta1", "ta2"}
    site.round()
    assert site.health() == []


def test_a_key_server_that_is_away_is_one_event_until_it_is_back(site: Site) -> None:
    away = {"health": "WARNING", "details": ["kms1: no answer in time"], "servers": of_servers("ERROR")}
    for _again in range(3):
        site.say(**away)
    assert site.health() == [(KMS_UNHEALTHY, "WARNING")]
    (event,) = site.told(KMS_UNHEALTHY)
    assert (
        event["message"] == "The key provider finance of authority is WARNING: ta1: kms1: no answer in time."
    )
    site.say(**away | {"health": "ERROR"})
    site.say()
    site.round()
    assert [health for _type, health in site.health()] == ["WARNING", "ERROR", "OK"]
    assert site.told(KMS_UNHEALTHY)[-1]["message"] == "The key provider finance of authority is well again."


def test_what_is_wrong_with_the_provider_itself(site: Site) -> None:
    site.say(health="ERROR", details=["sealed_value_invalid: no"])
    site.say()
    assert site.health() == [(UNHEALTHY, "ERROR"), (UNHEALTHY, "OK")]


def test_it_is_better_when_every_host_says_so(site: Site) -> None:
    site.says = {"ta1": {}, "ta2": {"health": "ERROR", "servers": of_servers("ERROR")}}
    site.round()
    assert site.health() == [(KMS_UNHEALTHY, "ERROR")]
    for silent in ({"ta2"}, {"ta1", "ta2"}):
        site.api.nodes.down = silent
        site.round()
    site.api.nodes.down = set()
    site.says["ta2"] = {"health": "NONE"}
    site.round()
    assert len(site.health()) == 1
    site.say()
    assert site.health()[1:] == [(KMS_UNHEALTHY, "OK")]


# ---- certificates ------------------------------------------------------------------------------------------


def test_a_key_servers_certificate_that_ends_is_told_once_a_day(site: Site) -> None:
    end = site.clock.now + 31 * DAY
    late, early = (of_servers("OK", certificate_end=text(moment)) for moment in (end + 90 * DAY, end))
    site.says = {"ta1": {"servers": late}, "ta2": {"servers": early}}
    for seconds, count in ((60, 0), (DAY, 1), (60, 1), (DAY, 2), (40 * DAY, 3)):
        site.round(seconds)
        assert len(site.told(SERVER)) == count, seconds
    event = site.told(SERVER)[0]
    assert event["details"] == {"provider": "finance", "server": "kms1", "ends": text(end)}
    assert event["message"] == f"The certificate of key server kms1 of provider finance ends at {text(end)}."
    assert site.told(CLIENT) == []


@pytest.mark.parametrize("end", ["2027-01-01T00:00:00", "soon", 5])
def test_an_end_that_is_no_time_is_no_answer(site: Site, end: Any) -> None:
    site.say(health="ERROR", servers=of_servers("OK", certificate_end=end))
    assert site.told(SERVER) == site.health() == []


def test_a_client_certificate_that_ends_is_told_once_a_day_whoever_answers(site: Site) -> None:
    site.api.nodes.down = {"ta1", "ta2"}
    _key, certificate = client_certificates.self_signed("finance", int(time.time()))
    manager = site.api.manager
    with manager.database.transaction() as connection:
        (cluster,) = all_clusters(connection)
        content = desired.content(connection, cluster, "key_provider", "finance", KeyProvider)
        changed = msgspec.structs.replace(content, client_certificate=certificate)
        desired.write(connection, cluster, [Change("key_provider", "finance", changed)])
    end = client_certificates.certificate_end(certificate).timestamp()
    site.clock.now = end - 31 * DAY
    for seconds, count in ((60, 0), (DAY, 1), (60, 1), (DAY, 2)):
        site.round(seconds)
        assert len(site.told(CLIENT)) == count, seconds
    event = site.told(CLIENT)[0]
    assert event["details"] == {"provider": "finance", "server": "client", "ends": text(end)}
    assert site.told(SERVER) == []
