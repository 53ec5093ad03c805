#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: attestation_info
short_description: Read whether hosts are attested
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Reads the attestation state of trusted hosts, V(ATTESTED), V(FAILED), V(EXPIRED) or V(UNREACHABLE), with its reason.
  - vCenter Server has no such list, so this module works with the managers of this collection only.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
options:
  hosts:
    description:
      - Names or ids of hosts. Without it, all hosts of the manager.
      - A host that the manager does not know has no state, and the reason V(host_unknown).
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: State of all hosts
  trusted.infrastructure.attestation_info:
  register: found

- name: Every host is attested
  ansible.builtin.assert:
    that: item.attestation == 'ATTESTED'
    fail_msg: "{{ item.name }}: {{ item.reason }}: {{ item.message }}"
  loop: "{{ found.hosts }}"
"""

RETURN = r"""
hosts:
  description: State of each host.
  type: list
  elements: dict
  returned: always
  sample:
    - name: host1
      attestation: ATTESTED
      reason: null
      message: null
      base_image: "2026.11"
      since: "2026-11-01T09:00:00Z"
      attested_until: "2026-11-01T12:00:00Z"
      service: attestation@ta1
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
)

FIELDS = ("reason", "message", "base_image", "since", "attested_until", "service")


def read(client: ManagementClient, names: list[str]) -> list[dict[str, t.Any]]:
    """State of each host, in the order asked for."""
    rows = client.call(Call("GET", "/trust/attestation"))
    known = {row["host"]: row for row in rows} | {row["name"]: row for row in rows}
    return [state_of(name, known.get(name)) for name in names or [row["name"] for row in rows]]


def state_of(name: str, row: dict[str, t.Any] | None) -> dict[str, t.Any]:
    """The state of a host. row: what the server says of it; None when it knows no such host."""
    if row is None:
        row = {"name": name, "reason": "host_unknown", "message": f"no host is named {name}"}
    return {
        "name": row["name"],
        "attestation": row.get("state"),
        **{field: row.get(field) for field in FIELDS},
    }


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={**connection_arguments(), "hosts": {"type": "list", "elements": "str", "default": []}},
        supports_check_mode=True,
    )
    inform(module, "hosts", lambda client: read(client, module.params["hosts"]))


if __name__ == "__main__":
    raise SystemExit(main())
