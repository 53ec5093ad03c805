#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_info
short_description: List hosts
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Lists the hosts of a manager, as C(GET /api/vcenter/host) does on vSphere.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
options:
  names:
    description: Only hosts with these names. Without it, all.
    type: list
    elements: str
    default: []
  clusters:
    description: Only hosts of the clusters with these names or ids.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Hosts of one cluster
  trusted.infrastructure.host_info:
    clusters: [trusted-cluster]
"""

RETURN = r"""
hosts:
  description: The hosts.
  type: list
  elements: dict
  returned: always
  sample: [{"host": "host-1", "name": "host1", "connection_state": "CONNECTED", "power_state": "POWERED_ON"}]
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import cluster_ids, inform
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    Call,
    ManagementClient,
)


def read(client: ManagementClient, names: list[str], clusters: list[str]) -> list[dict[str, t.Any]]:
    """The hosts that match."""
    found = cluster_ids(client, clusters) if clusters else []
    if clusters and not found:
        return []
    query = [("names", name) for name in names] + [("clusters", cluster) for cluster in found]
    return client.call(Call("GET", "/vcenter/host", query=tuple(query)))


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "names": {"type": "list", "elements": "str", "default": []},
            "clusters": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    inform(module, "hosts", lambda client: read(client, module.params["names"], module.params["clusters"]))


if __name__ == "__main__":
    raise SystemExit(main())
