#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: key_check_info
short_description: Check whether a host gets a key
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Has a host get a key from a key provider of any kind and forget it again. The host keeps nothing.
  - The first check of a standard provider makes a key on its key servers, which further checks use.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
options:
  host:
    description: Name or id of the host.
    type: str
    required: true
  provider:
    description: Name of the key provider. Without it, the default one.
    type: str
"""

EXAMPLES = r"""
- name: Does the host get a key?
  trusted.infrastructure.key_check_info:
    host: host1
  register: found

- name: It must get one
  ansible.builtin.assert:
    that: found.key_check.result == 'OK'
    fail_msg: "{{ found.key_check.result }}: {{ found.key_check.message }}"
"""

RETURN = r"""
key_check:
  description: V(OK), or the reason code of the refusal, and what it says.
  type: dict
  returned: always
  sample: {"result": "OK", "message": null}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import host_id, inform
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    Call,
    ManagementClient,
    path,
)

CHECK = "/trust/hosts/{host}/key-check"


def read(client: ManagementClient, host: str, provider: str | None) -> dict[str, t.Any]:
    """What the host says."""
    body = {"provider": provider} if provider else {}
    return client.call(Call("POST", path(CHECK, host=host_id(client, host)), body))


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "host": {"type": "str", "required": True},
            "provider": {"type": "str"},
        },
        supports_check_mode=True,
    )
    unknown = {"result": "host_unknown", "message": f"no host is named {module.params['host']}"}
    inform(
        module,
        "key_check",
        lambda client: read(client, module.params["host"], module.params["provider"]),
        absent=unknown,
    )


if __name__ == "__main__":
    raise SystemExit(main())
