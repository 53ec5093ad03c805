#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: base_image
short_description: Bless, stage, retire or remove a base image
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - Imports a base image document into a Trust Authority Cluster, and leads the image through its life. Hosts that booted
    what a staged or active image describes are attested; those that booted a retired one are refused.
  - The content of a version never changes, only its life cycle does. The server does not give the content back, so only the
    display names are compared, and a document with another one is refused.
  - A retired image is not trusted again unless O(reactivate=true) says so, so that converging recorded files never undoes a
    withdrawal. A server that knows life cycles audits each step.
  - On a vCenter Server, which has no life cycle, O(path) is the C(imgdb.tgz) that was exported from a reference host, and
    O(version) must be given.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
options:
  cluster:
    description: Name or id of the Trust Authority Cluster.
    type: str
    required: true
  path:
    description:
      - File with the base image document on the machine where the module runs.
      - Needed to import; an image that is there already can be named by O(version) alone.
    type: path
  version:
    description: Version of the image. Without it, the version that the document names. Needed with O(state=absent).
    type: str
  state:
    description:
      - Whether the image is to be there.
      - V(absent) forgets it altogether; O(life_cycle=retired) withdraws it and keeps in mind that it was.
    type: str
    choices: [present, absent]
    default: present
  life_cycle:
    description:
      - What the image is to be. V(staged) and V(active) are accepted, V(staged) is reported as such; V(retired) is refused.
      - An image is imported in this state; there is no moment at which a staged one is active.
      - Without it, the C(state) that the document names. Where that is missing too, a new image is V(active), and one that
        is there keeps what it has.
      - An active image does not become V(staged) again.
    type: str
    choices: [staged, active, retired]
  reactivate:
    description: Whether a retired image may become V(staged) or V(active) again.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Bless what was captured, in the state that its record names
  trusted.infrastructure.base_image:
    cluster: trust-authority
    path: trust/base_images/2026.12.json
  delegate_to: localhost

- name: Accept the next version while hosts are upgraded one by one
  trusted.infrastructure.base_image:
    cluster: trust-authority
    path: trust/base_images/2026.12.json
    life_cycle: staged

- name: It has proved good
  trusted.infrastructure.base_image:
    cluster: trust-authority
    version: "2026.12"
    life_cycle: active

- name: Hosts that still boot the old one are attested no more
  trusted.infrastructure.base_image:
    cluster: trust-authority
    version: "2026.11"
    life_cycle: retired

- name: Roll back, on purpose
  trusted.infrastructure.base_image:
    cluster: trust-authority
    version: "2026.11"
    life_cycle: active
    reactivate: true

- name: Forget one that was imported by mistake
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
  sample: {"version": "2026.11", "display_name": "Kernel update of November", "life_cycle": "active"}
