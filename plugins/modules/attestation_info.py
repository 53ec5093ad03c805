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
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
options:
  hosts:
    description: Names or ids of hosts. Without it, all hosts of the manager.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: State of all hosts
  trusted.infrastructure.attestation_info:
"""

RETURN = r"""
hosts:
  description: State of each host.
  type: list
  elements: dict
  returned: always
  sample: [{"name": "host1", "attestation": "ATTESTED", "reason": null, "message": null, "base_image": "2026.11", "attested_until": "2026-11-01T12:00:00Z"}]
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import connection_arguments
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import inform
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    ApiError,
    Call,
    ManagementClient,
    path,
)

STATE = "/trust/hosts/{host}/attestation"


def read(client: ManagementClient, names: list[str]) -> list[dict[str, t.Any]]:
    """State of each host, in the order asked for. Raises ApiError NOT_FOUND for a name that is unknown."""
    rows = client.call(Call("GET", "/vcenter/host"))
    ids = {row["name"]: row["host"] for row in rows} | {row["host"]: row["host"] for row in rows}
    missing = [name for name in names if name not in ids]
    if missing:
        raise ApiError(f"no host is named {', '.join(missing)}", "NOT_FOUND", 404)
    found = []
    for name in names or [row["name"] for row in rows]:
        state = client.call(Call("GET", path(STATE, host=ids[name])))
        found.append({"name": name, "attestation": state["state"], **{k: state.get(k) for k in FIELDS}})
    return found


FIELDS = ("reason", "message", "base_image", "since", "attested_until", "service")


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={**connection_arguments(), "hosts": {"type": "list", "elements": "str", "default": []}},
        supports_check_mode=True,
    )
    inform(module, "hosts", lambda client: read(client, module.params["hosts"]))


if __name__ == "__main__":
    raise SystemExit(main())
