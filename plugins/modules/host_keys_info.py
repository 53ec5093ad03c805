#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_keys_info
short_description: Read which keys a host keeps
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Reads which keys a host keeps for objects, wrapped, and what wraps them. The keys themselves are never shown.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
options:
  host:
    description: Name or id of the host.
    type: str
    required: true
  providers:
    description: Names of key providers. Without it, keys of all of them.
    type: list
    elements: str
    default: []
  objects:
    description: Ids of objects. Without it, keys of all of them.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Keys of a host
  trusted.infrastructure.host_keys_info:
    host: host1
  register: found

- name: Nothing rests on the old primary key
  ansible.builtin.assert:
    that: found.object_keys | selectattr('primary_key_id', 'equalto', '1001') | length == 0
"""

RETURN = r"""
object_keys:
  description: The keys, by object. C(primary_key_id) is null where the provider is a standard one.
  type: list
  elements: dict
  returned: always
  sample:
    - host: host1
      key_id: 6f6a1f6e-6f0d-4f3a-9d5e-0d3f3c1f8f10
      object_id: 5270c7a3-54e0-4a6f-9f0c-6d9d8a3b1f01
      component: Virtual Machine
      name: web
      provider: finance
      type: TRUSTED
      kek_id: 52d3
      primary_key_id: "1002"
      created: "2026-11-21T19:45:01.000Z"
      deep_recrypt: false
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import host_id, inform
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    Call,
    ManagementClient,
    path,
)

KEYS = "/trust/hosts/{host}/keys"


def read(client: ManagementClient, given: t.Mapping[str, t.Any]) -> list[dict[str, t.Any]]:
    """The host's keys that are asked for."""
    rows = client.rows(Call("GET", path(KEYS, host=host_id(client, given["host"]))), "key_id")
    return [
        {"primary_key_id": None, **row}
        for row in rows
        if (not given["providers"] or row["provider"] in given["providers"])
        and (not given["objects"] or row["object_id"] in given["objects"])
    ]


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "host": {"type": "str", "required": True},
            "providers": {"type": "list", "elements": "str", "default": []},
            "objects": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    inform(module, "object_keys", lambda client: read(client, module.params), absent=[])


if __name__ == "__main__":
    raise SystemExit(main())
