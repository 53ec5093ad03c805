#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: trust_record
short_description: Record trust in a file on the control node
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Writes what an explicit act of an administrator established, such as an enrolled endorsement key, a captured base image
    or the CA of a side, into a file that is kept with the inventory.
  - What is recorded once is not replaced by something else unless the caller says so, so that converging cannot bless a
    machine that was tampered with.
attributes:
  check_mode:
    support: full
    description: Says whether the file would be written, and writes nothing.
  diff_mode:
    support: full
    description: Shows the file before and after.
  idempotent:
    support: full
    description: A file with the same content is left alone.
options:
  path:
    description: The file. Folders that are missing are made.
    type: path
    required: true
  content:
    description: What to record.
    type: str
    required: true
  difference:
    description: What to do when something else is recorded already.
    type: str
    choices: [refuse, replace]
    default: refuse
  remedy:
    description: What the operator can do about a refusal.
    type: str
    default: Find out why it differs. If the new one is meant, remove the file and run the playbook again.
"""

EXAMPLES = r"""
- name: Record the CA of the side
  trusted.infrastructure.trust_record:
    path: trust/authorities/workload.pem
    content: "{{ authority.certificate }}"
  delegate_to: localhost

- name: Record what the other side may change
  trusted.infrastructure.trust_record:
    path: trust/services.json
    content: "{{ found.trust_authority_hosts | to_nice_json }}"
    difference: replace
  delegate_to: localhost
"""

RETURN = r"""
path:
  description: The file.
  type: str
  returned: always
  sample: trust/authorities/workload.pem
"""

import os
import tempfile
import typing as t

from ansible.module_utils.basic import AnsibleModule


def decide(recorded: str | None, content: str, difference: str) -> str:
    """V(keep), V(write) or V(refuse). recorded: what the file holds, or None when there is none."""
    if recorded is not None and recorded.strip() == content.strip():
        return "keep"
    return "write" if recorded is None or difference == "replace" else "refuse"


def read(path: str) -> str | None:
    """What the file holds; None when there is none. Bytes that are no UTF-8 are replaced: they differ from any record."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except FileNotFoundError:
        return None


def write(path: str, content: str) -> None:
    """Replace the file in one step, so that a run that is cut off leaves the old one or the new one."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".record-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(content)
            os.fchmod(stream.fileno(), 0o644)
        os.rename(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise


def main() -> t.NoReturn:
    remedy = "Find out why it differs. If the new one is meant, remove the file and run the playbook again."
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "content": {"type": "str", "required": True},
            "difference": {"type": "str", "choices": ["refuse", "replace"], "default": "refuse"},
            "remedy": {"type": "str", "default": remedy},
        },
        supports_check_mode=True,
    )
    path, content = module.params["path"], module.params["content"].strip() + "\n"
    try:
        recorded = read(path)
        decision = decide(recorded, content, module.params["difference"])
        if decision == "refuse":
            module.fail_json(
                msg=f"{path} records something else. {module.params['remedy']}",
                diff={"before": recorded, "after": content},
            )
        if decision == "write" and not module.check_mode:
            write(path, content)
    except OSError as error:
        module.fail_json(msg=f"{path}: {error.strerror}")
    module.exit_json(
        changed=decision == "write", path=path, diff={"before": recorded or "", "after": content}
    )


if __name__ == "__main__":
    raise SystemExit(main())
