#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: key_provider
short_description: Make a trusted key provider
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - A trusted key provider releases keys that are wrapped with one primary key of its key servers to attested hosts.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
options:
  cluster:
    description: Name or id of the Trust Authority Cluster.
    type: str
    required: true

  name:
    description: Name of the provider.
    type: str
    required: true
  primary_key_id:
    description: Id of the primary key on the key servers, where it must exist and be active. Needed with O(state=present).
    type: str
  servers:
    description: The key servers; they hold the same keys. Needed with O(state=present).
    type: list
    elements: dict
    suboptions:
      name:
        description: Name of the key server, unique in the provider.
        type: str
        required: true
      address:
        description: Name or address.
        type: str
        required: true
      port:
        description: Port of its KMIP service.
        type: int
        default: 5696
  description:
    description: Free text.
    type: str
  kmip_username:
    description: User name for the key servers, where they want one.
    type: str
  connection_timeout:
    description: Seconds to wait for a key server.
    type: int

  state:
    description: Whether the provider is to be there.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Provider of a department
  trusted.infrastructure.key_provider:
    cluster: trust-authority
    name: department-a
    primary_key_id: "1"
    servers:
      - name: kms1
        address: kms1.example.com
"""

RETURN = r"""
resource:
  description: The provider as it is after the module, or would be in check mode; none when it is absent.
  type: dict
  returned: always
  sample: {"provider": "department-a", "master_key_id": "1"}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import connection_arguments
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import Plan, State, cluster_id, run
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import Call, ManagementClient, path

RESOURCE = "/vcenter/trusted-infrastructure/trust-authority-clusters/{cluster}/kms/providers"


def read(client: ManagementClient, cluster: str, name: str) -> tuple[str, State]:
    """Path of the collection, and the provider or None, in the form of `wanted_of`."""
    base = path(RESOURCE, cluster=cluster_id(client, cluster))
    found = client.find(Call("GET", base + path("/{name}", name=name), task=True))
    if found is None:
        return base, None
    server, kmip = found["key_server"], found["key_server"].get("kmip_server") or {}
    return base, {
        "provider": name,
        "master_key_id": found["master_key_id"],
        "servers": kmip.get("servers", []),
        "description": server.get("description"),
        "username": kmip.get("username"),
        "connection_timeout": server.get("connection_timeout"),
    }


def specification(provider: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The API's form of what is set: `master_key_id` and `key_server`."""
    kmip = {key: provider[key] for key in ("servers", "username") if provider.get(key) is not None}
    server: dict[str, t.Any] = {"type": "KMIP"}
    server.update(
        {key: provider[key] for key in ("description", "connection_timeout") if provider.get(key) is not None}
    )
    if kmip:
        server["kmip_server"] = kmip
    body: dict[str, t.Any] = {"key_server": server} if len(server) > 1 else {}
    if provider.get("master_key_id") is not None:
        body["master_key_id"] = provider["master_key_id"]
    return body


def plan(base: str, current: State, wanted: State, name: str) -> Plan:
    """Create, patch what differs, or delete. wanted: None for absent; its entries that are None are left alone."""
    if wanted is None:
        delete = Call("DELETE", base + path("/{name}", name=name), task=True)
        return Plan(current, None, (delete,) if current else ())
    given = {key: value for key, value in wanted.items() if value is not None}
    if current is None:
        create = Call("POST", base, {"provider": name, **specification(given)}, task=True)
        return Plan(None, given, (create,))
    different = {key: value for key, value in given.items() if current.get(key) != value}
    if not different:
        return Plan(current, current)
    patch = Call("PATCH", base + path("/{name}", name=name), specification(different), task=True)
    return Plan(current, {**current, **different}, (patch,))


def wanted_of(params: t.Mapping[str, t.Any]) -> State:
    """What the parameters describe; None for absent."""
    if params["state"] == "absent":
        return None
    servers = [
        {"name": row["name"], "address": {"hostname": row["address"], "port": row["port"]}} for row in params["servers"]
    ]
    return {
        "provider": params["name"],
        "master_key_id": params["primary_key_id"],
        "servers": servers,
        "description": params["description"],
        "username": params["kmip_username"],
        "connection_timeout": params["connection_timeout"],
    }


def main() -> t.NoReturn:
    server = {
        "name": {"type": "str", "required": True},
        "address": {"type": "str", "required": True},
        "port": {"type": "int", "default": 5696},
    }
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "primary_key_id": {"type": "str", "no_log": False},
            "servers": {"type": "list", "elements": "dict", "options": server},
            "description": {"type": "str"},
            "connection_timeout": {"type": "int"},
            "kmip_username": {"type": "str"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["primary_key_id", "servers"])],
        supports_check_mode=True,
    )
    name, wanted = module.params["name"], wanted_of(module.params)
    run(
        module,
        lambda client: read(client, module.params["cluster"], name),
        lambda found: plan(found[0], found[1], wanted, name),
    )


if __name__ == "__main__":
    raise SystemExit(main())
