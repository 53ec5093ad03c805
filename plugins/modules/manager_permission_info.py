#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: manager_permission_info
short_description: List the permissions of a manager
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Lists which user or group has which role on the manager or a cluster.
  - Works with the managers of this collection only.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
options:
  principals:
    description: Names of users and groups whose permissions are wanted, or all where there is none.
    type: list
    elements: str
    default: []
  roles:
    description: Names of roles, in the same way.
    type: list
    elements: str
    default: []
  clusters:
    description: Names or ids of clusters on which permissions stand, in the same way.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Who has the role of an administrator
  trusted.infrastructure.manager_permission_info:
    roles: [Administrator]
"""

RETURN = r"""
permissions:
  description: The permissions. Those without C(cluster) stand on the manager.
  type: list
  elements: dict
  returned: always
  sample: [{"permission": "permission-1", "principal_type": "USER", "principal": "clerk", "role": "TrustedAdmin"}]
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import inform
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    Call,
    ManagementClient,
)


def read(client: ManagementClient, filters: dict[str, list[str]]) -> list[dict[str, t.Any]]:
    """The permissions that match."""
    query = tuple((key, value) for key, values in filters.items() for value in values)
    return client.call(Call("GET", "/trust/permissions", query=query))


def main() -> t.NoReturn:
    filters = ("principals", "roles", "clusters")
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            **{name: {"type": "list", "elements": "str", "default": []} for name in filters},
        },
        supports_check_mode=True,
    )
    inform(
        module, "permissions", lambda client: read(client, {name: module.params[name] for name in filters})
    )


if __name__ == "__main__":
    raise SystemExit(main())
