#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tpm2_endorsement_key
short_description: Enroll the endorsement key of a TPM
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Registers one TPM by its endorsement key, or by the certificate of the key.
  - The endorsement key is the identity of a host. Another key under the same name is refused unless O(replace=true).
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
options:
  cluster:
    description: Name or id of the Trust Authority Cluster.
    type: str
    required: true

  name:
    description: Name of the entry, best the name of the host.
    type: str
    required: true
  public_key:
    description: Public key in PEM.
    type: str
  certificate:
    description: Certificate of the endorsement key in PEM. It must chain to a CA that is registered.
    type: str
  replace:
    description: Whether another key under the same name may be replaced.
    type: bool
    default: false

  state:
    description: Whether the key is to be there.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Enroll a host
  trusted.infrastructure.tpm2_endorsement_key:
    cluster: trust-authority
    name: host1
    public_key: "{{ (lookup('ansible.builtin.file', 'host1.json') | from_json).public_key }}"
"""

RETURN = r"""
resource:
  description: The entry as it is after the module, or would be in check mode; none when it is absent.
  type: dict
  returned: always
  sample: {"name": "host1", "public_key": ""}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import connection_arguments
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import Plan, State, cluster_id, run
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    ApiError,
    Call,
    ManagementClient,
    path,
)

RESOURCE = "/vcenter/trusted-infrastructure/trust-authority-clusters/{cluster}/attestation/tpm2/endorsement-keys"


def read(client: ManagementClient, cluster: str, name: str) -> tuple[str, State]:
    """Path of the collection, and the entry or None."""
    base = path(RESOURCE, cluster=cluster_id(client, cluster))
    found = client.find(Call("GET", base + path("/{name}", name=name), task=True))
    return base, found and {"name": name, "public_key": found["public_key"].strip()}


def plan(base: str, current: State, wanted: State, name: str, replace: bool) -> Plan:
    """Calls from the current to the wanted entry. wanted: "public_key" or "certificate", or None for absent.

    A certificate is not returned by the server, so it is compared by presence only. Raises ApiError when another
    key is enrolled and `replace` is false.
    """
    delete = Call("DELETE", base + path("/{name}", name=name), task=True)
    if wanted is None:
        return Plan(current, None, (delete,) if current else ())
    body = {key: value for key, value in wanted.items() if value is not None}
    create = Call("POST", base, {"name": name, **body}, task=True)
    after = {"name": name, **body}
    if current is None:
        return Plan(None, after, (create,))
    if wanted.get("public_key") in (None, current["public_key"]) and not (replace and wanted.get("certificate")):
        return Plan(current, current)
    if not replace:
        raise ApiError(
            f"another endorsement key is enrolled as {name}; if the TPM was replaced, set replace to true",
            "ALREADY_EXISTS",
        )
    return Plan(current, after, (delete, create))


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "public_key": {"type": "str"},
            "certificate": {"type": "str"},
            "replace": {"type": "bool", "default": False},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["public_key", "certificate"], True)],
        mutually_exclusive=[("public_key", "certificate")],
        supports_check_mode=True,
    )
    name = module.params["name"]
    given = {key: (module.params[key] or "").strip() or None for key in ("public_key", "certificate")}
    wanted = given if module.params["state"] == "present" else None
    run(
        module,
        lambda client: read(client, module.params["cluster"], name),
        lambda found: plan(found[0], found[1], wanted, name, module.params["replace"]),
    )


if __name__ == "__main__":
    raise SystemExit(main())
