#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: key_provider_rotation
short_description: End the rotation of a trusted key provider's primary key
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - A rotation begins with another O(primary_key_id) of M(trusted.infrastructure.key_provider). From then on the new key
    wraps, and the earlier one still opens what it wrapped.
  - This module ends it, when no host keeps keys under the earlier one any more, or takes earlier keys for compromised.
  - vCenter Server has no such operations.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
options:
  cluster:
    description: Name or id of the Trust Authority Cluster.
    type: str
    required: true
  provider:
    description: Name of the provider.
    type: str
    required: true
  state:
    description:
      - V(complete) gives up the earlier primary keys. It fails, and names the hosts, while keys are left under them, and
        while a Trust Authority host cannot be asked for them.
      - It also fails when the keys are given up and a Trust Authority host did not hear of that. Run it again when the host
        is back, and the host is told.
      - V(compromised) makes O(primary_key_id) the primary key, and takes all earlier ones for compromised, also the one that
        a rotation is under way to. It has what the stolen one wrapped before, and whoever has that one and an old copy knows
        it. What they wrapped is still opened, so that its data can be moved to new keys, but is not wrapped again.
    type: str
    choices: [complete, compromised]
    default: complete
  primary_key_id:
    description:
      - Id of the new primary key on the key servers, where it must exist and be active. Needed with O(state=compromised).
      - A key that is a primary key of the provider already may have what a compromised one wrapped before, and is refused; only
        a repetition is not. Make a new one.
    type: str
  without_hosts:
    description:
      - Trusted hosts whose keys are given up with the earlier primary keys, as far as these hosts are denied
        (M(trusted.infrastructure.denied_host)). A denied host is given no keys; B(once its denial is withdrawn, what it
        kept still cannot be opened). What others keep, and what is not known, still counts.
    type: list
    elements: str
    default: []
  force:
    description:
      - Give up the earlier primary keys whatever is left under them. B(What is left cannot be opened any more), until the
        earlier key is made the primary key again.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Begin a rotation
  trusted.infrastructure.key_provider:
    cluster: trust-authority
    name: department-a
    primary_key_id: "2"
    servers:
      - name: kms1
        address: kms1.example.com

- name: End it, once all hosts have wrapped their keys again
  trusted.infrastructure.key_provider_rotation:
    cluster: trust-authority
    provider: department-a

- name: End it, although host3, which was removed, keeps keys
  trusted.infrastructure.key_provider_rotation:
    cluster: trust-authority
    provider: department-a
    without_hosts: [host3]

- name: The primary key was stolen
  trusted.infrastructure.key_provider_rotation:
    cluster: trust-authority
    provider: department-a
    state: compromised
    primary_key_id: "3"
"""

RETURN = r"""
resource:
  description:
    - The primary keys as they are after the module, or would be in check mode. V(behind) names the Trust Authority hosts
      that have not heard of the last change.
  type: dict
  returned: always
  sample: {"provider": "department-a", "master_key_id": "2", "previous": [], "behind": []}
removed:
  description: Ids of the primary keys that were given up.
  type: list
  elements: str
  returned: success
  sample: ["1"]
lost:
  description: What was left under them and was given up, with the hosts that keep it.
  type: list
  elements: dict
  returned: success
  sample: [{"master_key_id": "1", "keys": 2, "hosts": [{"host": "host3", "scope": "lab", "keys": 2}]}]
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

RESOURCE = "/trust/clusters/{cluster}/kms/providers/{provider}/rotation"
Rotation = t.Mapping[str, t.Any]


def read(client: ManagementClient, cluster: str, name: str) -> tuple[str, dict[str, t.Any]]:
    """Path of the rotation, and the rotation as the API gives it."""
    base = path(RESOURCE, cluster=cluster_id(client, cluster), provider=name)
    return base, client.call(Call("GET", base, task=True))


def keys_of(name: str, rotation: Rotation) -> dict[str, t.Any]:
    """What of a rotation is its state: which keys there are, and who has not heard of it. How many are left is not."""
    return {
        "provider": name,
        "master_key_id": rotation["master_key_id"],
        "previous": [
            {"master_key_id": key["master_key_id"], "compromised": key["compromised"]}
            for key in rotation["previous"]
        ],
        "behind": rotation["behind"],
    }


