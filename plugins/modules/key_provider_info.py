#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: key_provider_info
short_description: List the trusted key providers of a Trust Authority Cluster
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Reads the trusted key providers of a Trust Authority Cluster.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
options:
  cluster:
    description: Name or id of the Trust Authority Cluster.
    type: str
    required: true
  names:
    description: Only these. Without it, all.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: All of them
  trusted.infrastructure.key_provider_info:
    cluster: trust-authority
"""

RETURN = r"""
key_providers:
  description: What was found, with health.
  type: list
  elements: dict
  returned: always
  sample: [{"provider": "department-a", "master_key_id": "1", "status": {"health": "OK"}}]
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.cluster_objects import each_in_full
from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import inform

RESOURCE = "/vcenter/trusted-infrastructure/trust-authority-clusters/{cluster}/kms/providers"


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            "names": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    inform(
        module,
        "key_providers",
        lambda client: each_in_full(
            client, RESOURCE, module.params["cluster"], "provider", module.params["names"]
        ),
        absent=[],
    )


if __name__ == "__main__":
    raise SystemExit(main())
