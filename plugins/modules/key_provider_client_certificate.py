#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: key_provider_client_certificate
short_description: Set the certificate with which a trusted key provider goes to its key servers
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - The private key is made on a Trust Authority host and never leaves the Trust Authority in the clear.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
attributes:
  idempotent:
    support: partial
    details: With O(force=true) each run changes something.
options:
  cluster:
    description: Name or id of the Trust Authority Cluster.
    type: str
    required: true
  provider:
    description: Name of the trusted key provider.
    type: str
    required: true
  method:
    description:
      - V(self_signed) makes a key and a certificate where there is none.
      - V(csr) makes a key and a certificate request where there is neither a certificate nor a request.
      - V(signed) installs O(certificate), which answers the request, renews the certificate of now, or comes with
        O(private_key). One that has ended is refused.
    type: str
    choices: [self_signed, csr, signed]
    default: self_signed
  certificate:
    description:
      - Certificate in PEM, which its intermediate certificates may follow. Needed with O(method=signed).
      - Without O(private_key), it is for the key of the outstanding request, or for the key of the certificate of now.
    type: str
  private_key:
    description: Private key in PEM, where it was made elsewhere.
    type: str
  force:
    description: Whether to make a new key although there is one, or to install the same certificate again.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Request for the operator of the key servers
  trusted.infrastructure.key_provider_client_certificate:
    cluster: trust-authority
    provider: department-a
    method: csr
  register: request

- name: What the operator of the key servers gave back
  trusted.infrastructure.key_provider_client_certificate:
    cluster: trust-authority
    provider: department-a
    method: signed
    certificate: "{{ lookup('ansible.builtin.file', 'trust/key_servers/department-a.pem') }}"
"""

RETURN = r"""
resource:
  description: Certificate and request after the module.
  type: dict
  returned: always
  sample: {"certificate": null, "csr": null}
csr:
  description: The certificate request that is outstanding, in PEM.
  type: str
  returned: when a request is outstanding
  sample: "-----BEGIN CERTIFICATE REQUEST-----"
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.client_certificates import chain, install
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

RESOURCE = "/vcenter/trusted-infrastructure/trust-authority-clusters/{cluster}/kms/providers/{provider}/client-certificate"


def read(client: ManagementClient, cluster: str, provider: str) -> tuple[str, dict[str, t.Any]]:
    """Path of the certificate; certificate and outstanding request, each None where there is none."""
    base = path(RESOURCE, cluster=cluster_id(client, cluster), provider=provider)
    certificate = client.find(Call("GET", base, task=True))
    csr = client.find(Call("GET", base + "/csr", task=True))
    known = chain(certificate["certificate"]) if certificate else None
    return base, {"certificate": known, "csr": csr and csr["csr"]}


def plan(base: str, current: dict[str, t.Any], params: t.Mapping[str, t.Any]) -> Plan:
    """The one call that is needed, if any."""
    if params["method"] == "self_signed":
        if current["certificate"] and not params["force"]:
            return Plan(current, current)
        return Plan(current, {**current, "certificate": "<new>"}, (Call("POST", base, task=True),))
    if params["method"] == "csr":
        if (current["certificate"] or current["csr"]) and not params["force"]:
            return Plan(current, current)
        return Plan(current, {**current, "csr": "<new>"}, (Call("POST", base + "/csr", task=True),))
    after, body = install(current, params, again=params["force"])
    return Plan(current, after, () if body is None else (Call("PATCH", base, body, task=True),))


def request_of(planned: Plan, answers: list[t.Any]) -> dict[str, t.Any]:
    """The outstanding request: the one that was just made, or the one that was there."""
    if answers and isinstance(answers[-1], dict) and "csr" in answers[-1]:
        return {"csr": answers[-1]["csr"]}
    known = (planned.after or {}).get("csr")
    return {"csr": known} if known and known != "<new>" else {}


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            "provider": {"type": "str", "required": True},
            "method": {"type": "str", "choices": ["self_signed", "csr", "signed"], "default": "self_signed"},
            "certificate": {"type": "str"},
            "private_key": {"type": "str", "no_log": True},
            "force": {"type": "bool", "default": False},
        },
        required_if=[("method", "signed", ["certificate"])],
        supports_check_mode=True,
    )
    for name in ("certificate", "private_key"):
        if module.params[name] and module.params["method"] != "signed":
            module.fail_json(msg=f"{name}: is used with method=signed only, not {module.params['method']}")
    run(
        module,
        lambda client: read(client, module.params["cluster"], module.params["provider"]),
        lambda found: plan(found[0], found[1], module.params),
        request_of,
    )


if __name__ == "__main__":
    raise SystemExit(main())
