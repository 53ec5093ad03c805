#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tpm2_ca_certificate_info
short_description: List the CAs of TPM vendors that a Trust Authority Cluster accepts
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Reads the CAs of TPM vendors of a Trust Authority Cluster.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
options:
  cluster:
    description: Name or id of the Trust Authority Cluster.
    type: str
    required: true
  names:
    description: Only these. Without it, all.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: All of them
  trusted.infrastructure.tpm2_ca_certificate_info:
    cluster: trust-authority
"""

RETURN = r"""
ca_certificates:
  description: What was found, with health.
  type: list
  elements: dict
  returned: always
  sample: [{"name": "vendor", "cert_chain": {"cert_chain": []}, "health": "OK", "details": []}]
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.cluster_objects import each_in_full
from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import inform

RESOURCE = (
    "/vcenter/trusted-infrastructure/trust-authority-clusters/{cluster}/attestation/tpm2/ca-certificates"
)


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            "names": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    inform(
        module,
        "ca_certificates",
        lambda client: each_in_full(
            client, RESOURCE, module.params["cluster"], "name", module.params["names"]
        ),
        absent=[],
    )


if __name__ == "__main__":
    raise SystemExit(main())
