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
    when the provider has none.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
attributes:
  idempotent:
    support: partial
    details: With V(always) each run sends the password, and with V(unhealthy) each one while the provider is not healthy (O(update)).
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
    description:
      - V(on_create) sends the password when the provider has none, or when its key servers, proxy or trusted certificates
        changed since it was set. It is bound to those, so that nobody can have it sent to a server of his own.
      - vCenter Server does not tell whether it has a password; there V(on_create) sends it when the provider is not
        healthy.
      - V(unhealthy) sends it also when the provider is not healthy, as after a change of the password on the key servers.
      - V(always) sends it each time, which is a change each time.
    type: str
    choices: [always, on_create, unhealthy]
    default: on_create
"""

EXAMPLES = r"""
- name: Password of the provider
  trusted.infrastructure.key_provider_credential:
    cluster: trust-authority
    provider: department-a
    kmip_password: "{{ vault_kmip_password }}"

- name: It was changed on the key servers
  trusted.infrastructure.key_provider_credential:
    cluster: trust-authority
    provider: department-a
    kmip_password: "{{ vault_kmip_password }}"
    update: always
"""

RETURN = r"""
resource:
  description: Health of the provider, whether it has a password, and whether that was sent.
  type: dict
  returned: always
  sample: {"health": "OK", "has_credential": true}
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

RESOURCE = "/vcenter/trusted-infrastructure/trust-authority-clusters/{cluster}/kms/providers/{provider}"


def read(client: ManagementClient, cluster: str, provider: str) -> tuple[str, dict[str, t.Any]]:
    """Path of the provider, its health, and whether it has a password (None where the server does not tell)."""
    base = path(RESOURCE, cluster=cluster_id(client, cluster), provider=provider)
    found = client.call(Call("GET", base, task=True))
    return base, {"health": found["status"]["health"], "has_credential": found.get("has_credential")}


def plan(base: str, current: dict[str, t.Any], password: str, update: str) -> Plan:
    """One call when the password is to be sent."""
    healthy, known = current["health"] == "OK", current["has_credential"]
    missing = not healthy if known is None else not known
    if not {"always": True, "unhealthy": missing or not healthy, "on_create": missing}[update]:
        return Plan(current, current)
    after = {**current, "has_credential": True, "password": "<changed>"}
    return Plan(current, after, (Call("PUT", base + "/credential", password, task=True),))


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            "provider": {"type": "str", "required": True},
            "kmip_password": {"type": "str", "required": True, "no_log": True},
            "update": {
                "type": "str",
                "choices": ["always", "on_create", "unhealthy"],
                "default": "on_create",
            },
        },
        supports_check_mode=True,
    )
    password, update = module.params["kmip_password"], module.params["update"]
    run(
        module,
        lambda client: read(client, module.params["cluster"], module.params["provider"]),
        lambda found: plan(found[0], found[1], password, update),
        parameters={"credential": "kmip_password"},
    )


if __name__ == "__main__":
    raise SystemExit(main())
