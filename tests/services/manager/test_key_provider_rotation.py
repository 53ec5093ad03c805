# SPDX-License-Identifier: GPL-3.0-or-later
"""Rotation of a primary key by the manager: what is refused, and that no step takes away a key in use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from services.manager.harness import Api, Clock, FakeNodes
from services.manager.test_key_providers import (
    BASE,
    KMS_CA,
    ONE,
    PROVIDERS,
    SPEC,
    KeyProviderHosts,
)

from trusted_infrastructure.manager.nodes import NodeError
from trusted_infrastructure.manager.primary_key_usage import KnownUsage, UsageAnswer, holders

ROTATION = "/trust/clusters/authority/kms/providers/finance/rotation"
COMPLETE = f"{ROTATION}?action=complete"
COMPROMISE = f"{ROTATION}?action=compromise"
CHECK = ("POST", "/kms/manage/v1/providers/finance/check-value")
USAGE = ("GET", "/kms/manage/v1/providers/finance/usage")


class Hosts(KeyProviderHosts):
    """Key Provider Services that have key servers with keys of ids "key-1", "key-2", ... and know their use.

    unfit: reason code by id of a key. usage: by Trust Authority host.
    """

    def __init__(self, api: Api) -> None:
        super().__init__(api)
        self.unfit: dict[str, str] = {}
        self.usage: dict[str, list[dict[str, Any]]] = {"ta1": [], "ta2": []}
        self.asked: list[str] = []
        api.nodes.answers[CHECK] = self.checked
        api.nodes.answers[USAGE] = lambda host: {"usage": self.usage[host]}
        api.nodes.answers["GET", "/kms/manage/v1/status"] = lambda _host: {
            "health": "OK",
            "details": [],
            "providers": {},
        }

    def checked(self, body: Any) -> dict[str, Any]:
        candidate = isinstance(body, dict)
        key_id = body["master_key_id"] if candidate else "key-1"
        self.asked.append(key_id)
        if key_id in self.unfit:
            raise NodeError("ta1", self.unfit[key_id], f"{key_id} is not fit.", 403)
        return {"master_key_id": key_id, "check_value": f"{key_id[-1] * 2}" * 32}

    def document(self, host: str = "ta1") -> dict[str, Any]:
        found = self.api.nodes.content(host, "key_provider", "finance")
        assert found is not None
        return found


def used(host: str, reported: float | None, keys: dict[str, int] | None = None, **marks: int) -> Any:
    """What a Trust Authority host knows of one host; "key-1" is written key_1 as a mark."""
    counts = {name.replace("_", "-"): count for name, count in marks.items()}
    return {"scope": "lab", "host": host, "reported": reported, "keys": keys or {}, "unreported": counts}


@pytest.fixture
def hosts(api: Api) -> Hosts:
    """The provider "finance" with primary key "key-1", which hosts use."""
    api.ok("POST", "/trust/clusters", json={"name": "authority"})
    for name in ("ta1", "ta2"):
        api.done("POST", "/trust/clusters/authority/hosts", json={"name": name})
    api.done("PATCH", BASE, json={"state": "ENABLE"})
    made = Hosts(api)
    api.done("POST", PROVIDERS, json=SPEC)
    api.done("POST", f"{ONE}/client-certificate")
    api.done("PATCH", f"{ONE}/peer-certs/trusted", json={"certificates": [KMS_CA.pem]})
    assert made.document()["primary_key_check_value"] == "11" * 32
    made.asked.clear()
    return made


def reason(error: dict[str, Any]) -> tuple[str, str]:
    """Type and reason code of a task's error."""
    return error["error_type"], error["messages"][0]["id"].removeprefix("trusted.infrastructure.")


def rotate(api: Api, key_id: str = "key-2") -> None:
    api.done("PATCH", ONE, json={"master_key_id": key_id})


