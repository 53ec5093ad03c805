# SPDX-License-Identifier: GPL-3.0-or-later
"""Events of what key servers say of who made them: one for each, and one where it is another; one a day."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from services.manager.harness import Api, Clock

from trusted_infrastructure.kmip.servers import ServerStatus
from trusted_infrastructure.manager import events
from trusted_infrastructure.manager.standard_key_servers import Looked
from trusted_infrastructure.manager.standard_provider_health import tell_of_vendors
from trusted_infrastructure.refusal import Refusal


@pytest.fixture
def manager(make_api: Callable[..., Api]) -> Api:
    return make_api("workload")


def told(api: Api) -> list[tuple[str, str, str]]:
    """(provider, server, vendor) of the events, as the API has them."""
    found = api.ok("GET", f"/trust/events?types={events.KMS_VENDOR}&limit=1000")
    assert all(event["object"] == event["details"]["provider"] for event in found)
    assert all(event["details"]["vendor"] in event["message"] for event in found)
    return [tuple(event["details"][key] for key in ("provider", "server", "vendor")) for event in found]


def look(api: Api, provider: str = "finance", **vendors: str) -> None:
    servers = [ServerStatus(name, "", True, True, None, vendor) for name, vendor in vendors.items()]
    tell_of_vendors(api.manager, provider, Looked(0, servers))


def test_who_says_nothing_is_no_event(manager: Api) -> None:
    look(manager, kms1="")
    tell_of_vendors(manager.manager, "finance", Looked(0, [], Refusal("state_unusable", "none")))
    tell_of_vendors(manager.manager, "finance", Looked(0, [ServerStatus("kms1", "Connection refused")]))
    assert told(manager) == []


def test_a_server_that_is_another_at_each_look_is_told_once_a_day(manager: Api) -> None:
    clock: Clock = manager.manager.clock
    for vendor in "ABABC":
        look(manager, kms1=vendor)
    assert told(manager) == [("finance", "kms1", "A")]
    clock.now += 86400
    manager.login()
    for vendor in "ABAB":
        look(manager, kms1=vendor)
    assert told(manager)[1:] == [("finance", "kms1", "B")]


def test_each_vendor_is_told_once(manager: Api) -> None:
    clock: Clock = manager.manager.clock
    for _again in range(3):
        look(manager, kms1="A", kms2="A")
        look(manager, "other", kms1="A")
    first = [("finance", "kms1", "A"), ("finance", "kms2", "A"), ("other", "kms1", "A")]
    assert told(manager) == first
    # One that is not there for a while has not become another.
    look(manager, kms1="", kms2="A")
    for vendor in "BA":
        clock.now += 86400
        look(manager, kms1="A", kms2=vendor)
    manager.login()
    assert told(manager) == [*first, ("finance", "kms2", "B"), ("finance", "kms2", "A")]
