#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: key_provider_client_certificate_info
short_description: Read the certificate with which a trusted key provider goes to its key servers
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Reads the certificate and the outstanding certificate request.
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
- name: Certificate of a provider
  trusted.infrastructure.key_provider_client_certificate_info:
    cluster: trust-authority
    provider: department-a
"""

RETURN = r"""
client_certificate:
  description: Certificate and request in PEM; none where there is none.
  type: dict
  returned: always
  sample: {"certificate": null, "csr": null}
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

RESOURCE = "/vcenter/trusted-infrastructure/trust-authority-clusters/{cluster}/kms/providers/{provider}/client-certificate"


def read(client: ManagementClient, cluster: str, provider: str) -> dict[str, t.Any]:
    """Certificate and outstanding request."""
    base = path(RESOURCE, cluster=cluster_id(client, cluster), provider=provider)
    certificate = client.find(Call("GET", base, task=True))
    csr = client.find(Call("GET", base + "/csr", task=True))
    return {"certificate": certificate and certificate["certificate"], "csr": csr and csr["csr"]}


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
        "client_certificate",
        lambda client: read(client, module.params["cluster"], module.params["provider"]),
        absent={"certificate": None, "csr": None},
    )


if __name__ == "__main__":
    raise SystemExit(main())
