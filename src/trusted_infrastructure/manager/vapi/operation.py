# SPDX-License-Identifier: GPL-3.0-or-later
"""One declaration per operation of the management API. Pure.

Routing, validation, authorization, tasks, audit records and the OpenAPI document are derived from it;
JSON-RPC can be, too. `input` has one field per parameter, with the names of the vAPI operation (path
parameters included), so it does not depend on the protocol. How REST carries each field:

- a field named in the path template is a path parameter;
- the field named by `body` is the JSON body;
- the field named by `query` is a structure whose fields are exploded into query parameters (lists: the key is
  repeated);
- any other field is a query parameter of its own.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from trusted_infrastructure.manager.vapi.errors import VapiError
from trusted_infrastructure.manager.vapi.structure import Structure

if TYPE_CHECKING:
    from trusted_infrastructure.manager.context import Context

Input = TypeVar("Input", bound=Structure)
Output = TypeVar("Output")
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Side = Literal["trust_authority", "workload"]
Target = Literal["", "cluster", "host"]
TARGETS: dict[str, Target] = {"": "", "cluster": "cluster", "host": "host"}

PARAMETER = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True, kw_only=True)
class Privilege:
    """A privilege id, needed on the call itself or on the object that the path names."""

    id: str
    on: Target = ""


def privileges(*texts: str) -> tuple[Privilege, ...]:
    """From the reference's notation: "TrustedAdmin.ReadTrustedHosts", "System.View@cluster"."""
    parsed = []
    for text in texts:
        identifier, _separator, target = text.partition("@")
        parsed.append(Privilege(id=identifier, on=TARGETS[target]))
    return tuple(parsed)


@dataclass(frozen=True, kw_only=True)
class Operation(Generic[Input, Output]):
    """An operation of the API.

    service, operation: vAPI ids, operation without the "$task" suffix. path: template below /api, without a
    trailing slash. output: type of the result (of the task's result for a task), None for void. success: HTTP
    status; derived when 0. public: needs no session (login). side: the manager that does this; None for both.
    changes: False for operations that only read, whatever their method; audit records are made of the others.
    limit: largest body in bytes. media_types: of the file that it answers with; its output is Download then.
    """

    service: str
    operation: str
    method: Method
    path: str
    summary: str
    input: type[Input]
    output: Any
    handler: Callable[[Context, Input], Awaitable[Output]]
    privileges: tuple[Privilege, ...]
    errors: tuple[type[VapiError], ...] = ()
    action: str | None = None
    body: str | None = None
    query: str | None = None
    task: bool = False
    side: Side | None = None
    public: bool = False
    success: int = 0
    limit: int = 256 * 1024
    media_types: tuple[str, ...] = ()

    @property
    def wire_id(self) -> str:
        """The operation id on the wire: "create$task" for a task."""
        return f"{self.operation}$task" if self.task else self.operation

    @property
    def path_parameters(self) -> tuple[str, ...]:
        """Names in the path template, in order."""
        return tuple(PARAMETER.findall(self.path))

    @property
    def status(self) -> int:
        """HTTP status of success."""
        if self.success:
            return self.success
        if self.task:
            return 202
        return 204 if self.output is None else 200

    @property
    def changes(self) -> bool:
        """Whether this changes something: everything but get and list. So does an export that is a POST: what
        it makes is there afterwards."""
        verb = self.operation.split("_")[0]
        return verb not in {"get", "list", "query", "export"} or (verb == "export" and self.method != "GET")


AnyOperation = Operation[Any, Any]
Table = tuple[AnyOperation, ...]