def test_a_rotation_from_beginning_to_end(api: Api, hosts: Hosts, clock: Clock) -> None:
    rotate(api)
    for host in ("ta1", "ta2"):
        document = hosts.document(host)
        assert (document["master_key_id"], document["primary_key_check_value"]) == ("key-2", "22" * 32)
        assert document["previous_keys"] == [
            {
                "master_key_id": "key-1",
                "check_value": "11" * 32,
                "since": int(clock.now),
                "compromised": False,
            }
        ]
    hosts.usage["ta1"] = [used("host1", clock.now, {"key-1": 2, "key-2": 1})]
    hosts.usage["ta2"] = [used("host2", None, key_1=1)]
    found = api.done("GET", ROTATION)
    assert (found["master_key_id"], found["unknown"]) == ("key-2", [])
    (previous,) = found["previous"]
    assert (previous["master_key_id"], previous["keys_left"], previous["compromised"]) == ("key-1", 3, False)
    assert previous["hosts"] == [
        {"scope": "lab", "host": "host1", "keys": 2, "denied": False, "reported": int(clock.now)},
        {"scope": "lab", "host": "host2", "keys": 1, "denied": False},
    ]
    error = api.failed("POST", COMPLETE, json={})
    assert reason(error) == ("NOT_ALLOWED_IN_CURRENT_STATE", "keys_left")
    assert "host1" in error["messages"][0]["default_message"]
    assert len(error["messages"]) == 3
    assert hosts.document()["previous_keys"] != []
    hosts.usage = {"ta1": [used("host1", clock.now, {"key-2": 3})], "ta2": [used("host2", clock.now + 1)]}
    assert api.done("GET", ROTATION)["previous"][0]["keys_left"] == 0
    done = api.done("POST", COMPLETE, json={})
    assert done == {"master_key_id": "key-2", "removed": ["key-1"], "lost": [], "unknown": []}
    for host in ("ta1", "ta2"):
        assert hosts.document(host)["previous_keys"] == []
        assert hosts.document(host)["master_key_id"] == "key-2"
    again = api.done("POST", COMPLETE, json={})
    assert again == {"master_key_id": "key-2", "removed": [], "lost": [], "unknown": []}


@pytest.mark.parametrize(
    "code",
    ["key_missing", "key_deactivated", "key_compromised", "key_destroyed", "primary_key_state"]
    + ["primary_key_mismatch", "primary_key_same"],
)
def test_a_key_that_is_not_fit_changes_nothing(api: Api, hosts: Hosts, code: str) -> None:
    """What one host says of the key, another would say, too: only one is asked."""
    before = hosts.document()
    hosts.unfit["key-2"] = code
    error = api.failed("PATCH", ONE, json={"master_key_id": "key-2"})
    assert reason(error) == ("NOT_ALLOWED_IN_CURRENT_STATE", code)
    error = api.failed("POST", COMPROMISE, json={"master_key_id": "key-2"})
    assert reason(error) == ("NOT_ALLOWED_IN_CURRENT_STATE", code)
    assert hosts.asked == ["key-2", "key-2"]
    assert hosts.document() == hosts.document("ta2") == before


def test_a_host_that_cannot_ask_the_key_servers_leaves_it_to_another(api: Api, hosts: Hosts) -> None:
    hosts.unfit["key-2"] = "key_server_unreachable"
    error = api.failed("PATCH", ONE, json={"master_key_id": "key-2"})
    assert reason(error) == ("RESOURCE_INACCESSIBLE", "key_server_unreachable")
    assert hosts.asked == ["key-2", "key-2"]
    assert hosts.document()["previous_keys"] == []


@pytest.mark.parametrize(
    "answer", [{"check_value": "22" * 32}, {"master_key_id": "key-1", "check_value": "11" * 32}]
)
def test_a_host_that_does_not_know_the_question_is_not_believed(
    api: Api, hosts: Hosts, answer: dict[str, str]
) -> None:
    """An older release answers for the key of now, whatever it was asked."""
    api.nodes.answers[CHECK] = lambda _body: answer
    error = api.failed("PATCH", ONE, json={"master_key_id": "key-2"})
    assert error["error_type"] == "RESOURCE_INACCESSIBLE"
    assert hosts.document()["master_key_id"] == "key-1"


def test_two_rotations_cannot_run_at_once(api: Api, hosts: Hosts) -> None:
    rotate(api)
    document = hosts.document()
    for other in ("key-3", "key-1"):
        error = api.failed("PATCH", ONE, json={"master_key_id": other})
        assert reason(error) == ("NOT_ALLOWED_IN_CURRENT_STATE", "rotation_under_way")
        assert "'key-1'" in error["messages"][0]["default_message"]
    # Nor are other settings of such a request taken, and the key of now again is no rotation.
    api.failed("PATCH", ONE, json={"master_key_id": "key-3", "key_server": {"description": "other"}})
    rotate(api)
    assert hosts.document() == document
    assert hosts.asked == ["key-2"]


