#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: native_key_provider_key
short_description: Remove an earlier key of a native key provider
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Removes a previous key of a native key provider, or one that only hosts have, from the manager and from all hosts. What is
    still under it opens no more.
  - Let hosts wrap their keys again before that, with M(trusted.infrastructure.key_rewrap).
  - The current key is refused. A provider gets another one with M(trusted.infrastructure.native_key_provider).
  - vCenter Server does not have this, so this module works with the managers of this collection only.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
options:
  provider:
    description: Name of the provider.
    type: str
    required: true
  key_id:
    description: Id of the key, a UUID.
    type: str
    required: true
  force:
    description:
      - Remove the key although hosts keep keys of objects under it, which are lost then, or do not say whether they do.
      - Without it, such a key is refused; check mode warns of it.
    type: bool
    default: false
  state:
    description: The key is not to be there. M(trusted.infrastructure.native_key_provider) makes keys.
    type: str
    choices: [absent]
    default: absent
"""

EXAMPLES = r"""
- name: A key under which nothing is left
  trusted.infrastructure.native_key_provider_key:
    provider: branch
    key_id: 0c0ffee0-1111-2222-3333-444455556666
    state: absent
"""

RETURN = r"""
resource:
  description: None, as the key is gone after the module.
  type: dict
  returned: always
  sample: null
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import Plan, run
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    ApiError,
    Call,
    path,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.native_key_providers import KEYS, keys

Key: t.TypeAlias = "t.Mapping[str, t.Any]"


def plan(found: t.Sequence[Key], given: t.Mapping[str, t.Any]) -> Plan:
    """The call that removes the key, where it is among those that are there."""
    current = next((row for row in found if row["key_id"] == given["key_id"]), None)
    if current is None:
        return Plan(None, None)
    one = path(KEYS + "/{id}", name=given["provider"], id=given["key_id"])
    query = (("force", "true"),) if given["force"] else ()
    return Plan(current, None, (Call("DELETE", one, query=query),), hindered=refusal(current, given["force"]))


def refusal(key: Key, force: bool) -> ApiError | None:
    """What the manager says to the removal: the current key always stays, and without force one under which hosts
    keep keys of objects, or may keep some."""
    left = [f"{host['host']}: {host['keys']}" for host in key["hosts"] if host["keys"]]
    if key["state"] == "CURRENT":
        text = f"{key['key_id']} is the current key; give the provider another one first"
    elif force or not (left or key["unknown"]):
        return None
    elif left:
        text = f"keys of objects are still under {key['key_id']} ({', '.join(left)}): wrap them again first"
    else:
        hosts = ", ".join(key["unknown"])
        text = (
            "hosts that do not answer, cannot read all keys, or did not take a later key, may keep some under "
            f"{key['key_id']}: {hosts}"
        )
    return ApiError(text, "NOT_ALLOWED_IN_CURRENT_STATE", 400)


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "provider": {"type": "str", "required": True},
            "key_id": {"type": "str", "required": True, "no_log": False},
            "force": {"type": "bool", "default": False},
            "state": {"type": "str", "choices": ["absent"], "default": "absent"},
        },
        supports_check_mode=True,
    )
    run(
        module,
        lambda client: keys(client, module.params["provider"]),
        lambda found: plan(found, module.params),
    )


if __name__ == "__main__":
    raise SystemExit(main())
