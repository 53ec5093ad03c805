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
  - What is not given is left as it is.
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
    description:
      - Id of the primary key on the key servers, where it must exist and be active. Needed with O(state=present).
      - Another one than before rotates the primary key. Every key server is asked for it first; if one lacks it, or
        it is not active there, nothing is rotated. From then on it wraps, and the key before still opens what it
        wrapped, until M(trusted.infrastructure.key_provider_rotation) gives it up. Until then there is no other
        rotation; check mode warns of it.
    type: str
  servers:
    description: All key servers of the provider; they hold the same keys. Needed with O(state=present).
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
  proxy:
    description: HTTP proxy (CONNECT) through which the key servers are reached.
    type: dict
    suboptions:
      address:
        description: Name or address.
        type: str
        required: true
      port:
        description: Port.
        type: int
        default: 1080
  required_userspace:
    description:
      - What the base image of a host must cover of its user space, so that the provider gives it keys.
      - V(verity) is a root file system that is verified on each read, V(ima) a log of every program that is run.
      - vCenter Server has no such setting; leave it out there.
    type: str
    choices: [verity, ima, none]
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
      - name: kms2
        address: kms2.example.com
        port: 5697
    kmip_username: department-a
    connection_timeout: 5

- name: Its primary key is rotated to key 2, and nothing else is changed
  trusted.infrastructure.key_provider:
    cluster: trust-authority
    name: department-a
    primary_key_id: "2"
    servers:
      - name: kms1
        address: kms1.example.com
      - name: kms2
        address: kms2.example.com
        port: 5697

- name: The provider is no more
  trusted.infrastructure.key_provider:
    cluster: trust-authority
    name: department-b
    state: absent
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

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import (
    Plan,
    State,
    cluster_id,
    differs,
    run,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.key_servers import (
    PROXY_OPTIONS,
    SERVER_OPTIONS,
    known_proxy,
    known_servers,
    wanted_proxy,
    wanted_servers,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    ApiError,
    Call,
    ManagementClient,
    path,
)

RESOURCE = "/vcenter/trusted-infrastructure/trust-authority-clusters/{cluster}/kms/providers"
# Where the API has what is set: beside the key server, or in it.
FIELDS = ("master_key_id", "required_userspace")
PARAMETERS = {"provider": "name", "master_key_id": "primary_key_id", "username": "kmip_username"}
SERVER_FIELDS = ("description", "connection_timeout", "proxy_server")


class Found(t.NamedTuple):
    """base: path of the collection. current: the provider or None, in the form of `wanted_of`. previous: ids of its
    earlier primary keys; while there are any, there is no other rotation. A vCenter Server does not tell them."""

    base: str
    current: State
    previous: t.Sequence[str] = ()


def read(client: ManagementClient, cluster: str, name: str) -> Found:
    """The provider."""
    base = path(RESOURCE, cluster=cluster_id(client, cluster))
    found = client.find(Call("GET", base + path("/{name}", name=name), task=True))
    if found is None:
        return Found(base, None)
    server, kmip = found["key_server"], found["key_server"].get("kmip_server") or {}
    current = {
        "provider": name,
        "master_key_id": found["master_key_id"],
        "servers": known_servers(kmip.get("servers") or []),
        "description": server.get("description") or "",
        "username": kmip.get("username"),
        "connection_timeout": server.get("connection_timeout"),
        "proxy_server": known_proxy(server.get("proxy_server")),
        "required_userspace": found.get("required_userspace"),
    }
    return Found(base, current, found.get("previous_master_key_ids") or ())


def specification(provider: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The API's form of what is set: `master_key_id` and `key_server`."""
    kmip = {key: provider[key] for key in ("servers", "username") if provider.get(key) is not None}
    server: dict[str, t.Any] = {"type": "KMIP"}
    server.update({key: provider[key] for key in SERVER_FIELDS if provider.get(key) is not None})
    if kmip:
        server["kmip_server"] = kmip
    body: dict[str, t.Any] = {"key_server": server} if len(server) > 1 else {}
    body.update({key: provider[key] for key in FIELDS if provider.get(key) is not None})
    return body


def refusal(found: Found, name: str) -> ApiError | None:
    """What the manager says to another primary key."""
    if not found.previous:
        return None
    text = f"{name} is being rotated from {', '.join(found.previous)}: complete that first, with key_provider_rotation"
    return ApiError(text, "NOT_ALLOWED_IN_CURRENT_STATE")


def plan(found: Found, wanted: State, name: str) -> Plan:
    """Create, patch what differs, or delete. wanted: None for absent; its entries that are None are left alone."""
    base, current = found.base, found.current
    if wanted is None:
        delete = Call("DELETE", base + path("/{name}", name=name), task=True)
        return Plan(current, None, (delete,) if current else ())
    if current is None:
        given = {key: value for key, value in wanted.items() if value is not None}
        create = Call("POST", base, {"provider": name, **specification(given)}, task=True)
        return Plan(None, given, (create,))
    different = differs(current, wanted)
    if not different:
        return Plan(current, current)
    patch = Call("PATCH", base + path("/{name}", name=name), specification(different), task=True)
    hindered = refusal(found, name) if "master_key_id" in different else None
    return Plan(current, {**current, **different}, (patch,), hindered=hindered)


def wanted_of(params: t.Mapping[str, t.Any]) -> State:
    """What the parameters describe; None for absent."""
    if params["state"] == "absent":
        return None
    return {
        "provider": params["name"],
        "master_key_id": params["primary_key_id"],
        "servers": wanted_servers(params),
        "description": params["description"],
        "username": params["kmip_username"],
        "connection_timeout": params["connection_timeout"],
        "proxy_server": wanted_proxy(params),
        "required_userspace": params["required_userspace"],
    }


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "primary_key_id": {"type": "str", "no_log": False},
            "servers": {"type": "list", "elements": "dict", "options": SERVER_OPTIONS},
            "description": {"type": "str"},
            "connection_timeout": {"type": "int"},
            "kmip_username": {"type": "str"},
            "proxy": {"type": "dict", "options": PROXY_OPTIONS},
            "required_userspace": {"type": "str", "choices": ["verity", "ima", "none"]},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["primary_key_id", "servers"])],
        supports_check_mode=True,
    )
    name, wanted = module.params["name"], wanted_of(module.params)
    run(
        module,
        lambda client: read(client, module.params["cluster"], name),
        lambda found: plan(found, wanted, name),
        parameters=PARAMETERS,
    )


if __name__ == "__main__":
    raise SystemExit(main())