def test_the_same_key_is_no_change(api: Api, hosts: Hosts) -> None:
    before = hosts.document()
    rotate(api, "key-1")
    assert hosts.document() == before
    assert hosts.asked == []


def test_settings_come_before_the_key_that_is_asked_of_them(api: Api, hosts: Hosts) -> None:
    servers: list[list[str]] = []

    def checked(body: Any) -> Any:
        servers.append([server["name"] for server in hosts.document()["servers"]])
        return hosts.checked(body)

    api.nodes.answers[CHECK] = checked
    moved = {"servers": [{"name": "kms3", "address": {"hostname": "kms3"}}]}
    api.done("PATCH", ONE, json={"master_key_id": "key-2", "key_server": {"kmip_server": moved}})
    assert servers == [["kms3"]]
    assert hosts.document()["previous_keys"][0]["master_key_id"] == "key-1"


def test_a_key_that_never_wrapped_is_replaced(api: Api, hosts: Hosts) -> None:
    api.nodes.answers.pop(CHECK)
    api.done("POST", PROVIDERS, json={**SPEC, "provider": "hr"})
    api.done("PATCH", f"{PROVIDERS}/hr", json={"master_key_id": "key-2"})
    document = api.nodes.content("ta1", "key_provider", "hr")
    assert document is not None
    assert (document["master_key_id"], document["previous_keys"]) == ("key-2", [])


def test_a_trust_authority_host_that_is_down_may_know_more(api: Api, hosts: Hosts) -> None:
    rotate(api)
    api.nodes.down = {"ta2"}
    assert api.done("GET", ROTATION)["unknown"] == ["ta2"]
    error = api.failed("POST", COMPLETE, json={"force": False})
    assert reason(error) == ("NOT_ALLOWED_IN_CURRENT_STATE", "keys_unknown")
    assert "ta2" in str(error["messages"])
    assert hosts.document()["previous_keys"] != []
    api.nodes.down = set()
    assert api.done("POST", COMPLETE, json={})["removed"] == ["key-1"]


def test_a_service_that_does_not_answer_is_not_a_service_without_keys(api: Api, hosts: Hosts) -> None:
    rotate(api)
    api.nodes.answers.pop(USAGE)
    error = api.failed("POST", COMPLETE, json={})
    assert reason(error) == ("NOT_ALLOWED_IN_CURRENT_STATE", "keys_unknown")
    assert hosts.document()["previous_keys"] != []


