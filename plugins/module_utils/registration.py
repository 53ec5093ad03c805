# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Registration of a service of a Trust Authority host with a workload manager: the same for both kinds of service."""

from __future__ import annotations

import typing as t

from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import Plan, State
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    Call,
    ManagementClient,
    path,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.pem import certificates


def arguments() -> dict[str, t.Any]:
    """Parameters that describe a registration."""
    return {
        "address": {"type": "str", "required": True},
        "service_port": {"type": "int", "default": 443},
        "trusted_ca": {"type": "list", "elements": "str"},
        "group": {"type": "str"},
        "trust_authority_cluster": {"type": "str"},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    }


def wanted_of(params: t.Mapping[str, t.Any]) -> State:
    """The create spec that the parameters describe; None for absent."""
    if params["state"] == "absent":
        return None
    return {
        "address": {"hostname": params["address"], "port": params["service_port"]},
        "trusted_CA": {"cert_chain": certificates(params["trusted_ca"])},
        "group": params["group"],
        "trust_authority_cluster": params["trust_authority_cluster"],
    }


def read(client: ManagementClient, resource: str, address: str, port: int) -> tuple[str, State]:
    """Id of the registration of that address or "", and the registration or None."""
    spec = {"address": [{"hostname": address, "port": port}]}
    rows = client.call(Call("POST", resource, spec, query=(("action", "query"),)))
    if not rows:
        return "", None
    service = rows[0]["service"]
    found = client.call(Call("GET", resource + path("/{service}", service=service)))
    return service, {
        "address": {"hostname": address, "port": found["address"].get("port", 443)},
        "trusted_CA": {"cert_chain": certificates(found["trusted_CA"]["cert_chain"])},
        "group": found["group"],
        "trust_authority_cluster": found["trust_authority_cluster"],
    }


def plan(resource: str, service: str, current: State, wanted: State) -> Plan:
    """Calls from the current to the wanted registration; a changed one is replaced."""
    if current == wanted:
        return Plan(current, wanted)
    calls, undo = [], ()
    if current is not None:
        calls.append(Call("DELETE", resource + path("/{service}", service=service)))
        undo = (Call("POST", resource, current),)
    if wanted is not None:
        calls.append(Call("POST", resource, wanted))
    return Plan(current, wanted, tuple(calls), undo)
