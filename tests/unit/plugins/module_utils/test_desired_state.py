# SPDX-License-Identifier: GPL-3.0-or-later
"""What run() and inform() do with a plan, seen through modules that are made up here."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils import desired_state
from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import Plan
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import ApiError, Call
from ansible_collections.trusted.infrastructure.plugins.modules import cluster

READ = Call("GET", "/thing")
DELETE, CREATE, RESTORE = Call("DELETE", "/thing"), Call("POST", "/thing"), Call("PUT", "/thing")
MISSING = ApiError("no cluster is named one", "NOT_FOUND", 404)


@pytest.fixture
def run_plan(run_module: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a module that is nothing but a plan: run_plan(client, plan, ...) -> Result."""

    def run(client: Any, plan: Any, *, state: str = "present", check: bool = False) -> Any:
        def main() -> None:
            arguments = {**connection_arguments(), "state": {"type": "str"}}
            module = AnsibleModule(argument_spec=arguments, supports_check_mode=True)
            desired_state.run(
                module,
                lambda session: session.call(READ),
                plan if callable(plan) else lambda _found: plan,
                lambda _planned, answers: {"answers": answers},
            )

        monkeypatch.setattr(cluster, "main", main)
        return run_module("cluster", client, check=check, state=state)

    return run


@pytest.fixture
def run_inform(run_module: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a module that only informs: run_inform(client, key, absent) -> Result."""

    def run(client: Any, key: str | None, absent: Any = None) -> Any:
        def main() -> None:
            module = AnsibleModule(argument_spec=connection_arguments(), supports_check_mode=True)
            desired_state.inform(module, key, lambda session: session.call(READ), absent)

        monkeypatch.setattr(cluster, "main", main)
        return run_module("cluster", client)

    return run


def replace() -> Plan:
    return Plan({"a": 1}, {"a": 2}, (DELETE, CREATE), (RESTORE,))


ANSWERS = {
    ("GET", "/thing"): {},
    ("DELETE", "/thing"): "gone",
    ("POST", "/thing"): "made",
    ("PUT", "/thing"): None,
}


@pytest.mark.parametrize(
    "current, wanted, expected",
    [
        ({}, {}, {}),
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": 1}, {"a": None}, {}),
        ({}, {"a": 0}, {"a": 0}),
        ({"a": None}, {"a": False}, {"a": False}),
        ({"a": True}, {"a": False, "b": []}, {"a": False, "b": []}),
    ],
)
def test_differs(current: dict[str, Any], wanted: dict[str, Any], expected: dict[str, Any]) -> None:
    assert desired_state.differs(current, wanted) == expected


def test_a_plan_without_calls_changes_nothing(run_plan: Any, client: Any) -> None:
    result = run_plan(client(ANSWERS), Plan({"a": 1}, {"a": 1}))
    assert (result["changed"], result["resource"], result["answers"]) == (False, {"a": 1}, [])
    assert result["diff"] == {"before": {"a": 1}, "after": {"a": 1}}


def test_a_plan_is_carried_out_in_order(run_plan: Any, client: Any) -> None:
    fake = client(ANSWERS)
    result = run_plan(fake, replace())
    assert fake.calls == [READ, DELETE, CREATE]
    assert (result["changed"], result["resource"], result["answers"]) == (True, {"a": 2}, ["gone", "made"])
    assert result["diff"] == {"before": {"a": 1}, "after": {"a": 2}}
    assert not fake.open


def test_check_mode_sends_no_call_and_predicts(run_plan: Any, client: Any) -> None:
    fake = client(ANSWERS)
    result = run_plan(fake, replace(), check=True)
    assert fake.calls == [READ]
    assert (result["changed"], result["resource"], result["answers"]) == (True, {"a": 2}, [])
    assert not fake.open


NAMES = {"master_key_id": "primary_key_id", "base_image": "path", "credential": "kmip_password"}


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("spec.master_key_id: is required", "primary_key_id (spec.master_key_id): is required"),
        ("POST /api/x: spec.master_key_id: no", "POST /api/x: primary_key_id (spec.master_key_id): no"),
        ("spec.base_image.pcrs[0].x: no", "path (spec.base_image.pcrs[0].x): no"),
        ("spec.base_image[1]: no", "path (spec.base_image[1]): no"),
        ("PUT /api/x/credential: credential: no", "PUT /api/x/credential: kmip_password (credential): no"),
        ("PUT /api/x/credential: no", "PUT /api/x/credential: no"),
        ("spec.servers[0].address.port: no", "spec.servers[0].address.port: no"),
        ("spec.the_credential: no", "spec.the_credential: no"),
        ("the key provider has no master_key_id", "the key provider has no master_key_id"),
    ],
)
def test_a_field_that_the_task_calls_by_another_name(said: str, shown: str) -> None:
    error = desired_state.in_words_of_task(ApiError(said, "INVALID_ARGUMENT", 400), NAMES)
    assert (str(error), error.error_type, error.status) == (shown, "INVALID_ARGUMENT", 400)
    assert str(desired_state.in_words_of_task(ApiError(said), {})) == said


def test_what_the_server_will_refuse_is_said_in_check_mode(run_plan: Any, client: Any) -> None:
    """Outside of it the server is asked, and decides: what was read may be another by then."""
    planned = Plan({"a": 1}, None, (DELETE,), refused=ApiError("It is in use.", "RESOURCE_BUSY", 500))
    fake = client(ANSWERS)
    result = run_plan(fake, planned, check=True)
    assert (result["failed"], result["changed"], result["msg"]) == (True, False, "It is in use.")
    assert (result["error_type"], fake.calls, fake.open) == ("RESOURCE_BUSY", [READ], False)
    result = run_plan(fake, planned)
    assert (result["changed"], result["answers"]) == (True, ["gone"])


def test_what_another_task_may_change_before_is_a_warning(run_plan: Any, client: Any) -> None:
    planned = Plan({"a": 1}, None, (DELETE,), hindered=ApiError("It is in use.", "RESOURCE_BUSY", 500))
    fake = client(ANSWERS)
    result = run_plan(fake, planned, check=True)
    assert (result["changed"], fake.calls) == (True, [READ])
    assert "As things are now, the server refuses this: It is in use." in str(result["warnings"])
    assert "warnings" not in run_plan(fake, planned)


def test_absent_shows_as_an_empty_diff(run_plan: Any, client: Any) -> None:
    result = run_plan(client(ANSWERS), Plan({"a": 1}, None, (DELETE,)))
    assert result["diff"] == {"before": {"a": 1}, "after": {}}
    assert result["resource"] is None


def test_a_refusal_gives_the_servers_words(run_plan: Any, client: Any) -> None:
    fake = client({**ANSWERS, ("DELETE", "/thing"): ApiError("It is in use.", "RESOURCE_BUSY", 500)})
    result = run_plan(fake, Plan({}, None, (DELETE,)))
    assert (result["failed"], result["changed"], result["msg"]) == (True, False, "It is in use.")
    assert (result["error_type"], result["status"]) == ("RESOURCE_BUSY", 500)
    assert "Traceback" not in result.output
    assert not fake.open


def test_what_was_done_before_a_failure_is_a_change(run_plan: Any, client: Any) -> None:
    fake = client({**ANSWERS, ("POST", "/thing"): ApiError("No.")})
    result = run_plan(fake, Plan({}, {}, (DELETE, CREATE)))
    assert (result["failed"], result["changed"], result["msg"]) == (True, True, "No.")


def test_what_cannot_be_replaced_is_put_back(run_plan: Any, client: Any) -> None:
    fake = client({**ANSWERS, ("POST", "/thing"): ApiError("No", "INVALID_ARGUMENT", 400)})
    result = run_plan(fake, replace())
    assert fake.calls == [READ, DELETE, CREATE, RESTORE]
    assert (result["failed"], result["changed"]) == (True, False)
    assert result["msg"] == "No. What was there before was put back."
    assert (result["error_type"], result["status"]) == ("INVALID_ARGUMENT", 400)


def test_what_cannot_be_put_back_is_said(run_plan: Any, client: Any) -> None:
    fake = client({**ANSWERS, ("POST", "/thing"): ApiError("No"), ("PUT", "/thing"): ApiError("Neither")})
    result = run_plan(fake, replace())
    assert (result["failed"], result["changed"]) == (True, True)
    assert result["msg"] == "No. What was there before is gone, and could not be put back: Neither"


def test_nothing_is_put_back_when_the_first_call_fails(run_plan: Any, client: Any) -> None:
    fake = client({**ANSWERS, ("DELETE", "/thing"): ApiError("No")})
    assert run_plan(fake, replace())["msg"] == "No"
    assert fake.calls == [READ, DELETE]


@pytest.mark.parametrize(
    "state, changed", [("present", True), ("enabled", True), ("absent", False), ("disabled", False)]
)
def test_check_mode_goes_on_before_anything_is_there(
    run_plan: Any, client: Any, state: str, changed: bool
) -> None:
    fake = client({("GET", "/thing"): MISSING})
    result = run_plan(fake, Plan(None, None), state=state, check=True)
    assert (result["changed"], result["resource"]) == (changed, None)
    assert result["diff"] == {"before": {}, "after": {}}
    assert "no cluster is named one; check mode takes it" in result.output
    assert not fake.open


@pytest.mark.parametrize("state", ["present", "absent"])
def test_a_missing_cluster_is_an_error_otherwise(run_plan: Any, client: Any, state: str) -> None:
    result = run_plan(client({("GET", "/thing"): MISSING}), Plan(None, None), state=state)
    assert (result["failed"], result["msg"]) == (True, "no cluster is named one")


@pytest.mark.parametrize(
    "error", [ApiError("refused"), ApiError("no", "UNAUTHORIZED", 403), ApiError("html", "", 404)]
)
def test_check_mode_takes_no_other_error_for_absence(run_plan: Any, client: Any, error: ApiError) -> None:
    result = run_plan(client({("GET", "/thing"): error}), Plan(None, None), check=True)
    assert (result["failed"], result["msg"]) == (True, str(error))


def test_a_plan_that_refuses_is_a_failure_in_check_mode_too(run_plan: Any, client: Any) -> None:
    def refuse(_found: Any) -> Plan:
        raise ApiError("another one is there", "NOT_FOUND")

    for check in (False, True):
        assert run_plan(client(ANSWERS), refuse, check=check)["msg"] == "another one is there"


@pytest.mark.parametrize(
    "found, text",
    [({}, "KeyError: 'name'"), (None, "TypeError"), ([], "TypeError")],
)
def test_an_answer_that_is_not_understood(run_plan: Any, client: Any, found: Any, text: str) -> None:
    result = run_plan(client({("GET", "/thing"): found}), lambda answer: Plan(answer["name"], None))
    assert result["failed"]
    assert result["msg"].startswith("the answer of manager.example is not as expected: " + text)


def test_information(run_inform: Any, client: Any) -> None:
    fake = client({("GET", "/thing"): [1]})
    result = run_inform(fake, "things")
    assert (result["changed"], result["things"]) == (False, [1])
    assert "warnings" not in result
    assert not fake.open
    assert run_inform(client({("GET", "/thing"): {"a": 1, "b": 2}}), None)["b"] == 2


def test_information_on_what_is_not_there(run_inform: Any, client: Any) -> None:
    result = run_inform(client({("GET", "/thing"): MISSING}), "things", [])
    assert (result["changed"], result["things"]) == (False, [])
    assert "no cluster is named one" in str(result["warnings"])


@pytest.mark.parametrize("error", [MISSING, ApiError("refused")])
def test_information_that_cannot_be_had(run_inform: Any, client: Any, error: ApiError) -> None:
    absent = None if error is MISSING else []
    result = run_inform(client({("GET", "/thing"): error}), "things", absent)
    assert (result["failed"], result["changed"], result["msg"]) == (True, False, str(error))


def test_information_that_is_not_understood(run_inform: Any, client: Any) -> None:
    result = run_inform(client({("GET", "/thing"): lambda call: call.body["name"]}), "things", [])
    assert result["failed"]
    assert result["msg"].startswith("the answer of manager.example is not as expected: TypeError")


ROWS = [{"cluster": "domain-c1", "name": "one"}, {"cluster": "domain-c2", "name": "two"}]


@pytest.mark.parametrize("name, expected", [("one", "domain-c1"), ("domain-c2", "domain-c2")])
def test_cluster_id(client: Any, name: str, expected: str) -> None:
    with client({("GET", "/vcenter/cluster"): ROWS}) as session:
        assert desired_state.cluster_id(session, name) == expected


@pytest.mark.parametrize("name", ["", "on", "One", "domain-c"])
def test_a_cluster_that_is_not_there(client: Any, name: str) -> None:
    with client({("GET", "/vcenter/cluster"): ROWS}) as session:
        with pytest.raises(ApiError, match=f"^no cluster is named {name}$") as caught:
            desired_state.cluster_id(session, name)
    assert caught.value.error_type == "NOT_FOUND"


def test_cluster_ids(client: Any) -> None:
    with client({("GET", "/vcenter/cluster"): ROWS}) as session:
        assert desired_state.cluster_ids(session, ["two", "three", "domain-c1"]) == ["domain-c1", "domain-c2"]
        assert desired_state.cluster_ids(session, []) == []


def test_host_id(client: Any) -> None:
    with client({("GET", "/vcenter/host"): [{"host": "host-1", "name": "first"}]}) as session:
        assert desired_state.host_id(session, "first") == "host-1"
        assert desired_state.host_id(session, "host-1") == "host-1"
        with pytest.raises(ApiError, match="^no host is named second$") as caught:
            desired_state.host_id(session, "second")
    assert caught.value.error_type == "NOT_FOUND"
