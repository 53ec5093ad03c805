#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: native_key_provider_info
short_description: List native key providers and how they are
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Lists the native key providers of a manager with their health, as a whole or on one host.
  - A provider that was not backed up has the health V(WARNING), and C(details) say so.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
options:
  names:
    description: Names of the providers. Without them, all are listed.
    type: list
    elements: str
    default: []
  host:
    description: Name or id of a host. With it, health and details are those of the providers on this host.
    type: str
"""

EXAMPLES = r"""
- name: All of them
  trusted.infrastructure.native_key_provider_info:

- name: How one of them is on a host
  trusted.infrastructure.native_key_provider_info:
    names: [branch]
    host: host1
"""

RETURN = r"""
native_key_providers:
  description: What was found.
  type: list
  elements: dict
  returned: always
  sample:
    - provider: branch
      key_id: 0c0ffee0-1111-2222-3333-444455556666
      tpm_required: true
      health: WARNING
      details: [{"id": "trusted.infrastructure.native_not_backed_up", "default_message": "branch is not backed up."}]
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import host_id, inform
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    Call,
    ManagementClient,
    path,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.native_key_providers import (
    RESOURCE,
    info,
    state_of,
)

ON_HOST = "/vcenter/crypto-manager/hosts/{host}/kms/providers"


def read(client: ManagementClient, names: t.Sequence[str], host: str | None) -> list[dict[str, t.Any]]:
    """The providers, on a host where one is named."""
    wanted = tuple(("providers", name) for name in names)
    where = None if host is None else host_id(client, host)
    rows = []
    for row in client.call(Call("GET", RESOURCE, query=wanted)):
        name = row["provider"]
        found = info(client, name)
        if found is None:  # removed since it was listed
            continue
        seen = found if where is None else on_host(client, where, name)
        rows.append({**(state_of(name, found) or {}), "health": seen["health"], "details": seen["details"]})
    return rows


def on_host(client: ManagementClient, host: str, name: str) -> dict[str, t.Any]:
    """A provider on a host; one that the host does not have is in the same form."""
    one = path(ON_HOST + "/{name}", host=host, name=name)
    return client.find(Call("GET", one)) or {"health": "NONE", "details": []}


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "names": {"type": "list", "elements": "str", "default": []},
            "host": {"type": "str"},
        },
        supports_check_mode=True,
    )
    inform(
        module,
        "native_key_providers",
        lambda client: read(client, module.params["names"], module.params["host"]),
        absent=[],
    )


if __name__ == "__main__":
    raise SystemExit(main())
