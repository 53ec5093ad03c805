# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks: operations that run on after their request was answered (vAPI com.vmware.cis.task.info).

Every state is in the database before anybody sees it. A task that was running when its manager stopped is
FAILED afterwards and says so: what it had committed is kept, and repeating the operation is safe.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import sqlalchemy as sql

from trusted_infrastructure.manager.database import Database, tasks
from trusted_infrastructure.manager.vapi.errors import (
    ErrorBody,
    LocalizableMessage,
    NotFound,
    VapiError,
    message,
)
from trusted_infrastructure.manager.vapi.structure import Structure, Timestamp, timestamp

Status = Literal["PENDING", "RUNNING", "BLOCKED", "SUCCEEDED", "FAILED"]
Explain = Callable[[Exception], VapiError]
TOTAL = 100


class DynamicId(Structure, frozen=True):
    """The object that a task works on."""

    type: str
    id: str


class Progress(Structure, frozen=True):
    """How far a task is."""

    total: int
    completed: int
    message: LocalizableMessage


class TaskInfo(Structure, frozen=True):
    """com.vmware.cis.task.info. Which fields are set depends on `status`: while PENDING none of progress,
    result, error and the times; progress and start_time from RUNNING on; end_time at the end; error when
    FAILED."""

    description: LocalizableMessage
    service: str
    operation: str
    status: Status
    cancelable: bool
    target: DynamicId | None = None
    user: str | None = None
    progress: Progress | None = None
    result: Any = None
    error: ErrorBody | None = None
    start_time: Timestamp | None = None
    end_time: Timestamp | None = None


@dataclass(frozen=True)
class NewTask:
    """What is known when a task is asked for."""

    service: str
    operation: str
    description: str
    user: str
    target: DynamicId | None


class Running:
    """A running task's way to tell its progress."""

    def __init__(self, database: Database, task: str) -> None:
        self._database = database
        self.task = task

    def progress(self, completed: int, text: str) -> None:
        """completed: 0 to 100. Not for every step: each is a durable transaction."""
        update(self._database, self.task, completed=completed, progress=encode(message(text, "progress")))


class Tasks:
    """Starts tasks and finds them. instance: name of this manager process, for several on one database."""

    def __init__(
        self, database: Database, clock: Callable[[], float], instance: str, retention: int, explain: Explain
    ) -> None:
        self._database = database
        self._clock = clock
        self._instance = instance
        self._retention = retention
        self._explain = explain
        self._running: set[asyncio.Task[None]] = set()

    def start(self, new: NewTask, work: Callable[[Running], Awaitable[Any]]) -> str:
        """Records a task and starts its work; returns its id. The work's result becomes the task's."""
        task = f"{uuid.uuid4()}:{new.service}"
        with self._database.transaction() as connection:
            connection.execute(
                tasks.insert().values(
                    task=task,
                    instance=self._instance,
                    service=new.service,
                    operation=new.operation,
                    description=new.description,
                    user=new.user,
                    target_type=new.target.type if new.target else None,
                    target_id=new.target.id if new.target else None,
                    status="RUNNING",
                    start_time=self._clock(),
                    completed=0,
                    progress=encode(message(new.description, "progress")),
                )
            )
        handle = asyncio.get_running_loop().create_task(self._run(task, work))
        self._running.add(handle)
        handle.add_done_callback(self._running.discard)
        return task

    async def _run(self, task: str, work: Callable[[Running], Awaitable[Any]]) -> None:
        try:
            result = await work(Running(self._database, task))
            self._succeeded(task, result)
        except asyncio.CancelledError:
            self._failed(task, interrupted())
            raise
        except Exception as error:
            self._failed(task, self._explain(error).body())

    def _succeeded(self, task: str, result: Any) -> None:
        update(
            self._database,
            task,
            status="SUCCEEDED",
            completed=TOTAL,
            result=None if result is None else encode(result),
            end_time=self._clock(),
        )

    def _failed(self, task: str, error: ErrorBody) -> None:
        update(self._database, task, status="FAILED", error=encode(error), end_time=self._clock())

    def get(self, task: str) -> TaskInfo:
        """A task. Raises NotFound."""
        found = self.find([task], None).get(task)
        if found is None:
            raise NotFound(
                f"There is no task {task[:300]!r}; finished ones are kept {self._retention // 3600} hours.",
                task[:300],
                reason="no_task",
            )
        return found

    def find(self, ids: Sequence[str] | None, services: Sequence[str] | None) -> Mapping[str, TaskInfo]:
        """Tasks with one of the ids, if given, of one of the services, if given; the newest first."""
        query = sql.select(tasks).where(
            (tasks.c.end_time.is_(None)) | (tasks.c.end_time > self._clock() - self._retention)
        )
        if ids is not None:
            query = query.where(tasks.c.task.in_(ids))
        if services is not None:
            query = query.where(tasks.c.service.in_(services))
        with self._database.transaction() as connection:
            rows = connection.execute(query.order_by(tasks.c.start_time.desc())).all()
        return {row.task: info_of_row(row) for row in rows}

    def recover(self) -> int:
        """Fails the tasks that were running when this instance stopped. Call once, before serving."""
        with self._database.transaction() as connection:
            unfinished = (tasks.c.instance == self._instance) & (tasks.c.end_time.is_(None))
            result = connection.execute(
                tasks.update()
                .where(unfinished)
                .values(status="FAILED", error=encode(interrupted()), end_time=self._clock())
            )
        return result.rowcount

    def forget_finished(self) -> None:
        """Removes tasks that ended longer ago than they are kept."""
        with self._database.transaction() as connection:
            connection.execute(tasks.delete().where(tasks.c.end_time < self._clock() - self._retention))

    async def close(self, grace: float) -> None:
        """Lets running tasks finish for `grace` seconds, then stops them (they are FAILED)."""
        if self._running:
            _done, rest = await asyncio.wait(self._running, timeout=grace)
            for handle in rest:
                handle.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

    async def idle(self) -> None:
        """Returns when no task of this process is running."""
        while self._running:
            await asyncio.wait(self._running)


def update(database: Database, task: str, **values: Any) -> None:
    """Changes a task's row."""
    with database.transaction() as connection:
        connection.execute(tasks.update().where(tasks.c.task == task).values(**values))


def encode(value: Any) -> str:
    """JSON text for a column."""
    return msgspec.json.encode(value).decode()


def interrupted() -> ErrorBody:
    """The error of a task whose manager stopped."""
    text = (
        "The manager stopped while this task was running. What it had recorded as desired state is kept; "
        "look at the object and repeat the operation."
    )
    return ErrorBody(error_type="SERVICE_UNAVAILABLE", messages=[message(text, "task_interrupted")])


def info_of_row(row: sql.Row[Any]) -> TaskInfo:
    """A row of `tasks`, with the fields that its status allows."""
    return TaskInfo(
        description=message(row.description, "task"),
        service=row.service,
        operation=row.operation,
        status=row.status,
        cancelable=False,
        target=None if row.target_type is None else DynamicId(type=row.target_type, id=row.target_id),
        user=row.user,
        progress=Progress(
            total=TOTAL,
            completed=row.completed,
            message=msgspec.json.decode(row.progress, type=LocalizableMessage),
        ),
        result=None if row.result is None else msgspec.json.decode(row.result),
        error=None if row.error is None else msgspec.json.decode(row.error, type=ErrorBody),
        start_time=timestamp(row.start_time),
        end_time=None if row.end_time is None else timestamp(row.end_time),
    )
