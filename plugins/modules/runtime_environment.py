#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: runtime_environment
short_description: Install the Python environment of the services from a wheelhouse
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Makes a virtual environment from a wheelhouse archive whose lock names the SHA-256 of every wheel.
    Nothing is fetched from an index, and nothing is compiled.
  - Each lock has a folder of its own, and a link says which one is in use, so that an update that is cut off leaves
    the old environment in use.
  - The result is reproducible. No installer is left inside, and the byte code is checked by hash, so that equal
    machines have equal files and measure equal.
attributes:
  check_mode:
    support: full
    description: Says whether the environment would be installed, and changes nothing.
  diff_mode:
    support: full
    description: Shows the name of the environment in use before and after, which is the beginning of its lock's digest.
  idempotent:
    support: full
    description: An environment of the same lock is left alone.
options:
  directory:
    description: Folder that holds the environments and the link V(venv).
    type: path
    required: true
  digest:
    description: SHA-256 of the wheelhouse lock, which identifies the environment.
    type: str
    required: true
  archive:
    description: Tar archive of the wheelhouse on the managed machine. Without it, nothing is installed; RV(installed) tells.
    type: path
  lock:
    description: Name of the lock file inside the archive.
    type: str
    default: requirements.lock
"""

EXAMPLES = r"""
- name: Is the environment there?
  trusted.infrastructure.runtime_environment:
    directory: /opt/trusted-infrastructure
    digest: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
  register: runtime

- name: Install it from an archive that was copied to the machine
  trusted.infrastructure.runtime_environment:
    directory: /opt/trusted-infrastructure
    digest: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    archive: /var/cache/trusted-infrastructure-wheelhouse.tar
  when: not runtime.installed
"""

RETURN = r"""
installed:
  description: Whether the environment of this lock is installed and in use.
  type: bool
  returned: always
  sample: true
path:
  description: Path of the link to the environment in use.
  type: str
  returned: always
  sample: /opt/trusted-infrastructure/venv
"""

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.runtime_environment import (
    Environment,
    EnvironmentFailure,
)


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "digest": {"type": "str", "required": True},
            "archive": {"type": "path"},
            "lock": {"type": "str", "default": "requirements.lock"},
        },
        supports_check_mode=True,
    )
    try:
        environment = Environment(module.params["directory"], module.params["digest"], module.run_command)
    except EnvironmentFailure as error:
        module.fail_json(msg=str(error))
    # Services that are not root read the environment, whatever the login shell's mask is.
    os.umask(0o022)
    before = environment.current()
    installed = environment.installed()
    changed = not installed and (module.params["archive"] is not None or module.check_mode)
    if changed and not module.check_mode:
        try:
            environment.install(module.params["archive"], module.params["lock"])
        except (EnvironmentFailure, OSError) as error:
            module.fail_json(msg=str(error))
        installed = True
    module.exit_json(
        changed=changed,
        installed=installed,
        path=environment.link,
        diff={"before": f"{before}\n", "after": f"{environment.name if changed else before}\n"},
    )


if __name__ == "__main__":
    raise SystemExit(main())
