#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: consumer_principal
short_description: Accept the principal of a workload manager
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Only hosts that an accepted workload manager vouches for are attested.
  - A principal cannot be changed. One that differs from what is wanted is deleted and made anew.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
options:
  cluster:
    description: Name or id of the Trust Authority Cluster.
    type: str
    required: true
  issuer:
    description: Issuer of the assertions, as RV(trusted.infrastructure.principal_info#module:principal) names it.
    type: str
    required: true
  issuer_alias:
    description: Name for the issuer. Needed with O(state=present).
    type: str
  principal_name:
    description: Name of the principal. Needed with O(state=present).
    type: str
  principal_domain:
    description: Domain of the principal. Needed with O(state=present).
    type: str
  principal_type:
    description: What the principal is.
    type: str
    choices: [STS_USER, STS_GROUP]
    default: STS_USER
  certificates:
    description: Chains of certificates in PEM, each a list, leaf first. Needed with O(state=present).
    type: list
    elements: list
  state:
    description: Whether the principal is to be there.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: What the workload manager signs with
  trusted.infrastructure.principal_info:
    hostname: workload-manager.example.com
  register: found

- name: Accept the workload manager
  trusted.infrastructure.consumer_principal:
    cluster: trust-authority
    issuer: "{{ found.principal.issuer }}"
    issuer_alias: workload
    principal_name: "{{ found.principal.principal.id.name }}"
    principal_domain: "{{ found.principal.principal.id.domain }}"
    principal_type: "{{ found.principal.principal.type }}"
    certificates: "{{ found.principal.certificates | map(attribute='cert_chain') | list }}"

- name: Accept it no more
  trusted.infrastructure.consumer_principal:
    cluster: trust-authority
    issuer: https://workload-manager.example.com/
    state: absent
"""

RETURN = r"""
resource:
  description: The principal as it is after the module, or would be in check mode; none when it is absent.
  type: dict
  returned: always
  sample: {"issuer": "https://workload-manager/", "issuer_alias": "workload"}
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
    Call,
    ManagementClient,
    path,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.pem import certificates

RESOURCE = "/vcenter/trusted-infrastructure/trust-authority-clusters/{cluster}/consumer-principals"


def read(client: ManagementClient, cluster: str, issuer: str) -> tuple[str, str, State]:
    """Path of the collection, id of the profile or "", and the principal or None."""
    base = path(RESOURCE, cluster=cluster_id(client, cluster))
    rows = client.call(Call("POST", base, {"issuer": [issuer]}, query=(("action", "query"),), task=True))
    if not rows:
        return base, "", None
    found = client.call(Call("GET", base + path("/{id}", id=rows[0]["id"]), task=True))
    chains = [{"cert_chain": certificates(chain["cert_chain"])} for chain in found["certificates"]]
    kept = {key: found[key] for key in ("issuer", "issuer_alias", "principal")}
    return base, found["id"], {**kept, "certificates": chains}


def plan(base: str, profile: str, current: State, wanted: State) -> Plan:
    """Calls from the current to the wanted principal; a changed one is replaced."""
    if current == wanted:
        return Plan(current, wanted)
    calls, undo = [], ()
    if current is not None:
        calls.append(Call("DELETE", base + path("/{id}", id=profile), task=True))
        undo = (Call("POST", base, current, task=True),)
    if wanted is not None:
        calls.append(Call("POST", base, wanted, task=True))
    return Plan(current, wanted, tuple(calls), undo)


def wanted_of(params: t.Mapping[str, t.Any]) -> State:
    """The create spec that the parameters describe; None for absent."""
    if params["state"] == "absent":
        return None
    identity = {"name": params["principal_name"], "domain": params["principal_domain"]}
    return {
        "issuer": params["issuer"],
        "issuer_alias": params["issuer_alias"],
        "principal": {"id": identity, "type": params["principal_type"]},
        "certificates": [{"cert_chain": certificates(chain)} for chain in params["certificates"]],
    }


def main() -> t.NoReturn:
    needed = ["issuer_alias", "principal_name", "principal_domain", "certificates"]
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            "issuer": {"type": "str", "required": True},
            "issuer_alias": {"type": "str"},
            "principal_name": {"type": "str"},
            "principal_domain": {"type": "str"},
            "principal_type": {"type": "str", "choices": ["STS_USER", "STS_GROUP"], "default": "STS_USER"},
            "certificates": {"type": "list", "elements": "list"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", needed)],
        supports_check_mode=True,
    )
    run(
        module,
        lambda client: read(client, module.params["cluster"], module.params["issuer"]),
        lambda found: plan(*found, wanted_of(module.params)),
    )


if __name__ == "__main__":
    raise SystemExit(main())
