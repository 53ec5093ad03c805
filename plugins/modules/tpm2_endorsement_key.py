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
    public_key: "{{ (lookup('ansible.builtin.file', 'trust/endorsement_keys/host1.json') | from_json).public_key }}"

- name: Its TPM was replaced
  trusted.infrastructure.tpm2_endorsement_key:
    cluster: trust-authority
    name: host1
    certificate: "{{ lookup('ansible.builtin.file', 'host1_ek.pem') }}"
    replace: true

- name: The host is no more
  trusted.infrastructure.tpm2_endorsement_key:
    cluster: trust-authority
    name: host1
    state: absent
"""

RETURN = r"""
resource:
  description: The entry as it is after the module, or would be in check mode; none when it is absent.
  type: dict
  returned: always
  sample: {"name": "host1", "public_key": "-----BEGIN PUBLIC KEY-----"}
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
    run,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    ApiError,
    Call,
    ManagementClient,
    path,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.pem import key_of_certificate, public_key

RESOURCE = (
    "/vcenter/trusted-infrastructure/trust-authority-clusters/{cluster}/attestation/tpm2/endorsement-keys"
)


def read(client: ManagementClient, cluster: str, name: str) -> tuple[str, State]:
    """Path of the collection, and the entry or None."""
    base = path(RESOURCE, cluster=cluster_id(client, cluster))
    found = client.find(Call("GET", base + path("/{name}", name=name), task=True))
    return base, found and {"name": name, "public_key": public_key(found["public_key"])}


def plan(base: str, current: State, wanted: State, name: str, replace: bool) -> Plan:
    """Calls from the current to the wanted entry. wanted: "public_key", and "certificate" where one was given; None for
    absent.

    The server gives no certificate back: keys are compared. Raises ApiError when another key is enrolled and `replace`
    is false.
    """
    delete = Call("DELETE", base + path("/{name}", name=name), task=True)
    if wanted is None:
        return Plan(current, None, (delete,) if current else ())
    body = (
        {"certificate": wanted["certificate"]}
        if wanted.get("certificate")
        else {"public_key": wanted["public_key"]}
    )
    create = Call("POST", base, {"name": name, **body}, task=True)
    after = {"name": name, "public_key": wanted["public_key"]}
    if current is None:
        return Plan(None, after, (create,))
    if wanted["public_key"] == current["public_key"]:
        return Plan(current, current)
    if not replace:
        raise ApiError(
            f"another endorsement key is enrolled as {name}; if the TPM was replaced, set replace to true",
            "ALREADY_EXISTS",
        )
    return Plan(current, after, (delete, create), (Call("POST", base, dict(current), task=True),))


def wanted_of(params: t.Mapping[str, t.Any]) -> State:
    """What the parameters describe; None for absent. Raises ValueError for a certificate that is none."""
    if params["state"] == "absent":
        return None
    if not params["certificate"]:
        return {"public_key": public_key(params["public_key"])}
    key = key_of_certificate(params["certificate"])
    if key is None:
        raise ValueError("certificate: this is not one certificate in PEM")
    return {"public_key": key, "certificate": params["certificate"]}


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
    try:
        wanted = wanted_of(module.params)
    except ValueError as error:
        module.fail_json(msg=str(error))
    run(
        module,
        lambda client: read(client, module.params["cluster"], name),
        lambda found: plan(found[0], found[1], wanted, name, module.params["replace"]),
    )


if __name__ == "__main__":
    raise SystemExit(main())
