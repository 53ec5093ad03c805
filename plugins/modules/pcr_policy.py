#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: pcr_policy
short_description: Sign the PCR policy of a base image
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Hosts seal the keys of native key providers to their TPM. After which boots a TPM opens them is said by signed PCR policies,
    one for each base image.
  - Sign the policy of the next image before hosts are upgraded to it; then they have their keys after the upgrade, also while
    the manager is away.
  - A policy covers the PCRs of the boot (4, 7 to 9, 11 to 14) as the image foresees them, with the values of the boot that it
    was captured from. An image that foresees none of 4, 8, 9 and 11 is refused, with the events that vary.
  - A host that boots in another way that the image accepts does not open its keys by itself; the manager brings them again.
  - A policy is for the hosts of one cluster; on those of another it opens nothing. One that the manager's present policy key did
    not sign for this cluster is signed anew.
  - Removing a policy takes it off the hosts. A policy that was signed once stays valid for whoever kept it.
  - vCenter Server does not have this, so this module works with the managers of this collection only.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
options:
  cluster:
    description: Name or id of the trusted cluster.
    type: str
    required: true
  name:
    description: Name of the policy; the version of its image is a good one.
    type: str
    required: true
  path:
    description:
      - File with the base image document on the machine where the module runs, as for M(trusted.infrastructure.base_image).
        Needed with O(state=present).
    type: path
  state:
    description: Whether the policy is to be there. A policy never changes; another image wants another name.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Let hosts open their keys after the upgrade
  trusted.infrastructure.pcr_policy:
    cluster: trusted
    name: "2026.12"
    path: trust/base_images/2026.12.json
  delegate_to: localhost

- name: No host boots the old image any more
  trusted.infrastructure.pcr_policy:
    cluster: trusted
    name: "2026.11"
    state: absent
"""

RETURN = r"""
resource:
  description:
    - The policy as it is after the module, or would be in check mode; none when it is absent.
    - C(current_key) is whether the manager's present policy key signed it for this cluster.
  type: dict
  returned: always
  sample: {"name": "2026.12", "bank": "sha256", "pcrs": {"4": "3d45...", "7": "65ca..."}, "current_key": true}
"""

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

RESOURCE = "/trust/clusters/{cluster}/pcr-policies"
QUERY = (("action", "query"),)


class Found(t.NamedTuple):
    """base: path of the collection. current: the policy or None. wanted: what it is to be, None for absent."""

    base: str
    current: State
    wanted: State


def read(client: ManagementClient, cluster: str, name: str, image: t.Any) -> Found:
    """The policy, and what the image asks for. image: its document, None for absent."""
    base = path(RESOURCE, cluster=cluster_id(client, cluster))
    rows = [row for row in client.call(Call("GET", base)) if row["name"] == name]
    current = {key: rows[0][key] for key in ("name", "bank", "pcrs", "current_key")} if rows else None
    if image is None:
        return Found(base, current, None)
    covered = client.call(Call("POST", base, {"base_image": image}, query=QUERY))
    wanted = {"name": name, "bank": covered["bank"], "pcrs": covered["pcrs"], "current_key": True}
    return Found(base, current, wanted)


def plan(found: Found, name: str, image: t.Any) -> Plan:
    """Sign or delete. Raises ApiError where the policy is of another image."""
    if found.wanted is None:
        delete = Call("DELETE", found.base + path("/{name}", name=name), task=True)
        return Plan(found.current, None, (delete,) if found.current else ())
    sign = (Call("POST", found.base, {"name": name, "base_image": image}, task=True),)
    if found.current is None:
        return Plan(None, found.wanted, sign)
    if {**found.current, "current_key": True} != found.wanted:
        raise ApiError(
            f"the policy {name} is there for other PCR values; a policy never changes: give this one another name",
            "ALREADY_EXISTS",
        )
    return Plan(found.current, found.wanted, () if found.current == found.wanted else sign)


def image_of(file: str) -> t.Any:
    """The document in a file. Raises OSError, ValueError."""
    with open(file, "rb") as stream:
        content = stream.read()
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise ValueError("is not a base image document")
    return document


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "path": {"type": "path"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["path"])],
        supports_check_mode=True,
    )
    name, image = module.params["name"], None
    if module.params["state"] == "present":
        try:
            image = image_of(module.params["path"])
        except OSError as error:
            module.fail_json(msg=f"path: {module.params['path']}: {error.strerror}")
        except ValueError as error:
            module.fail_json(msg=f"path: {module.params['path']} {error}")
    run(
        module,
        lambda client: read(client, module.params["cluster"], name, image),
        lambda found: plan(found, name, image),
        parameters={"base_image": "path"},
    )


if __name__ == "__main__":
    raise SystemExit(main())
