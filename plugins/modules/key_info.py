#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: key_info
short_description: List the keys of standard key providers
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Reads the ids of the keys that the workload manager knows, their states, and what they are used for. The keys themselves
    are on the key servers and in the memory of hosts, and cannot be read.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
options:
  providers:
    description: Only keys of these providers.
    type: list
    elements: str
    default: []
  states:
    description:
      - Only keys in these states, such as V(ACTIVE), V(DEACTIVATED), V(COMPROMISED), V(DESTROYED), and V(MISSING) for those that
        no key server has.
    type: list
    elements: str
    default: []
  clusters:
    description: Only keys of these clusters, by name or id.
    type: list
    elements: str
    default: []
  hosts:
    description: Only keys that were passed to one of these hosts, by name.
    type: list
    elements: str
    default: []
  objects:
    description: Only keys that are used for one of these, by name or identifier.
    type: list
    elements: str
    default: []
  in_use:
    description: Only keys that are put to use for an object, or only those that are not. Without it, both.
    type: bool
"""

EXAMPLES = r"""
- name: Keys of a provider that encrypt no more
  trusted.infrastructure.key_info:
    providers: [finance]
    states: [DEACTIVATED, COMPROMISED, DESTROYED, MISSING]
  register: found
"""

RETURN = r"""
known_keys:
  description: What was found, by provider and id.
  type: list
  elements: dict
  returned: always
  sample:
    - key_id: "100007"
      provider: finance
      state: ACTIVE
      cluster: domain-c8
      component: Virtual Machine
      name: db1
      identifier: 52d3-77
      created: "2026-11-21T19:45:01.000Z"
      used_since: "2026-11-21T19:45:01.000Z"
      checked: "2026-11-22T07:00:00.000Z"
      hosts: [host1]
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import inform
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import Call

FILTERS = ("providers", "states", "clusters", "hosts", "objects")


def query_of(params: t.Mapping[str, t.Any]) -> tuple[tuple[str, str], ...]:
    """The filters that are given, as the API takes them."""
    query = [(name, value) for name in FILTERS for value in params[name]]
    if params["in_use"] is not None:
        query.append(("in_use", "true" if params["in_use"] else "false"))
    return tuple(query)


def main() -> t.NoReturn:
    names: dict[str, t.Any] = {name: {"type": "list", "elements": "str", "default": []} for name in FILTERS}
    module = AnsibleModule(
        argument_spec={**connection_arguments(), **names, "in_use": {"type": "bool"}},
        supports_check_mode=True,
    )
    query = query_of(module.params)
    call = Call("GET", "/trust/keys", query=query)
    inform(module, "known_keys", lambda client: client.rows(call, "provider", "key_id"))


if __name__ == "__main__":
    raise SystemExit(main())
