# SPDX-License-Identifier: GPL-3.0-or-later
"""Base images: a version never changes."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import ApiError, Call
from ansible_collections.trusted.infrastructure.plugins.modules.base_image import image_of, plan

BASE = "/vcenter/trusted-infrastructure/trust-authority-clusters/domain-c1/attestation/os/esx/base-images"
DOCUMENT = {"image_version": "1.2", "display_name": "One", "bank": "sha256", "pcrs": {}}
IMAGE = {"version": "1.2", "display_name": "One"}
CONTENT = json.dumps(DOCUMENT).encode()
CREATE = Call(
    "POST", BASE, base64.b64encode(CONTENT).decode(), query=(("action", "import-from-imgdb"),), task=True
)


@pytest.mark.parametrize(
    "content, version, expected",
    [
        (CONTENT, None, IMAGE),
        (CONTENT, "1.2", IMAGE),
        (b'{"image_version": "1"}', None, {"version": "1", "display_name": None}),
        (b"\x1f\x8b an archive", "8.0", {"version": "8.0", "display_name": None}),
        (b"[]", "8.0", {"version": "8.0", "display_name": None}),
    ],
)
def test_the_image_that_a_document_names(content: bytes, version: str | None, expected: Any) -> None:
    assert image_of(content, version) == expected


@pytest.mark.parametrize(
    "content, version, text",
    [
        (CONTENT, "1.3", "is the document of version 1.2, not of 1.3"),
        (b"{}", None, "is not a base image document"),
        (b'{"image_version": 1}', None, "is not a base image document"),
        (b"[]", None, "is not a base image document"),
        (b"", None, "is not a base image document"),
        (b"\xff", None, "is not a base image document"),
    ],
)
def test_a_document_that_is_none(content: bytes, version: str | None, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        image_of(content, version)


@pytest.mark.parametrize(
    "current, image, content, after, calls",
    [
        (None, IMAGE, CONTENT, IMAGE, (CREATE,)),
        (None, {**IMAGE, "display_name": None}, CONTENT, {"version": "1.2"}, (CREATE,)),
        (IMAGE, IMAGE, CONTENT, IMAGE, ()),
        (IMAGE, {**IMAGE, "display_name": None}, CONTENT, IMAGE, ()),
        (None, IMAGE, None, None, ()),
        (IMAGE, IMAGE, None, None, (Call("DELETE", f"{BASE}/1.2", task=True),)),
    ],
)
def test_plan(current: Any, image: Any, content: bytes | None, after: Any, calls: Any) -> None:
    planned = plan(BASE, current, image, content)
    assert (planned.before, planned.after, planned.calls) == (current, after, calls)


def test_the_version_under_another_name_is_refused() -> None:
    with pytest.raises(ApiError, match="1.2 is there as 'One', and this is 'Two'; a version never changes"):
        plan(BASE, IMAGE, {**IMAGE, "display_name": "Two"}, CONTENT)


def test_a_file_that_is_not_there(run_module: Any, client: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "nowhere.json")
    result = run_module("base_image", client({}), cluster="one", path=path)
    assert result["msg"] == f"path: {path}: No such file or directory"
    (tmp_path / "text").write_text("text")
    result = run_module("base_image", client({}), cluster="one", path=str(tmp_path / "text"))
    assert result["msg"] == f"path: {tmp_path}/text is not a base image document, and no version is given"


@pytest.mark.parametrize("state, missing", [("present", "path"), ("absent", "version")])
def test_what_is_needed_is_named(run_module: Any, client: Any, state: str, missing: str) -> None:
    assert run_module("base_image", client({}), cluster="one", state=state)["msg"].endswith(
        f"missing: {missing}"
    )
