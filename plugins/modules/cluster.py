#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cluster
short_description: Make, repair or remove a cluster
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - A cluster is a set of hosts. On the manager of the Trust Authority side it can become a Trust Authority Cluster,
    on the manager of the workload side a Trusted Cluster.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
options:
  name:
    description: Name of the cluster, unique on its manager.
    type: str
    required: true
  state:
    description:
      - Whether the cluster is to be there.
      - V(remediated) makes it too, and brings those of its hosts that differ to the configuration that is wanted. It is
        for managers of this collection, and what a run begins with that follows one that did not reach every host.
    type: str
    choices: [present, remediated, absent]
    default: present
"""

EXAMPLES = r"""
- name: A cluster for the trusted hosts
  trusted.infrastructure.cluster:
    hostname: workload-manager.example.com
    username: administrator@trusted.local
    password: "{{ vault_administrator_password }}"
    ca_path: trust/authorities/workload.pem
    name: trusted-cluster

- name: The same, with the connection set once for all modules of the collection
  module_defaults:
    group/trusted.infrastructure.trusted:
      hostname: workload-manager.example.com
      username: administrator@trusted.local
      password: "{{ vault_administrator_password }}"
      ca_path: trust/authorities/workload.pem
  block:
    - name: Hosts that missed a change get it now
      trusted.infrastructure.cluster:
        name: trusted-cluster
        state: remediated

    - name: A cluster without hosts goes
      trusted.infrastructure.cluster:
        name: old-cluster
        state: absent
"""

RETURN = r"""
resource:
  description:
    - The cluster as it is after the module, or would be in check mode; none when it is absent.
    - Its C(health) is there with O(state=remediated) for a cluster that was there before.
  type: dict
  returned: always
  sample: {"name": "trusted-cluster", "cluster": "domain-c1"}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import Plan, State, run
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    Call,
    ManagementClient,
    path,
)

CLUSTER = "/trust/clusters/{cluster}"


def read(client: ManagementClient, name: str, state: str) -> State:
    """The cluster of that name, or None. With its health, where that matters."""
    rows = client.call(Call("GET", "/vcenter/cluster", query=(("names", name),)))
    if not rows:
        return None
    found = {"name": rows[0]["name"], "cluster": rows[0]["cluster"]}
    if state == "remediated":
        status = client.call(Call("GET", path(CLUSTER + "/status", cluster=found["cluster"]), task=True))
        found["health"] = status["health"]
    return found


def plan(current: State, name: str, state: str) -> Plan:
    """Calls that make, repair or remove the cluster."""
    if state == "absent":
        if current is None:
            return Plan(None, None)
        return Plan(current, None, (Call("DELETE", path(CLUSTER, cluster=current["cluster"])),))
    if current is None:
        return Plan(None, {"name": name}, (Call("POST", "/trust/clusters", {"name": name}),))
    if state == "remediated" and current["health"] == "ERROR":
        query = (("action", "remediate"),)
        call = Call("POST", path(CLUSTER, cluster=current["cluster"]), query=query, task=True)
        return Plan(current, {**current, "health": "OK"}, (call,))
    return Plan(current, current)


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "remediated", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    name, state = module.params["name"], module.params["state"]
    run(module, lambda client: read(client, name, state), lambda current: plan(current, name, state))


if __name__ == "__main__":
    raise SystemExit(main())
