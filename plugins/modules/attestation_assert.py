#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: attestation_assert
short_description: Fail unless hosts are attested
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Fails unless all hosts are in a state, as a check in pipelines. It names each host that is not, with the reason and what can
    be done about it.
  - It changes nothing, and does the same in check mode; there, O(attest) is left out.
  - A check of no hosts at all fails, so that a name that is misspelt does not pass.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
options:
  hosts:
    description: Names or ids of hosts. Without it, all hosts of the manager. A host that the manager does not know fails.
    type: list
    elements: str
    default: []
  state:
    description: The state that every host must be in.
    type: str
    choices: [ATTESTED, FAILED, EXPIRED, UNREACHABLE]
    default: ATTESTED
  base_images:
    description: Versions of base images that hosts may have booted. Without it, any that the Trust Authority accepts.
    type: list
    elements: str
    default: []
  not_staged:
    description: Whether hosts on a base image that is only staged fail.
    type: bool
    default: false
  minimum_validity:
    description: Seconds for which every host must still be attested. The clock is that of the machine on which the module runs.
    type: int
    default: 0
  attest:
    description: Whether hosts that are not as expected attest now, once, before they fail. For the workload side's manager.
    type: bool
    default: false
  wait_timeout:
    description: Seconds to wait until all hosts are as expected.
    type: int
    default: 0
seealso:
  - module: trusted.infrastructure.attestation_info
"""

EXAMPLES = r"""
- name: Every host is attested
  trusted.infrastructure.attestation_assert:

- name: After an upgrade, these hosts run the new image, which is in general use
  trusted.infrastructure.attestation_assert:
    hosts: [host1, host2]
    base_images: ["2026.12"]
    not_staged: true
    attest: true
    wait_timeout: 120

- name: No host needs a new token during the next ten minutes
  trusted.infrastructure.attestation_assert:
    minimum_validity: 600
"""

RETURN = r"""
hosts:
  description: State of each host, as RV(trusted.infrastructure.attestation_info#module:hosts).
  type: list
  elements: dict
  returned: always
  sample:
    - name: host1
      attestation: ATTESTED
      base_image: "2026.11"
failures:
  description: Hosts that are not as expected, why, and what can be done about it.
  type: list
  elements: dict
  returned: always
  sample:
    - name: host1
      attestation: FAILED
      reason: base_image_mismatch
      problem: "is FAILED: base_image_mismatch: PCR 9, event 31 is not as recorded (since 2026-11-01T09:00:00Z)"
      remedy: Find out why the host boots something else.
"""

import datetime
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils import desired_state
from ansible_collections.trusted.infrastructure.plugins.module_utils.attestation import (
    Expected,
    attest,
    read,
    shortcoming,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    ApiError,
    ManagementClient,
)

PAUSE = 2.0

Rows: t.TypeAlias = "list[dict[str, t.Any]]"


def failures_of(rows: Rows, expected: Expected) -> Rows:
    """The hosts that are not as expected."""
    now = datetime.datetime.now(datetime.UTC)
    found = [(row, shortcoming(row, expected, now)) for row in rows]
    return [
        {
            **{key: row[key] for key in ("name", "attestation", "reason")},
            "problem": problem[0],
            "remedy": problem[1],
        }
        for row, problem in found
        if problem is not None
    ]


def look(
    client: ManagementClient, names: list[str], expected: Expected, again: bool, timeout: int
) -> tuple[Rows, Rows]:
    """All hosts, and those that are not as expected after the time that they have. again: let these attest first."""
    end = time.monotonic() + timeout
    while True:
        rows = read(client, names)
        failures = failures_of(rows, expected)
        if failures and again:
            again = False
            attest(client, [failure["name"] for failure in failures])
            continue
        left = end - time.monotonic()
        if not failures or left <= 0:
            return rows, failures
        time.sleep(min(PAUSE, left))


def summary(rows: Rows, failures: Rows) -> str:
    """What a pipeline prints."""
    each = "; ".join(f"{one['name']} {one['problem']} [{one['remedy']}]" for one in failures)
    return f"{len(failures)} of {len(rows)} hosts are not as expected: {each}"


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "hosts": {"type": "list", "elements": "str", "default": []},
            "state": {
                "type": "str",
                "choices": ["ATTESTED", "FAILED", "EXPIRED", "UNREACHABLE"],
                "default": "ATTESTED",
            },
            "base_images": {"type": "list", "elements": "str", "default": []},
            "not_staged": {"type": "bool", "default": False},
            "minimum_validity": {"type": "int", "default": 0},
            "attest": {"type": "bool", "default": False},
            "wait_timeout": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    given = module.params
    expected = Expected(
        given["state"], tuple(given["base_images"]), given["not_staged"], given["minimum_validity"]
    )
    again = given["attest"] and not module.check_mode
    try:
        with desired_state.client_of(module) as client:
            rows, failures = look(client, given["hosts"], expected, again, given["wait_timeout"])
    except ApiError as error:
        module.fail_json(msg=str(error), hosts=[], failures=[])
    except desired_state.UNKNOWN_ANSWER as error:
        name = type(error).__name__
        module.fail_json(msg=f"the manager's answer is not understood ({name})", hosts=[], failures=[])
    if not rows:
        module.fail_json(msg="the manager has no hosts: nothing was checked", hosts=[], failures=[])
    if failures:
        module.fail_json(msg=summary(rows, failures), hosts=rows, failures=failures)
    module.exit_json(changed=False, hosts=rows, failures=[])


if __name__ == "__main__":
    raise SystemExit(main())
