# SPDX-License-Identifier: GPL-3.0-or-later
"""Records of trust: written once, replaced only when that is asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.modules.trust_record import decide, write


@pytest.mark.parametrize(
    "recorded, content, difference, expected",
    [
        (None, "a", "refuse", "write"),
        (None, "a", "replace", "write"),
        ("a", "a", "refuse", "keep"),
        ("a\n", " a\n\n", "refuse", "keep"),
        ("a", "a", "replace", "keep"),
        ("a", "b", "refuse", "refuse"),
        ("a", "b", "replace", "write"),
        ("", "a", "refuse", "refuse"),
        ("", "", "refuse", "keep"),
        ("a", "", "refuse", "refuse"),
        ("a", "A", "refuse", "refuse"),
        ("a b", "a  b", "refuse", "refuse"),
    ],
)
def test_decide(recorded: str | None, content: str, difference: str, expected: str) -> None:
    assert decide(recorded, content, difference) == expected


def test_record(run_module: Any, tmp_path: Path) -> None:
    path = tmp_path / "new/folder/record.pem"
    given = {"path": str(path), "content": "the CA"}
    assert run_module("trust_record", check=True, **given)["changed"] is True
    assert list(tmp_path.iterdir()) == []
    result = run_module("trust_record", **given)
    assert (result["changed"], result["path"]) == (True, str(path))
    assert result["diff"] == {"before": "", "after": "the CA\n"}
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("the CA\n", 0o644)
    for check in (False, True):
        assert run_module("trust_record", check=check, **given)["changed"] is False
    assert os.listdir(path.parent) == ["record.pem"]


@pytest.mark.parametrize("check", [False, True])
def test_something_else_is_refused(run_module: Any, tmp_path: Path, check: bool) -> None:
    path = tmp_path / "record.pem"
    path.write_text("the CA\n")
    result = run_module(
        "trust_record", check=check, path=str(path), content="another", remedy="Ask somebody."
    )
    assert (result["failed"], result["msg"]) == (True, f"{path} records something else. Ask somebody.")
    assert path.read_text() == "the CA\n"
    result = run_module("trust_record", check=check, path=str(path), content="another", difference="replace")
    assert result["changed"] is True
    assert path.read_text() == ("the CA\n" if check else "another\n")


def test_a_record_that_is_no_text_is_something_else(run_module: Any, tmp_path: Path) -> None:
    path = tmp_path / "record.pem"
    path.write_bytes(b"\xff\xfe")
    assert "records something else" in run_module("trust_record", path=str(path), content="the CA")["msg"]


def test_what_cannot_be_read_or_written_is_named(run_module: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file/below"):
        result = run_module("trust_record", path=str(path), content="x")
        assert result["msg"].startswith(f"{path}: ")


def test_a_write_that_is_cut_off_leaves_the_old_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.pem"
    path.write_text("old")

    def failing(_source: str, _target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="No space"):
        write(str(path), "new")
    assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["record.pem"])
