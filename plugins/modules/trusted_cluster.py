#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: trusted_cluster
short_description: Make a cluster trusted
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Attaches the Attestation Services, then the Key Provider Services, that are registered for a Trust Authority Cluster.
    The first attachment is what makes a cluster a Trusted Cluster.
  - With O(state=absent) they are detached in the reverse order.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
options:
  cluster:
    description: Name or id of the cluster.
    type: str
    required: true
  trust_authority_cluster:
    description: Id of the Trust Authority Cluster, as the registrations have it.
    type: str
    required: true
  state:
    description: Whether the cluster is to use the services that are registered, or none.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Hosts of this cluster use the Trust Authority
  trusted.infrastructure.trusted_cluster:
    cluster: trusted-cluster
    trust_authority_cluster: domain-c1

- name: The cluster is a plain one again
  trusted.infrastructure.trusted_cluster:
    cluster: trusted-cluster
    trust_authority_cluster: domain-c1
    state: absent
"""

RETURN = r"""
resource:
  description: Addresses of the attached services after the module, or as they would be in check mode.
  type: dict
  returned: always
  sample: {"attestation": ["ta1:443"], "kms": ["ta1:443"]}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import (
    Plan,
    cluster_id,
    run,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    Call,
    ManagementClient,
    path,
)

REGISTRATIONS = "/vcenter/trusted-infrastructure/{kind}/services"
ATTACHED = "/vcenter/trusted-infrastructure/trusted-clusters/{cluster}/{kind}/services"
KINDS = ("attestation", "kms")
QUERY = (("action", "query"),)


def addresses(rows: list[dict[str, t.Any]]) -> dict[str, str]:
    """Id of each service by its address, as text."""
    return {f"{row['address']['hostname']}:{row['address'].get('port', 443)}": row["service"] for row in rows}


def read(client: ManagementClient, cluster: str, authority: str) -> dict[str, t.Any]:
    """Paths; and for each kind, which services are registered for the Trust Authority Cluster and which are attached."""
    found = cluster_id(client, cluster)
    spec = {"trust_authority_cluster": [authority]}
    state: dict[str, t.Any] = {"cluster": found}
    for kind in KINDS:
        attached = client.call(Call("POST", path(ATTACHED, cluster=found, kind=kind), spec, query=QUERY))
        registered = client.call(Call("POST", path(REGISTRATIONS, kind=kind), spec, query=QUERY))
        state[kind] = {"registered": addresses(registered), "attached": addresses(attached)}
    return state


def plan(current: dict[str, t.Any], authority: str, state: str) -> Plan:
    """Attach what is registered and not attached yet, or detach everything."""
    before = {kind: sorted(current[kind]["attached"]) for kind in KINDS}
    after, calls = {}, []
    for kind in KINDS if state == "present" else reversed(KINDS):
        base = path(ATTACHED, cluster=current["cluster"], kind=kind)
        attached, registered = current[kind]["attached"], current[kind]["registered"]
        if state == "absent":
            calls += [
                Call("DELETE", base + path("/{id}", id=attached[address]), task=True)
                for address in sorted(attached)
            ]
            after[kind] = []
            continue
        missing = sorted(set(registered) - set(attached))
        if missing and not attached:
            calls.append(
                Call("POST", base, {"type": "CLUSTER", "trust_authority_cluster": authority}, task=True)
            )
        else:
            calls += [
                Call("POST", base, {"type": "SERVICE", "service": registered[address]}, task=True)
                for address in missing
            ]
        after[kind] = sorted({*attached, *registered})
    return Plan(before, after, tuple(calls))


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            "trust_authority_cluster": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    authority = module.params["trust_authority_cluster"]
    run(
        module,
        lambda client: read(client, module.params["cluster"], authority),
        lambda current: plan(current, authority, module.params["state"]),
    )


if __name__ == "__main__":
    raise SystemExit(main())
