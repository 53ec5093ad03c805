# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests that nobody sends by mistake, against every operation: made from the table, bounded, repeatable.

A sample input is made from each operation's types; then one value after the other is replaced by each hostile
one. Whatever comes back is in the form of the vSphere API, names the field, and is never an incident.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest
from msgspec import inspect
from services.manager.harness import Api, write_users
from services.manager.test_every_route import cases, own_side, path_of

from trusted_infrastructure.manager.operations import TABLE
from trusted_infrastructure.manager.vapi.binding import without_none
from trusted_infrastructure.manager.vapi.operation import AnyOperation

STATUS = {
    "ALREADY_EXISTS": 400,
    "INVALID_ARGUMENT": 400,
    "UNSUPPORTED": 400,
    "NOT_ALLOWED_IN_CURRENT_STATE": 400,
    "UNAUTHENTICATED": 401,
    "UNAUTHORIZED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_BUSY": 500,
    "RESOURCE_INACCESSIBLE": 500,
    "UNABLE_TO_ALLOCATE_RESOURCE": 500,
    "SERVICE_UNAVAILABLE": 503,
}
DEEP: Any = []
for _level in range(60):
    DEEP = [DEEP]
HOSTILE: list[Any] = [
    None,
    True,
    0,
    -1,
    2**63,
    10**400,
    1e308,
    "",
    " ",
    "\x00",
    "a\nb",
    "..",
    "../../etc/passwd",
    "a/b",
    "%2e%2e%2f",
    "\u202e\ufeff",
    "e\u0301\U0001f511",
    "' OR 1=1 --",
    "{{ 7 * 7 }}",
    "a" * 5000,
    "AAAA",
    "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    [],
    [None],
    [[]],
    ["a"] * 300,
    {},
    {"": ""},
    {"__class__": "x"},
    DEEP,
]
RAW_BODIES = [
    b'"\\ud800"',
    b'{"name": "\\ud800"}',
    b'{"\\udfff": 1}',
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"\x00",
    b"\xef\xbb\xbf{}",
    b"NaN",
    b"-",
    b"1" * 5000,
    b"{}{}",
    b'{"spec": {"spec": {}}}',
]
SEGMENTS = [
    "%00",
    "%ff",
    "..",
    ".",
    "%2e%2e",
    "a%2fb",
    "%F0%9F%94%91",
    "%0d%0a",
    "'",
    "a" * 4000,
    "-1",
    "%25",
]
# Two values of every list and one of every optional field: enough to reach each of them.
SAMPLES: dict[type, Any] = {
    inspect.BoolType: True,
    inspect.IntType: 1,
    inspect.FloatType: 1.0,
    inspect.StrType: "sample",
    inspect.AnyType: "sample",
    inspect.NoneType: None,
}


@pytest.fixture(autouse=True)
def administrator(sides) -> None:
    """Each test begins as the administrator."""
    for api in sides.values():
        write_users(api.manager.settings.users, [{"name": "administrator", "privileges": ["*"]}])
        assert api.login().status_code == 201


def sample(kind: inspect.Type) -> Any:
    """A JSON value of the type, every optional field set."""
    if isinstance(kind, inspect.Metadata):
        return sample(kind.type)
    if isinstance(kind, inspect.UnionType):
        return sample(next(item for item in kind.types if not isinstance(item, inspect.NoneType)))
    if isinstance(kind, inspect.StructType):
        return {field.encode_name: sample(field.type) for field in kind.fields}
    if isinstance(kind, inspect.ListType | inspect.SetType | inspect.FrozenSetType):
        return [sample(kind.item_type)]
    if isinstance(kind, inspect.DictType):
        return {"key": sample(kind.value_type)}
    if isinstance(kind, inspect.LiteralType | inspect.EnumType):
        return kind.values[0] if isinstance(kind, inspect.LiteralType) else next(iter(kind.cls)).value
    return SAMPLES[type(kind)]


def mutations(value: Any) -> Iterator[Any]:
    """The value with one part replaced by each hostile one, for all parts, and with an unknown field."""
    yield from HOSTILE
    if isinstance(value, dict):
        yield {**value, "surprise": 1}
        for name, item in value.items():
            yield {key: other for key, other in value.items() if key != name}
            for changed in mutations(item):
                yield {**value, name: changed}
    elif isinstance(value, list):
        for changed in mutations(value[0]):
            yield [changed]
        yield value * 2


def body_type(operation: AnyOperation) -> inspect.Type:
    """The type of the operation's body."""
    fields = {field.name: field.type for field in msgspec.structs.fields(operation.input)}
    return inspect.type_info(without_none(fields[str(operation.body)]))


def check(api: Api, response: httpx.Response, request: object) -> None:
    """The answer, and the end of the task that it may have started, are as the API says."""
    told = (str(request)[:400], response.text[:400])
    assert response.status_code < 300 or response.headers["content-type"] == "application/json", told
    if response.status_code == 204:
        return
    content = response.json()
    if response.status_code == 202:
        info = api.ok("GET", f"/cis/tasks/{content}")
        if info["status"] == "FAILED":
            check_error(info["error"], told)
    elif not response.is_success:
        assert response.status_code == STATUS[content["error_type"]], told
        check_error(content, told)


