# SPDX-License-Identifier: GPL-3.0-or-later
"""Users, groups, roles and permissions of a manager: which calls each wanted state takes."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import ApiError, Call
from ansible_collections.trusted.infrastructure.plugins.modules import (
    manager_group,
    manager_permission,
    manager_role,
    manager_user,
)
from ansible_collections.trusted.infrastructure.plugins.modules.manager_role import Found

USER = {"user": "eve", "description": "x"}
CHANGED = {"password": "<changed>"}
NEW = {"user": "eve", "description": "", "password": "a secret"}


@pytest.mark.parametrize(
    ("current", "description", "password", "update", "state", "after", "calls"),
    [
        (None, None, None, "on_create", "absent", None, ()),
        (USER, None, None, "on_create", "absent", None, (Call("DELETE", "/trust/users/eve"),)),
        (
            None,
            None,
            "a secret",
            "on_create",
            "present",
            {"user": "eve", "description": "", **CHANGED},
            (Call("POST", "/trust/users", NEW),),
        ),
        (USER, None, "a secret", "on_create", "present", USER, ()),
        (USER, "x", None, "always", "present", USER, ()),
        (
            USER,
            "y",
            "a secret",
            "on_create",
            "present",
            {**USER, "description": "y"},
            (Call("PATCH", "/trust/users/eve", {"description": "y"}),),
        ),
        (
            USER,
            None,
            "a secret",
            "always",
            "present",
            {**USER, **CHANGED},
            (Call("PATCH", "/trust/users/eve", {"password": "a secret"}),),
        ),
    ],
)
def test_user(
    current: Any, description: Any, password: Any, update: str, state: str, after: Any, calls: Any
) -> None:
    planned = manager_user.plan(current, False, "eve", description, password, update, state)
    assert (planned.before, planned.after, planned.calls) == (current, after, calls)
    assert "a secret" not in str([planned.before, planned.after])
    assert planned.refused is None
    fixed = manager_user.plan(current, current is not None, "eve", description, password, update, state)
    assert ("inventory" in str(fixed.refused)) is bool(current and calls)


def test_a_user_is_not_made_without_a_password() -> None:
    with pytest.raises(ApiError, match="user_password is needed"):
        manager_user.plan(None, False, "eve", None, None, "always", "present")


def test_no_output_has_the_password(run_module: Any, client: Any) -> None:
    fake = client(
        {
            ("GET", "/trust/users/eve"): ApiError("none", "NOT_FOUND", 404),
            ("POST", "/trust/users"): ApiError("spec.password: is too simple", "INVALID_ARGUMENT", 400),
        }
    )
    result = run_module("manager_user", fake, name="eve", user_password="a known secret")
    assert result["failed"] is True
    assert "a known secret" not in result.output
    assert fake.changes[0].body["password"] == "a known secret"


def group(*members: str, description: str = "x") -> dict[str, Any]:
    return {"group": "g", "description": description, "members": list(members)}


def put(user: str) -> Call:
    return Call("PUT", f"/trust/groups/g/members/{user}")


def take(user: str) -> Call:
    return Call("DELETE", f"/trust/groups/g/members/{user}")


POST = Call("POST", "/trust/groups", {"group": "g", "description": ""})
PATCH = Call("PATCH", "/trust/groups/g", {"description": "y"})


@pytest.mark.parametrize(
    ("current", "description", "members", "exclusive", "state", "after", "calls"),
    [
        (None, None, ["b"], True, "absent", None, ()),
        (group("a"), None, [], False, "absent", None, (Call("DELETE", "/trust/groups/g"),)),
        (None, None, [], False, "present", group(description=""), (POST,)),
        (
            None,
            None,
            ["b", "a"],
            True,
            "present",
            group("a", "b", description=""),
            (POST, put("a"), put("b")),
        ),
        (group("a"), None, ["b"], False, "present", group("a", "b"), (put("b"),)),
        (group("a"), None, ["b"], True, "present", group("b"), (put("b"), take("a"))),
        (group("a"), None, [], False, "present", group("a"), ()),
        (group("a", "fixed"), None, [], True, "present", group("fixed"), (take("a"),)),
        (group("a"), "y", ["a"], False, "present", group("a", description="y"), (PATCH,)),
    ],
)
def test_group(
    current: Any, description: Any, members: Any, exclusive: bool, state: str, after: Any, calls: Any
) -> None:
    fixed = {"fixed"} if current and "fixed" in current["members"] else set()
    planned = manager_group.plan(current, False, fixed, "g", description, members, exclusive, state)
    assert (planned.before, planned.after, planned.calls) == (current, after, calls)
    assert planned.refused is None
    if current is not None:
        system = manager_group.plan(current, True, fixed, "g", description, members, exclusive, state)
        changed = state == "absent" or description not in (None, current["description"])
        assert ("built in" in str(system.refused)) is changed


SYSTEM = ["System.Anonymous", "System.Read", "System.View"]
ROLE = {"role": "r", "description": "x", "privileges": ["Host.Tpm.Read", *SYSTEM]}


@pytest.mark.parametrize(
    ("current", "description", "wanted", "state", "changes"),
    [
        (ROLE, None, ["Host.Tpm.Read"], "present", {}),
        (ROLE, "x", ["System.View", "Host.Tpm.Read"], "present", {}),
        (ROLE, "y", ["Host.Tpm.Read"], "present", {"description": "y"}),
        (ROLE, None, [], "present", {"privileges": SYSTEM}),
    ],
)
def test_role(current: Any, description: Any, wanted: Any, state: str, changes: Any) -> None:
    planned = manager_role.plan(Found(current), "r", description, wanted, state)
    assert planned.after == {**ROLE, **changes}
    assert planned.calls == ((Call("PATCH", "/trust/roles/r", changes),) if changes else ())
    assert planned.refused is None
    system = manager_role.plan(Found(current, system=True), "r", description, wanted, state)
    assert ("built in" in str(system.refused)) is bool(changes)


def test_role_made_and_removed() -> None:
    made = manager_role.plan(Found(None), "r", None, ["Host.Tpm.Read"], "present")
    body = {**ROLE, "description": ""}
    assert (made.after, made.calls) == (body, (Call("POST", "/trust/roles", body),))
    gone = manager_role.plan(Found(ROLE), "r", None, None, "absent")
    assert (gone.calls, gone.refused) == ((Call("DELETE", "/trust/roles/r"),), None)
    assert manager_role.plan(Found(None), "r", None, None, "absent").calls == ()


def test_a_role_that_stays_is_said_in_check_mode(run_module: Any, client: Any) -> None:
    """Who has it is asked where it is to be removed only."""
    role = {**ROLE, "label": "r", "system": False}
    rows = [{"principal": name} for name in ("eve", "adam", "eve")]
    fake = client({("GET", "/trust/roles/r"): role, ("GET", "/trust/permissions"): rows})
    result = run_module("manager_role", fake, check=True, name="r", state="absent")
    assert (result["changed"], fake.changes) == (True, [])
    assert "first: adam, eve" in str(result["warnings"])
    assert fake.calls[-1].query == (("roles", "r"),)
    fake = client({("GET", "/trust/roles/r"): {**role, "system": True}})
    result = run_module("manager_role", fake, check=True, name="r", privileges=[])
    assert (result["failed"], "built in" in result["msg"]) == (True, True)


TARGET = {"principal": "p", "principal_type": "USER"}
HELD = {**TARGET, "role": "ReadOnly", "propagate": True}
ONE = "/trust/permissions/permission-1"


@pytest.mark.parametrize(
    ("current", "role", "propagate", "state", "after", "calls"),
    [
        (None, "ReadOnly", True, "present", HELD, (Call("POST", "/trust/permissions", HELD),)),
        (HELD, "ReadOnly", True, "present", HELD, ()),
        (HELD, "x", True, "present", {**HELD, "role": "x"}, (Call("PATCH", ONE, {"role": "x"}),)),
        (
            HELD,
            "ReadOnly",
            False,
            "present",
            {**HELD, "propagate": False},
            (Call("PATCH", ONE, {"propagate": False}),),
        ),
        (HELD, None, True, "absent", None, (Call("DELETE", ONE),)),
        (None, None, True, "absent", None, ()),
    ],
)
def test_permission(current: Any, role: Any, propagate: bool, state: str, after: Any, calls: Any) -> None:
    planned = manager_permission.plan(TARGET, current, "permission-1", role, propagate, state)
    assert (planned.before, planned.after, planned.calls) == (current, after, calls)


@pytest.mark.parametrize(
    ("kind", "cluster", "found"),
    [
        ("user", None, "permission-1"),
        ("group", None, "permission-2"),
        ("user", "one", "permission-3"),
        ("group", "domain-c1", ""),
    ],
)
def test_which_permission_is_meant(client: Any, kind: str, cluster: Any, found: str) -> None:
    row = {"principal": "p", "role": "ReadOnly", "propagate": True}
    rows = [
        {**row, "permission": "permission-1", "principal_type": "USER"},
        {**row, "permission": "permission-2", "principal_type": "GROUP"},
        {**row, "permission": "permission-3", "principal_type": "USER", "cluster": "domain-c1"},
    ]
    with client({("GET", "/trust/permissions"): rows}) as session:
        target, state, permission = manager_permission.read(session, "p", kind, cluster)
    assert permission == found
    assert (state is not None) is bool(found)
    assert target.get("cluster") == ("domain-c1" if cluster else None)
