#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: trust_authority_cluster_info
short_description: List Trust Authority Clusters
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Lists which clusters are Trust Authority Clusters.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
options:
  states:
    description: Only clusters in these states. Without it, all.
    type: list
    elements: str
    choices: [ENABLE, DISABLE]
    default: []
"""

EXAMPLES = r"""
- name: All Trust Authority Clusters
  trusted.infrastructure.trust_authority_cluster_info:
    states: [ENABLE]
"""

RETURN = r"""
trust_authority_clusters:
  description: Clusters and their states.
  type: list
  elements: dict
  returned: always
  sample: [{"cluster": "domain-c1", "state": "ENABLE"}]
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
        argument_spec={
            **connection_arguments(),
            "states": {"type": "list", "elements": "str", "choices": ["ENABLE", "DISABLE"], "default": []},
        },
        supports_check_mode=True,
    )
    call = Call(
        "GET",
        "/vcenter/trusted-infrastructure/trust-authority-clusters",
        query=tuple(("state", state) for state in module.params["states"]),
    )
    inform(module, "trust_authority_clusters", lambda client: client.call(call))


if __name__ == "__main__":
    raise SystemExit(main())
