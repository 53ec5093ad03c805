# SPDX-License-Identifier: GPL-3.0-or-later
"""The OpenAPI 3.1 document of the management API, made from the table. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_type_hints

import msgspec

from trusted_infrastructure.manager.vapi.binding import TASK_PARAMETER, optional, without_none
from trusted_infrastructure.manager.vapi.download import Download
from trusted_infrastructure.manager.vapi.errors import ErrorBody, Unauthenticated, Unauthorized, VapiError
from trusted_infrastructure.manager.vapi.operation import AnyOperation, Table

REFERENCE = "#/components/schemas/{name}"
JSON = "application/json"


def document(table: Table, title: str, version: str) -> dict[str, Any]:
    """The document. Operations that share a path and method (by `action`) are told apart as vSphere does, by
    the query in the path."""
    types: list[Any] = [ErrorBody]
    for operation in table:
        types += [hint for hint in (body_type(operation), json_output(operation)) if hint is not None]
        types += [hint for _name, hint, _required in parameters(operation)]
    schemas, components = msgspec.json.schema_components(types, ref_template=REFERENCE)
    by_type = {repr(hint): schema for hint, schema in zip(types, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for operation in table:
        entry = operation_entry(operation, by_type)
        paths.setdefault(path_key(operation), {})[operation.method.lower()] = entry
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "servers": [{"url": "/api"}],
        "security": [{"session": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "session": {"type": "apiKey", "in": "header", "name": "vmware-api-session-id"},
                "basic": {"type": "http", "scheme": "basic"},
            },
        },
    }


def path_key(operation: AnyOperation) -> str:
    """The path with the query parameters that choose the operation."""
    query = []
    if operation.action:
        query.append(f"action={operation.action}")
    if operation.task:
        query.append(f"{TASK_PARAMETER}=true")
    return operation.path + ("?" + "&".join(query) if query else "")


def json_output(operation: AnyOperation) -> Any:
    """Type of the JSON answer, or None."""
    return None if operation.output is Download else operation.output


def body_type(operation: AnyOperation) -> Any:
    """Type of the body, or None."""
    if operation.body is None:
        return None
    return without_none(get_type_hints(operation.input, include_extras=True)[operation.body])


def parameters(operation: AnyOperation) -> list[tuple[str, Any, bool]]:
    """Path and query parameters: name, type, whether it is required."""
    hints = get_type_hints(operation.input, include_extras=True)
    found: list[tuple[str, Any, bool]] = []
    for name in operation.input.__struct_fields__:
        if name == operation.body:
            continue
        if name == operation.query:
            structure = without_none(hints[name])
            inner = get_type_hints(structure, include_extras=True)
            found += [
                (field, without_none(inner[field]), not optional(structure, field))
                for field in structure.__struct_fields__
            ]
        else:
            found.append((name, without_none(hints[name]), not optional(operation.input, name)))
    return found


def operation_entry(operation: AnyOperation, schemas: dict[str, Any]) -> dict[str, Any]:
    """One operation."""
    entry: dict[str, Any] = {
        "operationId": f"{operation.service}.{operation.wire_id}",
        "tags": [operation.service],
        "summary": operation.summary,
        "parameters": [
            {
                "name": name,
                "in": "path" if name in operation.path_parameters else "query",
                "required": required or name in operation.path_parameters,
                "schema": schemas[repr(hint)],
            }
            for name, hint, required in parameters(operation)
        ],
        "responses": responses(operation, schemas),
        "x-privileges": [f"{item.id}@{item.on}" if item.on else item.id for item in operation.privileges],
    }
    if operation.body is not None:
        entry["requestBody"] = {
            "required": not optional(operation.input, operation.body),
            "content": {JSON: {"schema": schemas[repr(body_type(operation))]}},
        }
    if operation.public:
        entry["security"] = [{"basic": []}]
    if operation.task and operation.output is not None:
        entry["x-task-result"] = schemas[repr(operation.output)]
    return entry


def responses(operation: AnyOperation, schemas: dict[str, Any]) -> dict[str, Any]:
    """Success, and the declared errors by status."""
    success: dict[str, Any] = {"description": "The id of the task" if operation.task else "Success"}
    if operation.task:
        success["content"] = {JSON: {"schema": {"type": "string"}}}
    elif operation.output is Download:
        success["content"] = {kind: {} for kind in operation.media_types}
    elif operation.output is not None:
        success["content"] = {JSON: {"schema": schemas[repr(operation.output)]}}
    found: dict[str, Any] = {str(operation.status): success}
    for status, names in error_names(operation).items():
        found[status] = {
            "description": ", ".join(names),
            "content": {JSON: {"schema": schemas[repr(ErrorBody)]}},
        }
    return found


def error_names(operation: AnyOperation) -> dict[str, list[str]]:
    """error_type values by HTTP status."""
    declared: Sequence[type[VapiError]] = (Unauthenticated, *operation.errors)
    if operation.privileges:
        declared = (*declared, Unauthorized)
    by_status: dict[str, list[str]] = {}
    for error in declared:
        names = by_status.setdefault(str(error.status), [])
        if error.error_type not in names:
            names.append(error.error_type)
    return by_status
