#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: trusted_cluster_info
short_description: Read which services a trusted cluster uses
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Reads the services that are attached to a cluster, and whether its hosts have the configuration that is wanted.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
options:
  cluster:
    description: Name or id of the cluster.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Services of the cluster
  trusted.infrastructure.trusted_cluster_info:
    cluster: trusted-cluster
"""

RETURN = r"""
trusted_cluster:
  description: Attached services, and the health of the configuration on the hosts.
  type: dict
  returned: always
  sample: {"attestation": [], "kms": [], "applied_config": {"health": "OK", "details": []}}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import cluster_id, inform
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    Call,
    ManagementClient,
    path,
)

CLUSTER = "/vcenter/trusted-infrastructure/trusted-clusters/{cluster}"


def read(client: ManagementClient, cluster: str) -> dict[str, t.Any]:
    """Attached services and health."""
    base = path(CLUSTER, cluster=cluster_id(client, cluster))
    query = (("action", "query"),)
    return {
        "attestation": client.call(Call("POST", base + "/attestation/services", {}, query=query)),
        "kms": client.call(Call("POST", base + "/kms/services", {}, query=query)),
        "applied_config": client.call(Call("GET", base + "/services-applied-config", task=True)),
    }


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={**connection_arguments(), "cluster": {"type": "str", "required": True}},
        supports_check_mode=True,
    )
    nothing = {"attestation": [], "kms": [], "applied_config": {"health": "NONE", "details": []}}
    inform(module, "trusted_cluster", lambda client: read(client, module.params["cluster"]), absent=nothing)


if __name__ == "__main__":
    raise SystemExit(main())
