# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys of objects on hosts: every host of a cluster is asked, and what one does keeps no other."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from services.manager.harness import Api

from trusted_infrastructure.key_delivery import KeyRecord, KeyRecords, LeftKey, RewrapKeys, RewrapReport
from trusted_infrastructure.manager import host_keys
from trusted_infrastructure.manager.inventory import host_named
from trusted_infrastructure.manager.nodes import NodeError
from trusted_infrastructure.manager.operations import trust_host_keys

KEYS = "/agent/manage/v1/keys"
PATH = "/trust/clusters/trusted/keys?action=rewrap"


def record(number: int, **changes: Any) -> KeyRecord:
    return msgspec.structs.replace(
        KeyRecord(
            key_id=f"key-{number}",
            object_id=f"vm-{number}",
            component="Virtual Machine",
            name=f"web {number}",
            provider="finance",
            type="TRUSTED",
            kek_id="kek-1",
            primary_key_id="2",
            created=1_800_000_000,
        ),
        **changes,
    )


def left(number: int, code: str = "key_missing") -> LeftKey:
    return LeftKey(
        key_id=f"key-{number}",
        object_id=f"vm-{number}",
        provider="finance",
        primary_key_id="1",
        code=code,
        message="why not",
    )


def report(
    *rewrapped: KeyRecord, left: tuple[LeftKey, ...] = (), deep: tuple[KeyRecord, ...] = ()
) -> RewrapReport:
    return RewrapReport(rewrapped=list(rewrapped), left=list(left), deep_recrypt=list(deep))


class Hosts:
    """Agents: by host, the reports that they answer with, one after the other; then an empty one."""

    def __init__(self, api: Api, **reports: list[RewrapReport | NodeError]) -> None:
        self.reports = reports
        self.asked: list[tuple[str, RewrapKeys]] = []
        self.kept = [record(1, primary_key_id=None)]
        self.pages: list[str] = []
        self._others = api.nodes.call
        api.nodes.call = self.call  # type: ignore[method-assign]

    async def call(
        self, host: str, method: str, path: str, content: Any = None, timeout: float | None = None
    ) -> bytes:
        if method == "GET" and path.startswith(f"{KEYS}?"):
            self.pages.append(path.removeprefix(f"{KEYS}?"))
            return msgspec.json.encode(KeyRecords(keys=self.kept))
        if (method, path) != ("POST", f"{KEYS}/rewrap"):
            return await self._others(host, method, path, content, timeout)
        assert timeout == host_keys.REWRAP_TIMEOUT
        self.asked.append((host, msgspec.json.decode(msgspec.json.encode(content), type=RewrapKeys)))
        answer = self.reports[host].pop(0) if self.reports.get(host) else report()
        if isinstance(answer, NodeError):
            raise answer
        return msgspec.json.encode(answer)


def unreachable(host: str) -> NodeError:
    return NodeError(host, "unreachable", "cannot be reached: connection refused")


def crypto_events(api: Api) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = api.ok("GET", "/trust/events?operations=rewrap")
    return events


BODIES: dict[str, tuple[dict[str, Any], str]] = {
    "too many objects": ({"objects": ["a"] * 4097}, "objects"),
    "an empty object": ({"objects": [""]}, "objects[0]"),
    "an object with a line end": ({"objects": ["a\n"]}, "objects"),
    "a target that is none": ({"target": 1}, "target"),
    "an empty provider": ({"provider": ""}, "provider"),
    "a provider with a control character": ({"provider": "a\0"}, "provider"),
    "an unknown field": ({"force": True}, "force"),
}


@pytest.mark.parametrize("name", BODIES)
def test_bad_requests_name_the_field_and_ask_nobody(workload: Api, name: str) -> None:
    hosts, (body, field) = Hosts(workload), BODIES[name]
    response = workload.request("POST", f"{PATH}&vmw-task=true", json=body)
    assert response.status_code == 400
    assert response.json()["messages"][0]["args"] == [f"spec.{field}"]
    assert hosts.asked == []


def test_an_unknown_target_is_refused_before_a_host_is_asked(workload: Api) -> None:
    hosts = Hosts(workload)
    error = workload.failed("POST", PATH, json={"target": "hr"})
    assert (error["error_type"], error["messages"][0]["id"].split(".")[-1]) == (
        "NOT_FOUND",
        "provider_unknown",
    )
    assert hosts.asked == []


def test_a_host_that_does_not_answer_has_no_list(workload: Api) -> None:
    workload.nodes.down = {"host1"}
    response = workload.request("GET", "/trust/hosts/host1/keys")
    assert (response.status_code, response.json()["error_type"]) == (503, "SERVICE_UNAVAILABLE")


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=", "after=", "after=a&after=b"])
def test_what_is_no_page_is_refused(workload: Api, query: str) -> None:
    hosts = Hosts(workload)
    response = workload.request("GET", f"/trust/hosts/host1/keys?{query}")
    assert response.status_code == 400
    assert response.json()["messages"][0]["args"] == [query.partition("=")[0]]
    assert hosts.pages == []


