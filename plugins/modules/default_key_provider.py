#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: default_key_provider
short_description: Choose the key provider that encrypts where none is named
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Sets or unsets the default key provider of a workload manager, or of one of its clusters. A cluster without one of its own
    has the manager's.
  - The first provider that is added becomes the manager's default by itself. When a default provider is removed, nothing takes
    its place.
  - What is encrypted already stays with the provider that it has.
  - vCenter Server has this in another API, so this module works with the managers of this collection only.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
options:
  name:
    description: Name of the key provider, of any kind. Needed with O(state=present).
    type: str
  cluster:
    description: Name or id of the cluster. Without it, the manager's default is meant.
    type: str
  state:
    description: Whether there is to be a default. With V(absent), a cluster has the manager's again.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: The default of all clusters
  trusted.infrastructure.default_key_provider:
    name: department-a

- name: One cluster has another
  trusted.infrastructure.default_key_provider:
    cluster: edge
    name: edge-native
"""

RETURN = r"""
resource:
  description: The default after the module, or as it would be in check mode. C(inherited) is that it is the manager's.
  type: dict
  returned: always
  sample: {"provider": "edge-native", "inherited": false}
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
    Call,
    ManagementClient,
    path,
)

MANAGERS = "/trust/default-key-provider"


class Found(t.NamedTuple):
    """place: of the default in the API. own: what was set there. managers: the manager's default."""

    place: str
    own: str | None
    managers: str | None


def read(client: ManagementClient, cluster: str | None) -> Found:
    """What is there."""
    managers = client.call(Call("GET", MANAGERS)).get("provider")
    if cluster is None:
        return Found(MANAGERS, managers, managers)
    place = path("/trust/clusters/{cluster}/default-key-provider", cluster=cluster_id(client, cluster))
    current = client.call(Call("GET", place))
    return Found(place, None if current["inherited"] else current["provider"], managers)


def shown(found: Found, own: str | None) -> dict[str, t.Any]:
    """The default with this one set."""
    if found.place == MANAGERS:
        return {"provider": own, "inherited": False}
    return {"provider": found.managers if own is None else own, "inherited": own is None}


def plan(found: Found, wanted: str | None) -> Plan:
    """Set what differs. wanted: None for no default of its own."""
    calls = (Call("PUT", found.place, {"provider": wanted}, task=True),) if found.own != wanted else ()
    return Plan(shown(found, found.own), shown(found, wanted), calls)


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "name": {"type": "str"},
            "cluster": {"type": "str"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["name"])],
        supports_check_mode=True,
    )
    wanted = module.params["name"] if module.params["state"] == "present" else None
    run(
        module,
        lambda client: read(client, module.params["cluster"]),
        lambda found: plan(found, wanted),
        parameters={"provider": "name"},
    )


if __name__ == "__main__":
    raise SystemExit(main())
