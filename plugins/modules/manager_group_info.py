#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: manager_group_info
short_description: List the groups of a manager
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Lists groups with their members.
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
- name: Who administers the trusted infrastructure
  trusted.infrastructure.manager_group_info:
    names: [TrustedAdmins]
"""

RETURN = r"""
groups:
  description: The groups. C(source) of a member is V(INVENTORY) or V(API).
  type: list
  elements: dict
  returned: always
  sample: [{"group": "TrustedAdmins", "system": true, "members": [{"user": "clerk@trusted.local", "source": "API"}]}]
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


def read(client: ManagementClient, names: list[str]) -> list[dict[str, t.Any]]:
    """The groups; that which is built in is the first."""
    rows = client.call(Call("GET", "/trust/groups"))
    return [row for row in rows if not names or row["group"] in names]


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "names": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    inform(module, "groups", lambda client: read(client, module.params["names"]))


if __name__ == "__main__":
    raise SystemExit(main())
