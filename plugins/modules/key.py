#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: key
short_description: Make or forget a key of a standard key provider
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Lets the workload manager make a key on the key servers for an object, and pass it to every host of a cluster.
  - A key that is known for the same O(component) and O(identifier) in the cluster is that key, whatever its state is, and none
    is made. Of several, it is the active one that was made last. Its name is not changed.
  - To forget a key takes it off the manager and the hosts that it was passed to. The key servers keep it.
  - vCenter Server does not have this, so this module works with the managers of this collection only.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
options:
  provider:
    description: Name of the standard key provider.
    type: str
    required: true
  cluster:
    description: Name or id of the cluster that the key is for. Needed with O(state=present).
    type: str
  component:
    description: What the object is, such as V(Virtual Machine). Needed with O(state=present).
    type: str
  name:
    description: Name of the object, for people. Needed with O(state=present).
    type: str
  identifier:
    description: Identifier of the object, such as its instance UUID. Needed with O(state=present).
    type: str
  key_id:
    description: Id of the key that is to be forgotten. Needed with O(state=absent), and for that only.
    type: str
  force:
    description:
      - Forget the key although it is put to use for an object. What it encrypts cannot be opened after hosts restart.
      - Without it, such a key is refused; check mode warns of it.
    type: bool
    default: false
  state:
    description: Whether the key is to be known.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: A key for a virtual machine
  trusted.infrastructure.key:
    cluster: trusted-cluster
    provider: finance
    component: Virtual Machine
    name: db1
    identifier: 52d0f0b2-11c3-4e8a-9d1a-0f6b7a2f3c55
  register: made

- name: Every host has it
  ansible.builtin.assert:
    that: made.unreachable_hosts == []

- name: The machine is gone, and what it encrypted
  trusted.infrastructure.key:
    provider: finance
    key_id: "100007"
    force: true
    state: absent
"""

RETURN = r"""
resource:
  description:
    - The key as it is after the module, or would be in check mode; none when it is absent.
    - C(key_id) of one that is made is V(<new>) here.
  type: dict
  returned: always
  sample:
    key_id: "100007"
    provider: finance
    cluster: domain-c8
    component: Virtual Machine
    name: db1
    identifier: 52d0f0b2-11c3-4e8a-9d1a-0f6b7a2f3c55
    state: ACTIVE
key_id:
  description: Id of the key.
  type: str
  returned: with O(state=present), except where check mode predicts a new key
  sample: "100007"
unreachable_hosts:
  description: Messages of the hosts that a new key did not reach; they get it when they ask for it.
  type: list
  elements: dict
  returned: with O(state=present)
  sample: [{"id": "trusted.infrastructure.unreachable", "default_message": "host3 cannot be reached", "args": ["host3"]}]
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import (
    Plan,
    cluster_id,
    run,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    ApiError,
    Call,
    ManagementClient,
    path,
)

RESOURCE = "/trust/keys"
NEW = "<new>"
OBJECT = ("cluster", "component", "name", "identifier")
SHOWN = ("key_id", "provider", *OBJECT, "state")
Row: t.TypeAlias = "t.Mapping[str, t.Any]"


def read(client: ManagementClient, given: t.Mapping[str, t.Any]) -> tuple[str, Row | None]:
    """Id of the cluster ("" where none is asked for), and the key as the API gives it, or None."""
    query = (("providers", given["provider"]),)
    if given["state"] == "absent":
        rows = client.rows(Call("GET", RESOURCE, query=query), "provider", "key_id")
        return "", found([row for row in rows if row["key_id"] == given["key_id"]])
    cluster = cluster_id(client, given["cluster"])
    query += (("clusters", cluster), ("objects", given["identifier"]))
    rows = client.rows(Call("GET", RESOURCE, query=query), "provider", "key_id")
    same = ("component", "identifier")
    return cluster, found([row for row in rows if all(row[name] == given[name] for name in same)])


def found(rows: t.Sequence[Row]) -> Row | None:
    """The active key that was made last; else the last of all. None of none."""
    return max(rows, key=lambda one: (one["state"] == "ACTIVE", one["created"]), default=None)


def plan(cluster: str, key: Row | None, given: t.Mapping[str, t.Any]) -> Plan:
    """The call that makes or forgets the key. cluster: id. key: as the API gives it."""
    current = None if key is None else {name: key[name] for name in SHOWN}
    if given["state"] == "absent":
        query = (("provider", given["provider"]), *((("force", "true"),) if given["force"] else ()))
        call = Call("DELETE", RESOURCE + path("/{id}", id=given["key_id"]), query=query)
        hindered = None if key is None or given["force"] else refusal(key)
        return Plan(current, None, (call,) if current else (), hindered=hindered)
    if current is not None:
        return Plan(current, current)
    wanted = {"provider": given["provider"], **{name: given[name] for name in OBJECT}, "cluster": cluster}
    return Plan(None, {"key_id": NEW, **wanted, "state": "ACTIVE"}, (Call("POST", RESOURCE, wanted),))


def refusal(key: Row) -> ApiError | None:
    """What the manager says to forgetting it without force: a key that is put to use stays."""
    if key.get("used_since") is None:
        return None
    use = ", ".join(key[name] for name in ("component", "name", "identifier") if key[name])
    text = f"the key {key['key_id']} is put to use for the object {use!r}: give it another key first, or use force"
    return ApiError(text, "NOT_ALLOWED_IN_CURRENT_STATE", 400)


def made(planned: Plan, answers: list[t.Any]) -> dict[str, t.Any]:
    """Id of the key that is there, and who did not get it."""
    if planned.after is None:
        return {}
    known = {} if planned.changed else {"key_id": planned.after["key_id"]}
    if not answers:
        return {"unreachable_hosts": [], **known}
    return {"unreachable_hosts": answers[0]["unreachable"], "key_id": answers[0]["key_id"]}


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "provider": {"type": "str", "required": True},
            **{name: {"type": "str"} for name in OBJECT},
            "key_id": {"type": "str", "no_log": False},
            "force": {"type": "bool", "default": False},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", OBJECT), ("state", "absent", ["key_id"])],
        supports_check_mode=True,
    )
    if module.params["state"] == "present":
        if module.params["key_id"] is not None:
            module.fail_json(msg="key_id: is used with state=absent only")
        if not module.params["identifier"]:
            module.fail_json(msg="identifier: must not be empty: a key is found again by it")
    run(
        module,
        lambda client: read(client, module.params),
        lambda seen: plan(seen[0], seen[1], module.params),
        made,
    )


if __name__ == "__main__":
    raise SystemExit(main())
