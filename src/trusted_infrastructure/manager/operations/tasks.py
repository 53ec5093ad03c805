# SPDX-License-Identifier: GPL-3.0-or-later
"""com.vmware.cis.tasks: what became of operations that were asked for with vmw-task=true.

A user sees the tasks that he started, and those of operations that he could run himself on the same object;
others do not exist for him.
"""

from __future__ import annotations

from collections.abc import Mapping

from trusted_infrastructure.manager.authorization import may_run
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.inventory import all_clusters, all_hosts
from trusted_infrastructure.manager.tasks import TaskInfo
from trusted_infrastructure.manager.vapi.errors import (
    InvalidArgument,
    NotAllowedInCurrentState,
    NotFound,
    Unsupported,
)
from trusted_infrastructure.manager.vapi.operation import Operation, Table
from trusted_infrastructure.manager.vapi.structure import Identifier, Structure

SERVICE = "com.vmware.cis.tasks"
PATH = "/cis/tasks"
LIST_LIMIT = 1000


class GetInput(Structure, frozen=True):
    """return_all: accepted, all that there is is returned anyway. exclude_result: leave the result out."""

    task: Identifier
    return_all: bool | None = None
    exclude_result: bool | None = None


class FilterSpec(Structure, frozen=True):
    """Which tasks: at least `tasks` or `services`; each further field narrows."""

    tasks: list[str] | None = None
    services: list[str] | None = None
    operations: list[str] | None = None
    status: list[str] | None = None
    targets: list[dict[str, str]] | None = None
    users: list[str] | None = None


class ResultSpec(Structure, frozen=True):
    """As in GetInput."""

    return_all: bool | None = None
    exclude_result: bool | None = None


class ListBody(Structure, frozen=True):
    """Body of list."""

    filter_spec: FilterSpec | None = None
    result_spec: ResultSpec | None = None


class ListInput(Structure, frozen=True):
    """Input of list."""

    spec: ListBody = ListBody()


class CancelInput(Structure, frozen=True):
    """Input of cancel."""

    task: Identifier


async def get(context: Context, given: GetInput) -> TaskInfo:
    return trimmed(visible_task(context, given.task), given.exclude_result)


async def list_tasks(context: Context, given: ListInput) -> Mapping[str, TaskInfo]:
    wanted = given.spec.filter_spec or FilterSpec()
    if wanted.tasks is None and wanted.services is None:
        raise InvalidArgument("spec.filter_spec", "needs tasks or services, or both")
    found = context.manager.tasks.find(wanted.tasks, wanted.services)
    exclude = given.spec.result_spec.exclude_result if given.spec.result_spec else None
    matching = [(task, info) for task, info in found.items() if sees(context, info) and matches(wanted, info)]
    return {task: trimmed(info, exclude) for task, info in matching[:LIST_LIMIT]}


async def cancel(context: Context, given: CancelInput) -> None:
    info = visible_task(context, given.task)
    if info.end_time is not None:
        raise NotAllowedInCurrentState("The task has finished.")
    raise Unsupported("Tasks of this manager cannot be cancelled.")


def visible_task(context: Context, task: str) -> TaskInfo:
    """A task that the caller may see. Raises NotFound."""
    info = context.manager.tasks.get(task)
    if not sees(context, info):
        raise NotFound(f"There is no task {task!r} that you may see.", task, reason="no_task")
    return info


def sees(context: Context, info: TaskInfo) -> bool:
    """Whether the caller started the task, or could have."""
    if info.user == context.caller.user.name:
        return True
    target = info.target.id if info.target else None
    with context.manager.database.transaction() as connection:
        clusters = all_clusters(connection)
        host = next((item for item in all_hosts(connection) if item.id == target), None)
    owner = None if host is None else host.cluster
    cluster = next((item for item in clusters if item.id == target or item.number == owner), None)
    return any(
        may_run(operation, context.caller_rights, cluster, host)
        for operation in context.manager.table
        if (operation.service, operation.wire_id) == (info.service, info.operation)
    )


def matches(wanted: FilterSpec, info: TaskInfo) -> bool:
    """Whether a task passes the fields other than tasks and services."""
    target = {"type": info.target.type, "id": info.target.id} if info.target else {}
    return (
        (wanted.operations is None or info.operation in wanted.operations)
        and (wanted.status is None or info.status in wanted.status)
        and (wanted.users is None or info.user in wanted.users)
        and (wanted.targets is None or target in wanted.targets)
    )


def trimmed(info: TaskInfo, exclude_result: bool | None) -> TaskInfo:
    """The information without its result, when it is not wanted."""
    if not exclude_result:
        return info
    fields = {name: getattr(info, name) for name in TaskInfo.__struct_fields__ if name != "result"}
    return TaskInfo(**fields)


OPERATIONS: Table = (
    Operation(
        service=SERVICE,
        operation="get",
        method="GET",
        path=f"{PATH}/{{task}}",
        summary="One task; finished ones are kept for 24 hours",
        input=GetInput,
        output=TaskInfo,
        handler=get,
        privileges=(),
        errors=(NotFound,),
    ),
    Operation(
        service=SERVICE,
        operation="list",
        method="POST",
        path=PATH,
        action="list",
        summary="Tasks by id or service",
        input=ListInput,
        output=dict[str, TaskInfo],
        handler=list_tasks,
        privileges=(),
        body="spec",
        errors=(InvalidArgument,),
    ),
    Operation(
        service=SERVICE,
        operation="cancel",
        method="POST",
        path=f"{PATH}/{{task}}",
        action="cancel",
        summary="Cancel a task; no task of this manager can be",
        input=CancelInput,
        output=None,
        handler=cancel,
        privileges=(),
        errors=(NotFound, Unsupported, NotAllowedInCurrentState),
    ),
)
