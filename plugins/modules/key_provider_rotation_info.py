#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: key_provider_rotation_info
short_description: Show what is left under earlier primary keys of a trusted key provider
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Reads which earlier primary keys of a provider still open, and which hosts keep keys under them.
  - Hosts report what they keep when they have wrapped keys again, and every now and then.
  - vCenter Server has no such operation.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
options:
  cluster:
    description: Name or id of the Trust Authority Cluster.
    type: str
    required: true
  provider:
    description: Name of the provider.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: What is left
  trusted.infrastructure.key_provider_rotation_info:
    cluster: trust-authority
    provider: department-a
  register: left

- name: Wait until all hosts have wrapped their keys again
  trusted.infrastructure.key_provider_rotation_info:
    cluster: trust-authority
    provider: department-a
  register: left
  until: left.rotation.previous | map(attribute='keys_left') | sum == 0
  retries: 30
  delay: 10
"""

RETURN = r"""
rotation:
  description:
    - The primary key that wraps; the earlier ones with the number of keys left under each, never fewer than there are, and
      the hosts that keep them. Times are Unix seconds. A host that is V(denied) is given no keys.
    - V(unknown) names the Trust Authority hosts that could not be asked, V(behind) those that have not heard of the last
      change of the provider.
    - Empty when there is no such provider.
  type: dict
  returned: always
  sample:
    master_key_id: "2"
    previous:
      - master_key_id: "1"
        since: 1800000000
        compromised: false
        keys_left: 2
        hosts:
          - host: host3
            scope: lab
            keys: 2
            denied: false
            reported: 1800000300
    unknown: []
    behind: []
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

RESOURCE = "/trust/clusters/{cluster}/kms/providers/{provider}/rotation"


def read(client: ManagementClient, cluster: str, name: str) -> t.Any:
    """The rotation as the API gives it. Raises ApiError, NOT_FOUND for a cluster or provider that is not there."""
    base = path(RESOURCE, cluster=cluster_id(client, cluster), provider=name)
    return client.call(Call("GET", base, task=True))


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            "provider": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    inform(
        module,
        "rotation",
        lambda client: read(client, module.params["cluster"], module.params["provider"]),
        absent={},
    )


if __name__ == "__main__":
    raise SystemExit(main())
