#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: native_key_provider_backup
short_description: Back up a native key provider
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Writes a PKCS#12 file with all keys of a native key provider, with mode 0600, on the machine where the module runs. The
    provider counts as backed up when the manager has handed the file over, and can be used from then on.
  - What is on disk is compared with the length and the SHA-256 that the manager sends along; a vCenter Server sends no SHA-256.
    A file that is not whole is an error, and takes the place of none. It may count as a backup all the same, so run the module
    again with O(force=true).
  - B(The secrecy of the file is yours.) With a password it is as safe as the password; without one, whoever reads the file has
    every key of the provider. Neither the manager nor this collection keeps a copy.
  - Nothing is written while the server says that the provider and its present key are backed up, whether or not the file is
    still where it was written. A vCenter Server does not say it; there, a file is written while the health is not OK.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
attributes:
  idempotent:
    support: partial
    details: With O(force=true) each run writes a file.
options:
  name:
    description: Name of the provider.
    type: str
    required: true
  path:
    description:
      - File to write. One that is there is replaced.
      - Its folder must be there. See that the file is not committed to version control by mistake.
    type: path
    required: true
  backup_password:
    description:
      - Password that encrypts the file. Take a long one, random if possible; whoever has the file can try passwords.
      - Without it, B(the keys are in the file in the clear).
    type: str
  force:
    description: Whether to write the file in any case.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Back up what is not backed up, under a password of the vault
  trusted.infrastructure.native_key_provider_backup:
    name: branch
    path: /root/backups/branch.p12
    backup_password: "{{ vault_branch_backup_password }}"
  delegate_to: localhost
"""

RETURN = r"""
resource:
  description: The backup that was written, or would be in check mode; none where nothing was to be written.
  type: dict
  returned: always
  sample: {"provider": "branch", "path": "/root/backups/branch.p12", "encrypted": true}
"""

import errno
import os
import secrets
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils import desired_state
from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import (
    UNKNOWN_ANSWER,
    State,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    ApiError,
    Call,
    File,
    ManagementClient,
    NotWhole,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.native_key_providers import (
    RESOURCE,
    info,
    wants_backup,
)

MODE = 0o600


def plan(found: t.Mapping[str, t.Any] | None, params: t.Mapping[str, t.Any], check: bool) -> State:
    """The backup to be written, None for nothing. Raises ApiError for a provider that is not there.

    In check mode it may be made in the same run.
    """
    if found is None and not check:
        raise ApiError(f"there is no native key provider {params['name']!r}", "NOT_FOUND", 404)
    if found is not None and not params["force"] and not wants_backup(found):
        return None
    return {
        "provider": params["name"],
        "path": params["path"],
        "encrypted": bool(params["backup_password"]),
    }


def exported(client: ManagementClient, name: str, password: str | None) -> File:
    """The file. Raises ApiError, NotWhole."""
    body = {"provider": name} | ({"password": password} if password else {})
    answer = client.call(Call("POST", RESOURCE, body, query=(("action", "export"),)))
    if answer["type"] != "LOCATION":
        raise ApiError(f"the server gives backups as {answer['type']}, which is not known here")
    location = answer["location"]
    return client.fetch(location["url"], location["download_token"]["token"])


def write(path: str, content: t.Callable[[], File]) -> None:
    """Replaces a file by what `content` gives, durably, whole or not at all, 0600 from its first byte.

    The file is there before the content is fetched: a folder that takes none must not cost a backup that counts.
    Raises OSError, NotWhole for what is not what the server said, and what `content` raises.
    """
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    folder, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(folder, f".{name}.{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(temporary, flags, MODE), "wb") as stream:
        try:
            file = content()
            stream.write(file.content)
            stream.flush()
            os.fsync(stream.fileno())
            with open(temporary, "rb") as written:
                file.check(written.read())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "name": {"type": "str", "required": True},
            "path": {"type": "path", "required": True},
            "backup_password": {"type": "str", "no_log": True},
            "force": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    name, path, password = (module.params[key] for key in ("name", "path", "backup_password"))
    try:
        with desired_state.client_of(module) as client:
            planned = plan(info(client, name), module.params, module.check_mode)
            if planned is not None and not module.check_mode:
                write(path, lambda: exported(client, name, password))
    except OSError as error:
        module.fail_json(
            msg=f"path: {path}: {error.strerror}; if it was fetched already, run the module again with force"
        )
    except NotWhole as error:
        module.fail_json(msg=f"{error}; run the module again with force")
    except ApiError as error:
        text = str(desired_state.in_words_of_task(error, {"password": "backup_password"}))
        module.fail_json(msg=text, error_type=error.error_type, status=error.status)
    except UNKNOWN_ANSWER as error:
        module.fail_json(msg=f"the answer of {module.params['hostname']} is not as expected: {error!r}")
    module.exit_json(
        changed=planned is not None, diff={"before": {}, "after": planned or {}}, resource=planned
    )


if __name__ == "__main__":
    raise SystemExit(main())
