#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: manager_user
short_description: Make, change or remove a user of a manager
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - A new user may do nothing; M(trusted.infrastructure.manager_permission) gives roles, and
    M(trusted.infrastructure.manager_group) membership.
  - Users that the inventory deploys (C(manager_administrator_name), C(manager_users)) are there too, and are not changed
    by this module. vCenter Server has users in its identity service, so this module works with the managers of this
    collection only.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
attributes:
  idempotent:
    support: partial
    details: With O(update_password=always) each run sends the password.
options:
  name:
    description: Name of the user.
    type: str
    required: true
  user_password:
    description:
      - Password of the user, 12 to 256 characters. Needed to make one.
      - It is write-only, so that nobody can tell whether it is the wanted one already.
    type: str
  update_password:
    description:
      - V(on_create) sends the password when the user is made.
      - V(always) sends it each time, which is a change each time and ends the user's sessions.
    type: str
    choices: [always, on_create]
    default: on_create
  description:
    description: What the user is for. Left alone where it is not given.
    type: str
  state:
    description: Whether the user is to be there. A user who goes loses sessions, memberships and permissions.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Who administers key providers of the Trust Authority
  trusted.infrastructure.manager_user:
    name: clerk@trusted.local
    user_password: "{{ vault_clerk_password }}"
    description: Key providers

- name: The password that the vault has now
  trusted.infrastructure.manager_user:
    name: clerk@trusted.local
    user_password: "{{ vault_clerk_password }}"
    update_password: always

- name: A user who has left
  trusted.infrastructure.manager_user:
    name: former@trusted.local
    state: absent
"""

RETURN = r"""
resource:
  description: The user as he is after the module, or would be in check mode; none when he is absent.
  type: dict
  returned: always
  sample: {"user": "clerk@trusted.local", "description": "Key providers", "password": "<changed>"}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import (
    Plan,
    State,
    differs,
    run,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    ApiError,
    Call,
    ManagementClient,
    path,
)

RESOURCE = "/trust/users"
ONE = RESOURCE + "/{name}"


def read(client: ManagementClient, name: str) -> tuple[State, bool]:
    """The user, or None; and whether he comes from the inventory."""
    found = client.find(Call("GET", path(ONE, name=name)))
    if found is None:
        return None, False
    return {"user": name, "description": found["description"]}, found["source"] == "INVENTORY"


def plan(
    current: State,
    fixed: bool,
    name: str,
    description: str | None,
    password: str | None,
    update: str,
    state: str,
) -> Plan:
    """Create, patch what differs, or delete. fixed: the manager changes nothing about him. Raises ApiError for a user
    who is to be made without a password."""
    text = f"the user {name} comes from the inventory: change him there and deploy the manager again"
    refused = ApiError(text, "NOT_ALLOWED_IN_CURRENT_STATE", 400) if fixed else None
    if state == "absent":
        calls = (Call("DELETE", path(ONE, name=name)),) if current else ()
        return Plan(current, None, calls, refused=refused)
    if current is None:
        if password is None:
            raise ApiError(f"user_password is needed to make the user {name}")
        wanted = {"user": name, "description": description or ""}
        after = {**wanted, "password": "<changed>"}
        return Plan(None, after, (Call("POST", RESOURCE, {**wanted, "password": password}),))
    changes = differs(current, {"description": description})
    after = {**current, **changes}
    if password is not None and update == "always":
        changes["password"], after["password"] = password, "<changed>"
    if not changes:
        return Plan(current, after)
    return Plan(current, after, (Call("PATCH", path(ONE, name=name), changes),), refused=refused)


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "name": {"type": "str", "required": True},
            "user_password": {"type": "str", "no_log": True},
            "update_password": {
                "type": "str",
                "choices": ["always", "on_create"],
                "default": "on_create",
                "no_log": False,
            },
            "description": {"type": "str"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    given = module.params
    run(
        module,
        lambda client: read(client, given["name"]),
        lambda found: plan(
            *found,
            given["name"],
            given["description"],
            given["user_password"],
            given["update_password"],
            given["state"],
        ),
        parameters={"user": "name", "password": "user_password"},
    )


if __name__ == "__main__":
    raise SystemExit(main())
