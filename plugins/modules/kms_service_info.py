#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kms_service_info
short_description: List registrations of Key Provider Services
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Lists what is registered with a workload manager.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
"""

EXAMPLES = r"""
- name: All registrations
  trusted.infrastructure.kms_service_info:
"""

RETURN = r"""
services:
  description: The registrations.
  type: list
  elements: dict
  returned: always
  sample: [{"service": "1", "address": {"hostname": "ta1", "port": 443}, "group": "trust-authority"}]
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
    path,
)

RESOURCE = "/vcenter/trusted-infrastructure/kms/services"


def read(client: ManagementClient) -> list[dict[str, t.Any]]:
    """Each registration in full."""
    rows = client.call(Call("POST", RESOURCE, {}, query=(("action", "query"),)))
    get = RESOURCE + "/{service}"
    return [
        {"service": row["service"], **client.call(Call("GET", path(get, service=row["service"])))}
        for row in rows
    ]


def main() -> t.NoReturn:
    module = AnsibleModule(argument_spec=connection_arguments(), supports_check_mode=True)
    inform(module, "services", read)


if __name__ == "__main__":
    raise SystemExit(main())
