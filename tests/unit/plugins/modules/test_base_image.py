# SPDX-License-Identifier: GPL-3.0-or-later
"""Base images: a version never changes, and a retired one is not trusted again unasked."""

from __future__ import annotations

import base64
import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import ApiError, Call
from ansible_collections.trusted.infrastructure.plugins.modules.base_image import (
    LIFE_CYCLES,
    Found,
    Wanted,
    lost,
    plan,
    removed,
    wanted_of,
)

BASE = "/vcenter/trusted-infrastructure/trust-authority-clusters/domain-c1/attestation/os/esx/base-images"
LIST = "/trust/clusters/domain-c1/base-images"
OWN = f"{LIST}/1.2"
DOCUMENT = {"image_version": "1.2", "display_name": "One", "bank": "sha256", "pcrs": {}}
ACTIVE = {"version": "1.2", "display_name": "One", "life_cycle": "active"}
VSPHERE = {"version": "1.2", "display_name": "One"}
CONTENT = json.dumps(DOCUMENT).encode()


def document(**changes: object) -> bytes:
    return json.dumps({**DOCUMENT, **changes}).encode()


def create(content: bytes) -> Call:
    body = base64.b64encode(content).decode()
    return Call("POST", BASE, body, query=(("action", "import-from-imgdb"),), task=True)


def step(state: str, **more: object) -> Call:
    return Call("PATCH", OWN, {"state": state, **more}, task=True)


@pytest.mark.parametrize(
    "content, version, life_cycle, expected",
    [
        (CONTENT, None, None, ("1.2", "One", CONTENT, None)),
        (CONTENT, "1.2", None, ("1.2", "One", CONTENT, None)),
        (b'{"image_version": "1"}', None, None, ("1", None, b'{"image_version": "1"}', None)),
        (b"\x1f\x8b an archive", "8.0", None, ("8.0", None, b"\x1f\x8b an archive", None)),
        (b"[]", "8.0", None, ("8.0", None, b"[]", None)),
        (None, "1.2", "retired", ("1.2", None, None, "retired")),
        # The document says in which state it is meant, unless the task does.
        (document(state="RETIRED"), None, None, ("1.2", "One", document(state="RETIRED"), "retired")),
        (document(state="STAGED"), None, "staged", ("1.2", "One", document(state="STAGED"), "staged")),
        (document(state="STAGED"), None, "active", ("1.2", "One", document(state="ACTIVE"), "active")),
        (CONTENT, None, "staged", ("1.2", "One", document(state="STAGED"), "staged")),
    ],
)
def test_what_a_task_wants(content: Any, version: Any, life_cycle: Any, expected: Any) -> None:
    assert wanted_of(content, version, life_cycle) == Wanted(*expected)


