#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tpm2_settings
short_description: Set what a TPM must show to be accepted
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Whether the certificate of the endorsement key must chain to a registered CA, the key must be enrolled, or both.
  - With both switched off, no host is attested.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
options:
  cluster:
    description: Name or id of the Trust Authority Cluster.
    type: str
    required: true
  require_endorsement_keys:
    description: Whether the endorsement key must be enrolled. Without it, the setting is left alone.
    type: bool
  require_certificate_validation:
    description: Whether the certificate must chain to a registered CA. Without it, the setting is left alone.
    type: bool
"""

EXAMPLES = r"""
- name: Ask for both
  trusted.infrastructure.tpm2_settings:
    cluster: trust-authority
    require_endorsement_keys: true
    require_certificate_validation: true

- name: Enrolled keys need no certificate
  trusted.infrastructure.tpm2_settings:
    cluster: trust-authority
    require_endorsement_keys: true
    require_certificate_validation: false
"""

RETURN = r"""
resource:
  description: The settings after the module, or as they would be in check mode.
  type: dict
  returned: always
  sample: {"require_endorsement_keys": true, "require_certificate_validation": true}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import (
    Plan,
    cluster_id,
    differs,
    run,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    Call,
    ManagementClient,
    path,
)

RESOURCE = "/vcenter/trusted-infrastructure/trust-authority-clusters/{cluster}/attestation/tpm2/settings"
SWITCHES = ("require_endorsement_keys", "require_certificate_validation")


def read(client: ManagementClient, cluster: str) -> tuple[str, dict[str, t.Any]]:
    """Path of the settings, and the settings."""
    base = path(RESOURCE, cluster=cluster_id(client, cluster))
    found = client.call(Call("GET", base, task=True))
    return base, {name: found[name] for name in SWITCHES}


def plan(base: str, current: dict[str, t.Any], wanted: dict[str, t.Any]) -> Plan:
    """One call with the switches that differ."""
    different = differs(current, wanted)
    calls = (Call("PATCH", base, different, task=True),) if different else ()
    return Plan(current, {**current, **different}, calls)


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            **{name: {"type": "bool"} for name in SWITCHES},
        },
        supports_check_mode=True,
    )
    wanted = {name: module.params[name] for name in SWITCHES}
    run(
        module,
        lambda client: read(client, module.params["cluster"]),
        lambda found: plan(found[0], found[1], wanted),
    )


if __name__ == "__main__":
    raise SystemExit(main())
