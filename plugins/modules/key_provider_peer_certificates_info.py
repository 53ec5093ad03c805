#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: key_provider_peer_certificates_info
short_description: Read which certificates the key servers of a provider present and must present
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Has the Trust Authority connect to each key server, and reports what it presents, for review before it is trusted.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
options:
  cluster:
    description: Name or id of the Trust Authority Cluster.
    type: str
    required: true
  provider:
    description: Name of the trusted key provider.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: What do the key servers present?
  trusted.infrastructure.key_provider_peer_certificates_info:
    cluster: trust-authority
    provider: department-a
"""

RETURN = r"""
peer_certificates:
  description: Lists of what the servers present now and of what is trusted.
  type: dict
  returned: always
  sample: {"current": [{"server_name": "kms1", "trusted": true, "error_messages": []}], "trusted": []}
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

RESOURCE = "/vcenter/trusted-infrastructure/trust-authority-clusters/{cluster}/kms/providers/{provider}/peer-certs/{list}"


def read(client: ManagementClient, cluster: str, provider: str) -> dict[str, t.Any]:
    """Both lists."""
    found = cluster_id(client, cluster)

    def get(name: str) -> t.Any:
        return client.call(
            Call("GET", path(RESOURCE, cluster=found, provider=provider, list=name), task=True)
        )

    return {"current": get("current"), "trusted": get("trusted")["certificates"]}


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            "provider": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    inform(
        module,
        "peer_certificates",
        lambda client: read(client, module.params["cluster"], module.params["provider"]),
        absent={"current": [], "trusted": []},
    )


if __name__ == "__main__":
    raise SystemExit(main())
