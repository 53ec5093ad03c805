#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: attestation_service
short_description: Register an Attestation Service
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Registers an Attestation Service of a Trust Authority host with a workload manager, as the Trust Authority side exported it.
  - A registration cannot be changed. One that differs from what is wanted is deleted and made anew, which the manager
    refuses while a cluster uses it. Detach it with M(trusted.infrastructure.trusted_cluster) first.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
options:
  address:
    description: Name or address of the service.
    type: str
    required: true
  service_port:
    description: Port of the service.
    type: int
    default: 443
  trusted_ca:
    description: Certificates in PEM that the service's certificate chains to. Needed with O(state=present).
    type: list
    elements: str
  group:
    description: Group that pairs Attestation Services with Key Provider Services. Needed with O(state=present).
    type: str
  trust_authority_cluster:
    description: Id of the Trust Authority Cluster on its own manager. Needed with O(state=present).
    type: str
  state:
    description: Whether the registration is to be there.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Services of the Trust Authority hosts
  trusted.infrastructure.trust_authority_host_info:
    hostname: ta-manager.example.com
  register: found

- name: Register what was exported
  trusted.infrastructure.attestation_service:
    address: "{{ item.attestation.address.hostname }}"
    service_port: "{{ item.attestation.address.port }}"
    trusted_ca: "{{ item.attestation.trusted_CA.cert_chain }}"
    group: "{{ item.attestation.group }}"
    trust_authority_cluster: "{{ item.attestation.cluster }}"
  loop: "{{ found.trust_authority_hosts }}"

- name: A host that left the Trust Authority
  trusted.infrastructure.attestation_service:
    address: ta3.example.com
    state: absent
"""

RETURN = r"""
resource:
  description: The registration as it is after the module, or would be in check mode; none when it is absent.
  type: dict
  returned: always
  sample: {"address": {"hostname": "ta1", "port": 443}, "group": "trust-authority"}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import run
from ansible_collections.trusted.infrastructure.plugins.module_utils.registration import (
    arguments,
    plan,
    read,
    wanted_of,
)

RESOURCE = "/vcenter/trusted-infrastructure/attestation/services"


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={**connection_arguments(), **arguments()},
        required_if=[("state", "present", ["trusted_ca", "group", "trust_authority_cluster"])],
        supports_check_mode=True,
    )
    run(
        module,
        lambda client: read(client, RESOURCE, module.params["address"], module.params["service_port"]),
        lambda found: plan(RESOURCE, found[0], found[1], wanted_of(module.params)),
    )


if __name__ == "__main__":
    raise SystemExit(main())
