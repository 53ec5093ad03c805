# SPDX-License-Identifier: GPL-3.0-or-later
"""From an HTTP request to the typed input of an operation. Pure; every refusal names the field."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping, Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec

from trusted_infrastructure.json_names import repeated_name
from trusted_infrastructure.manager.vapi.errors import InvalidArgument
from trusted_infrastructure.manager.vapi.operation import AnyOperation
from trusted_infrastructure.manager.vapi.structure import Structure, field_error

TASK_PARAMETER = "vmw-task"
ACTION_PARAMETER = "action"
# vSphere's own pages disagree on the spelling of this one field: both are taken, the first is given.
ALIASES = {"trusted_ca": "trusted_CA"}
DEPTH_LIMIT = 20
NUMBER = re.compile(r"-?[0-9]{1,11}")


def bind(
    operation: AnyOperation,
    path: Mapping[str, str],
    query: Sequence[tuple[str, str]],
    body: bytes,
) -> Structure:
    """The typed input of `operation`.

    path: decoded path parameters. query: decoded pairs in order, `action` and `vmw-task` included. body: the
    request's body as it came. Raises InvalidArgument with the field's path.
    """
    values: dict[str, Any] = dict(path)
    merge(values, query_values(operation, query))
    if operation.body is not None:
        content = decode_body(body, operation.body)
        if content is not None or not optional(operation.input, operation.body):
            values[operation.body] = content
    elif body.strip():
        merge(values, stray_body(operation, body))
    return convert(values, operation.input)


def convert(values: Mapping[str, Any], target: type[Structure]) -> Structure:
    """Plain JSON values as the structure. Raises InvalidArgument with the field's path."""
    try:
        return msgspec.convert(values, type=target, str_keys=True)
    except msgspec.ValidationError as error:
        raise invalid(error) from None


def invalid(error: msgspec.ValidationError) -> InvalidArgument:
    """msgspec's error as the API's, with the path of the field in front."""
    found = field_error(error)
    return InvalidArgument(found.field or "body", found.reason)


def query_values(operation: AnyOperation, query: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Input fields from the query. Raises InvalidArgument for unknown, repeated and malformed ones."""
    hints = get_type_hints(operation.input, include_extras=False)
    direct = {
        name: hints[name]
        for name in operation.input.__struct_fields__
        if name not in {*operation.path_parameters, operation.body, operation.query}
    }
    exploded: dict[str, Any] = {}
    if operation.query is not None:
        structure = without_none(hints[operation.query])
        exploded = get_type_hints(structure, include_extras=False)
    values: dict[str, Any] = {}
    inner: dict[str, Any] = {}
    for name, given in grouped(query).items():
        if name in direct:
            values[name] = parameter(name, given, direct[name])
        elif name in exploded:
            inner[name] = parameter(name, given, exploded[name])
        elif name not in {TASK_PARAMETER, ACTION_PARAMETER}:
            known = ", ".join(sorted([*direct, *exploded])) or "none"
            raise InvalidArgument(
                name[:80] or "query",
                f"{'' if name else 'one without a name '}is not a query parameter of this operation; "
                f"it has: {known}",
            )
    if operation.query is not None and (inner or not optional(operation.input, operation.query)):
        values[operation.query] = inner
    return values


def grouped(query: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Values by name, in order."""
    values: dict[str, list[str]] = {}
    for name, value in query:
        values.setdefault(name, []).append(value)
    return values


def parameter(name: str, given: list[str], hint: Any) -> Any:
    """A query parameter's text as the JSON value that its type wants. Raises InvalidArgument."""
    wanted = without_none(hint)
    if get_origin(wanted) in {list, set, frozenset}:
        return [scalar(name, text, get_args(wanted)[0]) for text in given]
    if len(given) > 1:
        raise InvalidArgument(name, "is given more than once")
    return scalar(name, given[0], wanted)


def scalar(name: str, text: str, wanted: Any) -> Any:
    """One value: query parameters are text, the input's fields are typed. Raises InvalidArgument."""
    if wanted is bool:
        if text not in {"true", "false"}:
            raise InvalidArgument(name, f"must be true or false, not {text[:40]!r}")
        return text == "true"
    if wanted is int:
        if not NUMBER.fullmatch(text):
            raise InvalidArgument(name, f"must be a number, not {text[:40]!r}")
        return int(text)
    return text


def without_none(hint: Any) -> Any:
    """X of `X | None`."""
    if get_origin(hint) in {Union, types.UnionType}:
        return next(choice for choice in get_args(hint) if choice is not type(None))
    return hint


def optional(structure: type[Structure], name: str) -> bool:
    """Whether the field may be left out."""
    return not next(field for field in msgspec.structs.fields(structure) if field.name == name).required


def decode_body(body: bytes, field: str) -> Any:
    """The JSON value of the body, None when it is empty. Raises InvalidArgument naming `field`."""
    if not body.strip():
        return None
    try:
        content, repeated = msgspec.json.decode(body), repeated_name(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(field, f"the request's body is not JSON: {error}") from None
    if repeated is not None:
        raise InvalidArgument(field, f"{repeated[:64]!r} is given more than once")
    return aliased(content, field)


def stray_body(operation: AnyOperation, body: bytes) -> dict[str, Any]:
    """A body where REST has none: one vSphere client sends the parameters of a GET as a JSON object.

    Raises InvalidArgument when it is anything but an object of known parameters."""
    content = decode_body(body, "body")
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InvalidArgument("body", "this operation has no body")
    known = set(operation.input.__struct_fields__) - set(operation.path_parameters)
    for name in content:
        if name not in known:
            raise InvalidArgument(str(name)[:80], "is not a known field; this operation has no body")
    return content


def merge(values: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Adds values; none may be there twice. Raises InvalidArgument."""
    for name, value in more.items():
        if name in values:
            raise InvalidArgument(name, "is given more than once")
        values[name] = value


def aliased(value: Any, path: str, depth: int = 0) -> Any:
    """The value with alternative spellings of field names replaced. Raises InvalidArgument."""
    if depth > DEPTH_LIMIT:
        raise InvalidArgument(path, "is nested too deeply")
    if isinstance(value, list):
        return [aliased(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    renamed: dict[str, Any] = {}
    for name, item in value.items():
        wanted = ALIASES.get(str(name)) or str(name)
        if wanted in renamed:
            raise InvalidArgument(f"{path}.{wanted}", f"is given twice, as {wanted} and as {name}")
        renamed[wanted] = aliased(item, f"{path}.{wanted}", depth + 1)
    return renamed
