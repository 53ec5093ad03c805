#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: system_state
short_description: Bring accounts, files and systemd units of a machine to a wanted state in one call
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Packages, groups, users, folders, files, blocks of lines, links and systemd units, in this order, in one execution.
  - One coarse call instead of twenty tasks keeps a large deployment short; the roles of this collection use it.
attributes:
  check_mode:
    support: full
    description: Says what would change, and changes nothing.
  diff_mode:
    support: full
    description: Shows each difference; the content of secret files shows as V(<changed>).
  idempotent:
    support: full
    description: A second call changes nothing.
options:
  packages:
    description: Debian packages; what is installed already stays at its version.
    type: list
    elements: str
    default: []
  groups:
    description: Names of system groups.
    type: list
    elements: str
    default: []
  users:
    description: System users without password and shell.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the user.
        type: str
        required: true
      group:
        description: Primary group.
        type: str
        required: true
      groups:
        description: Supplementary groups that the user must be in.
        type: list
        elements: str
        default: []
  folders:
    description: Folders.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      owner:
        description: Owner.
        type: str
        default: root
      group:
        description: Group.
        type: str
        default: root
      mode:
        description: Four octal digits.
        type: str
        default: "0755"
  files:
    description: Files whose content may show in diffs.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      owner:
        description: Owner.
        type: str
        default: root
      group:
        description: Group.
        type: str
        default: root
      mode:
        description: Four octal digits.
        type: str
        default: "0644"
      content:
        description: The whole content.
        type: str
        required: true
  secret_files:
    description: Files whose content never shows. Same suboptions as O(files); the mode is V(0600) by default.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      owner:
        description: Owner.
        type: str
        default: root
      group:
        description: Group.
        type: str
        default: root
      mode:
        description: Four octal digits.
        type: str
        default: "0600"
      content:
        description: The whole content.
        type: str
        required: true
  blocks:
    description: Blocks of lines in files that others write too.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      name:
        description: Name in the marker lines.
        type: str
        required: true
      content:
        description: The lines.
        type: str
        required: true
  links:
    description: Symbolic links.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path of the link.
        type: path
        required: true
      target:
        description: What it points to.
        type: str
        required: true
  absent:
    description: Paths that must not be there.
    type: list
    elements: path
    default: []
  units:
    description: Systemd units, in the order in which they are started.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the unit, with its suffix.
        type: str
        required: true
      active:
        description: Whether the unit is to be enabled and running, or neither.
        type: bool
        default: true
      restart_on:
        description: Paths; when one of them is newer than the last start of the unit, it is restarted.
        type: list
        elements: path
        default: []
      reload_on:
        description: Paths; when one of them is newer than the last change of state of the unit, it is reloaded.
        type: list
        elements: path
        default: []
"""

EXAMPLES = r"""
- name: A service account, its settings and its unit
  trusted.infrastructure.system_state:
    groups: [example]
    users:
      - name: example
        group: example
    files:
      - path: /etc/example.json
        content: "{}"
    units:
      - name: systemd-journald.service
        restart_on: [/etc/example.json]
"""

RETURN = r"""
changes:
  description: One line for each part that changed or would change.
  type: list
  elements: str
  returned: always
  sample: ["file /etc/example.json", "systemctl restart example.service"]
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils import system_state as state


def _path_spec(mode: str, **extra: t.Any) -> dict[str, t.Any]:
    return {
        "path": {"type": "path", "required": True},
        "owner": {"type": "str", "default": "root"},
        "group": {"type": "str", "default": "root"},
        "mode": {"type": "str", "default": mode},
        **extra,
    }


def argument_spec() -> dict[str, t.Any]:
    content = {"content": {"type": "str", "required": True}}
    unit = {
        "name": {"type": "str", "required": True},
        "active": {"type": "bool", "default": True},
        "restart_on": {"type": "list", "elements": "path", "default": []},
        "reload_on": {"type": "list", "elements": "path", "default": []},
    }
    user = {
        "name": {"type": "str", "required": True},
        "group": {"type": "str", "required": True},
        "groups": {"type": "list", "elements": "str", "default": []},
    }
    block = {"path": {"type": "path", "required": True}, "name": {"type": "str", "required": True}, **content}
    link = {"path": {"type": "path", "required": True}, "target": {"type": "str", "required": True}}

    def rows(options: dict[str, t.Any], **extra: t.Any) -> dict[str, t.Any]:
        return {"type": "list", "elements": "dict", "default": [], "options": options, **extra}

    return {
        "packages": {"type": "list", "elements": "str", "default": []},
        "groups": {"type": "list", "elements": "str", "default": []},
        "users": rows(user),
        "folders": rows(_path_spec("0755")),
        "files": rows(_path_spec("0644", **content)),
        "secret_files": rows(_path_spec("0600", **content), no_log=True),
        "blocks": rows(block),
        "links": rows(link),
        "absent": {"type": "list", "elements": "path", "default": []},
        "units": rows(unit),
    }


def wanted(params: dict[str, t.Any], run: state.Run) -> tuple[list[state.Part], list[state.Unit]]:
    """The parts and units that the parameters describe, in the order in which they are made."""
    parts: list[state.Part] = []
    if params["packages"]:
        parts.append(state.Packages(tuple(params["packages"]), run))
    parts += [state.Group(name) for name in params["groups"]]
    parts += [state.User(row["name"], row["group"], tuple(row["groups"])) for row in params["users"]]
    parts += [state.Folder(**row) for row in params["folders"]]
    parts += [state.File(**row) for row in params["files"]]
    parts += [state.File(**row, secret=True) for row in params["secret_files"]]
    parts += [state.Block(**row) for row in params["blocks"]]
    parts += [state.Link(**row) for row in params["links"]]
    parts += [state.Absent(path) for path in params["absent"]]
    units = [
        state.Unit(row["name"], row["active"], tuple(row["restart_on"]), tuple(row["reload_on"]))
        for row in params["units"]
    ]
    return parts, units


def main() -> t.NoReturn:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    # Of a secret file, the content is the secret. Without this, "root" and "0600" would be blotted out everywhere.
    module.no_log_values = {row["content"] for row in module.params["secret_files"] if row["content"]}
    parts, units = wanted(module.params, module.run_command)
    try:
        differences, calls = state.converge(parts, units, module.run_command, module.check_mode)
    except state.StateError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=bool(differences or calls),
        changes=[difference.part for difference in differences] + calls,
        diff=[
            {"before_header": d.part, "after_header": d.part, "before": d.before, "after": d.after}
            for d in differences
        ],
    )


if __name__ == "__main__":
    raise SystemExit(main())
