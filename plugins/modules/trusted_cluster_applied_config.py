#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: trusted_cluster_applied_config
short_description: Bring the hosts of a trusted cluster to the wanted configuration
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Compares the services that a cluster is to use with what its hosts have, and remediates hosts that differ.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
options:
  cluster:
    description: Name or id of the cluster.
    type: str
    required: true
  state:
    description:
      - V(remediated) brings hosts that differ to what is wanted.
      - V(absent) takes the configuration off the hosts. What is wanted stays as it is.
    type: str
    choices: [remediated, absent]
    default: remediated
"""

EXAMPLES = r"""
- name: Remediate
  trusted.infrastructure.trusted_cluster_applied_config:
    cluster: trusted-cluster
"""

RETURN = r"""
resource:
  description:
    - Health, and whether the hosts have any of the configuration, as it is after the module, or would be in check mode.
      Hosts that should have it and do not are unhealthy.
  type: dict
  returned: always
  sample: {"health": "OK", "applied": true}
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

CONFIG = "/vcenter/trusted-infrastructure/trusted-clusters/{cluster}/services-applied-config"
# A message of the managers of this collection. vCenter Server has none: there, `absent` takes it off each time.
NOTHING_APPLIED = "trusted.infrastructure.nothing_applied"


def read(client: ManagementClient, cluster: str) -> tuple[str, dict[str, t.Any]]:
    """Path of the configuration, its health, and whether the hosts have any."""
    base = path(CONFIG, cluster=cluster_id(client, cluster))
    found = client.call(Call("GET", base, task=True))
    nothing = any(detail["id"] == NOTHING_APPLIED for detail in found["details"])
    return base, {"health": found["health"], "applied": found["health"] != "NONE" and not nothing}


def plan(base: str, current: dict[str, t.Any], state: str) -> Plan:
    """One call, when the hosts are not as wanted."""
    if state == "remediated":
        if current["health"] != "ERROR":
            return Plan(current, current)
        return Plan(current, {"health": "OK", "applied": True}, (Call("PATCH", base, task=True),))
    if not current["applied"]:
        return Plan(current, current)
    return Plan(current, {"applied": False}, (Call("DELETE", base, task=True),))


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["remediated", "absent"], "default": "remediated"},
        },
        supports_check_mode=True,
    )
    run(
        module,
        lambda client: read(client, module.params["cluster"]),
        lambda found: plan(found[0], found[1], module.params["state"]),
    )


if __name__ == "__main__":
    raise SystemExit(main())
