#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: scope
short_description: Say what the hosts of a trusted cluster may use
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - A scope is a stable name for a trusted cluster of a workload manager. It says which base images its hosts may run and
    which key providers they may use. This is decided on the Trust Authority side alone.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
options:
  cluster:
    description: Name or id of the Trust Authority Cluster.
    type: str
    required: true
  name:
    description: Name of the scope. Wrapped keys carry it, so it outlives both sides' internal ids.
    type: str
    required: true
  principal:
    description: Issuer of the principal that vouches for the hosts. Needed with O(state=present).
    type: str
  trusted_cluster:
    description: Name of the trusted cluster. Needed with O(state=present).
    type: str
  base_images:
    description: Versions of base images, or V(*) alone for all. Needed with O(state=present).
    type: list
    elements: str
  providers:
    description: Names of trusted key providers, or V(*) alone for all. Needed with O(state=present).
    type: list
    elements: str
  state:
    description: Whether the scope is to be there.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: What one department may use
  trusted.infrastructure.scope:
    cluster: trust-authority
    name: department-a
    principal: https://workload-manager/
    trusted_cluster: trusted-cluster
    base_images: ["*"]
    providers: [department-a]

- name: Its hosts are attested no more
  trusted.infrastructure.scope:
    cluster: trust-authority
    name: department-a
    state: absent
"""

RETURN = r"""
resource:
  description: The scope as it is after the module, or would be in check mode; none when it is absent.
  type: dict
  returned: always
  sample: {"scope": "department-a", "providers": ["department-a"]}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import (
    Plan,
    State,
    cluster_id,
    differs,
    run,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    Call,
    ManagementClient,
    path,
)

RESOURCE = "/trust/clusters/{cluster}/scopes"
FIELDS = ("principal", "trusted_cluster", "base_images", "providers")


def read(client: ManagementClient, cluster: str, name: str) -> tuple[str, State]:
    """Path of the collection, and the scope or None."""
    base = path(RESOURCE, cluster=cluster_id(client, cluster))
    found = client.find(Call("GET", base + path("/{name}", name=name), task=True))
    return base, found and {"scope": name, **{key: found[key] for key in FIELDS}}


def plan(base: str, current: State, wanted: State, name: str) -> Plan:
    """Create, patch what differs, or delete. wanted: None for absent."""
    if wanted is None:
        delete = Call("DELETE", base + path("/{name}", name=name), task=True)
        return Plan(current, None, (delete,) if current else ())
    if current is None:
        return Plan(None, wanted, (Call("POST", base, wanted, task=True),))
    different = differs(current, wanted)
    calls = (Call("PATCH", base + path("/{name}", name=name), different, task=True),) if different else ()
    return Plan(current, {**current, **different}, calls)


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "principal": {"type": "str"},
            "trusted_cluster": {"type": "str"},
            "base_images": {"type": "list", "elements": "str"},
            "providers": {"type": "list", "elements": "str"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", list(FIELDS))],
        supports_check_mode=True,
    )
    name = module.params["name"]
    present = module.params["state"] == "present"
    wanted = {"scope": name, **{key: module.params[key] for key in FIELDS}} if present else None
    run(
        module,
        lambda client: read(client, module.params["cluster"], name),
        lambda found: plan(found[0], found[1], wanted, name),
    )


if __name__ == "__main__":
    raise SystemExit(main())