@pytest.mark.parametrize(
    "content, version, life_cycle, text",
    [
        (CONTENT, "1.3", None, "is the document of version 1.2, not of 1.3"),
        (b"{}", None, None, "is not a base image document"),
        (b'{"image_version": 1}', None, None, "is not a base image document"),
        (b"[]", None, None, "is not a base image document"),
        (b"", None, None, "is not a base image document"),
        (b"\xff", None, None, "is not a base image document"),
        (b"\xff", "8.0", "staged", "only those have a life cycle"),
        (document(state="GONE"), None, None, "has the state 'GONE'; there are STAGED, ACTIVE, RETIRED"),
        (document(state=None), None, None, "has the state None"),
    ],
)
def test_a_document_that_is_none(content: bytes, version: Any, life_cycle: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        wanted_of(content, version, life_cycle)


@pytest.mark.parametrize(
    "own, current, wanted, after, calls",
    [
        (OWN, None, Wanted("1.2", "One", CONTENT), ACTIVE, (create(CONTENT),)),
        (
            OWN,
            None,
            Wanted("1.2", "One", CONTENT, "staged"),
            {**ACTIVE, "life_cycle": "staged"},
            (create(CONTENT),),
        ),
        (None, None, Wanted("1.2", None, b"x"), {"version": "1.2"}, (create(b"x"),)),
        (None, VSPHERE, Wanted("1.2", None, b"x"), VSPHERE, ()),
        (OWN, ACTIVE, Wanted("1.2", "One", CONTENT), ACTIVE, ()),
        (OWN, ACTIVE, Wanted("1.2", None, None), ACTIVE, ()),
    ],
)
def test_plan(own: Any, current: Any, wanted: Wanted, after: Any, calls: Any) -> None:
    planned = plan(Found(BASE, own, current), wanted)
    assert (planned.before, planned.after, planned.calls) == (current, after, calls)


# Call without `reactivate`, and with it; None: refused; (): nothing to do.
STEPS: dict[tuple[str, str], Any] = {
    ("staged", "active"): (step("ACTIVE"),) * 2,
    ("staged", "retired"): (step("RETIRED"),) * 2,
    ("active", "staged"): (None, None),
    ("active", "retired"): (step("RETIRED"),) * 2,
    ("retired", "staged"): (None, step("STAGED", reactivate=True)),
    ("retired", "active"): (None, step("ACTIVE", reactivate=True)),
}


@pytest.mark.parametrize("before, after, reactivate", list(product(LIFE_CYCLES, LIFE_CYCLES, [False, True])))
def test_every_step(before: str, after: str, reactivate: bool) -> None:
    found = Found(BASE, OWN, {**ACTIVE, "life_cycle": before})
    wanted = Wanted("1.2", "One", None, after, reactivate)
    expected = ((),) * 2 if before == after else STEPS[before, after]
    call = expected[reactivate]
    if call is None:
        with pytest.raises(ApiError, match="the version 1.2 is (retired|active)") as caught:
            plan(found, wanted)
        assert caught.value.error_type == "NOT_ALLOWED_IN_CURRENT_STATE"
        return
    planned = plan(found, wanted)
    assert planned.calls == (() if call == () else (call,))
    assert planned.after == {**ACTIVE, "life_cycle": after}


@pytest.mark.parametrize(
    "current, calls", [(None, ()), (ACTIVE, (Call("DELETE", f"{BASE}/1.2", task=True),))]
)
def test_removed(current: Any, calls: Any) -> None:
    planned = removed(Found(BASE, OWN, current), "1.2")
    assert (planned.before, planned.after, planned.calls) == (current, None, calls)


def test_the_version_under_another_name_is_refused() -> None:
    with pytest.raises(ApiError, match="1.2 is there as 'One', and this is 'Two'; a version never changes"):
        plan(Found(BASE, OWN, ACTIVE), Wanted("1.2", "Two", CONTENT))


def test_a_version_that_is_not_there_needs_its_document() -> None:
    with pytest.raises(ApiError, match="the version 1.2 is not there: give the path of its document"):
        plan(Found(BASE, OWN, None), Wanted("1.2", None, None, "active"))


def test_a_server_without_life_cycles() -> None:
    with pytest.raises(ApiError, match="no life cycle of base images"):
        plan(Found(BASE, None, VSPHERE), Wanted("1.2", None, b"x", "retired"))


def test_what_scopes_lose_is_a_warning() -> None:
    found = Found(BASE, OWN, ACTIVE, ["a", "b"])
    texts = lost(found, removed(found, "1.2"))
    assert [text.split()[2] for text in texts] == ["a", "b"]
    assert lost(found, plan(found, Wanted("1.2", None, None, "retired"))) == texts
    assert lost(found, plan(found, Wanted("1.2", None, None, "active"))) == []


@pytest.mark.parametrize("check", [True, False])
def test_the_document_decides_on_a_server(run_module: Any, client: Any, tmp_path: Path, check: bool) -> None:
    file = tmp_path / "1.2.json"
    file.write_bytes(document(state="RETIRED"))
    row = {"version": "1.2", "display_name": "One", "state": "ACTIVE", "last_of": ["a"]}
    fake = client({("GET", LIST): [row], ("PATCH", OWN): {}})
    result = run_module("base_image", fake, check=check, cluster="one", path=str(file))
    assert (result["changed"], result["resource"]["life_cycle"]) == (True, "retired")
    assert result["diff"]["before"]["life_cycle"] == "active"
    assert "the scope a has no other base image" in str(result["warnings"])
    assert fake.changes == ([] if check else [step("RETIRED")])


@pytest.mark.parametrize("check", [True, False])
def test_converging_never_reactivates(run_module: Any, client: Any, tmp_path: Path, check: bool) -> None:
    file = tmp_path / "1.2.json"
    file.write_bytes(document(state="ACTIVE"))
    row = {"version": "1.2", "display_name": "One", "state": "RETIRED", "last_of": []}
    fake = client({("GET", LIST): [row]})
    result = run_module("base_image", fake, check=check, cluster="one", path=str(file))
    assert "the version 1.2 is retired, and is to be active" in result["msg"]
    assert fake.changes == []


def test_a_file_that_is_not_there(run_module: Any, client: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "nowhere.json")
    result = run_module("base_image", client({}), cluster="one", path=path)
    assert result["msg"] == f"path: {path}: No such file or directory"
    (tmp_path / "text").write_text("text")
    result = run_module("base_image", client({}), cluster="one", path=str(tmp_path / "text"))
    assert result["msg"] == f"path: {tmp_path}/text is not a base image document, and no version is given"


@pytest.mark.parametrize("state, missing", [("present", "path, version"), ("absent", "version")])
def test_what_is_needed_is_named(run_module: Any, client: Any, state: str, missing: str) -> None:
    result = run_module("base_image", client({}), cluster="one", state=state)
    assert result["msg"].endswith(f"missing: {missing}")
