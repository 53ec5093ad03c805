#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_tpm_info
short_description: Read the TPMs of a host
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Reads the TPMs of a host, their endorsement keys, and the event log of its boot.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
options:
  host:
    description: Name or id of the host.
    type: str
    required: true
  gather:
    description: What to read beside the TPM itself.
    type: list
    elements: str
    choices: [endorsement_keys, event_log]
    default: [endorsement_keys]
"""

EXAMPLES = r"""
- name: Endorsement keys of a host
  trusted.infrastructure.host_tpm_info:
    host: host1
"""

RETURN = r"""
tpms:
  description: The TPMs, each with what was asked for.
  type: list
  elements: dict
  returned: always
  sample: [{"tpm": "tpm0", "major_version": 2, "minor_version": 0, "active": true, "endorsement_keys": []}]
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

TPMS = "/vcenter/trusted-infrastructure/hosts/{host}/hardware/tpm"


def read_one(
    client: ManagementClient, base: str, row: dict[str, t.Any], gather: list[str]
) -> dict[str, t.Any]:
    """One TPM with what was asked for."""
    one = base + path("/{tpm}", tpm=row["tpm"])
    found = {**row, **client.call(Call("GET", one))}
    if "endorsement_keys" in gather:
        keys = client.call(Call("GET", one + "/endorsement-keys"))
        found["endorsement_keys"] = [
            {
                "key": key["key"],
                **client.call(Call("GET", one + path("/endorsement-keys/{key}", key=key["key"]))),
            }
            for key in keys
        ]
    if "event_log" in gather:
        found["event_log"] = client.call(Call("GET", one + "/event-log"))
    return found


def read(client: ManagementClient, host: str, gather: list[str]) -> list[dict[str, t.Any]]:
    """All TPMs of the host."""
    base = path(TPMS, host=host_id(client, host))
    return [read_one(client, base, row, gather) for row in client.call(Call("GET", base))]


def main() -> t.NoReturn:
    choices = ["endorsement_keys", "event_log"]
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "host": {"type": "str", "required": True},
            "gather": {
                "type": "list",
                "elements": "str",
                "choices": choices,
                "default": ["endorsement_keys"],
            },
        },
        supports_check_mode=True,
    )
    inform(
        module, "tpms", lambda client: read(client, module.params["host"], module.params["gather"]), absent=[]
    )


if __name__ == "__main__":
    raise SystemExit(main())
