#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: principal_info
short_description: Read the principal of a workload manager
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Reads what must be imported on the Trust Authority side so that it accepts the hosts of this manager.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
"""

EXAMPLES = r"""
- name: What this manager signs with
  trusted.infrastructure.principal_info:
  register: found
"""

RETURN = r"""
principal:
  description: Issuer, principal and certificates.
  type: dict
  returned: always
  sample: {"issuer": "https://workload-manager/", "certificates": []}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import inform
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import Call


def main() -> t.NoReturn:
    module = AnsibleModule(argument_spec=connection_arguments(), supports_check_mode=True)
    call = Call("GET", "/vcenter/trusted-infrastructure/principal")
    inform(module, "principal", lambda client: client.call(call))


if __name__ == "__main__":
    raise SystemExit(main())
