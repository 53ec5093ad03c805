#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: service_command
short_description: Run an administrative command of the services on a machine
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Runs C(trusted-infrastructure) with a JSON document on standard input and returns the JSON document that it answers.
    Nothing secret is ever an argument of a process.
attributes:
  check_mode:
    support: full
    description: The command is called with C(--check). Where the services are not installed yet, RV(pending) is true.
  diff_mode:
    support: none
    description: Commands answer what they changed.
  idempotent:
    support: full
    description: The commands report a change only where they made one.
options:
  command:
    description: Words after C(trusted-infrastructure), such as V(identity) and V(ensure).
    type: list
    elements: str
    required: true
  input:
    description: The document for standard input.
    type: dict
    default: {}
  secret_input:
    description: Like O(input), merged into it; never logged.
    type: dict
    default: {}
  executable:
    description: Path of the program.
    type: path
    default: /opt/trusted-infrastructure/venv/bin/trusted-infrastructure
"""

EXAMPLES = r"""
- name: Make the keys of this machine, and ask which certificates are missing
  trusted.infrastructure.service_command:
    command: [identity, ensure]
    input:
      directory: /etc/trusted-infrastructure/tls
      leaves: []

- name: Users of the management API
  trusted.infrastructure.service_command:
    command: [users, ensure]
    input:
      path: /etc/trusted-infrastructure/users.json
      owner: ti-manager
    secret_input:
      users:
        - name: administrator@trusted.local
          password: "{{ vault_administrator_password }}"
          privileges: ["*"]
"""

RETURN = r"""
answer:
  description: What the command answered.
  type: dict
  returned: always
  sample: {"changed": false}
pending:
  description: The program is not installed yet, which is possible in check mode only.
  type: bool
  returned: always
  sample: false
"""

import json
import os
import typing as t

from ansible.module_utils.basic import AnsibleModule


def answer_of(out: str) -> dict[str, t.Any] | None:
    """The document that a command printed; None where it is none."""
    try:
        answer = json.loads(out)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def refusal_of(answer: dict[str, t.Any] | None) -> str:
    """What a refused command says; empty where it says nothing."""
    error = (answer or {}).get("error")
    if not isinstance(error, dict):
        return ""
    return " ".join(str(error[key]) for key in ("message", "remedy") if error.get(key))


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            "command": {"type": "list", "elements": "str", "required": True},
            "input": {"type": "dict", "default": {}},
            "secret_input": {"type": "dict", "default": {}, "no_log": True},
            "executable": {
                "type": "path",
                "default": "/opt/trusted-infrastructure/venv/bin/trusted-infrastructure",
            },
        },
        supports_check_mode=True,
    )
    executable = module.params["executable"]
    if not os.path.exists(executable):
        if module.check_mode:
            module.exit_json(changed=True, pending=True, answer={})
        module.fail_json(msg=f"{executable} is not installed: run the role service_runtime first")
    command = [executable, *module.params["command"], *(["--check"] if module.check_mode else [])]
    document = {**module.params["input"], **module.params["secret_input"]}
    code, out, err = module.run_command(command, data=json.dumps(document))
    answer = answer_of(out)
    words = " ".join(module.params["command"])
    if code != 0:
        reason = refusal_of(answer) or err.strip() or out.strip() or f"exit code {code}"
        module.fail_json(msg=f"{words}: {reason}", answer=answer or {})
    if answer is None:
        module.fail_json(msg=f"{words}: the answer is not a JSON document: {out.strip()[:200]}")
    module.exit_json(changed=bool(answer.get("changed")), pending=False, answer=answer)


if __name__ == "__main__":
    raise SystemExit(main())
