#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: manager_user_info
short_description: List the users of a manager
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Lists users with the groups that they are in, those of the inventory too. Passwords are in no answer.
  - Works with the managers of this collection only.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
options:
  names:
    description: Names of those that are wanted, or all where there is none.
    type: list
    elements: str
    default: []
  gather_privileges:
    description: Whether to tell what each of them may do, as it stands now.
    type: bool
    default: false
  cluster:
    description: Name or id of the cluster on which; without it, on the manager.
    type: str
"""

EXAMPLES = r"""
- name: What one of them may do on a cluster
  trusted.infrastructure.manager_user_info:
    names: [clerk@trusted.local]
    gather_privileges: true
    cluster: department-a
"""

RETURN = r"""
users:
  description:
    - The users. C(source) is V(INVENTORY) or V(API).
    - With O(gather_privileges=true), C(privileges) are held on the cluster or the manager, C(host_privileges) on the hosts
      below, and C(trusted_admin) says whether the user is a member of TrustedAdmins.
  type: list
  elements: dict
  returned: always
  sample: [{"user": "clerk@trusted.local", "source": "API", "description": "", "groups": ["TrustedAdmins"]}]
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
    path,
)


def read(
    client: ManagementClient, names: list[str], gather_privileges: bool, cluster: str | None
) -> list[dict[str, t.Any]]:
    """The users, in the order of their names."""
    rows = client.call(Call("GET", "/trust/users"))
    found = [row for row in rows if not names or row["user"] in names]
    if not gather_privileges:
        return found
    query = () if cluster is None else (("cluster", cluster),)
    return [
        {
            **row,
            **client.call(Call("GET", path("/trust/users/{user}/privileges", user=row["user"]), query=query)),
        }
        for row in found
    ]


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "names": {"type": "list", "elements": "str", "default": []},
            "gather_privileges": {"type": "bool", "default": False},
            "cluster": {"type": "str"},
        },
        supports_check_mode=True,
    )
    given = module.params
    inform(
        module,
        "users",
        lambda client: read(client, given["names"], given["gather_privileges"], given["cluster"]),
        absent=[],
    )


if __name__ == "__main__":
    raise SystemExit(main())
