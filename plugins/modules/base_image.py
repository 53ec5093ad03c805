#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: base_image
short_description: Bless a base image
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Imports a base image document into a Trust Authority Cluster; hosts that booted what it describes are attested.
  - The content of a version never changes. Another document with the version of one that is there is refused.
  - On a vCenter Server, O(path) is the C(imgdb.tgz) that was exported from a reference host, and O(version) must be given.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
options:
  cluster:
    description: Name or id of the Trust Authority Cluster.
    type: str
    required: true

  path:
    description: File with the base image document on the machine where the module runs.
    type: path
  version:
    description: Version of the image. Without it, the version that the document names.
    type: str

  state:
    description: Whether the image is to be there.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Bless what was captured
  trusted.infrastructure.base_image:
    cluster: trust-authority
    path: trust/base_images/2026.11.json
"""

RETURN = r"""
resource:
  description: The image as it is after the module, or would be in check mode; none when it is absent.
  type: dict
  returned: always
  sample: {"version": "2026.11"}
"""

import base64
import json
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import connection_arguments
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import Plan, State, cluster_id, run
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import Call, ManagementClient, path

RESOURCE = "/vcenter/trusted-infrastructure/trust-authority-clusters/{cluster}/attestation/os/esx/base-images"


def version_of(content: bytes) -> str | None:
    """The version that a base image document names; None when it is not such a document."""
    try:
        document = json.loads(content)
    except ValueError:
        return None
    return document.get("image_version") if isinstance(document, dict) else None


def read(client: ManagementClient, cluster: str, version: str) -> tuple[str, State]:
    """Path of the collection, and the image or None."""
    base = path(RESOURCE, cluster=cluster_id(client, cluster))
    found = client.find(Call("GET", base + path("/{version}", version=version), task=True))
    return base, found and {"version": version, "display_name": found["display_name"]}


def plan(base: str, current: State, version: str, content: bytes | None) -> Plan:
    """Calls from the current image to the wanted one. content: the document, or None for absent."""
    if content is None:
        delete = Call("DELETE", base + path("/{version}", version=version), task=True)
        return Plan(current, None, (delete,) if current else ())
    if current is not None:
        return Plan(current, current)
    body = base64.b64encode(content).decode()
    create = Call("POST", base, body, query=(("action", "import-from-imgdb"),), task=True)
    return Plan(None, {"version": version}, (create,))


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            "path": {"type": "path"},
            "version": {"type": "str"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["path"]), ("state", "absent", ["version"])],
        supports_check_mode=True,
    )
    content = None
    version = module.params["version"]
    if module.params["state"] == "present":
        try:
            with open(module.params["path"], "rb") as stream:
                content = stream.read()
        except OSError as error:
            module.fail_json(msg=f"path: {module.params['path']}: {error.strerror}")
        version = version or version_of(content)
        if version is None:
            module.fail_json(msg=f"path: {module.params['path']} is not a base image document, and no version is given")
    run(
        module,
        lambda client: read(client, module.params["cluster"], version),
        lambda found: plan(found[0], found[1], version, content),
    )


if __name__ == "__main__":
    raise SystemExit(main())
