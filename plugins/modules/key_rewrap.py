#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: key_rewrap
short_description: Wrap the keys that hosts keep again
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Has every host of a cluster wrap the keys of its objects again, under the newest primary key of their key provider, or under
    another provider. The data stays as it is.
  - It is what follows the rotation of a primary key. Keys that rest on the newest one already are not touched.
  - After a primary key was compromised, keys get new key encryption keys, and RV(deep_recrypt) names the objects whose data needs
    new keys, too.
  - Fails when hosts do not answer or keys are left, and says so after all others are done. Every key stays readable, and the next
    run goes on.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
attributes:
  idempotent:
    support: partial
    details: With O(replace=true) each run changes something.
options:
  cluster:
    description: Name or id of the cluster whose hosts are asked.
    type: str
    required: true
  provider:
    description: Name of a key provider. Without it, keys of all providers.
    type: str
  target:
    description: Name of the key provider that wraps the keys then, of any kind. Without it, their own.
    type: str
  objects:
    description: Ids of objects. Without it, keys of all objects.
    type: list
    elements: str
    default: []
  replace:
    description: Whether to make new key encryption keys, also where they could be kept. With V(true), each run changes something.
    type: bool
    default: false
  incomplete:
    description: What to do when hosts do not answer or keys are left.
    type: str
    choices: [fail, warn]
    default: fail
seealso:
  - module: trusted.infrastructure.host_keys_info
"""

EXAMPLES = r"""
- name: All keys rest on the newest primary key
  trusted.infrastructure.key_rewrap:
    cluster: trusted-cluster
    provider: finance

- name: Move the keys of two machines to another provider
  trusted.infrastructure.key_rewrap:
    cluster: trusted-cluster
    objects: [5270c7a3-54e0-4a6f-9f0c-6d9d8a3b1f01, 5270c7a3-54e0-4a6f-9f0c-6d9d8a3b1f02]
    target: finance-native
"""

RETURN = r"""
rewrapped:
  description: Keys that were wrapped again, as they are now; in check mode, those that would be, as they are. 1000 at most.
  type: list
  elements: dict
  returned: always
  sample:
    - host: host1
      key_id: 6f6a1f6e-6f0d-4f3a-9d5e-0d3f3c1f8f10
      object_id: 5270c7a3-54e0-4a6f-9f0c-6d9d8a3b1f01
      component: Virtual Machine
      name: web
      provider: finance
      type: TRUSTED
      kek_id: 52d3
      primary_key_id: "1002"
      created: "2026-11-21T19:45:01.000Z"
      deep_recrypt: false
left:
  description: Keys that could not be wrapped again, each with the reason. 1000 at most.
  type: list
  elements: dict
  returned: always
  sample: []
deep_recrypt:
  description: Keys of objects whose data needs a new key. 1000 at most.
  type: list
  elements: dict
  returned: always
  sample: []
unreachable_hosts:
  description: Names of hosts that did not answer, or not to the end.
  type: list
  elements: str
  returned: always
  sample: []
counts:
  description: How many keys there are of each sort.
  type: dict
  returned: always
  sample: {"rewrapped": 1, "left": 0, "deep_recrypt": 0}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils import desired_state
from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    ApiError,
    Call,
    ManagementClient,
    path,
)

KEYS = "/trust/clusters/{cluster}/keys"
LISTS = ("rewrapped", "left", "deep_recrypt")
SHOWN = ("host", "object_id", "key_id", "provider", "primary_key_id", "kek_id")

Outcome: t.TypeAlias = "dict[str, t.Any]"


def spec_of(given: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """What the manager is asked."""
    wanted = {name: given[name] for name in ("provider", "target", "objects") if given[name]}
    return {**wanted, "replace": given["replace"]}


def carry_out(
    client: ManagementClient, cluster: str, spec: dict[str, t.Any], check: bool
) -> tuple[Outcome, Outcome]:
    """What would be wrapped again, and what was. In check mode, and where there is nothing to do, the same."""
    base = path(KEYS, cluster=desired_state.cluster_id(client, cluster))
    wanted = client.call(Call("POST", base, spec, query=(("action", "query"),), task=True))
    if check or not wanted["counts"]["rewrapped"]:
        return wanted, wanted
    return wanted, client.call(Call("POST", base, spec, query=(("action", "rewrap"),), task=True))


def shortcoming(outcome: Outcome) -> str | None:
    """What is not done, in words, or None."""
    texts = []
    if outcome["unreachable"]:
        reasons = "; ".join(detail["default_message"] for detail in outcome["details"])
        texts.append(f"hosts did not answer: {', '.join(outcome['unreachable'])} ({reasons})")
    if outcome["counts"]["left"]:
        keys = ", ".join(f"{row['object_id']} on {row['host']}: {row['code']}" for row in outcome["left"][:5])
        more = " ..." if outcome["counts"]["left"] > 5 else ""
        texts.append(f"{outcome['counts']['left']} keys were not wrapped again ({keys}{more})")
    return " and ".join(texts) or None


def shown(rows: list[dict[str, t.Any]]) -> dict[str, t.Any]:
    """Keys for a diff."""
    return {"keys": [{name: row.get(name) for name in SHOWN} for row in rows]}


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            "provider": {"type": "str"},
            "target": {"type": "str"},
            "objects": {"type": "list", "elements": "str", "default": []},
            "replace": {"type": "bool", "default": False},
            "incomplete": {"type": "str", "choices": ["fail", "warn"], "default": "fail"},
        },
        supports_check_mode=True,
    )
    given = module.params
    try:
        with desired_state.client_of(module) as client:
            before, outcome = carry_out(client, given["cluster"], spec_of(given), module.check_mode)
    except ApiError as error:
        module.fail_json(msg=str(error), error_type=error.error_type, status=error.status)
    except desired_state.UNKNOWN_ANSWER as error:
        module.fail_json(msg=f"the manager's answer is not understood ({type(error).__name__})")
    changed = outcome["counts"]["rewrapped"] > 0
    result = {
        "changed": changed,
        "diff": {"before": shown(before["rewrapped"]), "after": shown(outcome["rewrapped"])},
        "counts": outcome["counts"],
        **{name: outcome[name] for name in LISTS},
        # "unreachable" is Ansible's own word for a host that its connection does not reach.
        "unreachable_hosts": outcome["unreachable"],
    }
    problem = shortcoming(outcome)
    if problem is not None and given["incomplete"] == "fail":
        module.fail_json(msg=problem, **result)
    if problem is not None:
        module.warn(problem)
    module.exit_json(**result)


if __name__ == "__main__":
    raise SystemExit(main())
