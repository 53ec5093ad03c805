#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: native_key_provider
short_description: Make a native key provider
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - A native key provider needs no key server. The manager makes its key and pushes it to all hosts, which make and wrap keys
    with it themselves, also while the manager is away.
  - It cannot be used before it was backed up once, with M(trusted.infrastructure.native_key_provider_backup).
  - When a host leaves its cluster, this manager gives the provider a new key by itself. So leave O(key_id) out, unless this run
    is to give it a new one.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
options:
  name:
    description: Name of the provider. It cannot be changed.
    type: str
    required: true
  key_id:
    description:
      - UUID of the provider's key. Without it, the manager chooses one for a new provider, and leaves the one that is there.
      - Another UUID than the present one gives the provider a new key, which wants a backup of its own. Keys that were wrapped
        under the old one still open.
    type: str
  key_derivation_key:
    description:
      - Key of a new provider, base64 of 32 bytes. Without it, the manager makes one.
      - It is used when the provider is made only; a provider that is there is not compared with it.
    type: str
  tpm_required:
    description:
      - Whether the provider is for hosts with a TPM 2.0 only, which it is sealed to.
      - It is said when the provider is made. To change it, back the provider up, remove it, and restore it with
        M(trusted.infrastructure.native_key_provider_restore).
    type: bool
  state:
    description:
      - Whether the provider is to be there.
      - V(absent) takes it off all hosts. What is encrypted with it opens again only when a backup is restored.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Provider of a branch office without a key server
  trusted.infrastructure.native_key_provider:
    name: branch
    tpm_required: true

- name: A new key for it, for once
  trusted.infrastructure.native_key_provider:
    name: branch
    key_id: "{{ lookup('ansible.builtin.pipe', 'uuidgen') }}"

- name: It is used no more
  trusted.infrastructure.native_key_provider:
    name: branch
    state: absent
"""

RETURN = r"""
resource:
  description: The provider as it is after the module, or would be in check mode; none when it is absent.
  type: dict
  returned: always
  sample: {"provider": "branch", "key_id": "0c0ffee0-1111-2222-3333-444455556666", "tpm_required": true}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils import key_provider_names
from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import Plan, State, run
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    ApiError,
    Call,
    ManagementClient,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.native_key_providers import (
    RESOURCE,
    info,
    keys,
    one,
    state_of,
)


def read(
    client: ManagementClient, params: t.Mapping[str, t.Any], check: bool
) -> tuple[State, ApiError | None]:
    """The provider, or None; and, for check mode, what the manager says to the one that is wanted."""
    name, key_id = params["name"], (params["key_id"] or "").lower()
    current = state_of(name, info(client, name))
    if params["state"] == "absent" or not check:
        return current, None
    if current is None:
        return None, key_provider_names.refusal(key_provider_names.of_all_kinds(client), name)
    if key_id in ("", current["key_id"]):
        return current, None
    return current, had_before(client, name, key_id)


def had_before(client: ManagementClient, name: str, key_id: str) -> ApiError | None:
    """What the manager says to a key that is a previous one. A vCenter Server does not tell those."""
    try:
        known = keys(client, name)
    except ApiError as error:
        if error.status == 404:
            return None
        raise
    if not any((row["key_id"], row["state"]) == (key_id, "PREVIOUS") for row in known):
        return None
    return ApiError(f"key_id: {name} had the key {key_id} before; give another id", "INVALID_ARGUMENT", 400)


def plan(current: State, wanted: t.Mapping[str, t.Any], foreseen: ApiError | None = None) -> Plan:
    """Create, give a new key, or delete. wanted: the module's parameters. foreseen: what the manager says to the first
    two. Raises ApiError for other constraints."""
    name = wanted["name"]
    if wanted["state"] == "absent":
        return Plan(current, None, (Call("DELETE", one(name)),) if current else ())
    key_id = wanted["key_id"] and wanted["key_id"].lower()
    if current is None:
        return created(wanted, key_id, foreseen)
    if wanted["tpm_required"] not in (None, current["tpm_required"]):
        raise ApiError(
            f"tpm_required of {name} is {current['tpm_required']}, and cannot be changed: back it up, remove it, and "
            "restore it with the other value",
            "NOT_ALLOWED_IN_CURRENT_STATE",
        )
    if key_id in (None, current["key_id"]):
        return Plan(current, current)
    update = Call("PATCH", one(name), {"native_spec": {"key_id": key_id}})
    return Plan(current, {**current, "key_id": key_id}, (update,), refused=foreseen)


def created(wanted: t.Mapping[str, t.Any], key_id: str | None, taken: ApiError | None) -> Plan:
    """For a provider that is not there."""
    given = {"key_id": key_id, "key_derivation_key": wanted["key_derivation_key"]}
    body: dict[str, t.Any] = {
        "provider": wanted["name"],
        "native_spec": {name: value for name, value in given.items() if value is not None},
    }
    if wanted["tpm_required"] is not None:
        body["constraints"] = {"tpm_required": wanted["tpm_required"]}
    after = {
        "provider": wanted["name"],
        "key_id": key_id or "<new>",
        "tpm_required": bool(wanted["tpm_required"]),
    }
    return Plan(None, after, (Call("POST", RESOURCE, body),), hindered=taken)


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "name": {"type": "str", "required": True},
            "key_id": {"type": "str", "no_log": False},
            "key_derivation_key": {"type": "str", "no_log": True},
            "tpm_required": {"type": "bool"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    run(
        module,
        lambda client: read(client, module.params, module.check_mode),
        lambda found: plan(found[0], module.params, found[1]),
        parameters={"provider": "name"},
    )


if __name__ == "__main__":
    raise SystemExit(main())
