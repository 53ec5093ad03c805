#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tpm2_settings_info
short_description: Read what a TPM must show to be accepted
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Reads the policy for TPMs of a Trust Authority Cluster.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
options:
  cluster:
    description: Name or id of the Trust Authority Cluster.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Policy for TPMs
  trusted.infrastructure.tpm2_settings_info:
    cluster: trust-authority
"""

RETURN = r"""
tpm2_settings:
  description: The settings and their health; empty where there is no such cluster.
  type: dict
  returned: always
  sample: {"require_endorsement_keys": true, "require_certificate_validation": true, "health": "OK", "details": []}
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

RESOURCE = "/vcenter/trusted-infrastructure/trust-authority-clusters/{cluster}/attestation/tpm2/settings"


def read(client: ManagementClient, cluster: str) -> dict[str, t.Any]:
    """The settings."""
    return client.call(Call("GET", path(RESOURCE, cluster=cluster_id(client, cluster)), task=True))


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={**connection_arguments(), "cluster": {"type": "str", "required": True}},
        supports_check_mode=True,
    )
    inform(module, "tpm2_settings", lambda client: read(client, module.params["cluster"]), absent={})


if __name__ == "__main__":
    raise SystemExit(main())
