#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: manager_role
short_description: Make, change or remove a role of a manager
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - A role is a named set of privileges. Built in, and not to be changed, are V(Administrator), V(NoCryptoAdmin) (No
    cryptography administrator), V(TrustedAdmin) (Trusted infrastructure administrator), V(ReadOnly) and V(NoAccess).
  - A role is made of privileges that the user of the module holds.
  - Works with the managers of this collection only.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
options:
  name:
    description: Name of the role.
    type: str
    required: true
  privileges:
    description:
      - Ids of all privileges of the role. Needed with O(state=present); M(trusted.infrastructure.manager_role_info)
        lists them.
      - C(System.Anonymous), C(System.Read) and C(System.View) are in every role, named or not.
    type: list
    elements: str
  description:
    description: What the role is for. Left alone where it is not given.
    type: str
  state:
    description: Whether the role is to be there. One that a permission uses is not removed; check mode warns of it.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Who administers key servers, and nothing else
  trusted.infrastructure.manager_role:
    name: key-servers
    privileges: [Cryptographer.ManageKeyServers, Cryptographer.ReadKeyServersInfo]

- name: Nobody needs it any more
  trusted.infrastructure.manager_role:
    name: key-servers
    state: absent
"""

RETURN = r"""
resource:
  description: The role as it is after the module, or would be in check mode; none when it is absent.
  type: dict
  returned: always
  sample: {"role": "key-servers", "description": "", "privileges": ["Cryptographer.ManageKeyServers"]}
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

RESOURCE = "/trust/roles"
ONE = RESOURCE + "/{name}"
# What the manager puts into every role.
ALWAYS = {"System.Anonymous", "System.Read", "System.View"}


class Found(t.NamedTuple):
    """current: the role or None. system: it is built in. users: who has it by a permission, where that was asked."""

    current: State
    system: bool = False
    users: t.Sequence[str] = ()


def read(client: ManagementClient, name: str, state: str) -> Found:
    """The role, and what keeps it from being changed or, with state absent, removed."""
    found = client.find(Call("GET", path(ONE, name=name)))
    if found is None:
        return Found(None)
    asked = Call("GET", "/trust/permissions", query=(("roles", name),))
    users = {row["principal"] for row in client.call(asked)} if state == "absent" else ()
    current = {"role": name, **{key: found[key] for key in ("description", "privileges")}}
    return Found(current, found["system"], sorted(users))


def built_in(found: Found, name: str) -> ApiError | None:
    """What the manager says to a change or the removal of a built-in role."""
    if not found.system:
        return None
    text = f"the role {name} is built in: it cannot be changed or removed"
    return ApiError(text, "NOT_ALLOWED_IN_CURRENT_STATE", 400)


def in_use(found: Found, name: str) -> ApiError | None:
    """What the manager says to the removal of a role that somebody has."""
    if not found.users:
        return None
    text = f"the role {name} is in use; remove the permissions of these first: {', '.join(found.users)}"
    return ApiError(text, "RESOURCE_BUSY", 500)


def plan(found: Found, name: str, description: str | None, privileges: list[str] | None, state: str) -> Plan:
    """Create, patch what differs, or delete."""
    current, refused = found.current, built_in(found, name)
    if state == "absent":
        calls = (Call("DELETE", path(ONE, name=name)),) if current else ()
        return Plan(current, None, calls, refused=refused, hindered=in_use(found, name))
    complete = sorted({*(privileges or []), *ALWAYS})
    if current is None:
        wanted = {"role": name, "description": description or "", "privileges": complete}
        return Plan(None, wanted, (Call("POST", RESOURCE, wanted),))
    changes = differs(current, {"description": description, "privileges": complete})
    if not changes:
        return Plan(current, current)
    return Plan(
        current, {**current, **changes}, (Call("PATCH", path(ONE, name=name), changes),), refused=refused
    )


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "name": {"type": "str", "required": True},
            "privileges": {"type": "list", "elements": "str"},
            "description": {"type": "str"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["privileges"])],
        supports_check_mode=True,
    )
    given = module.params
    run(
        module,
        lambda client: read(client, given["name"], given["state"]),
        lambda found: plan(found, given["name"], given["description"], given["privileges"], given["state"]),
        parameters={"role": "name"},
    )


if __name__ == "__main__":
    raise SystemExit(main())
