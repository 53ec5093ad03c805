#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: trusted_key_provider
short_description: Register a trusted key provider on the workload side
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Tells the hosts of trusted clusters the name of a trusted key provider, and which one is the default. The first one that
    is registered becomes the default.
  - vCenter Server does this in another API, so this module works with the managers of this collection only.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
options:
  name:
    description: Name of the provider on the Trust Authority side.
    type: str
    required: true
  group:
    description: Group of the Key Provider Services that have it. Needed with O(state=present).
    type: str
  default:
    description: Whether it is to be the default. V(false) leaves the default as it is.
    type: bool
    default: false
  state:
    description: Whether the registration is to be there.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Provider of a department
  trusted.infrastructure.trusted_key_provider:
    name: department-a
    group: "{{ found.trust_authority_hosts[0].kms.group }}"
    default: true

- name: Hosts use it no more
  trusted.infrastructure.trusted_key_provider:
    name: department-b
    state: absent
"""

RETURN = r"""
resource:
  description: The registration as it is after the module, or would be in check mode; none when it is absent.
  type: dict
  returned: always
  sample: {"provider": "department-a", "default": true}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils import key_provider_names
from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import Plan, State, run
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    ApiError,
    Call,
    ManagementClient,
    path,
)

RESOURCE = "/trust/trusted-key-providers"
DEFAULT = "/trust/default-key-provider"


class Found(t.NamedTuple):
    """current: the registration, or None. Where there is none, has_default: there is a default, of whatever kind,
    otherwise a new one becomes it; taken: the name is another provider's."""

    current: State
    has_default: bool = True
    taken: ApiError | None = None


def read(client: ManagementClient, name: str, state: str, check: bool) -> Found:
    """The registration, and what becomes of a new one; whether there will be one, for check mode alone."""
    rows = client.call(Call("GET", RESOURCE))
    found = [row for row in rows if row["provider"] == name]
    if found:
        return Found({key: found[0][key] for key in ("provider", "group", "default")})
    if state == "absent":
        return Found(None)
    known = key_provider_names.of_all_kinds(client) if check else []
    has_default = client.call(Call("GET", DEFAULT)).get("provider") is not None
    return Found(None, has_default, key_provider_names.refusal(known, name))


def plan(found: Found, name: str, group: str | None, default: bool, state: str) -> Plan:
    """Create, patch what differs, or delete."""
    current = found.current
    one = RESOURCE + path("/{name}", name=name)
    if state == "absent":
        return Plan(current, None, (Call("DELETE", one, task=True),) if current else ())
    if current is None:
        body = {"provider": name, "group": group, "default": default}
        after = {**body, "default": default or not found.has_default}
        return Plan(None, after, (Call("POST", RESOURCE, body, task=True),), hindered=found.taken)
    different: dict[str, t.Any] = {}
    if group is not None and group != current["group"]:
        different["group"] = group
    if default and not current["default"]:
        different["default"] = True
    calls = (Call("PATCH", one, different, task=True),) if different else ()
    return Plan(current, {**current, **different}, calls)


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "name": {"type": "str", "required": True},
            "group": {"type": "str"},
            "default": {"type": "bool", "default": False},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["group"])],
        supports_check_mode=True,
    )
    name, state = module.params["name"], module.params["state"]
    run(
        module,
        lambda client: read(client, name, state, module.check_mode),
        lambda found: plan(found, name, module.params["group"], module.params["default"], state),
        parameters={"provider": "name"},
    )


if __name__ == "__main__":
    raise SystemExit(main())