def test_a_page_is_one_whatever_the_host_says(workload: Api) -> None:
    """It asks the host for no more, and gives what follows, in order, so that whoever reads on gets on."""
    hosts = Hosts(workload)
    hosts.kept = [record(number) for number in (5, 1, 3, 4, 2)]
    found = workload.ok("GET", "/trust/hosts/host1/keys?after=key-1&limit=3")
    assert [key["key_id"] for key in found] == ["key-2", "key-3", "key-4"]
    assert workload.ok("GET", "/trust/hosts/host1/keys?after=key-5") == []
    assert workload.ok("GET", "/trust/hosts/host1/keys?after=%26+%2F") != []
    assert hosts.pages == ["after=key-1&limit=3", "after=key-5&limit=1000", "after=%26+%2F&limit=1000"]


def test_the_keys_of_a_host(workload: Api) -> None:
    Hosts(workload)
    (key,) = workload.ok("GET", "/trust/hosts/host1/keys")
    assert key == {
        "host": "host1",
        "key_id": "key-1",
        "object_id": "vm-1",
        "component": "Virtual Machine",
        "name": "web 1",
        "provider": "finance",
        "type": "TRUSTED",
        "kek_id": "kek-1",
        "created": "2027-01-15T08:00:00.000Z",
        "deep_recrypt": False,
    }


def test_every_host_is_asked_and_what_came_of_it_is_told(workload: Api) -> None:
    deep = record(3, deep_recrypt=True)
    hosts = Hosts(
        workload,
        host1=[report(record(1), record(2))],
        host2=[report(deep, left=(left(4),), deep=(deep,))],
    )
    result = workload.done("POST", PATH, json={"provider": "finance", "objects": ["vm-1"], "replace": True})
    wanted = RewrapKeys(provider="finance", object_ids=["vm-1"], replace=True)
    assert sorted(hosts.asked, key=lambda asked: asked[0]) == [("host1", wanted), ("host2", wanted)]
    assert [(one["host"], one["key_id"]) for one in result["rewrapped"]] == [
        ("host1", "key-1"),
        ("host1", "key-2"),
        ("host2", "key-3"),
    ]
    assert [(one["host"], one["code"], one["primary_key_id"]) for one in result["left"]] == [
        ("host2", "key_missing", "1")
    ]
    assert [one["object_id"] for one in result["deep_recrypt"]] == ["vm-3"]
    assert (result["unreachable"], result["counts"]) == ([], {"rewrapped": 3, "left": 1, "deep_recrypt": 1})
    seen = [(one["host"], one.get("key_id", ""), one["user"]) for one in crypto_events(workload)]
    assert sorted(seen) == [
        ("host1", "key-1", "administrator"),
        ("host1", "key-2", "administrator"),
        ("host2", "", "administrator"),
        ("host2", "key-3", "administrator"),
    ]


def test_hosts_that_do_not_answer_are_named_and_the_others_go_on(workload: Api) -> None:
    Hosts(workload, host1=[unreachable("host1")], host2=[report(record(1))])
    result = workload.done("POST", PATH)
    assert (result["unreachable"], result["counts"]["rewrapped"]) == (["host1"], 1)
    assert "host1" in result["details"][0]["default_message"]
    codes = [one["details"]["code"] for one in crypto_events(workload) if "code" in one.get("details", {})]
    assert codes == ["unreachable"]


def test_a_host_is_asked_again_for_what_it_had_no_time_for(workload: Api) -> None:
    """And for that alone: what is done must not be replaced again."""
    unfinished = host_keys.UNFINISHED
    hosts = Hosts(
        workload,
        host1=[
            report(record(1), left=(left(2, unfinished), left(3, unfinished), left(9))),
            report(record(2), left=(left(3, unfinished),)),
            report(record(3)),
        ],
    )
    result = workload.done("POST", PATH, json={"replace": True})
    asked = [keys.key_ids for host, keys in hosts.asked if host == "host1"]
    assert asked == [[], ["key-2", "key-3"], ["key-3"]]
    assert result["counts"] == {"rewrapped": 3, "left": 1, "deep_recrypt": 0}
    assert [one["code"] for one in result["left"]] == ["key_missing"]


def test_a_host_that_does_not_get_on_is_not_asked_for_ever(workload: Api) -> None:
    unfinished = left(1, host_keys.UNFINISHED)
    hosts = Hosts(workload, host1=[report(left=(unfinished,))] * 5)
    result = workload.done("POST", PATH)
    assert len([host for host, _keys in hosts.asked if host == "host1"]) == 1
    assert [one["code"] for one in result["left"]] == [host_keys.UNFINISHED]


