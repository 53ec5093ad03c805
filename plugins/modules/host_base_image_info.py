#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_base_image_info
short_description: Read a base image from a running reference host
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Describes what a host has booted as a base image document. Reading it blesses nothing; M(trusted.infrastructure.base_image)
    does.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes.info
options:
  host:
    description: Name or id of the host.
    type: str
    required: true
  version:
    description: Version to give the image.
    type: str
    required: true
  display_name:
    description: Name of the image for people.
    type: str
"""

EXAMPLES = r"""
- name: What did the reference host boot?
  trusted.infrastructure.host_base_image_info:
    host: host1
    version: "2026.11"
  register: found

- name: Record it for review
  trusted.infrastructure.trust_record:
    path: trust/base_images/2026.11.json
    content: "{{ found.base_image | to_nice_json }}"
  delegate_to: localhost
"""

RETURN = r"""
base_image:
  description: The base image document; empty where there is no such host.
  type: dict
  returned: always
  sample: {"image_version": "2026.11", "bank": "sha256", "pcrs": {}}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import host_id, inform
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    Call,
    ManagementClient,
    path,
)

IMAGE = "/trust/hosts/{host}/base-image"


def read(client: ManagementClient, host: str, version: str, display_name: str | None) -> dict[str, t.Any]:
    """The document."""
    query = [("image_version", version)] + ([("display_name", display_name)] if display_name else [])
    return client.call(Call("GET", path(IMAGE, host=host_id(client, host)), query=tuple(query)))


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "host": {"type": "str", "required": True},
            "version": {"type": "str", "required": True},
            "display_name": {"type": "str"},
        },
        supports_check_mode=True,
    )
    params = module.params
    inform(
        module,
        "base_image",
        lambda client: read(client, params["host"], params["version"], params["display_name"]),
        absent={},
    )


if __name__ == "__main__":
    raise SystemExit(main())