"""

import base64
import json
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.base_images import (
    LIFE_CYCLE,
    RESOURCE,
    life_cycles,
)
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

LIFE_CYCLES = ("staged", "active", "retired")


class Wanted(t.NamedTuple):
    """An image as the task wants it. content: of the file, or None without one. life_cycle: None leaves it."""

    version: str
    display_name: str | None = None
    content: bytes | None = None
    life_cycle: str | None = None
    reactivate: bool = False


class Found(t.NamedTuple):
    """An image as the server has it. base: path of vSphere's collection; own: path of the image's life cycle, or None
    where the server has none; last_of: scopes that have no other image that is accepted."""

    base: str
    own: str | None
    current: State
    last_of: t.Sequence[str] = ()


def wanted_of(
    content: bytes | None, version: str | None, life_cycle: str | None = None, reactivate: bool = False
) -> Wanted:
    """What a task wants: version, display name and life cycle are those of the document where the task names none.

    Raises ValueError when the document does not name what is needed, or names another version.
    """
    try:
        document = json.loads(content or b"")
    except ValueError:
        document = None
    # The image database of vSphere is an archive, which names nothing.
    known = document if isinstance(document, dict) else {}
    named = known.get("image_version")
    if version is not None and named not in (None, version):
        raise ValueError(f"is the document of version {named}, not of {version}")
    version = version or named
    if not isinstance(version, str):
        raise ValueError("is not a base image document, and no version is given")
    if life_cycle is None and "state" in known:
        life_cycle = str(known["state"]).lower()
        if life_cycle not in LIFE_CYCLES:
            raise ValueError(f"has the state {known['state']!r}; there are {', '.join(LIFE_CYCLES).upper()}")
    if content is not None and life_cycle is not None:
        if not known:
            raise ValueError("is not a base image document; only those have a life cycle")
        if known.get("state") != life_cycle.upper():
            content = json.dumps({**known, "state": life_cycle.upper()}).encode()
    return Wanted(version, known.get("display_name"), content, life_cycle, reactivate)


def read(client: ManagementClient, cluster: str, version: str) -> Found:
    """The image as the server has it."""
    identifier = cluster_id(client, cluster)
    base = path(RESOURCE, cluster=identifier)
    known = life_cycles(client, cluster)
    if known is None:
        found = client.find(Call("GET", base + path("/{version}", version=version), task=True))
        return Found(base, None, found and {"version": version, "display_name": found["display_name"]})
    own = path(LIFE_CYCLE + "/{version}", cluster=identifier, version=version)
    image = known.get(version)
    if image is None:
        return Found(base, own, None)
    current = {key: image[key] for key in ("version", "display_name", "life_cycle")}
    return Found(base, own, current, image["last_of"])


def plan(found: Found, wanted: Wanted) -> Plan:
    """Calls from the current image to the wanted one.

    Raises ApiError when the version is there under another name, or the step is none of its life cycle.
    """
    if wanted.life_cycle and found.own is None:
        raise ApiError("this server has no life cycle of base images: leave life_cycle out", "UNSUPPORTED")
    if found.current is None:
        return imported(found, wanted)
    name, current = found.current["display_name"], found.current
    if wanted.display_name not in (None, name):
        raise ApiError(
            f"the version {wanted.version} is there as {name!r}, and this is {wanted.display_name!r}; a version never "
            "changes: give the new image another one",
            "ALREADY_EXISTS",
        )
    if found.own is None or wanted.life_cycle in (None, current["life_cycle"]):
        return Plan(current, current)
    return stepped(found.own, current, wanted)


def imported(found: Found, wanted: Wanted) -> Plan:
    """For an image that is not there."""
    if wanted.content is None:
        raise ApiError(
            f"the version {wanted.version} is not there: give the path of its document", "NOT_FOUND", 404
        )
    body = base64.b64encode(wanted.content).decode()
    create = Call("POST", found.base, body, query=(("action", "import-from-imgdb"),), task=True)
    after = {"version": wanted.version, "display_name": wanted.display_name}
    if found.own is not None:
        after["life_cycle"] = wanted.life_cycle or "active"
    return Plan(None, {key: value for key, value in after.items() if value is not None}, (create,))


def stepped(own: str, current: t.Mapping[str, t.Any], wanted: Wanted) -> Plan:
    """For an image that is there, in another state. What the server would refuse is refused here, in check mode too."""
    before, after = current["life_cycle"], str(wanted.life_cycle)
    if before == "retired" and not wanted.reactivate:
        raise ApiError(
            f"the version {wanted.version} is retired, and is to be {after}: that would trust again what was withdrawn. "
            "Correct the record (state RETIRED), or set reactivate if it is meant",
            "NOT_ALLOWED_IN_CURRENT_STATE",
        )
    if (before, after) == ("active", "staged"):
        raise ApiError(
            f"the version {wanted.version} is active, and does not become staged again: both are accepted. "
            "Correct the record (state ACTIVE), or retire it",
            "NOT_ALLOWED_IN_CURRENT_STATE",
        )
    body: dict[str, t.Any] = {"state": after.upper()}
    if before == "retired":
        body["reactivate"] = True
    return Plan(current, {**current, "life_cycle": after}, (Call("PATCH", own, body, task=True),))


def removed(found: Found, version: str) -> Plan:
    """For an image that is to be forgotten."""
    delete = Call("DELETE", found.base + path("/{version}", version=version), task=True)
    return Plan(found.current, None, (delete,) if found.current else ())


def lost(found: Found, planned: Plan) -> list[str]:
    """What scopes lose by the plan, in words for a warning."""
    withdrawn = planned.after is None or planned.after.get("life_cycle") == "retired"
    if not planned.changed or not withdrawn:
        return []
    return [
        f"the scope {scope} has no other base image that is accepted: none of its hosts is attested"
        for scope in found.last_of
    ]


def wanted_by(module: AnsibleModule) -> Wanted:
    """What the parameters ask for; ends the module where they cannot be met."""
    given, content = module.params, None
    if given["state"] == "absent":
        return Wanted(given["version"])
    try:
        if given["path"] is not None:
            with open(given["path"], "rb") as stream:
                content = stream.read()
        return wanted_of(content, given["version"], given["life_cycle"], given["reactivate"])
    except OSError as error:
        module.fail_json(msg=f"path: {given['path']}: {error.strerror}")
    except ValueError as error:
        module.fail_json(msg=f"path: {given['path']} {error}")


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            "path": {"type": "path"},
            "version": {"type": "str"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "life_cycle": {"type": "str", "choices": list(LIFE_CYCLES)},
            "reactivate": {"type": "bool", "default": False},
        },
        required_if=[("state", "present", ["path", "version"], True), ("state", "absent", ["version"])],
        supports_check_mode=True,
    )
    wanted = wanted_by(module)
    absent = module.params["state"] == "absent"

    def planned(found: Found) -> Plan:
        result = removed(found, wanted.version) if absent else plan(found, wanted)
        for text in lost(found, result):
            module.warn(text)
        return result

    run(module, lambda client: read(client, module.params["cluster"], wanted.version), planned)


if __name__ == "__main__":
    raise SystemExit(main())