def test_more_keys_than_a_request_can_name(workload: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_keys, "MAX_OBJECTS", 2)
    rest = tuple(left(number, host_keys.UNFINISHED) for number in range(2, 6))
    hosts = Hosts(
        workload,
        host1=[report(record(1), left=rest), report(record(2), record(3)), report(record(4), record(5))],
    )
    assert workload.done("POST", PATH)["counts"]["rewrapped"] == 5
    asked = [keys.key_ids for host, keys in hosts.asked if host == "host1"]
    assert asked == [[], ["key-2", "key-3"], ["key-4", "key-5"]]


def test_what_a_host_did_before_it_went_away_is_kept(workload: Api) -> None:
    Hosts(
        workload,
        host1=[report(record(1), left=(left(2, host_keys.UNFINISHED),)), unreachable("host1")],
    )
    result = workload.done("POST", PATH)
    assert (result["unreachable"], result["counts"]["rewrapped"]) == (["host1"], 1)


def test_lists_have_an_end_and_counts_do_not(workload: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust_host_keys, "LISTED", 2)
    Hosts(workload, host1=[report(*(record(number) for number in range(5)))])
    result = workload.done("POST", PATH)
    assert (len(result["rewrapped"]), result["counts"]["rewrapped"]) == (2, 5)


def test_a_query_changes_nothing_and_leaves_no_event(workload: Api) -> None:
    hosts = Hosts(workload, host1=[report(record(1))], host2=[unreachable("host2")])
    result = workload.done("POST", PATH.replace("rewrap", "query"), json={"target": None})
    assert [keys.dry_run for _host, keys in hosts.asked] == [True, True]
    assert result["counts"]["rewrapped"] == 1
    assert crypto_events(workload) == []


def test_a_host_that_never_comes_to_an_end_is_asked_no_more(
    workload: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_keys, "MOST_KEYS", 3)
    endless = [report(record(number), left=(left(number, "rewrap_unfinished"),)) for number in range(50)]
    hosts = Hosts(workload, host1=endless)
    result = workload.done("POST", PATH, json={})
    assert [name for name, _asked in hosts.asked].count("host1") == 3
    assert result["counts"] == {"rewrapped": 3, "left": 1, "deep_recrypt": 0}


def test_a_host_that_leaves_more_keys_than_it_can_have_is_asked_no_more(
    workload: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer has one key that got on, so that it is asked again, and others that no host has."""
    monkeypatch.setattr(host_keys, "MOST_KEYS", 10)
    others = tuple(left(number) for number in range(100, 108))
    deep = tuple(record(number) for number in range(200, 208))
    endless = [
        report(record(number), left=(*others, left(99, host_keys.UNFINISHED)), deep=deep)
        for number in range(50)
    ]
    hosts = Hosts(workload, host1=endless)
    result = workload.done("POST", PATH, json={})
    assert [name for name, _asked in hosts.asked].count("host1") == 2
    assert max(result["counts"].values()) <= 10


def test_a_reason_is_cut_when_it_comes(workload: Api) -> None:
    """Up to 65,536 of them are kept until the task ends."""
    long = msgspec.structs.replace(left(1), message="m" * 100_000)
    Hosts(workload, host1=[report(left=(long,))])
    with workload.manager.database.transaction() as connection:
        host = host_named(connection, "host1")
    assert host is not None
    found = workload.run(host_keys.rewrap_on(workload.manager, host, RewrapKeys()))
    assert len(found.report.left[0].message) == 4096


@pytest.mark.parametrize("limit", [0.0, None])
def test_a_host_that_gets_on_slowly_holds_nobody_up(
    workload: Api, monkeypatch: pytest.MonkeyPatch, limit: float | None
) -> None:
    """For ever, or after it left its cluster."""
    endless = [report(record(number), left=(left(99, host_keys.UNFINISHED),)) for number in range(50)]
    hosts = Hosts(workload, host1=endless)
    if limit is None:
        monkeypatch.setattr(host_keys, "is_member", lambda _connection, _host: False)
    else:
        monkeypatch.setattr(host_keys, "REWRAP_LIMIT", limit)
    result = workload.done("POST", PATH, json={})
    assert [name for name, _asked in hosts.asked].count("host1") == 1
    assert result["counts"] == {"rewrapped": 1, "left": 1, "deep_recrypt": 0}


@pytest.mark.parametrize("changes", [{"object_id": "o" * 256}, {"name": "a\0"}, {"created": 1 << 40}])
def test_records_that_no_host_makes_are_not_taken(workload: Api, changes: dict[str, Any]) -> None:
    Hosts(workload, host1=[report(record(1, **changes))])
    assert workload.done("POST", PATH, json={})["unreachable"] == ["host1"]
    assert crypto_events(workload)[0]["details"]["code"] == "unexpected_answer"
