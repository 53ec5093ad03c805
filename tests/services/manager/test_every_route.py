# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for every operation of the table: made from it, so that a new operation is covered at once."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from services.manager.harness import PASSWORD, Api, write_users

from trusted_infrastructure.manager.operations import TABLE
from trusted_infrastructure.manager.vapi.binding import optional
from trusted_infrastructure.manager.vapi.operation import AnyOperation

KNOWN = {"cluster": "domain-c1", "host": "host-1", "ek_digest": "ab" * 32}
SYNCHRONOUS_TARGETS = ("cluster", "host")


def path_of(operation: AnyOperation, **values: str) -> str:
    """The path with parameters filled in, and the query that chooses the operation."""
    filled = {**dict.fromkeys(operation.path_parameters, "nothing"), **KNOWN, **values}
    query = [f"action={operation.action}"] if operation.action else []
    query += ["vmw-task=true"] if operation.task else []
    return operation.path.format(**filled) + ("?" + "&".join(query) if query else "")


def label(operation: AnyOperation) -> str:
    """Name of a test case."""
    return (
        f"{operation.service.removeprefix('com.vmware.vcenter.trusted_infrastructure.')}-{operation.wire_id}"
    )


def cases(operations: list[AnyOperation]) -> pytest.MarkDecorator:
    """One case for each operation."""
    assert operations
    return pytest.mark.parametrize("operation", operations, ids=[label(item) for item in operations])


@pytest.fixture(autouse=True)
def administrator(sides) -> None:
    """Each test begins as the administrator."""
    for api in sides.values():
        users = api.manager.settings.users
        write_users(users, [{"name": "administrator", "privileges": ["*"]}])
        assert api.login().status_code == 201


def own_side(operation: AnyOperation, sides: Mapping[str, Api]) -> Api:
    """A manager that has the operation."""
    return sides[operation.side or "trust_authority"]


@cases([item for item in TABLE if not item.public])
def test_without_a_session_it_is_401(operation, sides) -> None:
    api = sides["trust_authority"]
    api.session = ""
    response = api.request(operation.method, path_of(operation))
    assert response.status_code == 401
    assert response.json()["error_type"] == "UNAUTHENTICATED"
    assert "www-authenticate" in response.headers
    api.session = "0" * 64
    assert api.request(operation.method, path_of(operation)).status_code == 401


@cases([item for item in TABLE if item.privileges])
def test_each_missing_privilege_is_403(operation, sides) -> None:
    api = own_side(operation, sides)
    needed = {privilege.id for privilege in operation.privileges}
    entries = [{"name": f"without {missing}", "privileges": sorted(needed - {missing})} for missing in needed]
    entries.append({"name": "elsewhere", "privileges": sorted(needed), "cluster": "other"})
    write_users(api.manager.settings.users, entries)
    for missing in needed:
        assert api.login(f"without {missing}", PASSWORD).status_code == 201
        response = api.request(operation.method, path_of(operation))
        assert response.status_code == 403
        assert response.json()["error_type"] == "UNAUTHORIZED"
        assert response.json()["messages"][0]["args"] == [missing]
    if set(operation.path_parameters) & {"cluster", "host"} or operation.changes:
        api.login("elsewhere", PASSWORD)
        assert api.request(operation.method, path_of(operation)).status_code == 403


@cases([item for item in TABLE if set(item.path_parameters) & {"cluster", "host"}])
def test_unknown_objects_are_404(operation, sides) -> None:
    api = own_side(operation, sides)
    for name in set(operation.path_parameters) & {"cluster", "host"}:
        response = api.request(operation.method, path_of(operation, **{name: "unknown"}))
        assert response.status_code == 404
        assert response.json()["error_type"] == "NOT_FOUND"
        assert "unknown" in response.json()["messages"][0]["default_message"]


@cases([item for item in TABLE if item.side])
def test_objects_of_the_other_side_are_404_and_changes_are_unsupported(operation, sides) -> None:
    other = "workload" if operation.side == "trust_authority" else "trust_authority"
    api = sides[other]
    response = api.request(operation.method, path_of(operation))
    if set(operation.path_parameters) & {"cluster", "host"}:
        assert (response.status_code, response.json()["error_type"]) == (404, "NOT_FOUND")
    elif operation.changes:
        assert (response.status_code, response.json()["error_type"]) == (400, "UNSUPPORTED")


@cases([item for item in TABLE if item.task])
def test_a_task_only_operation_says_so(operation, sides) -> None:
    api = own_side(operation, sides)
    path = re.sub(r"[?&]vmw-task=true", "", path_of(operation))
    response = api.request(operation.method, path)
    assert response.status_code == 400
    assert response.json()["error_type"] == "INVALID_ARGUMENT"
    assert response.json()["messages"][0]["args"] == ["vmw-task", operation.wire_id]
    separator = "&" if "?" in path else "?"
    assert api.request(operation.method, f"{path}{separator}vmw-task=false").status_code == 400


