#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: manager_permission
short_description: Give a user or group a role on a manager
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - A permission is a role that a user or group has on the manager, or on one of its clusters. There is one for each
    principal and object.
  - As with vSphere, what stands on a cluster overrides there what stands on the manager, and a permission of the user
    himself overrides those of his groups on the same object. Privileges of users of the inventory are never overridden.
  - Nobody gives away more than he holds, and the last administrator stays.
  - Works with the managers of this collection only.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
options:
  principal:
    description: Name of the user or group.
    type: str
    required: true
  principal_type:
    description: Which of both it is.
    type: str
    choices: [user, group]
    default: user
  role:
    description: Name of the role. Needed with O(state=present).
    type: str
  cluster:
    description: Name or id of the cluster on which the role is given. Without it, it is given on the manager.
    type: str
  propagate:
    description: Whether it counts below, too, on clusters and their hosts.
    type: bool
    default: true
  state:
    description: Whether the principal is to have a permission on this object.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: An administrator of the trusted infrastructure
  trusted.infrastructure.manager_permission:
    principal: clerk@trusted.local
    role: TrustedAdmin

- name: A department has its cluster
  trusted.infrastructure.manager_permission:
    principal: department-a
    principal_type: group
    role: NoCryptoAdmin
    cluster: department-a

- name: And nothing else
  trusted.infrastructure.manager_permission:
    principal: department-a
    principal_type: group
    state: absent
"""

RETURN = r"""
resource:
  description: The permission as it is after the module, or would be in check mode; none when it is absent.
  type: dict
  returned: always
  sample: {"principal": "clerk@trusted.local", "principal_type": "USER", "role": "TrustedAdmin", "propagate": true}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import (
    Plan,
    State,
    cluster_id,
    differs,
    run,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    Call,
    ManagementClient,
    path,
)

RESOURCE = "/trust/permissions"
ONE = RESOURCE + "/{permission}"


def read(
    client: ManagementClient, principal: str, principal_type: str, cluster: str | None
) -> tuple[dict[str, t.Any], State, str]:
    """Whose permission on what, the permission or None, and its id."""
    target: dict[str, t.Any] = {"principal": principal, "principal_type": principal_type.upper()}
    if cluster is not None:
        target["cluster"] = cluster_id(client, cluster)
    for row in client.call(Call("GET", RESOURCE, query=(("principals", principal),))):
        same = row["principal_type"] == target["principal_type"] and row.get("cluster") == target.get(
            "cluster"
        )
        if same:
            state = {**target, "role": row["role"], "propagate": row["propagate"]}
            return target, state, row["permission"]
    return target, None, ""


def plan(
    target: dict[str, t.Any], current: State, permission: str, role: str | None, propagate: bool, state: str
) -> Plan:
    """Create, patch what differs, or delete."""
    if state == "absent":
        delete = (Call("DELETE", path(ONE, permission=permission)),) if current else ()
        return Plan(current, None, delete)
    wanted = {"role": role, "propagate": propagate}
    if current is None:
        body = {**target, **wanted}
        return Plan(None, body, (Call("POST", RESOURCE, body),))
    changes = differs(current, wanted)
    calls = (Call("PATCH", path(ONE, permission=permission), changes),) if changes else ()
    return Plan(current, {**current, **changes}, calls)


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "principal": {"type": "str", "required": True},
            "principal_type": {"type": "str", "choices": ["user", "group"], "default": "user"},
            "role": {"type": "str"},
            "cluster": {"type": "str"},
            "propagate": {"type": "bool", "default": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["role"])],
        supports_check_mode=True,
    )
    given = module.params
    run(
        module,
        lambda client: read(client, given["principal"], given["principal_type"], given["cluster"]),
        lambda found: plan(*found, given["role"], given["propagate"], given["state"]),
    )


if __name__ == "__main__":
    raise SystemExit(main())
