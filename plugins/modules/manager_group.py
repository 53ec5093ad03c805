#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: manager_group
short_description: Make, change or remove a group of users of a manager
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Permissions can be given to a group. The group V(TrustedAdmins) is built in. Only its members change the trusted
    infrastructure, on the manager of each side for itself, and what each of them may do his privileges say.
  - Works with the managers of this collection only.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
options:
  name:
    description: Name of the group.
    type: str
    required: true
  description:
    description: What the group is for. Left alone where it is not given.
    type: str
  members:
    description: Names of users who are to be members.
    type: list
    elements: str
    default: []
  exclusive:
    description:
      - Whether nobody else is to be a member. Whom the inventory puts into the group (C(groups) of C(manager_users))
        stays in it.
    type: bool
    default: false
  state:
    description: Whether the group is to be there.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Who administers the trusted infrastructure
  trusted.infrastructure.manager_group:
    name: TrustedAdmins
    members: [clerk@trusted.local]
    exclusive: true

- name: Readers
  trusted.infrastructure.manager_group:
    name: auditors
    description: They read, and change nothing
    members: [auditor@trusted.local]
"""

RETURN = r"""
resource:
  description: The group as it is after the module, or would be in check mode; none when it is absent.
  type: dict
  returned: always
  sample: {"group": "auditors", "description": "They read", "members": ["auditor@trusted.local"]}
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

RESOURCE = "/trust/groups"
ONE = RESOURCE + "/{name}"
MEMBER = ONE + "/members/{user}"


def read(client: ManagementClient, name: str) -> tuple[State, bool, set[str]]:
    """The group, or None; whether it is built in; and those of its members whom the inventory puts in."""
    found = client.find(Call("GET", path(ONE, name=name)))
    if found is None:
        return None, False, set()
    fixed = {member["user"] for member in found["members"] if member["source"] == "INVENTORY"}
    members = sorted(member["user"] for member in found["members"])
    return {"group": name, "description": found["description"], "members": members}, found["system"], fixed


def plan(
    current: State,
    system: bool,
    fixed: set[str],
    name: str,
    description: str | None,
    members: list[str],
    exclusive: bool,
    state: str,
) -> Plan:
    """Create or delete the group, describe it, let members in and out. system: only its members can be changed.
    fixed: members who stay."""
    text = f"the group {name} is built in: only its members can be changed"
    refused = ApiError(text, "NOT_ALLOWED_IN_CURRENT_STATE", 400) if system else None
    if state == "absent":
        calls_to_delete = (Call("DELETE", path(ONE, name=name)),) if current else ()
        return Plan(current, None, calls_to_delete, refused=refused)
    calls: list[Call] = []
    before = current
    if current is None:
        current = {"group": name, "description": description or "", "members": []}
        calls.append(Call("POST", RESOURCE, {"group": name, "description": description or ""}))
    changes = differs(current, {"description": description})
    if changes:
        calls.append(Call("PATCH", path(ONE, name=name), changes))
    there = set(current["members"])
    wanted = set(members) | (fixed if exclusive else there)
    calls += [Call("PUT", path(MEMBER, name=name, user=user)) for user in sorted(wanted - there)]
    calls += [Call("DELETE", path(MEMBER, name=name, user=user)) for user in sorted(there - wanted)]
    after = {**current, **changes, "members": sorted(wanted)}
    return Plan(before, after, tuple(calls), refused=refused if changes else None)


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "name": {"type": "str", "required": True},
            "description": {"type": "str"},
            "members": {"type": "list", "elements": "str", "default": []},
            "exclusive": {"type": "bool", "default": False},
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
            given["members"],
            given["exclusive"],
            given["state"],
        ),
        parameters={"group": "name"},
    )


if __name__ == "__main__":
    raise SystemExit(main())