def plan_complete(
    base: str, name: str, rotation: Rotation, force: bool, without_hosts: t.Sequence[str] = ()
) -> Plan:
    """Give up the earlier keys. Raises ApiError, in check mode as well, naming what is left."""
    before = keys_of(name, rotation)
    if not rotation["previous"] and not rotation["behind"]:
        return Plan(before, before)
    if not force:
        refuse(rotation, without_hosts)
    given = {"force": force, **({"without_hosts": list(without_hosts)} if without_hosts else {})}
    call = Call("POST", base, given, query=(("action", "complete"),), task=True)
    return Plan(before, {**before, "previous": [], "behind": []}, (call,))


def refuse(rotation: Rotation, without_hosts: t.Sequence[str] = ()) -> None:
    """Raises ApiError while keys are left under earlier primary keys, or may be."""
    if not rotation["previous"]:
        return
    left = [
        f"{host['host']} (scope {host['scope']}) keeps {host['keys']} under {key['master_key_id']}"
        + (", and is denied: without_hosts gives that up" if host["denied"] else "")
        for key in rotation["previous"]
        for host in key["hosts"]
        if not (host["denied"] and host["host"] in without_hosts)
    ]
    unknown = [f"{host} cannot be asked" for host in rotation["unknown"]]
    if left or unknown:
        text = f"the earlier primary keys cannot be given up: {'; '.join(left + unknown)}"
        raise ApiError(text, "NOT_ALLOWED_IN_CURRENT_STATE", 400)


def plan_compromised(base: str, name: str, rotation: Rotation, primary_key_id: str) -> Plan:
    """Make a key the primary key, and all earlier ones compromised. Raises ApiError, in check mode as well, for a key
    that may have what an earlier one wrapped before."""
    before = keys_of(name, rotation)
    earlier = [row["master_key_id"] for row in before["previous"]]
    again = primary_key_id == before["master_key_id"]
    if primary_key_id in earlier or (again and not all(row["compromised"] for row in before["previous"])):
        text = (
            f"{primary_key_id} is a primary key of {name}, and may have what a compromised one wrapped before: make a "
            "new one on the key servers, and name that"
        )
        raise ApiError(text, "INVALID_ARGUMENT", 400)
    if not again:
        earlier.append(before["master_key_id"])
    previous = [{"master_key_id": key_id, "compromised": True} for key_id in earlier]
    after = {**before, "master_key_id": primary_key_id, "previous": previous, "behind": []}
    if after == before:
        return Plan(before, before)
    call = Call("POST", base, {"master_key_id": primary_key_id}, query=(("action", "compromise"),), task=True)
    return Plan(before, after, (call,))


def outcome(answers: list[t.Any]) -> dict[str, t.Any]:
    """What the manager said of a completion."""
    found = answers[0] if answers else {}
    return {"removed": found.get("removed", []), "lost": found.get("lost", [])}


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            "provider": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["complete", "compromised"], "default": "complete"},
            "primary_key_id": {"type": "str", "no_log": False},
            "without_hosts": {"type": "list", "elements": "str", "default": []},
            "force": {"type": "bool", "default": False},
        },
        required_if=[("state", "compromised", ["primary_key_id"])],
        supports_check_mode=True,
    )
    params = module.params

    def plan(found: tuple[str, Rotation]) -> Plan:
        base, rotation = found
        if params["state"] == "complete":
            return plan_complete(base, params["provider"], rotation, params["force"], params["without_hosts"])
        planned = plan_compromised(base, params["provider"], rotation, params["primary_key_id"])
        if not planned.changed and not rotation["previous"]:
            # After a completion that is as it should be; but it is also what a wrong id looks like.
            module.warn(f"{params['primary_key_id']} is the primary key already, and there is no earlier one")
        return planned

    run(
        module,
        lambda client: read(client, params["cluster"], params["provider"]),
        plan,
        lambda _plan, answers: outcome(answers),
        {"master_key_id": "primary_key_id"},
    )


if __name__ == "__main__":
    raise SystemExit(main())
