#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cluster_info
short_description: List clusters
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Lists the clusters of a manager, as C(GET /api/vcenter/cluster) does on vSphere.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
options:
  names:
    description: Only clusters with these names. Without it, all.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: All clusters
  trusted.infrastructure.cluster_info:
"""

RETURN = r"""
clusters:
  description: The clusters.
  type: list
  elements: dict
  returned: always
  sample: [{"cluster": "domain-c1", "name": "trusted-cluster", "ha_enabled": false, "drs_enabled": false}]
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import inform
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import Call


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={**connection_arguments(), "names": {"type": "list", "elements": "str", "default": []}},
        supports_check_mode=True,
    )
    query = tuple(("names", name) for name in module.params["names"])
    inform(module, "clusters", lambda client: client.call(Call("GET", "/vcenter/cluster", query=query)))


if __name__ == "__main__":
    raise SystemExit(main())
