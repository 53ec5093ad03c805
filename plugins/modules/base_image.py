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
  - The content of a version never changes. A version that is there already is left alone. The server does not give the
    content back, so only the display names are compared, and a document with another one is refused.
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
    description: File with the base image document on the machine where the module runs. Needed with O(state=present).
    type: path
  version:
    description: Version of the image. Without it, the version that the document names. Needed with O(state=absent).
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
  delegate_to: localhost

- name: Hosts that booted the old one are attested no more
  trusted.infrastructure.base_image:
    cluster: trust-authority
    version: "2026.10"
    state: absent
"""

RETURN = r"""
resource:
  description: The image as it is after the module, or would be in check mode; none when it is absent.
  type: dict
  returned: always
  sample: {"version": "2026.11", "display_name": "Kernel update of November"}
"""

import base64
import json
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import (
    Plan,
    State,
    cluster_id,
    run,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    ApiError,
    Call,
    ManagementClient,
    path,
)

RESOURCE = "/vcenter/trusted-infrastructure/trust-authority-clusters/{cluster}/attestation/os/esx/base-images"


def image_of(content: bytes, version: str | None) -> dict[str, t.Any]:
    """Version and display name of an image: those that its document names. version: what is to be its version.

    Raises ValueError when the document does not name what is needed, or names another version.
    """
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    # The image database of vSphere is an archive, which names nothing.
    known = document if isinstance(document, dict) else {}
    named = known.get("image_version")
    if version is not None and named not in (None, version):
        raise ValueError(f"is the document of version {named}, not of {version}")
    if version is None and not isinstance(named, str):
        raise ValueError("is not a base image document, and no version is given")
    return {"version": version or named, "display_name": known.get("display_name")}


def read(client: ManagementClient, cluster: str, version: str) -> tuple[str, State]:
    """Path of the collection, and the image or None."""
    base = path(RESOURCE, cluster=cluster_id(client, cluster))
    found = client.find(Call("GET", base + path("/{version}", version=version), task=True))
    return base, found and {"version": version, "display_name": found["display_name"]}


def plan(base: str, current: State, image: dict[str, t.Any], content: bytes | None) -> Plan:
    """Calls from the current image to the wanted one. content: the document, or None for absent.

    Raises ApiError when the version is there under another name.
    """
    version, name = image["version"], image["display_name"]
    if content is None:
        delete = Call("DELETE", base + path("/{version}", version=version), task=True)
        return Plan(current, None, (delete,) if current else ())
    if current is None:
        body = base64.b64encode(content).decode()
        create = Call("POST", base, body, query=(("action", "import-from-imgdb"),), task=True)
        return Plan(None, {key: value for key, value in image.items() if value is not None}, (create,))
    if name not in (None, current["display_name"]):
        raise ApiError(
            f"the version {version} is there as {current['display_name']!r}, and this is {name!r}; a version never "
            "changes: give the new image another one",
            "ALREADY_EXISTS",
        )
    return Plan(current, current)


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
    image = {"version": module.params["version"], "display_name": None}
    if module.params["state"] == "present":
        try:
            with open(module.params["path"], "rb") as stream:
                content = stream.read()
            image = image_of(content, module.params["version"])
        except OSError as error:
            module.fail_json(msg=f"path: {module.params['path']}: {error.strerror}")
        except ValueError as error:
            module.fail_json(msg=f"path: {module.params['path']} {error}")
    run(
        module,
        lambda client: read(client, module.params["cluster"], image["version"]),
        lambda found: plan(found[0], found[1], image, content),
    )


if __name__ == "__main__":
    raise SystemExit(main())
