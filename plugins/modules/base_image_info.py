#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: base_image_info
short_description: List the base images that a Trust Authority Cluster accepts
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Reads the base images of a Trust Authority Cluster.
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
  trusted.infrastructure.base_image_info:
    cluster: trust-authority
"""

RETURN = r"""
base_images:
  description: What was found, with health.
  type: list
  elements: dict
  returned: always
  sample: [{"version": "2026.11", "display_name": "2026.11", "health": "OK", "details": []}]
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import cluster_id, inform
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    Call,
    ManagementClient,
    path,
)

RESOURCE = "/vcenter/trusted-infrastructure/trust-authority-clusters/{cluster}/attestation/os/esx/base-images"


def read(client: ManagementClient, cluster: str, names: list[str]) -> list[dict[str, t.Any]]:
    """Each one in full."""
    base = path(RESOURCE, cluster=cluster_id(client, cluster))
    rows = client.call(Call("GET", base, task=True))
    wanted = [row["version"] for row in rows if not names or row["version"] in names]
    return [
        {"version": name, **client.call(Call("GET", base + path("/{name}", name=name), task=True))}
        for name in wanted
    ]


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
        "base_images",
        lambda client: read(client, module.params["cluster"], module.params["names"]),
        absent=[],
    )


if __name__ == "__main__":
    raise SystemExit(main())