@cases([item for item in TABLE if not item.task and not item.public and not item.path.startswith("/session")])
def test_other_operations_are_no_tasks(operation, sides) -> None:
    api = own_side(operation, sides)
    path = path_of(operation)
    response = api.request(operation.method, f"{path}{'&' if '?' in path else '?'}vmw-task=true")
    assert response.status_code == 400
    assert response.json()["messages"][0]["args"][0] == "vmw-task"


@cases([item for item in TABLE if not item.path.startswith("/session")])
def test_unknown_query_parameters_are_named(operation, sides) -> None:
    api = own_side(operation, sides)
    path = path_of(operation)
    response = api.request(operation.method, f"{path}{'&' if '?' in path else '?'}surprise=1")
    assert response.status_code == 400
    assert response.json()["messages"][0]["args"] == ["surprise"]


@cases([item for item in TABLE if item.body])
def test_bad_bodies_are_400_and_named(operation, sides) -> None:
    api = own_side(operation, sides)
    path, field = path_of(operation), operation.body
    bodies = [b"{", b"\xff\xfe", b"[1, 2]", b"7", b'{"surprise": 1}', b"[" * 200 + b"]" * 200]
    if not optional(operation.input, field):
        bodies.append(b"")
    for body in bodies:
        response = api.request(operation.method, path, content=body)
        assert response.status_code == 400, (body, response.text)
        assert response.json()["error_type"] == "INVALID_ARGUMENT"
        assert response.json()["messages"][0]["args"][0].split(".")[0].split("[")[0] == field


@cases([item for item in TABLE if item.body is None and not item.public])
def test_bodies_where_there_is_none_are_400(operation, sides) -> None:
    api = own_side(operation, sides)
    for body in (b"[]", b"7", b"{", b'{"surprise": 1}'):
        response = api.request(operation.method, path_of(operation), content=body)
        assert response.status_code == 400, (body, response.text)


@cases([item for item in TABLE if item.body])
def test_bodies_have_a_largest_size(operation, sides) -> None:
    api = own_side(operation, sides)
    response = api.request(operation.method, path_of(operation), content=b" " * (operation.limit + 1))
    assert response.status_code == 400
    assert response.json()["messages"][0]["args"] == ["body"]


def test_unknown_paths_are_404_in_the_vsphere_form(sides) -> None:
    api = sides["trust_authority"]
    for method, path in [
        ("GET", ""),
        ("GET", "/"),
        ("GET", "/nothing"),
        ("GET", "/vcenter/trusted-infrastructure/nothing"),
        ("PUT", "/session"),
        ("TRACE", "/session"),
        ("GET", "/vcenter/trusted-infrastructure/trust-authority-hosts//attestation"),
    ]:
        response = api.request(method, path)
        assert response.status_code == 404, (method, path)
        assert response.json()["error_type"] == "NOT_FOUND"
        assert response.json()["data"] == {}


def test_unknown_actions_are_400_and_named(sides) -> None:
    api = sides["trust_authority"]
    response = api.request("POST", "/trust/clusters/one?action=explode")
    assert (response.status_code, response.json()["messages"][0]["args"]) == (400, ["action"])


def test_an_unexpected_exception_becomes_an_incident(sides, monkeypatch) -> None:
    api = sides["trust_authority"]

    def fail(*_arguments: object) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(type(api.manager.sessions), "end", fail)
    response = api.request("DELETE", "/session")
    assert response.status_code == 503
    body = response.json()
    assert body["error_type"] == "SERVICE_UNAVAILABLE"
    assert body["messages"][0]["id"] == "trusted.infrastructure.incident"
    assert "secret" not in response.text


def test_the_table_has_what_vsphere_has() -> None:
    """Services and operations of the reference that this project offers."""
    assert len({(item.service, item.wire_id) for item in TABLE}) == len(TABLE)
    for operation in TABLE:
        assert operation.summary
        assert not operation.path.endswith("/")
        for name in (operation.body, operation.query):
            assert name is None or name in operation.input.__struct_fields__
        assert set(operation.path_parameters) <= set(operation.input.__struct_fields__)


def test_the_openapi_document_has_every_operation(sides) -> None:
    api = sides["trust_authority"]
    found = api.ok("GET", "/trust/openapi")
    ids = {entry["operationId"] for path in found["paths"].values() for entry in path.values()}
    assert ids == {f"{operation.service}.{operation.wire_id}" for operation in TABLE}
    assert found["openapi"] == "3.1.0"
