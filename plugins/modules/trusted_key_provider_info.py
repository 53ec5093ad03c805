#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: trusted_key_provider_info
short_description: List the trusted key providers of the workload side
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Lists the trusted key providers that hosts of trusted clusters may be told to use.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
"""

EXAMPLES = r"""
- name: All of them
  trusted.infrastructure.trusted_key_provider_info:
"""

RETURN = r"""
trusted_key_providers:
  description: The registrations.
  type: list
  elements: dict
  returned: always
  sample: [{"provider": "department-a", "group": "", "default": true}]
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
    call = Call("GET", "/trust/trusted-key-providers")
    inform(module, "trusted_key_providers", lambda client: client.call(call))


if __name__ == "__main__":
    raise SystemExit(main())
