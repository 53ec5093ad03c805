#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: native_key_provider_restore
short_description: Restore a native key provider from a backup
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Imports the PKCS#12 file of M(trusted.infrastructure.native_key_provider_backup). The provider has its name and keys again,
    counts as backed up, and is pushed to all hosts.
  - A provider that is there with the key of the backup is left as it is. One that is there with another key is an error.
  - To learn what is in a file, the server reads it without changing anything, in check mode too.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
options:
  path:
    description: The backup, on the machine where the module runs.
    type: path
    required: true
  backup_password:
    description: Password of the file. Without it, the file must not be encrypted.
    type: str
  tpm_required:
    description: Whether the provider is for hosts with a TPM 2.0 only. Without it, what the backup says.
    type: bool
"""

EXAMPLES = r"""
- name: After the loss of the manager
  trusted.infrastructure.native_key_provider_restore:
    path: /root/backups/branch.p12
    backup_password: "{{ vault_branch_backup_password }}"
  delegate_to: localhost
"""

RETURN = r"""
resource:
  description: The provider as it is after the module, or would be in check mode.
  type: dict
  returned: always
  sample: {"provider": "branch", "key_id": "0c0ffee0-1111-2222-3333-444455556666", "tpm_required": true}
"""

import base64
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
    state_of,
)

IMPORT = (("action", "import"),)
LARGEST = 64 * 1024


def read(
    client: ManagementClient, spec: t.Mapping[str, t.Any], check: bool
) -> tuple[State, State, ApiError | None]:
    """What the backup holds; the native provider of that name or None; and, for check mode, whether another provider
    has the name."""
    held = client.call(Call("POST", RESOURCE, {**spec, "dry_run": True}, query=IMPORT))
    name = held["provider"]
    current = state_of(name, info(client, name))
    known = [] if current or not check else key_provider_names.of_all_kinds(client)
    return state_of(name, held), current, key_provider_names.refusal(known, name)


def plan(
    backup: t.Mapping[str, t.Any], current: State, taken: ApiError | None, spec: t.Mapping[str, t.Any]
) -> Plan:
    """Import, or nothing where the provider is there. Raises ApiError where it is another."""
    if current is None:
        return Plan(None, backup, (Call("POST", RESOURCE, spec, query=IMPORT),), hindered=taken)
    if current["key_id"] != backup["key_id"]:
        raise ApiError(
            f"{current['provider']} is there with the key {current['key_id']}, and the backup has {backup['key_id']}: "
            "it is an older backup, or of another provider of that name",
            "ALREADY_EXISTS",
        )
    if "constraints" in spec and current["tpm_required"] != backup["tpm_required"]:
        raise ApiError(
            f"{current['provider']} is there with tpm_required {current['tpm_required']}, which cannot be changed: "
            "remove it first",
            "NOT_ALLOWED_IN_CURRENT_STATE",
        )
    return Plan(current, current)


def spec_of(params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The body of an import. Raises OSError, and ValueError for a file that is none."""
    with open(params["path"], "rb") as stream:
        content = stream.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"has more than {LARGEST} bytes: it is no backup")
    spec: dict[str, t.Any] = {"config": base64.b64encode(content).decode()}
    if params["backup_password"]:
        spec["password"] = params["backup_password"]
    if params["tpm_required"] is not None:
        spec["constraints"] = {"tpm_required": params["tpm_required"]}
    return spec


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "path": {"type": "path", "required": True},
            "backup_password": {"type": "str", "no_log": True},
            "tpm_required": {"type": "bool"},
        },
        supports_check_mode=True,
    )
    try:
        spec = spec_of(module.params)
    except OSError as error:
        module.fail_json(msg=f"path: {module.params['path']}: {error.strerror}")
    except ValueError as error:
        module.fail_json(msg=f"path: {module.params['path']} {error}")
    run(
        module,
        lambda client: read(client, spec, module.check_mode),
        lambda found: plan(*found, spec),
        parameters={"config": "path", "password": "backup_password"},
    )


if __name__ == "__main__":
    raise SystemExit(main())
