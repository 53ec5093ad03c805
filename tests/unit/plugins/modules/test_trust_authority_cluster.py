# SPDX-License-Identifier: GPL-3.0-or-later
"""Trust Authority Clusters: state and settings."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import Call
from ansible_collections.trusted.infrastructure.plugins.modules.trust_authority_cluster import plan

STATE = "/vcenter/trusted-infrastructure/trust-authority-clusters/domain-c1"
SETTINGS = "/trust/clusters/domain-c1/settings"
OFF = {"cluster": "domain-c1", "state": "DISABLE"}
ON = {"cluster": "domain-c1", "state": "ENABLE", "token_lifetime": 3600, "grace_period": 60}
ENABLE = Call("PATCH", STATE, {"state": "ENABLE"}, task=True)
DISABLE = Call("PATCH", STATE, {"state": "DISABLE"}, task=True)


def settings(**values: int | str) -> Call:
    return Call("PATCH", SETTINGS, values, task=True)


@pytest.mark.parametrize(
    "current, wanted, after, calls",
    [
        (OFF, {"state": "ENABLE"}, {**OFF, "state": "ENABLE"}, (ENABLE,)),
        (ON, {"state": "ENABLE"}, ON, ()),
        (ON, {"state": "DISABLE"}, {**ON, "state": "DISABLE"}, (DISABLE,)),
        (OFF, {"state": None}, OFF, ()),
        (ON, {"state": None, "token_lifetime": 3600, "grace_period": None}, ON, ()),
        (ON, {"token_lifetime": 60}, {**ON, "token_lifetime": 60}, (settings(token_lifetime=60),)),
        (
            {**ON, "hpke_suite": "X25519"},
            {"hpke_suite": "MLKEM1024_P384", "grace_period": 60},
            {**ON, "hpke_suite": "MLKEM1024_P384"},
            (settings(hpke_suite="MLKEM1024_P384"),),
        ),
        (
            {**OFF, "grace_period": 60},
            {"state": "ENABLE", "grace_period": 0},
            {**OFF, "state": "ENABLE", "grace_period": 0},
            (ENABLE, settings(grace_period=0)),
        ),
    ],
)
def test_plan(current: Any, wanted: Any, after: Any, calls: Any) -> None:
    planned = plan(current, wanted)
    assert (planned.before, planned.after, planned.calls) == (current, after, calls)


def test_settings_are_asked_for_only_when_they_are_given(run_module: Any, client: Any) -> None:
    """vCenter Server has none."""
    fake = client({("GET", STATE): {"state": "ENABLE"}})
    assert run_module("trust_authority_cluster", fake, cluster="one", state="enabled")["changed"] is False
    fake = client({("GET", STATE): {"state": "ENABLE"}, ("GET", SETTINGS): {**ON, "key_cache_max_age": 5}})
    result = run_module("trust_authority_cluster", fake, cluster="one", token_lifetime=60)
    assert result["failed"], "the settings must be sent"
    assert fake.calls[-1] == settings(token_lifetime=60)


def test_times_are_not_taken_for_secrets(run_module: Any, client: Any) -> None:
    fake = client({("GET", STATE): {"state": "ENABLE"}, ("GET", SETTINGS): ON})
    result = run_module("trust_authority_cluster", fake, cluster="one", token_lifetime=3600)
    assert result["resource"]["token_lifetime"] == 3600
    assert "warnings" not in result
