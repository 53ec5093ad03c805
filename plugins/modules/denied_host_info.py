#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: denied_host_info
short_description: List the hosts that a Trust Authority Cluster denies
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Lists the hosts that were removed and must not be served any more.
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
- name: All of them
  trusted.infrastructure.denied_host_info:
    cluster: trust-authority
"""

RETURN = r"""
denied_hosts:
  description: What was found, with health.
  type: list
  elements: dict
  returned: always
  sample: [{"denial": "1", "host": "host3", "ek_digest": "", "reason": "removed", "health": "OK"}]
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

RESOURCE = "/trust/clusters/{cluster}/denied-hosts"


def read(client: ManagementClient, cluster: str) -> list[dict[str, t.Any]]:
    """All of them."""
    return client.call(Call("GET", path(RESOURCE, cluster=cluster_id(client, cluster)), task=True))


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={**connection_arguments(), "cluster": {"type": "str", "required": True}},
        supports_check_mode=True,
    )
    inform(module, "denied_hosts", lambda client: read(client, module.params["cluster"]), absent=[])


if __name__ == "__main__":
    raise SystemExit(main())
