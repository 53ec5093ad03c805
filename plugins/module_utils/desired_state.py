# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a module does: read, plan, and carry the plan out unless it only checks.

A plan is data: the calls to send, and what the resource is before and after them. Each resource has a pure function
`plan(current, wanted) -> Plan`, tested by a table; nothing else decides.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    ApiError,
    Call,
    ManagementClient,
)

State: t.TypeAlias = "t.Mapping[str, t.Any] | None"
# What `state` is where a task wants something gone: a rotation is, when it is complete.
GONE = ("absent", "disabled", "complete")
# What reading an answer raises that lacks what the API says.
UNKNOWN_ANSWER = (KeyError, IndexError, TypeError, AttributeError)


@dataclass(frozen=True)
class Plan:
    """before, after: what the resource is, without secrets; None when absent. calls: how to get from one to the other.

    undo: what puts `before` back when a call fails after the first; for resources that can only be replaced.
    refused: what the server will say to the calls, where what was read tells so, whatever other tasks do. Check mode
    fails with it. hindered: what it would say as things are, where an earlier task of the same run may clear the way.
    Check mode warns of it. Outside of check mode the server decides.
    """

    before: State
    after: State
    calls: tuple[Call, ...] = ()
    undo: tuple[Call, ...] = ()
    refused: ApiError | None = None
    hindered: ApiError | None = None

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
        task_timeout=module.params["task_timeout"],
    )


def run(
    module: AnsibleModule,
    read: t.Callable[[ManagementClient], t.Any],
    plan: t.Callable[[t.Any], Plan],
    result: t.Callable[[Plan, list[t.Any]], dict[str, t.Any]] = lambda _plan, _answers: {},
    parameters: t.Mapping[str, str] | None = None,
) -> t.NoReturn:
    """Read, plan, carry out, exit. result: what to return beside the plan, made of the plan and the answers of its calls.
    parameters: see `in_words_of_task`.

    In check mode, what the resource belongs to (its cluster, its provider) may be missing: the same run would have
    made it. Then the resource is absent. Outside of check mode that is an error, also where the resource is to be
    absent: a name that is misspelt must not look like something that was withdrawn.
    """
    answers: list[t.Any] = []
    try:
        with client_of(module) as client:
            try:
                found = read(client)
            except ApiError as error:
                if module.check_mode and error.error_type == "NOT_FOUND":
                    _predict(module, error)
                raise
            planned = plan(found)
            if not module.check_mode:
                _carry_out(client, planned, answers)
            else:
                _foresee(module, planned)
    except ApiError as error:
        _fail(module, in_words_of_task(error, parameters or {}), changed=bool(answers))
    except UNKNOWN_ANSWER as error:
        _not_understood(module, error)
    module.exit_json(
        changed=planned.changed,
        diff={"before": planned.before or {}, "after": planned.after or {}},
        resource=planned.after,
        **result(planned, answers),
    )


def inform(
    module: AnsibleModule, key: str | None, read: t.Callable[[ManagementClient], t.Any], absent: t.Any = None
) -> t.NoReturn:
    """Read and exit: what an _info module does. The result stands below `key`, or is all results by name without one.

    absent: the result, with a warning, where what is asked about does not exist; an _info module never fails on that.
    """
    try:
        with client_of(module) as client:
            found = read(client)
    except ApiError as error:
        if error.error_type != "NOT_FOUND" or absent is None:
            _fail(module, error)
        module.warn(str(error))
        found = absent
    except UNKNOWN_ANSWER as error:
        _not_understood(module, error)
    module.exit_json(changed=False, **(found if key is None else {key: found}))


def in_words_of_task(error: ApiError, parameters: t.Mapping[str, str]) -> ApiError:
    """The error with the name of the parameter before that of the field, where they differ: `primary_key_id
    (spec.master_key_id): ...`. parameters: field of the API -> parameter of the module."""
    text = str(error)
    for field, parameter in parameters.items():
        place = rf"(?:(?<= )|^)((?:[\w.]+\.)?{field}(?:[.[][\w.\[\]]*)?): "
        text = re.sub(place, rf"{parameter} (\1): ", text, count=1)
    return ApiError(text, error.error_type, error.status)


def _foresee(module: AnsibleModule, planned: Plan) -> None:
    """What check mode says of the server's answers. Raises ApiError for a refusal that is certain."""
    if planned.refused is not None:
        raise planned.refused
    if planned.hindered is not None:
        module.warn(f"As things are now, the server refuses this: {planned.hindered}")


def _carry_out(client: ManagementClient, planned: Plan, answers: list[t.Any]) -> None:
    """Sends the calls and collects their answers. Raises ApiError, after putting back what was there."""
    try:
        for call in planned.calls:
            answers.append(client.call(call))
    except ApiError as error:
        if not answers or not planned.undo:
            raise
        try:
            for call in planned.undo:
                client.call(call)
        except ApiError as second:
            text = f"{error}. What was there before is gone, and could not be put back: {second}"
            raise ApiError(text, error.error_type, error.status) from second
        answers.clear()
        raise ApiError(
            f"{error}. What was there before was put back.", error.error_type, error.status
        ) from error


def _predict(module: AnsibleModule, error: ApiError) -> t.NoReturn:
    module.warn(f"{error}; check mode takes it for something that is still to be made")
    changed = module.params.get("state") not in GONE
    module.exit_json(changed=changed, diff={"before": {}, "after": {}}, resource=None)


def _fail(module: AnsibleModule, error: ApiError, changed: bool = False) -> t.NoReturn:
    module.fail_json(msg=str(error), error_type=error.error_type, status=error.status, changed=changed)


def _not_understood(module: AnsibleModule, error: Exception) -> t.NoReturn:
    text = f"the answer of {module.params['hostname']} is not as expected: {type(error).__name__}: {error}"
    module.fail_json(msg=text, exception=error)


def cluster_id(client: ManagementClient, name: str) -> str:
    """Id of the cluster with this name or id. Raises ApiError NOT_FOUND."""
    for row in client.call(Call("GET", "/vcenter/cluster")):
        if name in (row["cluster"], row["name"]):
            return t.cast(str, row["cluster"])
    raise ApiError(f"no cluster is named {name}", "NOT_FOUND", 404)


def cluster_ids(client: ManagementClient, names: t.Collection[str]) -> list[str]:
    """Ids of those clusters of this manager that have one of the names or ids."""
    rows = client.call(Call("GET", "/vcenter/cluster"))
    return [row["cluster"] for row in rows if row["cluster"] in names or row["name"] in names]


def host_id(client: ManagementClient, name: str) -> str:
    """Id of the host with this name or id. Raises ApiError NOT_FOUND."""
    for row in client.call(Call("GET", "/vcenter/host")):
        if name in (row["host"], row["name"]):
            return t.cast(str, row["host"])
    raise ApiError(f"no host is named {name}", "NOT_FOUND", 404)
