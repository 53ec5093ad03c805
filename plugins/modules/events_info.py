#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: events_info
short_description: Read what happened
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Reads the events of a manager, with vSphere's event ids. An event is kept for 90 days unless the manager is set otherwise.
  - Encryption events have the user, the time, the id of the key, the operation and the object.
  - To read on, give RV(last) of the time before as O(after).
  - Attestation of hosts makes V(com.vmware.vc.TaHostAttestPassEvent), V(com.vmware.vc.TaHostAttestFailEvent) and
    V(com.vmware.vc.TaHostAttestUnsetEvent). On the Trust Authority side each Attestation Service makes its own.
  - vCenter Server has events in another API, so this module works with the managers of this collection only.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
  - trusted.infrastructure.event_filters
options:
  limit:
    description: How many events to read, 1 to 1000.
    type: int
    default: 100
"""

EXAMPLES = r"""
- name: What happened to host1 today?
  trusted.infrastructure.events_info:
    hosts: [host1]
    since: "{{ now(utc=true).strftime('%Y-%m-%dT00:00:00Z') }}"
  register: found

- name: Hosts that were refused
  trusted.infrastructure.events_info:
    types: [com.vmware.vc.TaHostAttestFailEvent]

- name: What was done with one key, and by whom?
  trusted.infrastructure.events_info:
    key_ids: ["{{ key_id }}"]
    after: 0
"""

RETURN = r"""
events:
  description: The events in the order of their ids.
  type: list
  elements: dict
  returned: always
  sample:
    - id: 12
      time: "2026-11-01T09:00:00.000Z"
      type: com.vmware.vc.TaHostAttestPassEvent
      message: host1 is attested with base image 2026.11
      host: host1
      object: null
      user: null
      operation: null
      key_id: null
      details: {"state": "ATTESTED", "base_image": "2026.11"}
last:
  description: Id of the last event that was read, or O(after) where there was none.
  type: int
  returned: always
  sample: 12
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import inform
from ansible_collections.trusted.infrastructure.plugins.module_utils.event_filters import (
    filter_arguments,
    filter_query,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    Call,
    ManagementClient,
)

FIELDS = ("id", "time", "type", "message", "host", "object", "user", "operation", "key_id", "details")


def read(client: ManagementClient, given: dict[str, t.Any]) -> dict[str, t.Any]:
    """The events that match, and the last id."""
    rows = client.call(Call("GET", "/trust/events", query=filter_query(given)))
    events = [{field: row.get(field, {} if field == "details" else None) for field in FIELDS} for row in rows]
    return {"events": events, "last": events[-1]["id"] if events else given["after"] or 0}


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            **filter_arguments(),
            "limit": {"type": "int", "default": 100},
        },
        supports_check_mode=True,
    )
    inform(module, None, lambda client: read(client, module.params))


if __name__ == "__main__":
    raise SystemExit(main())
