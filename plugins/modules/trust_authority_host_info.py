#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: trust_authority_host_info
short_description: Read the services of Trust Authority hosts
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Reads under which address and with which CA the Attestation Service and the Key Provider Service of each Trust Authority
    host are reached. This is what the workload side registers.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
options:
  clusters:
    description: Only hosts of the clusters with these names or ids. Without it, all.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Services of the Trust Authority
  trusted.infrastructure.trust_authority_host_info:
  register: found

- name: Record them for the workload side
  trusted.infrastructure.trust_record:
    path: trust/services.json
    content: "{{ found.trust_authority_hosts | to_nice_json }}"
    difference: replace
  delegate_to: localhost
"""

RETURN = r"""
trust_authority_hosts:
  description: For each host, its services.
  type: list
  elements: dict
  returned: always
  sample: [{"host": "host-1", "attestation": {"address": {"hostname": "ta1", "port": 443}}, "kms": {"address": {"hostname": "ta1", "port": 443}}}]
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import cluster_ids, inform
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    Call,
    ManagementClient,
)

HOSTS = "/vcenter/trusted-infrastructure/trust-authority-hosts"


def read(client: ManagementClient, clusters: list[str]) -> list[dict[str, t.Any]]:
    """Both services of each host, in the order of the hosts."""
    found = cluster_ids(client, clusters) if clusters else []
    if clusters and not found:
        return []
    spec = {"clusters": found} if clusters else {}
    full = ("projection", "FULL")
    attestation = client.call(Call("POST", HOSTS + "/attestation", spec, query=(full,)))
    kms = client.call(Call("POST", HOSTS + "/kms", spec, query=(("action", "query"), full)))
    by_host = {row["host"]: row for row in kms}
    return [{"host": row["host"], "attestation": row, "kms": by_host[row["host"]]} for row in attestation]


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "clusters": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    inform(module, "trust_authority_hosts", lambda client: read(client, module.params["clusters"]))


if __name__ == "__main__":
    raise SystemExit(main())
