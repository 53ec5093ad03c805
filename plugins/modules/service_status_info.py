#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: service_status_info
short_description: Read the health of the services of a Trust Authority Cluster
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Reads the health of the Attestation Service and of the Key Provider Service.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
options:
  cluster:
    description: Name or id of the Trust Authority Cluster.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Are the services healthy?
  trusted.infrastructure.service_status_info:
    cluster: trust-authority
"""

RETURN = r"""
attestation:
  description: Health of the Attestation Service on the hosts of the cluster.
  type: dict
  returned: always
  sample: {"health": "OK", "details": []}
kms:
  description: Health of the Key Provider Service on the hosts of the cluster.
  type: dict
  returned: always
  sample: {"health": "OK", "details": []}
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

RESOURCE = "/vcenter/trusted-infrastructure/trust-authority-clusters/{cluster}/{service}/service-status"
SERVICES = ("attestation", "kms")


def read(client: ManagementClient, cluster: str) -> dict[str, t.Any]:
    """Health of both services."""
    found = cluster_id(client, cluster)
    return {
        service: client.call(Call("GET", path(RESOURCE, cluster=found, service=service), task=True))
        for service in SERVICES
    }


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={**connection_arguments(), "cluster": {"type": "str", "required": True}},
        supports_check_mode=True,
    )
    unknown = {service: {"health": "NONE", "details": []} for service in SERVICES}
    inform(module, None, lambda client: read(client, module.params["cluster"]), absent=unknown)


if __name__ == "__main__":
    raise SystemExit(main())
