#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: key_providers_info
short_description: List the key providers of the workload side, of all kinds
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Lists standard, trusted and native key providers of a workload manager, and which is the default.
  - vCenter Server has this in another API, so this module works with the managers of this collection only.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
options:
  names:
    description: Names of providers. Without it, all of them.
    type: list
    elements: str
    default: []
  types:
    description: Kinds of providers. Without it, all kinds.
    type: list
    elements: str
    choices: [STANDARD, TRUSTED, NATIVE]
    default: []
"""

EXAMPLES = r"""
- name: Which key providers are there, and which one encrypts?
  trusted.infrastructure.key_providers_info:
  register: found

- name: One default, and it works
  ansible.builtin.assert:
    that: found.key_providers | selectattr('default') | map(attribute='health') | list == ['OK']
"""

RETURN = r"""
key_providers:
  description:
    - The providers, in the order of their names. C(default) is the one of the manager, for all clusters but those in
      C(default_of) of another. C(health) is V(NONE) where the manager does not know it.
  type: list
  elements: dict
  returned: always
  sample:
    - provider: department-a
      type: TRUSTED
      default: true
      default_of: []
      health: OK
      details: []
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

KINDS = ["STANDARD", "TRUSTED", "NATIVE"]


def read(client: ManagementClient, names: list[str], kinds: list[str]) -> list[dict[str, t.Any]]:
    """The providers that are asked for."""
    return [
        row
        for row in client.call(Call("GET", "/trust/key-providers"))
        if (not names or row["provider"] in names) and (not kinds or row["type"] in kinds)
    ]


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "names": {"type": "list", "elements": "str", "default": []},
            "types": {"type": "list", "elements": "str", "choices": KINDS, "default": []},
        },
        supports_check_mode=True,
    )
    names, kinds = module.params["names"], module.params["types"]
    inform(module, "key_providers", lambda client: read(client, names, kinds))


if __name__ == "__main__":
    raise SystemExit(main())
