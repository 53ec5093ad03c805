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
  - Reads the attestation state of trusted hosts, V(ATTESTED), V(FAILED), V(EXPIRED) or V(UNREACHABLE), with its reason, since
    when and until when it holds, and who judged. With O(history), also the states before it.
  - The manager of the workload side says what its hosts' agents say. The manager of the Trust Authority side says what each
    Attestation Service of its clusters judged.
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
  history:
    description: Whether to read the states that each host was in, too.
    type: bool
    default: false
  history_limit:
    description: How many states of each host to read, the newest ones; on the Trust Authority side, of each service. 1 to 100.
    type: int
    default: 20
"""

EXAMPLES = r"""
- name: State of all hosts
  trusted.infrastructure.attestation_info:
  register: found

- name: When was host1 not attested, and why?
  trusted.infrastructure.attestation_info:
    hosts: [host1]
    history: true
  register: found

- name: Show it
  ansible.builtin.debug:
    msg: "{{ found.hosts[0].history | rejectattr('attestation', 'eq', 'ATTESTED') }}"
"""

RETURN = r"""
hosts:
  description:
    - State of each host. C(services) has what each Attestation Service says; C(history) the states before,
      newest first, where O(history) asks for them.
    - Times are in RFC 3339. C(base_image_state) is V(STAGED) where the base image is not in general use yet.
  type: list
  elements: dict
  returned: always
  sample:
    - name: host1
      attestation: ATTESTED
      reason: null
      message: null
      remedy: null
      base_image: "2026.11"
      base_image_state: ACTIVE
      since: "2026-11-01T09:00:00Z"
      attested_until: "2026-11-01T12:00:00Z"
      service: 4c2d7a51-0c3f-4a53-8a6b-0d2f54a3a1de
      service_address: "ta1:443"
      principal: null
      services: []
      history:
        - attestation: FAILED
          reason: base_image_mismatch
          since: "2026-11-01T08:50:00Z"
          until: "2026-11-01T09:00:00Z"
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.attestation import read, with_history
from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import inform
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import ManagementClient


def rows(client: ManagementClient, names: list[str], history: int) -> list[dict[str, t.Any]]:
    """State of each host. history: states of its past to read, 0 for none."""
    found = read(client, names)
    return with_history(client, found, history) if history else found


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "hosts": {"type": "list", "elements": "str", "default": []},
            "history": {"type": "bool", "default": False},
            "history_limit": {"type": "int", "default": 20},
        },
        supports_check_mode=True,
    )
    limit = module.params["history_limit"] if module.params["history"] else 0
    inform(module, "hosts", lambda client: rows(client, module.params["hosts"], limit))


if __name__ == "__main__":
    raise SystemExit(main())
