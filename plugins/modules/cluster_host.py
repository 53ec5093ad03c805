#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cluster_host
short_description: Add a host to a cluster or take it out
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - On the Trust Authority side, a host that joins a Trust Authority Cluster gets its whole configuration.
  - On the workload side, the manager vouches for a host with the endorsement key that was recorded for it.
  - A host that leaves its cluster loses the configuration of the cluster.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
options:
  cluster:
    description: Name or id of the cluster.
    type: str
    required: true
  name:
    description: Name of the host. Its configuration server is reached under V(config.<name>).
    type: str
    required: true
  ek_digest:
    description: SHA-256 of the public area of the host's endorsement key, in hexadecimal digits; for trusted hosts.
    type: str
  scope:
    description: Scope under which the host is vouched for; for trusted hosts.
    type: str
  state:
    description: Whether the host is to be in the cluster.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: A trusted host
  trusted.infrastructure.cluster_host:
    cluster: trusted-cluster
    name: host1
    scope: default
    ek_digest: "{{ (lookup('ansible.builtin.file', 'trust/endorsement_keys/host1.json') | from_json).ek_digest }}"

- name: A Trust Authority host
  trusted.infrastructure.cluster_host:
    cluster: trust-authority
    name: ta3

- name: A host leaves its cluster
  trusted.infrastructure.cluster_host:
    cluster: trusted-cluster
    name: host3
    state: absent
"""

RETURN = r"""
resource:
  description: The host as it is after the module, or would be in check mode; none when it is absent.
  type: dict
  returned: always
  sample: {"name": "host1", "scope": "default"}
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

RESOURCE = "/trust/clusters/{cluster}/hosts"
ENROLMENT = ("ek_digest", "scope")


def read(client: ManagementClient, cluster: str, name: str) -> tuple[str, State]:
    """Path of the collection, and the host or None."""
    base = path(RESOURCE, cluster=cluster_id(client, cluster))
    for row in client.call(Call("GET", base)):
        if row["name"] == name:
            return base, {key: row.get(key) for key in ("host", "name", *ENROLMENT)}
    return base, None


def plan(base: str, current: State, wanted: State) -> Plan:
    """Calls that add the host, change what it is enrolled with, or take it out. wanted: None for absent."""
    if wanted is None:
        if current is None:
            return Plan(None, None)
        return Plan(current, None, (Call("DELETE", base + path("/{host}", host=current["host"]), task=True),))
    given = {key: value for key, value in wanted.items() if value is not None}
    if current is None:
        return Plan(None, given, (Call("POST", base, given, task=True),))
    different = differs(current, {key: given.get(key) for key in ENROLMENT})
    if not different:
        return Plan(current, current)
    patch = Call("PATCH", base + path("/{host}", host=current["host"]), different, task=True)
    return Plan(current, {**current, **different}, (patch,))


def wanted_of(params: t.Mapping[str, t.Any]) -> State:
    """What the parameters describe; None for absent."""
    if params["state"] == "absent":
        return None
    digest = params["ek_digest"]
    return {"name": params["name"], "ek_digest": digest and digest.lower(), "scope": params["scope"]}


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "ek_digest": {"type": "str"},
            "scope": {"type": "str"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_together=[("ek_digest", "scope")],
        supports_check_mode=True,
    )
    run(
        module,
        lambda client: read(client, module.params["cluster"], module.params["name"]),
        lambda found: plan(found[0], found[1], wanted_of(module.params)),
    )


if __name__ == "__main__":
    raise SystemExit(main())
