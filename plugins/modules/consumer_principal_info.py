#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: consumer_principal_info
short_description: List the principals that a Trust Authority Cluster accepts
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Reads the principals of workload managers of a Trust Authority Cluster.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
options:
  cluster:
    description: Name or id of the Trust Authority Cluster.
    type: str
    required: true
  issuers:
    description: Only the principals of these issuers. Without it, all.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: All of them
  trusted.infrastructure.consumer_principal_info:
    cluster: trust-authority
"""

RETURN = r"""
consumer_principals:
  description: What was found, with health.
  type: list
  elements: dict
  returned: always
  sample: [{"id": "1", "issuer": "https://workload-manager/", "issuer_alias": "workload", "health": "OK"}]
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

RESOURCE = "/vcenter/trusted-infrastructure/trust-authority-clusters/{cluster}/consumer-principals"


def read(client: ManagementClient, cluster: str, issuers: list[str]) -> list[dict[str, t.Any]]:
    """Each one in full."""
    base = path(RESOURCE, cluster=cluster_id(client, cluster))
    spec = {"issuer": issuers} if issuers else {}
    rows = client.call(Call("POST", base, spec, query=(("action", "query"),), task=True))
    ids = [row["id"] for row in rows]
    return [{"id": one, **client.call(Call("GET", base + path("/{id}", id=one), task=True))} for one in ids]


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            "issuers": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    inform(
        module,
        "consumer_principals",
        lambda client: read(client, module.params["cluster"], module.params["issuers"]),
        absent=[],
    )


if __name__ == "__main__":
    raise SystemExit(main())
