#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: audit_log_info
short_description: Read whether the audit logs of Trust Authority hosts are whole
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Has every Trust Authority host of a cluster check the audit logs of its Attestation Service and of its Key Provider Service,
    against all heads of them that its peers and the manager keep.
  - It fails on no result; M(trusted.infrastructure.audit_log_assert) does.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
options:
  cluster:
    description: Name or id of the Trust Authority Cluster.
    type: str
    required: true
  verify:
    description:
      - Whether the logs are checked now, which takes a second for some hundred thousand records.
      - Without it, only the heads that the manager keeps are returned.
    type: bool
    default: true
seealso:
  - module: trusted.infrastructure.audit_log_assert
"""

EXAMPLES = r"""
- name: Are the audit logs whole?
  trusted.infrastructure.audit_log_info:
    cluster: trust-authority
  register: found

- name: Keep the heads in a third place
  trusted.infrastructure.audit_log_info:
    cluster: trust-authority
    verify: false
  register: heads
"""

RETURN = r"""
audit_logs:
  description:
    - For each host and service, whether its log is whole. C(intact) is null where the host did not answer;
      C(reason) says why, or what is wrong, and file, line and record where.
    - C(first) is the first record that the log vouches for, which is more than 1 only where retention is configured.
    - Without O(verify), the last head of each that was in order.
  type: list
  elements: dict
  returned: always
  sample:
    - host: ta1
      role: attestation-service
      intact: true
      records: 4711
      first: 1
      last: 4711
      keepers: [manager, ta2]
      reason: null
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.audit_logs import heads, verified
from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import inform


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            "verify": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    read = verified if module.params["verify"] else heads
    inform(module, "audit_logs", lambda client: read(client, module.params["cluster"]), absent=[])


if __name__ == "__main__":
    raise SystemExit(main())
