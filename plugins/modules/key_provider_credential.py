#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: key_provider_credential
short_description: Set the password of a trusted key provider on its key servers
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - The password is write-only, so that nobody can tell whether it is the wanted one already. By default it is sent only
    when the health of the provider says that it cannot log in.
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
  kmip_password:
    description: The password.
    type: str
    required: true
  update:
    description: Whether to send the password always, or only when the provider is not healthy.
    type: str
    choices: [always, unhealthy]
    default: unhealthy
"""

EXAMPLES = r"""
- name: Password of the provider
  trusted.infrastructure.key_provider_credential:
    cluster: trust-authority
    provider: department-a
    kmip_password: "{{ vault_kmip_password }}"
"""

RETURN = r"""
resource:
  description: The state of the provider as it is after the module, or would be in check mode; none when it is absent.
  type: dict
  returned: always
  sample: {"health": "OK"}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import connection_arguments
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import Plan, cluster_id, run
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import Call, ManagementClient, path

RESOURCE = "/vcenter/trusted-infrastructure/trust-authority-clusters/{cluster}/kms/providers/{provider}"


def read(client: ManagementClient, cluster: str, provider: str) -> tuple[str, dict[str, t.Any]]:
    """Path of the provider, and its health."""
    base = path(RESOURCE, cluster=cluster_id(client, cluster), provider=provider)
    return base, {"health": client.call(Call("GET", base, task=True))["status"]["health"]}


def plan(base: str, current: dict[str, t.Any], password: str, update: str) -> Plan:
    """One call when the password is to be sent."""
    if update == "unhealthy" and current["health"] == "OK":
        return Plan(current, current)
    return Plan(
        current, {**current, "password": "<changed>"}, (Call("PUT", base + "/credential", password, task=True),)
    )


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            "provider": {"type": "str", "required": True},
            "kmip_password": {"type": "str", "required": True, "no_log": True},
            "update": {"type": "str", "choices": ["always", "unhealthy"], "default": "unhealthy"},
        },
        supports_check_mode=True,
    )
    password, update = module.params["kmip_password"], module.params["update"]
    run(
        module,
        lambda client: read(client, module.params["cluster"], module.params["provider"]),
        lambda found: plan(found[0], found[1], password, update),
    )


if __name__ == "__main__":
    raise SystemExit(main())
