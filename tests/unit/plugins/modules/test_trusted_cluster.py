# SPDX-License-Identifier: GPL-3.0-or-later
"""Which services a cluster uses."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import Call
from ansible_collections.trusted.infrastructure.plugins.modules.trusted_cluster import addresses, plan

BASE = "/vcenter/trusted-infrastructure/trusted-clusters/domain-c1"


def state(registered: dict[str, str], attached: dict[str, str], kms: dict[str, str] | None = None) -> Any:
    """Both kinds alike, unless the Key Provider Services that are attached are given."""
    return {
        "cluster": "domain-c1",
        "attestation": {"registered": registered, "attached": attached},
        "kms": {"registered": registered, "attached": attached if kms is None else kms},
    }


def cluster(kind: str) -> Call:
    body = {"type": "CLUSTER", "trust_authority_cluster": "domain-c8"}
    return Call("POST", f"{BASE}/{kind}/services", body, task=True)


def service(kind: str, name: str) -> Call:
    return Call("POST", f"{BASE}/{kind}/services", {"type": "SERVICE", "service": name}, task=True)


def detach(kind: str, name: str) -> Call:
    return Call("DELETE", f"{BASE}/{kind}/services/{name}", task=True)


ONE = {"ta1:443": "1"}
TWO = {"ta1:443": "1", "ta2:443": "2"}
THREE = {**TWO, "ta3:443": "3"}


@pytest.mark.parametrize(
    "current, wanted, after, calls",
    [
        (state({}, {}), "present", [], []),
        (state(TWO, TWO), "present", list(TWO), []),
        # Both services of a Trust Authority Cluster at once; Attestation Services first.
        (state(TWO, {}), "present", list(TWO), [cluster("attestation"), cluster("kms")]),
        (
            state(THREE, ONE),
            "present",
            list(THREE),
            [
                service("attestation", "2"),
                service("attestation", "3"),
                service("kms", "2"),
                service("kms", "3"),
            ],
        ),
        # A run that was cut off in between.
        (state(TWO, TWO, kms={}), "present", list(TWO), [cluster("kms")]),
        # What is attached and no longer registered for the cluster stays.
        (state(ONE, TWO), "present", list(TWO), []),
        # The same address under another id is the same service.
        (state({"ta1:443": "new"}, {"ta1:443": "old"}), "present", list(ONE), []),
        (state(TWO, {}), "absent", [], []),
        (
            state(THREE, TWO),
            "absent",
            [],
            [detach("kms", "1"), detach("kms", "2"), detach("attestation", "1"), detach("attestation", "2")],
        ),
        (state({}, ONE), "absent", [], [detach("kms", "1"), detach("attestation", "1")]),
    ],
)
def test_plan(current: Any, wanted: str, after: list[str], calls: list[Call]) -> None:
    planned = plan(current, "domain-c8", wanted)
    assert list(planned.calls) == calls
    assert planned.after == {"attestation": after, "kms": after}
    assert planned.before == {kind: sorted(current[kind]["attached"]) for kind in ("attestation", "kms")}


def test_addresses() -> None:
    rows = [
        {"service": "1", "address": {"hostname": "ta1"}},
        {"service": "2", "address": {"hostname": "ta1", "port": 8443}},
    ]
    assert addresses(rows) == {"ta1:443": "1", "ta1:8443": "2"}
