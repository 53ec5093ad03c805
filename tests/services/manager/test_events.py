# SPDX-License-Identifier: GPL-3.0-or-later
"""Events as they are asked for and exported: filters, files that hostile names do not break, and pages."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from services.manager.harness import Api, write_users

from trusted_infrastructure.manager import crypto_events, events
from trusted_infrastructure.manager.operations import trust_events

EVENTS = "/trust/events"
EXPORT = "/trust/events/export"
NOW = 1_800_000_000

HOSTILE = [
    '=HYPERLINK("https://attacker.example";"x")',
    "+1+1",
    "-2+3",
    "@SUM(A1:A9)",
    "\t=1",
    "\r=1",
    'say "=1"',
    "a,b;c",
    "line\none\r\nline two",
    "'=1",
    "\x00\x1b[31m",
    "\u2028\u2029\u202e",
    "Grüße 🔑",
]


def fill(api: Api, count: int = 1, **fields: Any) -> None:
    """Events one second apart."""
    with api.manager.database.transaction() as connection:
        for number in range(count):
            values = {"type": "t", "time": NOW + number, "message": str(number), **fields}
            events.record(connection, events.Event(**values))


def exported(api: Api, query: str) -> str:
    """The text of an export."""
    response = api.request("GET", f"{EXPORT}?{query}")
    assert response.status_code == 200, response.text
    return response.content.decode()


def lines(api: Api, query: str = "") -> list[dict[str, Any]]:
    """Events of an export as JSON lines."""
    text = exported(api, f"format=jsonl&{query}" if query else "format=jsonl")
    assert not text or text.endswith("\n")
    return [json.loads(line) for line in text.split("\n")[:-1]]


def rows(api: Api, query: str = "") -> list[dict[str, str]]:
    """Events of an export as CSV."""
    text = exported(api, f"format=csv&{query}" if query else "format=csv")
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


# ---- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "format"),
        ("format=xml", "format"),
        ("format=", "format"),
        ("format=csv&format=csv", "format"),
        ("format=csv&limit=0", "limit"),
        ("format=csv&limit=100001", "limit"),
        ("format=csv&after=-1", "after"),
        ("format=csv&since=yesterday", "since"),
        ("format=csv&" + "&".join(["key_ids=x"] * 101), "key_ids"),
        ("format=csv&columns=id", "columns"),
    ],
)
def test_bad_exports_name_the_field(sides, query: str, field: str) -> None:
    response = sides["workload"].request("GET", f"{EXPORT}?{query}")
    assert (response.status_code, response.json()["messages"][0]["args"]) == (400, [field])


@pytest.mark.parametrize("name", ["users", "objects", "key_ids", "operations"])
def test_each_filter_is_bounded(sides, name: str) -> None:
    query = "&".join([f"{name}=x"] * 101)
    response = sides["workload"].request("GET", f"{EVENTS}?{query}")
    assert (response.status_code, response.json()["messages"][0]["args"]) == (400, [name])


def test_an_export_shows_what_the_caller_may_see_only(api: Api) -> None:
    api.ok("POST", "/trust/clusters", json={"name": "one"})
    api.ok("POST", "/trust/clusters", json={"name": "two"})
    for number in (1, 2, None):
        fill(api, cluster=number, object=f"of-{number}")
    entry = {"name": "limited", "privileges": ["System.View"], "cluster": "two"}
    write_users(api.manager.settings.users, [entry])
    api.login("limited")
    assert [event["object"] for event in lines(api)] == ["of-2"]
    assert [row["object"] for row in rows(api)] == ["of-2"]
    write_users(api.manager.settings.users, [{"name": "nobody", "privileges": []}])
    api.login("nobody")
    assert api.request("GET", f"{EXPORT}?format=csv").status_code == 403


@pytest.mark.parametrize("field", ["message", "host", "object", "user", "operation", "key_id"])
def test_no_cell_is_a_formula_and_every_value_comes_back(api: Api, field: str) -> None:
    for text in HOSTILE:
        fill(api, **{field: text})
    raw = exported(api, "format=csv")
    assert raw.startswith(",".join(trust_events.event_export.COLUMNS) + "\r\n")
    found = rows(api)
    assert len(found) == len(HOSTILE)
    for row, text in zip(found, HOSTILE, strict=True):
        assert None not in row and set(row) == set(trust_events.event_export.COLUMNS)
        assert row[field].removeprefix("'") == text.removeprefix("'")
        for cell in row.values():
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert [event[field] for event in lines(api)] == HOSTILE


def test_hostile_details_stay_in_their_cell(api: Api) -> None:
    for text in HOSTILE:
        fill(api, details={text: [text, {"a": text}]})
    found = rows(api)
    assert [json.loads(row["details"]) for row in found] == [{text: [text, {"a": text}]} for text in HOSTILE]
    assert [event["details"] for event in lines(api)] == [{text: [text, {"a": text}]} for text in HOSTILE]


# ---- what is found -----------------------------------------------------------------------------------------


def test_events_are_found_by_user_object_key_and_operation(api: Api) -> None:
    fill(api, user="ada", object="vm-1", key_id="k1", operation="create")
    fill(api, user="ada", object="vm-2", key_id="k2", operation="get")
    fill(api, user="bob", object="vm-1", key_id="k1", operation="get")
    fill(api)
    for query, ids in {
        "users=ada": [1, 2],
        "users=ada&users=bob": [1, 2, 3],
        "objects=vm-1": [1, 3],
        "key_ids=k1": [1, 3],
        "key_ids=k1&operations=get": [3],
        "operations=create&users=bob": [],
    }.items():
        assert [event["id"] for event in api.ok("GET", f"{EVENTS}?{query}")] == ids
        assert [event["id"] for event in lines(api, query)] == ids
        assert [row["id"] for row in rows(api, query)] == [str(number) for number in ids]
    event = api.ok("GET", f"{EVENTS}?key_ids=k2")[0]
    assert (event["operation"], event["key_id"]) == ("get", "k2")
    assert "operation" not in api.ok("GET", EVENTS)[-1]


def test_an_encryption_event_has_user_time_key_operation_and_object(api: Api) -> None:
    crypto_events.record(
        api.manager,
        events.CRYPTO_OPERATION,
        "A key was made",
        operation="create",
        user="administrator",
        key_id="k1",
        provider="finance",
        object_id="vm-1",
    )
    (event,) = lines(api)
    assert event == {
        "id": 1,
        "time": "2027-01-15T08:00:00.000Z",
        "type": "com.vmware.vc.crypto.Operation",
        "message": "A key was made",
        "object": "vm-1",
        "user": "administrator",
        "operation": "create",
        "key_id": "k1",
        "details": {"provider": "finance"},
    }
    assert rows(api) == [
        {**{key: str(value) for key, value in event.items()}, "host": "", "details": '{"provider":"finance"}'}
    ]


# ---- files -------------------------------------------------------------------------------------------------


MEDIA_TYPES = {"csv": "text/csv; charset=utf-8", "jsonl": "application/jsonl"}


@pytest.mark.parametrize("form", MEDIA_TYPES)
def test_an_export_is_a_file(api: Api, form: str) -> None:
    response = api.request("GET", f"{EXPORT}?format={form}")
    assert response.headers["content-type"] == MEDIA_TYPES[form]
    assert response.headers["content-disposition"].startswith(f'attachment; filename="events.{form}"')
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-store"
    assert response.content == (b"" if form == "jsonl" else response.content.splitlines(True)[0])


def test_more_than_a_page_is_whole_and_in_order(api: Api) -> None:
    fill(api, 2 * trust_events.PAGE + 7)
    everything = list(range(1, 2 * trust_events.PAGE + 8))
    assert [event["id"] for event in lines(api)] == everything
    assert [int(row["id"]) for row in rows(api)] == everything
    assert [event["id"] for event in lines(api, "limit=1500")] == everything[-1500:], "the latest"
    assert [event["id"] for event in lines(api, "limit=1500&after=3")] == everything[3:1503]
    assert [event["id"] for event in lines(api, "limit=2007&after=2000")] == everything[2000:]


def test_the_latest_are_the_latest_that_fit(api: Api) -> None:
    for number in range(10):
        fill(api, user="ada" if number % 2 else "bob")
    assert [event["id"] for event in lines(api, "users=ada&limit=2")] == [8, 10]


def test_the_document_names_the_media_types(api: Api) -> None:
    operation = api.ok("GET", "/trust/openapi")["paths"][EXPORT]["get"]
    assert sorted(operation["responses"]["200"]["content"]) == ["application/jsonl", "text/csv"]
    names = {parameter["name"] for parameter in operation["parameters"]}
    assert names == {*trust_events.LISTS, "format", "since", "until", "after", "limit"}
