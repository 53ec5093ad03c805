#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tpm2_ca_certificate
short_description: Accept the CA of a TPM vendor
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Registers a CA whose endorsement key certificates a Trust Authority Cluster accepts.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
options:
  cluster:
    description: Name or id of the Trust Authority Cluster.
    type: str
    required: true

  name:
    description: Name of the entry.
    type: str
    required: true
  cert_chain:
    description: Certificates in PEM, root first. An element with several certificates is taken apart. Needed with O(state=present).
    type: list
    elements: str

  state:
    description: Whether the CA is to be there.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Accept the TPMs of a vendor
  trusted.infrastructure.tpm2_ca_certificate:
    cluster: trust-authority
    name: vendor
    cert_chain: ["{{ lookup('ansible.builtin.file', 'vendor_ca.pem') }}"]
"""

RETURN = r"""
resource:
  description: The entry as it is after the module, or would be in check mode; none when it is absent.
  type: dict
  returned: always
  sample: {"name": "vendor", "cert_chain": []}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import connection_arguments
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import Plan, State, cluster_id, run
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import Call, ManagementClient, path
from ansible_collections.trusted.infrastructure.plugins.module_utils.pem import certificates

RESOURCE = "/vcenter/trusted-infrastructure/trust-authority-clusters/{cluster}/attestation/tpm2/ca-certificates"


def read(client: ManagementClient, cluster: str, name: str) -> tuple[str, State]:
    """Path of the collection, and the entry or None."""
    base = path(RESOURCE, cluster=cluster_id(client, cluster))
    found = client.find(Call("GET", base + path("/{name}", name=name), task=True))
    return base, found and {"name": name, "cert_chain": certificates(found["cert_chain"]["cert_chain"])}


def plan(base: str, current: State, wanted: State, name: str) -> Plan:
    """Calls from the current to the wanted entry; another chain under the same name replaces the entry."""
    if current == wanted:
        return Plan(current, wanted)
    calls = []
    if current is not None:
        calls.append(Call("DELETE", base + path("/{name}", name=name), task=True))
    if wanted is not None:
        calls.append(Call("POST", base, {"name": name, "cert_chain": {"cert_chain": wanted["cert_chain"]}}, task=True))
    return Plan(current, wanted, tuple(calls))


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "cert_chain": {"type": "list", "elements": "str"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["cert_chain"])],
        supports_check_mode=True,
    )
    name = module.params["name"]
    present = module.params["state"] == "present"
    wanted = {"name": name, "cert_chain": certificates(module.params["cert_chain"])} if present else None
    run(
        module,
        lambda client: read(client, module.params["cluster"], name),
        lambda found: plan(found[0], found[1], wanted, name),
    )


if __name__ == "__main__":
    raise SystemExit(main())
