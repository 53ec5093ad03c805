#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: events_export
short_description: Write events of a manager to a file
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Writes the events of a manager as JSON lines or as CSV, to a file on the machine that the module runs on.
  - The file is replaced as a whole, and only when its content is another.
  - CSV is RFC 4180 in UTF-8, with a header line. Where a cell begins with V(=), V(+), V(-), V(@), a tab or a carriage return,
    it gets an apostrophe first, so that no spreadsheet runs what somebody has put into a name.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
  - trusted.infrastructure.event_filters
  - ansible.builtin.files
attributes:
  diff_mode:
    details: The content itself does not show.
  idempotent:
    support: partial
    details: A second run changes the file only where what it asks for is another then, as after new events.
options:
  path:
    description: The file. Its folder must exist. A new file is readable by its owner alone, unless O(mode) says otherwise.
    type: path
    required: true
  format:
    description: How it is written.
    type: str
    choices: [jsonl, csv]
    default: jsonl
  limit:
    description: How many events to write, 1 to 100000.
    type: int
    default: 100000
"""

EXAMPLES = r"""
- name: All that was done with keys in January, for the auditors
  trusted.infrastructure.events_export:
    path: /srv/audit/keys-2026-01.csv
    format: csv
    types: [com.vmware.vc.crypto.Operation]
    since: "2026-01-01T00:00:00Z"
    until: "2026-02-01T00:00:00Z"
    after: 0
    mode: "0600"
  delegate_to: localhost
"""

RETURN = r"""
path:
  description: The file.
  type: str
  returned: always
  sample: /srv/audit/keys-2026-01.csv
size:
  description: Bytes of the file.
  type: int
  returned: always
  sample: 2048
sha256:
  description: SHA-256 of the file, in hexadecimal.
  type: str
  returned: always
  sample: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
"""

import hashlib
import os
import tempfile
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import client_of
from ansible_collections.trusted.infrastructure.plugins.module_utils.event_filters import (
    filter_arguments,
    filter_query,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import ApiError, Call


def described(content: bytes | None) -> dict[str, t.Any]:
    """A file's content for results and differences; nothing for none."""
    if content is None:
        return {}
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def content_of(path: str) -> bytes | None:
    """The file as it is; None where there is none. Raises OSError."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def write(path: str, content: bytes) -> None:
    """Replaces the file in one step: who reads it sees the old one or the new one. What it was allowed to whom stays;
    a new one is its owner's alone. Raises OSError."""
    path = os.path.realpath(path)
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".events-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            if os.path.exists(path):
                before = os.stat(path)
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
                os.fchmod(file.fileno(), before.st_mode & 0o7777)
        os.rename(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise


def export(module: AnsibleModule) -> dict[str, t.Any]:
    """Asks, compares, writes; the result. Raises ApiError, OSError."""
    path = module.params["path"]
    query = (("format", module.params["format"]), *filter_query(module.params))
    with client_of(module) as client:
        wanted = client.call(Call("GET", "/trust/events/export", query=query, raw=True))
    current = content_of(path)
    changed = current != wanted
    if changed and not module.check_mode:
        write(path, wanted)
    if not module.check_mode or current is not None:
        arguments = module.load_file_common_arguments(module.params)
        changed = module.set_fs_attributes_if_different(arguments, changed)
    return {
        "changed": changed,
        "path": path,
        **described(wanted),
        "diff": {"before": described(current), "after": described(wanted)},
    }


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            **filter_arguments(),
            "path": {"type": "path", "required": True},
            "format": {"type": "str", "choices": ["jsonl", "csv"], "default": "jsonl"},
            "limit": {"type": "int", "default": 100000},
        },
        add_file_common_args=True,
        supports_check_mode=True,
    )
    try:
        result = export(module)
    except ApiError as error:
        module.fail_json(msg=str(error), error_type=error.error_type, status=error.status)
    except OSError as error:
        module.fail_json(msg=f"path: {module.params['path']}: {error.strerror or error}")
    module.exit_json(**result)


if __name__ == "__main__":
    raise SystemExit(main())
