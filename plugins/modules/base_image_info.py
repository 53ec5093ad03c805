#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: base_image_info
short_description: List the base images of a Trust Authority Cluster
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Reads the base images of a Trust Authority Cluster with their life cycle, and which hosts run which.
  - A vCenter Server knows neither; there, only what its API says is returned.
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

- name: May the old one go?
  trusted.infrastructure.base_image_info:
    cluster: trust-authority
    names: ["2026.11"]
  register: found

- name: Nobody runs it any more
  ansible.builtin.assert:
    that: found.base_images | map(attribute='hosts') | flatten | length == 0
"""

RETURN = r"""
base_images:
  description: What was found, with health.
  type: list
  elements: dict
  returned: always
  sample:
    - version: "2026.11"
      display_name: "2026.11"
      life_cycle: active
      bank: sha256
      userspace: verity
      scopes: [default]
      last_of: []
      hosts:
        - host: host1
          principal: https://workload-manager/
          last_attested_time: "2026-11-21T12:00:00.000Z"
          attested_until: "2026-11-21T13:00:00.000Z"
          services: [ta1, ta2]
      health: OK
      details: []
  contains:
    version:
      description: Version of the image.
      type: str
      returned: always
    display_name:
      description: Name for people.
      type: str
      returned: always
    life_cycle:
      description: V(staged) and V(active) images are accepted, and a token says with which state; V(retired) ones are refused.
      type: str
      returned: when the server has a life cycle
    scopes:
      description: Scopes whose hosts may use it.
      type: list
      elements: str
      returned: when the server has a life cycle
    last_of:
      description: Scopes for which it is the only image that is accepted; without it none of their hosts is attested.
      type: list
      elements: str
      returned: when the server has a life cycle
    hosts:
      description: Hosts whose last attestation was with it; C(services) are the Trust Authority hosts that say so.
      type: list
      elements: dict
      returned: when the server has a life cycle
    last_attested_time:
      description: When a host was attested with it last.
      type: str
      returned: when one was
    health:
      description: Whether every Trust Authority host has it.
      type: str
      returned: always
    details:
      description: Why health is not OK.
      type: list
      elements: dict
      returned: always
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.base_images import (
    RESOURCE,
    life_cycles,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.cluster_objects import each_in_full
from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import inform
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import ManagementClient


def read(client: ManagementClient, cluster: str, names: list[str]) -> list[dict[str, t.Any]]:
    """Each one in full, with what only our manager knows."""
    found = each_in_full(client, RESOURCE, cluster, "version", names)
    known = (life_cycles(client, cluster) if found else None) or {}
    return [{**known.get(image["version"], {}), **image} for image in found]


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
