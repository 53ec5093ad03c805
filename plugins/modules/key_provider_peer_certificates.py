#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: key_provider_peer_certificates
short_description: Say which certificates the key servers of a provider must present
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Sets the whole list. Nothing is trusted until it is set.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
options:
  cluster:
    description: Name or id of the Trust Authority Cluster.
    type: str
    required: true
  provider:
    description: Name of the trusted key provider.
    type: str
    required: true
  certificates:
    description: Certificates in PEM, of the CA of the key servers or of the key servers themselves. An empty list trusts none.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Trust the key servers
  trusted.infrastructure.key_provider_peer_certificates:
    cluster: trust-authority
    provider: department-a
    certificates: ["{{ lookup('ansible.builtin.file', 'trust/key_servers/ca.pem') }}"]
"""

RETURN = r"""
resource:
  description: The list after the module, or as it would be in check mode.
  type: dict
  returned: always
  sample: {"certificates": ["-----BEGIN CERTIFICATE-----"]}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import (
    Plan,
    cluster_id,
    run,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    Call,
    ManagementClient,
    path,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.pem import certificates

RESOURCE = "/vcenter/trusted-infrastructure/trust-authority-clusters/{cluster}/kms/providers/{provider}/peer-certs/trusted"


def read(client: ManagementClient, cluster: str, provider: str) -> tuple[str, dict[str, t.Any]]:
    """Path of the list, and the list."""
    base = path(RESOURCE, cluster=cluster_id(client, cluster), provider=provider)
    return base, {"certificates": certificates(client.call(Call("GET", base, task=True))["certificates"])}


def plan(base: str, current: dict[str, t.Any], wanted: dict[str, t.Any]) -> Plan:
    """One call when the sets differ; their order says nothing."""
    if sorted(current["certificates"]) == sorted(wanted["certificates"]):
        return Plan(current, current)
    return Plan(current, wanted, (Call("PATCH", base, wanted, task=True),))


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            "provider": {"type": "str", "required": True},
            "certificates": {"type": "list", "elements": "str", "required": True},
        },
        supports_check_mode=True,
    )
    wanted = {"certificates": certificates(module.params["certificates"])}
    run(
        module,
        lambda client: read(client, module.params["cluster"], module.params["provider"]),
        lambda found: plan(found[0], found[1], wanted),
    )


if __name__ == "__main__":
    raise SystemExit(main())
