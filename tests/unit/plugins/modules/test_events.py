# SPDX-License-Identifier: GPL-3.0-or-later
"""Events as tasks read them, and write them to files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import ApiError
from ansible_collections.trusted.infrastructure.plugins.modules import events_export

LIST = ("GET", "/trust/events")
EXPORT = ("GET", "/trust/events/export")
FILTERS = {
    "types": ["t1", "t2"],
    "hosts": ["host1"],
    "users": ["ada"],
    "objects": ["vm-1"],
    "key_ids": ["k1"],
    "operations": ["create"],
    "since": "2026-01-01T00:00:00Z",
    "until": "2026-02-01T00:00:00Z",
    "after": 0,
    "limit": 5,
}
QUERY = (
    ("types", "t1"),
    ("types", "t2"),
    ("hosts", "host1"),
    ("users", "ada"),
    ("objects", "vm-1"),
    ("key_ids", "k1"),
    ("operations", "create"),
    ("since", "2026-01-01T00:00:00Z"),
    ("until", "2026-02-01T00:00:00Z"),
    ("after", "0"),
    ("limit", "5"),
)


@pytest.fixture
def export(run_module: Any, client: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs events_export against a manager with this answer."""

    def run(answer: Any, **parameters: Any) -> Any:
        fake = client({EXPORT: answer})
        monkeypatch.setattr(events_export, "client_of", lambda _module: fake)
        return run_module("events_export", fake, **parameters), fake

    return run


def test_every_filter_is_passed_on(run_module: Any, client: Any, export: Any, tmp_path: Path) -> None:
    fake = client({LIST: []})
    assert run_module("events_info", fake, **FILTERS)["last"] == 0
    assert fake.calls[-1].query == QUERY
    _result, fake = export(b"", path=str(tmp_path / "events"), format="csv", **FILTERS)
    assert fake.calls[-1].query == (("format", "csv"), *QUERY)
    assert fake.calls[-1].raw is True


def test_absent_fields_are_null_and_last_is_to_read_on(run_module: Any, client: Any) -> None:
    row = {"id": 7, "time": "t", "type": "x", "message": "m", "key_id": "k"}
    result = run_module("events_info", client({LIST: [row]}))
    nothing = dict.fromkeys(("host", "object", "user", "operation"))
    assert result["events"] == [{**row, **nothing, "details": {}}]
    assert result["last"] == 7
    assert run_module("events_info", client({LIST: []}), after=3)["last"] == 3


@pytest.mark.parametrize("check", [True, False])
def test_it_writes_when_the_content_is_another(export: Any, tmp_path: Path, check: bool) -> None:
    path = tmp_path / "events.jsonl"
    content = '{"message":"Grüße"}\n'.encode()
    result, _fake = export(content, path=str(path), check=check)
    digest = hashlib.sha256(content).hexdigest()
    assert (result["changed"], result["size"], result["sha256"]) == (True, len(content), digest)
    assert result["diff"] == {"before": {}, "after": {"size": len(content), "sha256": digest}}
    assert path.exists() is not check
    path.write_bytes(content)
    stamp = path.stat().st_mtime_ns
    result, _fake = export(content, path=str(path), check=check)
    assert result["changed"] is False
    assert path.stat().st_mtime_ns == stamp
    result, _fake = export(b"", path=str(path), check=check)
    assert result["changed"] is True
    assert path.read_bytes() == (content if check else b"")


def test_a_new_file_is_its_owners_and_an_old_one_keeps_its_mode(export: Any, tmp_path: Path) -> None:
    path = tmp_path / "events"
    export(b"1", path=str(path))
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    export(b"2", path=str(path))
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"2", 0o640)
    result, _fake = export(b"2", path=str(path), mode="0600")
    assert result["changed"] is True
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["events"]


def test_a_link_stays_one(export: Any, tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    export(b"new", path=str(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.parametrize("path", ["missing/events", "."])
def test_a_path_that_cannot_be_written_is_named(export: Any, tmp_path: Path, path: str) -> None:
    result, _fake = export(b"1", path=str(tmp_path / path))
    assert result["failed"] is True and result["msg"].startswith("path: ")
    assert os.listdir(tmp_path) == []


def test_a_refusal_leaves_the_file(export: Any, tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(b"old")
    result, _fake = export(ApiError("limit: too many", "INVALID_ARGUMENT", 400), path=str(path))
    assert (result["failed"], result["msg"], result["error_type"]) == (
        True,
        "limit: too many",
        "INVALID_ARGUMENT",
    )
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize(
    "names, types, found",
    [
        ([], [], ["a", "b"]),
        (["b", "x"], [], ["b"]),
        ([], ["NATIVE"], ["b"]),
        (["a"], ["NATIVE"], []),
    ],
)
def test_key_providers(
    run_module: Any, client: Any, names: list[str], types: list[str], found: list[str]
) -> None:
    rows = [{"provider": "a", "type": "TRUSTED"}, {"provider": "b", "type": "NATIVE"}]
    fake = client({("GET", "/trust/key-providers"): rows})
    result = run_module("key_providers_info", fake, names=names, types=types)
    assert [row["provider"] for row in result["key_providers"]] == found
