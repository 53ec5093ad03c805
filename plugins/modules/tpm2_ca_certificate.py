#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tpm2_ca_certificate
short_description: Accept the CA of a TPM vendor
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Registers a CA whose endorsement key certificates a Trust Authority Cluster accepts.
  - An entry cannot be changed, but for its certificate revocation lists. One that differs otherwise is deleted and made
    anew.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
options:
  cluster:
    description: Name or id of the Trust Authority Cluster.
    type: str
    required: true
  name:
    description: Name of the entry.
    type: str
    required: true
  cert_chain:
    description: Certificates in PEM, root first. An element with several certificates is taken apart. Needed with O(state=present).
    type: list
    elements: str
  eku_exception:
    description:
      - Whether certificates of this vendor may lack the extended key usage of an endorsement key.
      - vCenter Server has no such setting; leave it out there.
    type: bool
  crls:
    description:
      - Certificate revocation lists in PEM, at most one of each CA of O(cert_chain). Without the option, those that are
        registered stay; V([]) takes them away.
      - Where a CA has a list, it counts. What it names is refused, and after its next update everything that this CA has
        issued. Nothing is fetched; the task that registers the vendor's current list belongs into a schedule.
      - vCenter Server has no such setting; leave it out there.
    type: list
    elements: str
  state:
    description: Whether the CA is to be there.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Accept the TPMs of a vendor
  trusted.infrastructure.tpm2_ca_certificate:
    cluster: trust-authority
    name: vendor
    cert_chain: ["{{ lookup('ansible.builtin.file', 'trust/vendor_ca.pem') }}"]

- name: Accept them but for those that the vendor has revoked
  trusted.infrastructure.tpm2_ca_certificate:
    cluster: trust-authority
    name: vendor
    cert_chain: ["{{ lookup('ansible.builtin.file', 'trust/vendor_ca.pem') }}"]
    crls: ["{{ lookup('ansible.builtin.file', 'trust/vendor_ca.crl.pem') }}"]

- name: Accept them no more
  trusted.infrastructure.tpm2_ca_certificate:
    cluster: trust-authority
    name: vendor
    state: absent
"""

RETURN = r"""
resource:
  description: The entry as it is after the module, or would be in check mode; none when it is absent.
  type: dict
  returned: always
  sample: {"name": "vendor", "cert_chain": ["-----BEGIN CERTIFICATE-----"], "eku_exception": false, "crls": []}
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
from ansible_collections.trusted.infrastructure.plugins.module_utils.pem import certificates, crls

RESOURCE = (
    "/vcenter/trusted-infrastructure/trust-authority-clusters/{cluster}/attestation/tpm2/ca-certificates"
)


# vCenter Server has no such resource.
LISTS = "/trust/clusters/{cluster}/ca-certificates/{name}"


def read(client: ManagementClient, cluster: str, name: str) -> tuple[str, State]:
    """Path of the collection, and the entry or None."""
    base = path(RESOURCE, cluster=cluster_id(client, cluster))
    found = client.find(Call("GET", base + path("/{name}", name=name), task=True))
    if found is None:
        return base, None
    chain = certificates(found["cert_chain"]["cert_chain"])
    return base, {
        "name": name,
        "cert_chain": chain,
        "eku_exception": found.get("eku_exception", False),
        "crls": crls(found.get("crls", [])),
    }


def specification(entry: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The API's form of an entry. It says nothing of an exception or of lists that are not there: vCenter Server knows
    neither."""
    spec: dict[str, t.Any] = {"name": entry["name"], "cert_chain": {"cert_chain": entry["cert_chain"]}}
    return spec | {key: entry[key] for key in ("eku_exception", "crls") if entry[key]}


def lists_path(base: str, name: str) -> str:
    """Path of the lists of an entry. base: path of the collection."""
    return path(LISTS, cluster=base.split("/")[4], name=name)


def plan(base: str, current: State, wanted: State, name: str) -> Plan:
    """Calls from the current to the wanted entry; one of which more has changed than its lists is replaced. wanted: None
    for absent; its entries that are None are left alone."""
    after = wanted
    if wanted is not None:
        given = {key: value for key, value in wanted.items() if value is not None}
        after = {"eku_exception": False, "crls": [], **(current or {}), **given}
    if current == after:
        return Plan(current, after)
    if current and after and {**current, "crls": after["crls"]} == after:
        return Plan(
            current, after, (Call("PATCH", lists_path(base, name), {"crls": after["crls"]}, task=True),)
        )
    calls, undo = [], ()
    if current is not None:
        calls.append(Call("DELETE", base + path("/{name}", name=name), task=True))
        undo = (Call("POST", base, specification(current), task=True),)
    if after is not None:
        calls.append(Call("POST", base, specification(after), task=True))
    return Plan(current, after, tuple(calls), undo)


def wanted_of(params: t.Mapping[str, t.Any]) -> State:
    """What the parameters describe; None for absent."""
    if params["state"] == "absent":
        return None
    chain = certificates(params["cert_chain"])
    lists = params["crls"]
    return {
        "name": params["name"],
        "cert_chain": chain,
        "eku_exception": params["eku_exception"],
        "crls": None if lists is None else crls(lists),
    }


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "cert_chain": {"type": "list", "elements": "str"},
            "eku_exception": {"type": "bool"},
            "crls": {"type": "list", "elements": "str"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["cert_chain"])],
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
