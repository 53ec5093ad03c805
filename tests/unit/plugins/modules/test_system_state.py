# SPDX-License-Identifier: GPL-3.0-or-later
"""The module system_state; its parts are tested with the module_utils of this name."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils import system_state as state
from ansible_collections.trusted.infrastructure.plugins.modules.system_state import argument_spec, wanted

ACCOUNT = {"owner": pwd.getpwuid(os.getuid()).pw_name, "group": grp.getgrgid(os.getgid()).gr_name}


def test_parts_are_made_in_their_order() -> None:
    rows = {"path": "/x", "owner": "o", "group": "g", "mode": "0640"}
    params = {
        "packages": ["p"],
        "groups": ["g"],
        "users": [{"name": "u", "group": "g", "groups": ["h"]}],
        "folders": [rows],
        "files": [{**rows, "content": "c"}],
        "secret_files": [{**rows, "content": "s"}],
        "blocks": [{"path": "/b", "name": "n", "content": "c"}],
        "links": [{"path": "/l", "target": "t"}],
        "absent": ["/a"],
        "units": [{"name": "u.service", "active": False, "restart_on": ["/r"], "reload_on": ["/s"]}],
    }
    assert set(params) == set(argument_spec())
    parts, units = wanted(params, print)
    assert parts == [
        state.Packages(("p",), print),
        state.Group("g"),
        state.User("u", "g", ("h",)),
        state.Folder("/x", "o", "g", "0640"),
        state.File("/x", "c", "o", "g", "0640"),
        state.File("/x", "s", "o", "g", "0640", secret=True),
        state.Block("/b", "n", "c"),
        state.Link("/l", "t"),
        state.Absent("/a"),
    ]
    assert units == [state.Unit("u.service", False, ("/r",), ("/s",))]


def test_nothing_is_wanted(run_module: Any) -> None:
    result = run_module("system_state")
    assert (result["changed"], result["changes"], result["diff"]) == (False, [], [])


@pytest.mark.parametrize("check", [True, False])
def test_secrets_show_nowhere_and_all_else_does(run_module: Any, tmp_path: Path, check: bool) -> None:
    secret = "the-secret\nof two lines\n"
    given = {
        "folders": [{"path": str(tmp_path / "a"), "mode": "0700", **ACCOUNT}],
        "files": [{"path": str(tmp_path / "plain"), "content": "plain text", "mode": "0600", **ACCOUNT}],
        "secret_files": [{"path": str(tmp_path / "hidden"), "content": secret, **ACCOUNT}],
    }
    result = run_module("system_state", check=check, **given)
    assert result["changes"] == [f"folder {tmp_path}/a", f"file {tmp_path}/plain", f"file {tmp_path}/hidden"]
    assert [part["after"] for part in result["diff"]] == [
        f"{ACCOUNT['owner']}:{ACCOUNT['group']} 0700\n",
        "plain text",
        f"{ACCOUNT['owner']}:{ACCOUNT['group']} 0600\n<changed>\n",
    ]
    assert "the-secret" not in result.output
    assert "of two lines" not in result.output
    assert sorted(os.listdir(tmp_path)) == ([] if check else ["a", "hidden", "plain"])


def test_a_failure_names_the_part(run_module: Any, tmp_path: Path) -> None:
    result = run_module("system_state", folders=[{"path": str(tmp_path), "mode": "rwx"}])
    assert (result["failed"], result["msg"].split(": ")[0]) == (True, f"folder {tmp_path}")
