#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: audit_log_assert
short_description: Fail unless the audit logs of Trust Authority hosts are whole
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Fails unless every audit log of a Trust Authority Cluster is whole, as a check in pipelines. It names each log that is not,
    with the record and the reason. A host that does not answer fails too.
  - It changes nothing, and does the same in check mode.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
options:
  cluster:
    description: Name or id of the Trust Authority Cluster.
    type: str
    required: true
  kept_elsewhere:
    description: Whether a log fails of which neither a peer nor the manager keeps a head. Without one, a tail that was cut off
      does not show.
    type: bool
    default: true
seealso:
  - module: trusted.infrastructure.audit_log_info
"""

EXAMPLES = r"""
- name: Nobody touched the audit logs
  trusted.infrastructure.audit_log_assert:
    cluster: trust-authority
"""

RETURN = r"""
audit_logs:
  description: Each log, as RV(trusted.infrastructure.audit_log_info#module:audit_logs).
  type: list
  elements: dict
  returned: always
  sample:
    - host: ta1
      role: attestation-service
      intact: true
failures:
  description: Logs that are not whole, and why.
  type: list
  elements: dict
  returned: always
  sample:
    - host: ta1
      role: key-provider-service
      problem: "is broken at record 812: record 812 of chain 1f is missing: the log was cut or replaced (kept by ta2)"
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils import desired_state
from ansible_collections.trusted.infrastructure.plugins.module_utils.audit_logs import (
    Rows,
    shortcoming,
    verified,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import ApiError


def failures_of(logs: Rows, kept_elsewhere: bool) -> Rows:
    """The logs that do not pass."""
    found = [(log, shortcoming(log, kept_elsewhere)) for log in logs]
    return [
        {"host": log["host"], "role": log["role"], "problem": problem} for log, problem in found if problem
    ]


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            "kept_elsewhere": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    try:
        with desired_state.client_of(module) as client:
            logs = verified(client, module.params["cluster"])
        failures = failures_of(logs, module.params["kept_elsewhere"])
    except ApiError as error:
        module.fail_json(msg=str(error), audit_logs=[], failures=[])
    except desired_state.UNKNOWN_ANSWER as error:
        name = type(error).__name__
        module.fail_json(msg=f"the manager's answer is not understood ({name})", audit_logs=[], failures=[])
    if not logs:
        module.fail_json(msg="the cluster has no hosts: nothing was checked", audit_logs=[], failures=[])
    if failures:
        each = "; ".join(f"{one['role']} of {one['host']} {one['problem']}" for one in failures)
        module.fail_json(
            msg=f"{len(failures)} of {len(logs)} audit logs are not whole: {each}",
            audit_logs=logs,
            failures=failures,
        )
    module.exit_json(changed=False, audit_logs=logs, failures=[])


if __name__ == "__main__":
    raise SystemExit(main())