def check_error(error: dict[str, Any], told: object) -> None:
    """An error in vSphere's form, which is no incident and names the field where input was bad."""
    assert set(error) == {"error_type", "messages", "data"}, told
    first = error["messages"][0]
    assert {"id", "default_message", "args"} <= set(first), told
    assert first["id"] != "trusted.infrastructure.incident", told
    assert len(first["default_message"]) < 2000, told
    if error["error_type"] == "INVALID_ARGUMENT":
        assert first["args"], told
        assert first["args"][0], told
        assert first["default_message"].startswith(first["args"][0]), told


@cases([item for item in TABLE if item.body])
def test_hostile_values_in_bodies(operation, sides) -> None:
    api, path = own_side(operation, sides), path_of(operation)
    for value in mutations(sample(body_type(operation))):
        content = json.dumps(value).encode()
        check(api, api.request(operation.method, path, content=content), content)


@cases([item for item in TABLE if not item.public])
def test_hostile_bytes_in_bodies(operation, sides) -> None:
    api, path = own_side(operation, sides), path_of(operation)
    for content in RAW_BODIES:
        check(api, api.request(operation.method, path, content=content), content)


@cases([item for item in TABLE if item.path_parameters])
def test_hostile_path_parameters(operation, sides) -> None:
    api = own_side(operation, sides)
    for name in operation.path_parameters:
        for segment in SEGMENTS:
            path = path_of(operation, **{name: segment})
            check(api, api.request(operation.method, path), path)


@cases([item for item in TABLE if not item.public])
def test_hostile_query_parameters(operation, sides) -> None:
    api, path = own_side(operation, sides), path_of(operation)
    values = ["", "--5", "-", "%00", "%ff", "true", "9" * 30, "1e5", "%D9%A3", "[]", "a" * 3000]
    for name in query_names(operation):
        for value in values:
            changed = f"{path}{'&' if '?' in path else '?'}{name}={value}"
            check(api, api.request(operation.method, changed), changed)
    for query in ("&", "=", "a", "a=b=c;d", "%", "&&&", "vmw-task=true&vmw-task=true", "action="):
        check(api, api.request(operation.method, f"{path.split('?')[0]}?{query}"), query)


def query_names(operation: AnyOperation) -> list[str]:
    """Names of the operation's query parameters."""
    fields = {field.name: field.type for field in msgspec.structs.fields(operation.input)}
    names = [
        name for name in fields if name not in {*operation.path_parameters, operation.body, operation.query}
    ]
    if operation.query:
        names += [field.name for field in msgspec.structs.fields(without_none(fields[operation.query]))]
    return names


@cases([item for item in TABLE if not item.public])
def test_methods_that_a_path_does_not_have(operation, sides) -> None:
    api, path = own_side(operation, sides), path_of(operation)
    for method in ("HEAD", "OPTIONS", "PUT", "TRACE", "BREW"):
        if method == operation.method:
            continue
        response = api.request(method, path)
        assert response.status_code in {400, 404}
        if method != "HEAD":
            check(api, response, (method, path))


@cases([item for item in TABLE if not item.public])
def test_slashes_where_they_do_not_belong(operation, sides) -> None:
    api, path = own_side(operation, sides), path_of(operation)
    plain, _mark, query = path.partition("?")
    for changed in (f"/{plain}", plain.replace("/", "//"), f"{plain}//", f"/%2e%2e{plain}"):
        changed = f"{changed}?{query}"
        assert api.request(operation.method, changed).status_code == 404, changed


def test_more_task_ids_than_a_query_of_the_database_takes(sides) -> None:
    api = sides["trust_authority"]
    content = json.dumps({"filter_spec": {"tasks": ["a"] * 60_000}})
    response = api.request("POST", "/cis/tasks?action=list", content=content)
    check(api, response, "60000 tasks")
    services = {"filter_spec": {"services": ["a"] * 60_000}}
    check(api, api.request("POST", "/cis/tasks?action=list", content=json.dumps(services)), "60000 services")


def test_hostile_headers(sides) -> None:
    api = sides["trust_authority"]
    basic = base64.b64encode
    values = [
        "Basic",
        "Basic ",
        "Basic !!!!",
        "Bearer abc",
        f"Basic {basic(bytes([255, 58, 255])).decode()}",
        f"Basic {basic(b'nocolon').decode()}",
        f"Basic {basic(b':').decode()}",
        f"Basic {basic(b'a' * 9000 + b':b').decode()}",
        f"Basic {basic(b'a:' + b'b' * 9000).decode()}",
        f"Basic {basic(chr(0).encode() + b':' + chr(0).encode()).decode()}",
    ]
    for number, value in enumerate(values):
        headers = {"authorization": value, "x-real-ip": f"192.0.2.{number}"}
        response = api.request("POST", "/session", headers=headers)
        assert response.status_code == 401, value[:40]
        check(api, response, value[:40])
    kept, api.session = api.session, ""
    for value in ("", "0", "a" * 9000, kept.upper(), kept[:-1], f"{kept}0", f" {kept} x"):
        response = api.request("GET", "/session", headers={"vmware-api-session-id": value})
        assert response.status_code == 401, value[:40]
        check(api, response, value[:40])
