#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_identity_info
short_description: List the endorsement keys that trusted hosts attest with
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Reads which endorsement key each Attestation Service knows each trusted host by. It is the identity of the host until
    an administrator replaces it; another key is refused.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
options:
  cluster:
    description: Name or id of the Trust Authority Cluster.
    type: str
    required: true
  hosts:
    description: Only these trusted hosts. Without it, all.
    type: list
    elements: str
    default: []
seealso:
  - module: trusted.infrastructure.tpm2_endorsement_key_replace
"""

EXAMPLES = r"""
- name: Does host3 attest with the key that was enrolled for it?
  trusted.infrastructure.host_identity_info:
    cluster: trust-authority
    hosts: [host3]
"""

RETURN = r"""
host_identities:
  description: What was found; one entry for each host and Attestation Service. C(since) is in Unix seconds.
  type: list
  elements: dict
  returned: always
  sample:
    - service: attestation@ta1
      host: host3
      principal: https://workload-manager/
      ek_digest: 3a7bd3e2360a3d29eea436fcfb7e44c735d117c42d1c1835420b6b9942dd4f1b
      key_digest: 88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589
      since: 1795305600
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

RESOURCE = "/trust/clusters/{cluster}/host-identities"


def read(client: ManagementClient, cluster: str, hosts: list[str]) -> list[dict[str, t.Any]]:
    """What the services know of the hosts."""
    rows = client.call(Call("GET", path(RESOURCE, cluster=cluster_id(client, cluster)), task=True))
    return [row for row in rows if not hosts or row["host"] in hosts]


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            "hosts": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    inform(
        module,
        "host_identities",
        lambda client: read(client, module.params["cluster"], module.params["hosts"]),
        absent=[],
    )


if __name__ == "__main__":
    raise SystemExit(main())
