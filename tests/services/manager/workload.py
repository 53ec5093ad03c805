# SPDX-License-Identifier: GPL-3.0-or-later
"""Services of a Trust Authority as a workload manager is told of them, and what its hosts are given."""

from __future__ import annotations

from typing import Any

from services.manager.harness import Api, Clock
from services.manager.material import Issuer

from trusted_infrastructure.tokens import Principal, verify_assertion

BASE = "/vcenter/trusted-infrastructure"
CLUSTER = f"{BASE}/trusted-clusters/trusted"
PROVIDERS = "/trust/trusted-key-providers"
EK = "ab" * 32
CA = Issuer("trust authority CA")
SIGNER = Issuer("workload principal", ca=False)
PARTS = ("attestation", "kms")


def spec(hostname: str = "ta1", **changes: Any) -> dict[str, Any]:
    """A service to be registered."""
    return {
        "address": {"hostname": hostname},
        "trusted_CA": {"cert_chain": [CA.pem]},
        "group": "group-1",
        "trust_authority_cluster": "domain-c8",
        **changes,
    }


def register(api: Api, part: str, hostname: str = "ta1", **changes: Any) -> str:
    """Registers a service; its id."""
    return api.ok("POST", f"{BASE}/{part}/services", json=spec(hostname, **changes))


def attach_all(api: Api) -> dict[str, str]:
    """Registers and attaches a service of each kind; ids."""
    ids = {part: register(api, part) for part in PARTS}
    for part in PARTS:
        body = {"type": "CLUSTER", "trust_authority_cluster": "domain-c8"}
        api.done("POST", f"{CLUSTER}/{part}/services", json=body)
    return ids


def claims(api: Api, host: str, clock: Clock) -> Any:
    """Verified claims of a host's assertion."""
    content = api.nodes.content(host, "host_assertion", "assertion")
    principal = Principal("https://manager.example/", [[SIGNER.pem]])
    return verify_assertion(content["assertion"], [principal], "group-1", int(clock()))
