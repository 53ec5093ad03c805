#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: standard_key_provider_info
short_description: List the standard key providers of the workload manager
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Reads standard key providers with their certificates, and how their key servers do now. Passwords and private keys cannot
    be read.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
options:
  names:
    description: Only these. Without it, all.
    type: list
    elements: str
    default: []
  present_certificates:
    description: Whether to ask each key server what certificate it presents, for review. Nothing is trusted by it.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: What the key servers of a provider present
  trusted.infrastructure.standard_key_provider_info:
    names: [finance]
    present_certificates: true
  register: providers
"""

RETURN = r"""
standard_key_providers:
  description: What was found.
  type: list
  elements: dict
  returned: always
  contains:
    provider:
      description: Name.
      type: str
      returned: always
      sample: finance
    status:
      description: Health of the provider and of each key server, and who trusts whom.
      type: dict
      returned: always
      sample: {"health": "OK", "servers": [{"name": "kms1", "health": "OK", "client_trust_server": true}]}
    certificate:
      description: Client certificate in PEM, if there is one.
      type: str
      returned: always
    csr:
      description: Outstanding certificate request in PEM, if there is one.
      type: str
      returned: always
    trusted_certificates:
      description: What key servers must present, in PEM.
      type: list
      elements: str
      returned: always
    current_certificates:
      description: What each key server presents, and whether it is trusted.
      type: list
      elements: dict
      returned: with O(present_certificates=true)
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import inform
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    Call,
    ManagementClient,
    path,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.standard_key_providers import RESOURCE


def read(client: ManagementClient, names: t.Collection[str], presented: bool) -> list[dict[str, t.Any]]:
    """Each provider in full."""
    rows = client.call(Call("GET", RESOURCE))
    wanted = [row["provider"] for row in rows if not names or row["provider"] in names]
    return [in_full(client, name, presented) for name in wanted]


def in_full(client: ManagementClient, name: str, presented: bool) -> dict[str, t.Any]:
    """One provider with its certificates."""
    one = RESOURCE + path("/{name}", name=name)
    certificate = client.find(Call("GET", one + "/client-certificate"))
    csr = client.find(Call("GET", one + "/csr"))
    found = {
        **client.call(Call("GET", one)),
        "certificate": certificate and certificate["certificate"],
        "csr": csr and csr["csr"],
        "trusted_certificates": client.call(Call("GET", one + "/peer-certs/trusted"))["certificates"],
    }
    if presented:
        found["current_certificates"] = client.call(Call("GET", one + "/peer-certs/current"))
    return found


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "names": {"type": "list", "elements": "str", "default": []},
            "present_certificates": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    names, presented = module.params["names"], module.params["present_certificates"]
    inform(module, "standard_key_providers", lambda client: read(client, names, presented), absent=[])


if __name__ == "__main__":
    raise SystemExit(main())