LIES = {
    "a count below zero": used("nobody", 1.0, {"key-1": -5}),
    "marks below zero": used("nobody", None, key_1=-5),
    "marks below zero of a host that is there": used("host1", 1.0, key_1=-5),
    "a count that is none": used("nobody", 1.0, {"key-1": 1.5}),
    "a time that no date has": used("host1", 1e18, {"key-1": 1}),
    "a time before all": used("host1", -1.0, {"key-1": 1}),
    "a host without a name": used("", 1.0, {"key-1": 1}),
    "a name that hides what follows": used("nobody\u202e", 1.0, {"key-1": 1}),
    "a name of two lines": used("nobody\n", 1.0, {"key-1": 1}),
    "a name that fills the record": used("n" * 256, 1.0, {"key-1": 1}),
    "a scope without a name": used("host1", 1.0, {"key-1": 1}) | {"scope": ""},
    "as an earlier release says it": {
        "scope": "lab", "host": "host1", "reported": 1.0, "keys": {}, "marks": {"key-1": 1e9}
    },
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_service_takes_nothing_from_what_others_count(api: Api, hosts: Hosts, lie: Any) -> None:
    """What one of them says that cannot be is not known, and the key stays."""
    rotate(api)
    hosts.usage["ta1"], hosts.usage["ta2"] = [used("host1", 2.0, {"key-1": 5})], [lie]
    found = api.done("GET", ROTATION)
    assert found["unknown"] == ["ta2"]
    assert reason(api.failed("POST", COMPLETE, json={}))[1] == "keys_unknown"
    error = api.failed("POST", COMPLETE, json={"without_hosts": ["host1", "nobody"]})
    assert reason(error)[1] == "keys_unknown"
    assert hosts.document()["previous_keys"] != []


def deny(api: Api, host: str) -> None:
    spec = {"host": host, "ek_digest": "ab" * 32, "reason": "removed"}
    api.done("POST", "/trust/clusters/authority/denied-hosts", json=spec)


@pytest.mark.parametrize(
    ("denied", "without"), [([], ["host3"]), (["host3"], []), (["host3"], ["host1"]), (["host1"], ["host3"])]
)
def test_what_a_host_keeps_is_not_given_up_by_half(
    api: Api, hosts: Hosts, clock: Clock, denied: list[str], without: list[str]
) -> None:
    """It takes both: the host is denied, and its keys are named."""
    rotate(api)
    for host in denied:
        deny(api, host)
    hosts.usage["ta1"] = [used("host3", clock.now, {"key-1": 2})]
    error = api.failed("POST", COMPLETE, json={"without_hosts": without})
    assert reason(error) == ("NOT_ALLOWED_IN_CURRENT_STATE", "keys_left")
    assert ("is denied" in error["messages"][1]["default_message"]) == ("host3" in denied)
    assert hosts.document()["previous_keys"] != []


def test_keys_of_a_removed_host_are_given_up_by_name(api: Api, hosts: Hosts, clock: Clock) -> None:
    rotate(api)
    deny(api, "host3")
    hosts.usage["ta1"] = [used("host1", clock.now, {"key-1": 1}), used("host3", clock.now, {"key-1": 2})]
    hosts.usage["ta2"] = [used("host3", None, key_1=1)]
    (previous,) = api.done("GET", ROTATION)["previous"]
    assert [(host["host"], host["denied"]) for host in previous["hosts"]] == [
        ("host1", False),
        ("host3", True),
    ]
    error = api.failed("POST", COMPLETE, json={"without_hosts": ["host3"]})
    assert reason(error)[1] == "keys_left"
    assert "host3" not in str(error["messages"])
    hosts.usage["ta1"].pop(0)
    # What is not known is not given up by it.
    api.nodes.down = {"ta2"}
    error = api.failed("POST", COMPLETE, json={"without_hosts": ["host3"]})
    assert reason(error)[1] == "keys_unknown"
    api.nodes.down = set()
    done = api.done("POST", COMPLETE, json={"without_hosts": ["host3", "host9"]})
    assert (done["removed"], [(row["master_key_id"], row["keys"]) for row in done["lost"]]) == (
        ["key-1"],
        [("key-1", 3)],
    )
    assert [(host["host"], host["denied"]) for host in done["lost"][0]["hosts"]] == [("host3", True)]
    assert hosts.document("ta2")["previous_keys"] == []


@pytest.mark.parametrize("force", [True, False])
def test_a_host_that_did_not_hear_of_the_end_is_told_by_repeating(
    api: Api, hosts: Hosts, clock: Clock, force: bool
) -> None:
    """Whichever way it is repeated."""
    rotate(api)
    hosts.usage["ta1"] = [used("host1", clock.now, {"key-1": 2})]
    api.nodes.down = {"ta2"}
    for _again in range(2):
        error = api.failed("POST", COMPLETE, json={"force": True})
        assert reason(error) == ("RESOURCE_INACCESSIBLE", "replication_failed")
        assert "ta2" in error["messages"][0]["default_message"]
        assert hosts.document()["previous_keys"] == []
        assert [key["master_key_id"] for key in hosts.document("ta2")["previous_keys"]] == ["key-1"]
        if not _again:
            assert "given up (keys left under it: 2)" in error["messages"][0]["default_message"]
            assert "host1 (scope lab) keeps 2" in str(error["messages"])
    found = api.done("GET", ROTATION)
    assert (found["previous"], found["unknown"], found["behind"]) == ([], ["ta2"], [])
    api.nodes.down = set()
    assert api.done("GET", ROTATION)["behind"] == ["ta2"]
    done = api.done("POST", COMPLETE, json={"force": force})
    assert (done["removed"], done["lost"]) == ([], [])
    assert hosts.document("ta2") == hosts.document()
    assert api.done("GET", ROTATION)["behind"] == []


def test_a_host_that_did_not_hear_of_a_compromise_is_told_by_repeating(api: Api, hosts: Hosts) -> None:
    """It goes on wrapping under the key that was stolen."""
    rotate(api)
    api.nodes.refusing = {"ta2"}
    for _again in range(2):
        error = api.failed("POST", COMPROMISE, json={"master_key_id": "key-3"})
        assert reason(error) == ("RESOURCE_INACCESSIBLE", "replication_failed")
    assert hosts.document("ta2")["master_key_id"] == "key-2"
    api.nodes.refusing = set()
    assert api.done("GET", ROTATION)["behind"] == ["ta2"]
    assert api.done("POST", COMPROMISE, json={"master_key_id": "key-3"})["compromised"] == []
    assert hosts.document("ta2") == hosts.document()


def test_force_says_what_is_lost(api: Api, hosts: Hosts, clock: Clock) -> None:
    rotate(api)
    hosts.usage["ta1"] = [used("host1", clock.now, {"key-1": 2})]
    api.nodes.answers[USAGE] = answering_on("ta1", {"usage": hosts.usage["ta1"]})
    done = api.done("POST", COMPLETE, json={"force": True})
    assert (done["removed"], done["unknown"]) == (["key-1"], ["ta2"])
    assert done["lost"][0]["keys"] == 2
    assert hosts.document()["previous_keys"] == []


def answering_on(only: str, content: Any) -> Callable[[Any], Any]:
    """A service that runs on one host alone."""

    def answer(host: Any) -> Any:
        if host != only:
            raise NodeError(host, "service_down", "its service is down", 503)
        return content

    return answer


# ---- compromise --------------------------------------------------------------------------------------------


def test_a_compromise_takes_all_earlier_keys_along(api: Api, hosts: Hosts, clock: Clock) -> None:
    rotate(api)
    hosts.usage["ta1"] = [used("host1", clock.now, {"key-1": 1, "key-2": 4})]
    done = api.done("POST", COMPROMISE, json={"master_key_id": "key-3"})
    assert done["master_key_id"] == "key-3"
    assert done["compromised"] == ["key-1", "key-2"]
    assert [(key["master_key_id"], key["compromised"], key["keys_left"]) for key in done["previous"]] == [
        ("key-1", True, 1),
        ("key-2", True, 4),
    ]
    assert [key["compromised"] for key in hosts.document("ta2")["previous_keys"]] == [True, True]
    # The same again changes nothing.
    again = api.done("POST", COMPROMISE, json={"master_key_id": "key-3"})
    assert (again["compromised"], len(again["previous"])) == ([], 2)
    assert hosts.asked == ["key-2", "key-3"]
    error = api.failed("POST", COMPLETE, json={})
    assert reason(error)[1] == "keys_left"


@pytest.mark.parametrize(
    ("step", "key_id"), [("", "key-1"), ("rotate", "key-1"), ("rotate", "key-2"), ("compromise", "key-1")]
)
def test_a_compromised_key_is_not_replaced_by_a_primary_key_of_before(
    api: Api, hosts: Hosts, step: str, key_id: str
) -> None:
    """Nor by the one that a rotation is under way to: hosts have put under it what the other one wrapped."""
    if step == "rotate":
        rotate(api)
    elif step:
        api.done("POST", COMPROMISE, json={"master_key_id": "key-2"})
    before = hosts.document()
    error = api.failed("POST", COMPROMISE, json={"master_key_id": key_id})
    assert error["error_type"] == "INVALID_ARGUMENT"
    assert error["messages"][0]["args"][0] == "spec.master_key_id"
    assert hosts.document() == before


def test_a_key_that_was_given_up_turns_out_stolen(api: Api, hosts: Hosts) -> None:
    """The key of now has all that was wrapped under it."""
    rotate(api)
    assert api.done("POST", COMPLETE, json={})["removed"] == ["key-1"]
    api.failed("POST", COMPROMISE, json={"master_key_id": "key-2"})
    assert api.done("POST", COMPROMISE, json={"master_key_id": "key-3"})["compromised"] == ["key-2"]
    (previous,) = hosts.document()["previous_keys"]
    assert (previous["master_key_id"], previous["compromised"]) == ("key-2", True)


# ---- whatever stops in between -----------------------------------------------------------------------------


def test_a_manager_that_stops_before_the_hosts_heard_of_it(
    api: Api, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was decided is desired; the hosts have all of the document from before, or all of the new one."""
    before = hosts.document()
    api.nodes.refusing = {"ta1", "ta2"}
    error = api.failed("PATCH", ONE, json={"master_key_id": "key-2"})
    assert reason(error) == ("RESOURCE_INACCESSIBLE", "replication_failed")
    assert hosts.document() == hosts.document("ta2") == before
    api.nodes.refusing = {"ta2"}
    api.failed("POST", "/trust/clusters/authority?action=remediate")
    assert [key["master_key_id"] for key in hosts.document()["previous_keys"]] == ["key-1"]
    assert hosts.document("ta2") == before
    # One that has not heard of it wraps under the old key still: it is not given up.
    assert reason(api.failed("POST", COMPLETE, json={})) == ("NOT_ALLOWED_IN_CURRENT_STATE", "keys_unknown")
    api.nodes.refusing = set()
    hosts.usage["ta2"] = [used("host1", None, key_1=1)]
    assert reason(api.failed("POST", COMPLETE, json={}))[1] == "keys_left"
    assert hosts.document("ta2") == hosts.document()


def test_each_document_that_a_host_ever_has_opens_what_was_wrapped(api: Api, hosts: Hosts) -> None:
    """Of every version that is sent: a key that has wrapped is the one of now, or a previous one."""
    wrapped_under: set[str] = {"key-1"}
    sent: list[dict[str, Any]] = []
    original = FakeNodes._apply

    def apply(nodes: FakeNodes, host: str, content: Any) -> bytes:
        done = original(nodes, host, content)
        sent.append(hosts.document(host))
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeNodes, "_apply", apply)
        rotate(api)
        wrapped_under.add("key-2")
        api.done("POST", COMPROMISE, json={"master_key_id": "key-3"})
    assert len(sent) == 4
    for document in sent:
        known = {document["master_key_id"], *(key["master_key_id"] for key in document["previous_keys"])}
        assert "key-1" in known
    assert known == {"key-1", "key-2", "key-3"} >= wrapped_under


def test_who_may_not_see_or_change_it(api: Api, hosts: Hosts) -> None:
    error = api.failed("GET", ROTATION.replace("finance", "hr"))
    assert error["error_type"] == "NOT_FOUND"
    for action in (COMPLETE, COMPROMISE):
        body = {"master_key_id": "key-2"} if action is COMPROMISE else {}
        error = api.failed("POST", action.replace("finance", "hr"), json=body)
        assert error["error_type"] == "NOT_FOUND"


# ---- what several Trust Authority hosts know together ------------------------------------------------------

Known = list[list[KnownUsage]]


def known(reported: float | None, keys: int = 0, marked: int = 0, host: str = "host1") -> KnownUsage:
    marks = {"K": marked} if marked else {}
    return KnownUsage("lab", host, reported, {"K": keys, "other": 9} if keys else {"other": 9}, marks)


@pytest.mark.parametrize(
    ("answers", "left"),
    [
        ([[], []], []),
        ([[known(10, 0)], []], []),
        ([[known(10, 3)], []], [3]),
        ([[known(None, marked=5)], []], [5]),
        # The report with the most, whatever the clocks say.
        ([[known(10, 3)], [known(20, 0)]], [3]),
        ([[known(20, 0)], [known(10, 3)]], [3]),
        ([[known(10, 0)], [known(20, 3)]], [3]),
        ([[known(10, 3)], [known(20, 1)]], [3]),
        # And all that no report covers.
        ([[known(10, 0, marked=1)], []], [1]),
        ([[known(10, 4, marked=2)], []], [6]),
        ([[known(10, 0)], [known(None, marked=1)]], [1]),
        ([[known(20, 0)], [known(10, 0, marked=1)]], [1]),
        ([[known(20, 1, marked=2)], [known(10, 5, marked=3)]], [10]),
        # Hosts are counted each for itself.
        ([[known(20, 0), known(5, 2, host="host2")], [known(30, 1, host="host2")]], [2]),
        ([[known(20, 4), known(5, 2, host="host2")], []], [4, 2]),
    ],
)
def test_what_is_left(answers: Known, left: list[int]) -> None:
    found = holders([UsageAnswer(answer) for answer in answers], "K")
    assert [host.keys for host in found] == left


def test_hosts_of_two_scopes_with_one_name_are_two() -> None:
    answer = UsageAnswer([known(10, 3), KnownUsage("other", "host1", 20, {"K": 0}, {})])
    (found,) = holders([answer], "K")
    assert (found.scope, found.keys) == ("lab", 3)
