# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a module does: read, plan, and carry the plan out unless it only checks.

A plan is data: the calls to send, and what the resource is before and after them. Each resource has a pure function
`plan(current, wanted) -> Plan`, tested by a table; nothing else decides.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    ApiError,
    Call,
    ManagementClient,
)

State = t.Mapping[str, t.Any] | None


@dataclass(frozen=True)
class Plan:
    """before, after: what the resource is, without secrets; None when absent. calls: how to get from one to the other."""

    before: State
    after: State
    calls: tuple[Call, ...] = ()

    @property
    def changed(self) -> bool:
        return bool(self.calls)


def differs(current: t.Mapping[str, t.Any], wanted: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The entries of `wanted` that are not None and not equal in `current`."""
    return {key: value for key, value in wanted.items() if value is not None and current.get(key) != value}


def client_of(module: AnsibleModule) -> ManagementClient:
    """The client that the connection parameters describe."""
    return ManagementClient(
        hostname=module.params["hostname"],
        username=module.params["username"],
        password=module.params["password"],
        port=module.params["port"],
        validate_certs=module.params["validate_certs"],
        ca_path=module.params["ca_path"],
    )


def run(
    module: AnsibleModule,
    read: t.Callable[[ManagementClient], t.Any],
    plan: t.Callable[[t.Any], Plan],
    result: t.Callable[[Plan, list[t.Any]], dict[str, t.Any]] = lambda _plan, _answers: {},
) -> t.NoReturn:
    """Read, plan, carry out, exit. result: what to return beside the plan, made of the plan and the answers of its calls."""
    try:
        with client_of(module) as client:
            planned = plan(read(client))
            answers = [] if module.check_mode else [client.call(call) for call in planned.calls]
    except ApiError as error:
        module.fail_json(msg=str(error), error_type=error.error_type, status=error.status)
    module.exit_json(
        changed=planned.changed,
        diff={"before": planned.before or {}, "after": planned.after or {}},
        resource=planned.after,
        **result(planned, answers),
    )


def inform(module: AnsibleModule, key: str, read: t.Callable[[ManagementClient], t.Any]) -> t.NoReturn:
    """Read and exit: what an _info module does. The result stands below `key`."""
    try:
        with client_of(module) as client:
            found = read(client)
    except ApiError as error:
        module.fail_json(msg=str(error), error_type=error.error_type, status=error.status)
    module.exit_json(changed=False, **{key: found})


def cluster_id(client: ManagementClient, name: str) -> str:
    """Id of the cluster with this name or id. Raises ApiError NOT_FOUND."""
    for row in client.call(Call("GET", "/vcenter/cluster")):
        if name in (row["cluster"], row["name"]):
            return t.cast(str, row["cluster"])
    raise ApiError(f"no cluster is named {name}", "NOT_FOUND", 404)


def host_id(client: ManagementClient, name: str) -> str:
    """Id of the host with this name or id. Raises ApiError NOT_FOUND."""
    for row in client.call(Call("GET", "/vcenter/host")):
        if name in (row["host"], row["name"]):
            return t.cast(str, row["host"])
    raise ApiError(f"no host is named {name}", "NOT_FOUND", 404)
