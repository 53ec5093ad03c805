#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: denied_host
short_description: Deny a host
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Neither service serves a denied host any more, whatever token it still has.
  - The reason of a denial is not changed afterwards.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
options:
  cluster:
    description: Name or id of the Trust Authority Cluster.
    type: str
    required: true
  host:
    description: Name of the host.
    type: str
    required: true
  ek_digest:
    description: SHA-256 of the public area of its endorsement key, in hexadecimal digits.
    type: str
    required: true
  reason:
    description: Why, for people.
    type: str
    default: ""
  state:
    description: Whether the denial is to be there.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: A host that was stolen
  trusted.infrastructure.denied_host:
    cluster: trust-authority
    host: host3
    ek_digest: "{{ (lookup('ansible.builtin.file', 'trust/removed_hosts/host3.json') | from_json).ek_digest }}"
    reason: stolen

- name: It was found again
  trusted.infrastructure.denied_host:
    cluster: trust-authority
    host: host3
    ek_digest: "{{ (lookup('ansible.builtin.file', 'trust/removed_hosts/host3.json') | from_json).ek_digest }}"
    state: absent
"""

RETURN = r"""
resource:
  description: The denial as it is after the module, or would be in check mode; none when it is absent.
  type: dict
  returned: always
  sample: {"host": "host3", "reason": "stolen"}
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
    run,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    Call,
    ManagementClient,
    path,
)

RESOURCE = "/trust/clusters/{cluster}/denied-hosts"


def read(client: ManagementClient, cluster: str, host: str, ek_digest: str) -> tuple[str, State]:
    """Path of the collection, and the denial of this host with this key, or None."""
    base = path(RESOURCE, cluster=cluster_id(client, cluster))
    for row in client.call(Call("GET", base, task=True)):
        if row["host"] == host and row["ek_digest"] == ek_digest:
            return base, {key: row[key] for key in ("denial", "host", "ek_digest", "reason")}
    return base, None


def plan(base: str, current: State, wanted: State) -> Plan:
    """Calls that make or lift the denial. Its reason is not changed afterwards. wanted: None for absent."""
    if wanted is None:
        if current is None:
            return Plan(None, None)
        return Plan(current, None, (Call("DELETE", base + path("/{id}", id=current["denial"]), task=True),))
    if current is not None:
        return Plan(current, current)
    return Plan(None, wanted, (Call("POST", base, wanted, task=True),))


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            "host": {"type": "str", "required": True},
            "ek_digest": {"type": "str", "required": True},
            "reason": {"type": "str", "default": ""},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    host, ek_digest, reason = (module.params[key] for key in ("host", "ek_digest", "reason"))
    ek_digest = ek_digest.lower()
    present = module.params["state"] == "present"
    wanted = {"host": host, "ek_digest": ek_digest, "reason": reason} if present else None
    run(
        module,
        lambda client: read(client, module.params["cluster"], host, ek_digest),
        lambda found: plan(found[0], found[1], wanted),
    )


if __name__ == "__main__":
    raise SystemExit(main())
