# SPDX-License-Identifier: GPL-3.0-or-later
"""Which operation a request means: method, path template and `action`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from trusted_infrastructure.manager.vapi.binding import ACTION_PARAMETER, TASK_PARAMETER
from trusted_infrastructure.manager.vapi.errors import InvalidArgument, NotFound
from trusted_infrastructure.manager.vapi.operation import AnyOperation, Table


@dataclass(frozen=True)
class Match:
    """An operation and the values of its path parameters."""

    operation: AnyOperation
    path: Mapping[str, str]


class Router:
    """Finds operations; made once from the table. Raises ValueError when two operations claim one request."""

    def __init__(self, table: Table) -> None:
        self._by_shape: dict[tuple[str, int], list[AnyOperation]] = {}
        claims: set[tuple[str, tuple[str, ...], str | None]] = set()
        for operation in table:
            shape = tuple("{}" if part.startswith("{") else part for part in split(operation.path))
            claim = (operation.method, shape, operation.action)
            if claim in claims:
                raise ValueError(f"two operations for {operation.method} {operation.path}")
            claims.add(claim)
            self._by_shape.setdefault((operation.method, len(shape)), []).append(operation)

    def find(self, method: str, raw_path: str, query: Sequence[tuple[str, str]]) -> Match:
        """The operation for a request.

        raw_path: below /api, still percent-encoded, so that an encoded slash stays inside its parameter.
        Raises NotFound for an unknown path, InvalidArgument where only the action is wrong.
        """
        parts = [unquote(part) for part in split(raw_path)]
        candidates: list[Match] = []
        for operation in self._by_shape.get((method, len(parts)), ()):
            values = matched(split(operation.path), parts)
            if values is not None:
                candidates.append(Match(operation, values))
        exact = most_literal(candidates)
        if not exact:
            raise NotFound(
                f"There is no operation {method[:16]} /api{raw_path[:200]}.", reason="no_operation"
            )
        action = single(query, ACTION_PARAMETER)
        for match in exact:
            if match.operation.action == action:
                return match
        raise wrong_action(exact, action)


def split(path: str) -> list[str]:
    """Segments of a path. One slash at each end does not count; further ones make empty segments, which
    nothing has: what a proxy in front takes for another path must not be this one."""
    inner = path.removeprefix("/").removesuffix("/")
    return inner.split("/") if inner else []


def matched(template: Sequence[str], parts: Sequence[str]) -> dict[str, str] | None:
    """The parameters, when each literal part agrees and no parameter is empty."""
    values: dict[str, str] = {}
    for wanted, part in zip(template, parts, strict=True):
        if wanted.startswith("{"):
            if not part:
                return None
            values[wanted[1:-1]] = part
        elif wanted != part:
            return None
    return values


def most_literal(candidates: list[Match]) -> list[Match]:
    """ ".../peer-certs/current" goes before ".../peer-certs/{name}"."""
    if not candidates:
        return []
    fewest = min(len(match.path) for match in candidates)
    return [match for match in candidates if len(match.path) == fewest]


def single(query: Sequence[tuple[str, str]], name: str) -> str | None:
    """A query parameter that may be given once. Raises InvalidArgument."""
    given = [value for key, value in query if key == name]
    if len(given) > 1:
        raise InvalidArgument(name, "is given more than once")
    return given[0] if given else None


def wrong_action(matches: Sequence[Match], action: str | None) -> InvalidArgument:
    """The error for a path that is known with other actions only."""
    known = sorted(match.operation.action or "(none)" for match in matches)
    given = "is missing" if action is None else f"{action[:80]!r} is unknown here"
    return InvalidArgument(ACTION_PARAMETER, f"{given}; this path has: {', '.join(known)}")


def check_task_parameter(operation: AnyOperation, query: Sequence[tuple[str, str]]) -> None:
    """Task-only operations want vmw-task=true, the others do not have it. Raises InvalidArgument."""
    given = single(query, TASK_PARAMETER)
    if operation.task and given != "true":
        raise InvalidArgument(
            TASK_PARAMETER,
            f"must be true: {operation.service} {operation.operation} is offered as a task only",
            operation.wire_id,
        )
    if not operation.task and given not in {None, "false"}:
        raise InvalidArgument(
            TASK_PARAMETER, f"must not be given: {operation.service} {operation.operation} is not a task"
        )
