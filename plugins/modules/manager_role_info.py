#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: manager_role_info
short_description: List the roles and privileges of a manager
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Lists roles with their privileges, and all privileges that there are.
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
"""

EXAMPLES = r"""
- name: What a No cryptography administrator may do
  trusted.infrastructure.manager_role_info:
    names: [NoCryptoAdmin]
"""

RETURN = r"""
roles:
  description: The roles, those that are built in (C(system)) first.
  type: list
  elements: dict
  returned: always
  sample: [{"role": "NoAccess", "label": "No access", "system": true, "privileges": []}]
privileges:
  description: All privileges, with the names that vSphere shows.
  type: list
  elements: dict
  returned: always
  sample: [{"privilege": "System.View", "name": "View", "group": "System"}]
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


def read(client: ManagementClient, names: list[str]) -> dict[str, t.Any]:
    """Roles and privileges."""
    rows = client.call(Call("GET", "/trust/roles"))
    return {
        "roles": [row for row in rows if not names or row["role"] in names],
        "privileges": client.call(Call("GET", "/trust/privileges")),
    }


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "names": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    inform(module, None, lambda client: read(client, module.params["names"]))


if __name__ == "__main__":
    raise SystemExit(main())
