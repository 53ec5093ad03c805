#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: trust_authority_cluster
short_description: Enable or disable a Trust Authority Cluster
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Enabling a cluster starts its Attestation Services and Key Provider Services; disabling it stops them from serving.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
options:
  cluster:
    description: Name or id of the Trust Authority Cluster.
    type: str
    required: true
  state:
    description: Whether the cluster is a Trust Authority Cluster. Without it, its state is left alone.
    type: str
    choices: [enabled, disabled]
  token_lifetime:
    description:
      - Seconds that a token lives, from 60 to 86400.
      - vCenter Server has no such setting; leave it out there.
    type: int
  grace_period:
    description:
      - Seconds within which agents must have been judged again after trust was withdrawn.
      - vCenter Server has no such setting; leave it out there.
    type: int
  key_cache_max_age:
    description:
      - Seconds that a primary key serves while no key server answers.
      - vCenter Server has no such setting; leave it out there.
    type: int
  hpke_suite:
    description:
      - The weakest suite by which keys may be sealed to hosts; stronger ones are taken as well.
      - V(MLKEM768_X25519) and V(MLKEM1024_P384) hold against quantum computers, the others do not.
      - vCenter Server has no such setting; leave it out there.
    type: str
    choices: [P256, X25519, MLKEM768_X25519, MLKEM1024_P384]
"""

EXAMPLES = r"""
- name: Start the services of the Trust Authority
  trusted.infrastructure.trust_authority_cluster:
    cluster: trust-authority
    state: enabled
    token_lifetime: 3600

- name: Withdrawn trust takes effect within half a minute
  trusted.infrastructure.trust_authority_cluster:
    cluster: trust-authority
    grace_period: 30
"""

RETURN = r"""
resource:
  description: State and given settings of the cluster after the module, or as they would be in check mode.
  type: dict
  returned: always
  sample: {"cluster": "domain-c1", "state": "ENABLE", "token_lifetime": 3600}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import (
    Plan,
    cluster_id,
    differs,
    run,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    Call,
    ManagementClient,
    path,
)

CLUSTERS = "/vcenter/trusted-infrastructure/trust-authority-clusters/{cluster}"
SETTINGS = "/trust/clusters/{cluster}/settings"
STATES = {"enabled": "ENABLE", "disabled": "DISABLE"}
TIMES = ("token_lifetime", "grace_period", "key_cache_max_age")
SUITES = ("P256", "X25519", "MLKEM768_X25519", "MLKEM1024_P384")
OWN = (*TIMES, "hpke_suite")


def read(client: ManagementClient, name: str, with_settings: bool) -> dict[str, t.Any]:
    """State and settings of the cluster, with its id."""
    cluster = cluster_id(client, name)
    state = client.call(Call("GET", path(CLUSTERS, cluster=cluster)))["state"]
    settings = client.call(Call("GET", path(SETTINGS, cluster=cluster), task=True)) if with_settings else {}
    return {"cluster": cluster, "state": state, **{key: settings[key] for key in OWN if key in settings}}


def plan(current: dict[str, t.Any], wanted: dict[str, t.Any]) -> Plan:
    """Calls that bring the state, then the settings, to what is wanted."""
    different = differs(current, wanted)
    settings = {key: value for key, value in different.items() if key in OWN}
    calls = []
    if "state" in different:
        body = {"state": different["state"]}
        calls.append(Call("PATCH", path(CLUSTERS, cluster=current["cluster"]), body, task=True))
    if settings:
        calls.append(Call("PATCH", path(SETTINGS, cluster=current["cluster"]), settings, task=True))
    return Plan(current, {**current, **different}, tuple(calls))


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            "state": {"type": "str", "choices": list(STATES)},
            **{name: {"type": "int", "no_log": False} for name in TIMES},
            "hpke_suite": {"type": "str", "choices": list(SUITES)},
        },
        supports_check_mode=True,
    )
    wanted = {"state": STATES.get(module.params["state"]), **{name: module.params[name] for name in OWN}}
    with_settings = any(wanted[name] is not None for name in OWN)
    run(
        module,
        lambda client: read(client, module.params["cluster"], with_settings),
        lambda current: plan(current, wanted),
    )


if __name__ == "__main__":
    raise SystemExit(main())
