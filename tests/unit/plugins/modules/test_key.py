# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys of standard providers: one for an object, made once; forgotten by its id."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import ApiError, Call

KEYS = "/trust/keys"
USE = {"component": "Virtual Machine", "name": "db1", "identifier": "52d3-77"}
WANTED = {"cluster": "one", "provider": "finance", **USE}
BODY = {**WANTED, "cluster": "domain-c1"}
MAKE = Call("POST", KEYS, BODY)


def row(key_id: str = "7", **more: Any) -> dict[str, Any]:
    """As the API gives a key."""
    seen = {"created": "2026-11-21T19:45:01.000Z", "checked": "2026-11-22T07:00:00.000Z", "hosts": ["host1"]}
    return {"key_id": key_id, **BODY, "state": "ACTIVE", **seen, **more}


def server(client: Any, *rows: Any) -> Any:
    unreachable = [{"id": "x", "default_message": "host3: cannot be reached", "args": ["host3"]}]
    answer = {"key_id": "8", "provider": "finance", "unreachable": unreachable}
    return client({("GET", KEYS): list(rows), ("POST", KEYS): answer, ("DELETE", f"{KEYS}/a%2Fb"): None})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"cluster": "one", "provider": "finance"},
            "missing: component, name, identifier",
        ),
        ({"state": "absent", "provider": "finance"}, "missing: key_id"),
        ({"state": "absent", "key_id": "7"}, "provider"),
        ({**WANTED, "key_id": "7"}, "key_id: is used with state=absent only"),
        ({**WANTED, "identifier": ""}, "identifier: must not be empty"),
    ],
)
def test_what_is_not_clear_is_refused(run_module: Any, client: Any, given: dict[str, Any], said: str) -> None:
    fake = server(client)
    result = run_module("key", fake, **given)
    assert (result["failed"], said in result["msg"], fake.calls) == (True, True, [])


@pytest.mark.parametrize(
    "rows",
    [
        [],
        # Found by its name, or as another component's: another object's.
        [row(identifier="52d3-78"), row(name="52d3-77", identifier="x"), row(component="Host")],
    ],
)
def test_a_key_is_made(run_module: Any, client: Any, rows: list[Any]) -> None:
    fake = server(client, *rows)
    predicted = run_module("key", fake, check=True, **WANTED)
    assert (predicted["changed"], fake.changes, "key_id" in predicted) == (True, [], False)
    result = run_module("key", fake, **WANTED)
    assert fake.changes == [MAKE]
    assert (result["changed"], result["key_id"]) == (True, "8")
    assert [one["args"] for one in result["unreachable_hosts"]] == [["host3"]]
    made = {"key_id": "<new>", **BODY, "state": "ACTIVE"}
    assert result["resource"] == predicted["resource"] == result["diff"]["after"] == made
    asked = next(call for call in fake.calls if call.path == KEYS)
    assert asked.query[:3] == (("providers", "finance"), ("clusters", "domain-c1"), ("objects", "52d3-77"))


@pytest.mark.parametrize(
    ("rows", "key_id"),
    [
        ([row()], "7"),
        ([row(name="db1-old")], "7"),
        ([row("1", state="MISSING")], "1"),
        ([row("1"), row("2", state="DEACTIVATED", created="2026-11-22T07:00:00.000Z")], "1"),
        ([row("1"), row("2", created="2026-11-22T07:00:00.000Z"), row("3")], "2"),
    ],
)
def test_a_key_that_is_there_is_that_key(run_module: Any, client: Any, rows: list[Any], key_id: str) -> None:
    fake = server(client, *rows)
    for check in (False, True):
        result = run_module("key", fake, check=check, **WANTED)
        assert (result["changed"], result["key_id"], result["unreachable_hosts"]) == (False, key_id, [])
        assert result["diff"]["before"] == result["diff"]["after"] == result["resource"]
    assert fake.changes == []


def test_a_cluster_that_is_not_there(run_module: Any, client: Any) -> None:
    """In check mode, the same run may make it."""
    fake = server(client)
    given = {**WANTED, "cluster": "two"}
    assert run_module("key", fake, check=True, **given)["changed"] is True
    result = run_module("key", fake, **given)
    assert (result["failed"], result["error_type"], fake.changes) == (True, "NOT_FOUND", [])


def test_a_key_is_forgotten(run_module: Any, client: Any) -> None:
    given = {"provider": "finance", "key_id": "a/b", "state": "absent"}
    provider = ("provider", "finance")
    for force, query in ((False, (provider,)), (True, (provider, ("force", "true")))):
        fake = server(client, row(), row("a/b"))
        assert run_module("key", fake, check=True, force=force, **given)["changed"] is True
        assert fake.changes == []
        result = run_module("key", fake, force=force, **given)
        assert (result["changed"], result["resource"], "key_id" in result) == (True, None, False)
        assert fake.changes == [Call("DELETE", f"{KEYS}/a%2Fb", query=query)]
    fake = server(client, row())
    assert run_module("key", fake, **given)["changed"] is False
    assert fake.changes == []


def test_a_key_that_is_in_use_is_refused_by_the_manager(run_module: Any, client: Any) -> None:
    """Check mode says so from what it reads."""
    given = {"provider": "finance", "key_id": "a/b", "state": "absent"}
    fake = server(client, row("a/b", used_since="2026-11-21T19:45:01.000Z", name=""))
    fake.answers["DELETE", f"{KEYS}/a%2Fb"] = ApiError("in use", "NOT_ALLOWED_IN_CURRENT_STATE", 400)
    predicted = run_module("key", fake, check=True, **given)
    assert (predicted["changed"], fake.changes) == (True, [])
    assert "the key a/b is put to use for the object " in str(predicted["warnings"])
    result = run_module("key", fake, **given)
    assert (result["failed"], result["changed"], result["msg"]) == (True, False, "in use")
    assert "warnings" not in run_module("key", fake, check=True, **given, force=True)
