#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: native_key_provider_keys_info
short_description: List the keys of a native key provider
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Lists the ids of the current and previous keys of a native key provider, and how many keys of objects hosts keep under each.
  - A key that hosts have and the manager has not is V(KEPT); it was there before the manager was restored from an old backup.
  - vCenter Server does not have this, so this module works with the managers of this collection only.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
options:
  provider:
    description: Name of the provider.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Keys of a provider
  trusted.infrastructure.native_key_provider_keys_info:
    provider: branch
  register: found

- name: Nothing is under an earlier key
  ansible.builtin.assert:
    that: found.native_keys[1:] | map(attribute='hosts') | flatten | map(attribute='keys') | sum == 0
"""

RETURN = r"""
native_keys:
  description:
    - The keys, the current one first. C(state) is V(CURRENT), V(PREVIOUS) or V(KEPT).
    - C(unknown) are hosts that do not answer, cannot read all keys that they keep, or did not take a later key.
  type: list
  elements: dict
  returned: always
  sample:
    - key_id: 0c0ffee0-1111-2222-3333-444455556666
      state: CURRENT
      hosts: [{"host": "host1", "keys": 3}]
      unknown: [host2]
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import inform
from ansible_collections.trusted.infrastructure.plugins.module_utils.native_key_providers import keys


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={**connection_arguments(), "provider": {"type": "str", "required": True}},
        supports_check_mode=True,
    )
    inform(module, "native_keys", lambda client: keys(client, module.params["provider"]), absent=[])


if __name__ == "__main__":
    raise SystemExit(main())
