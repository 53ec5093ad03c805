# SPDX-License-Identifier: GPL-3.0-or-later
"""Administrative commands, played by a small script."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.modules.service_command import answer_of, refusal_of


@pytest.fixture
def program(tmp_path: Path) -> Any:
    """Writes a program; its arguments and input land in files beside it."""

    def make(out: str, code: int = 0, err: str = "") -> str:
        path = tmp_path / "program"
        (tmp_path / "out").write_text(out)
        (tmp_path / "err").write_text(err)
        lines = [
            "#!/bin/sh",
            f"cat > {tmp_path}/input",
            f'echo "$@" > {tmp_path}/arguments',
            f"env > {tmp_path}/environment",
            f"cat {tmp_path}/out",
            f"cat {tmp_path}/err >&2",
            f"exit {code}",
        ]
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o755)
        return str(path)

    return make


@pytest.mark.parametrize(
    "out, expected", [("{}", {}), ('{"a": 1}\n', {"a": 1}), ("", None), ("text", None), ("[]", None)]
)
def test_answer(out: str, expected: Any) -> None:
    assert answer_of(out) == expected


@pytest.mark.parametrize(
    "answer, expected",
    [
        (None, ""),
        ({}, ""),
        ({"error": "text"}, ""),
        ({"error": {"message": "No."}}, "No."),
        ({"error": {"code": "x", "message": "No.", "remedy": "Do."}}, "No. Do."),
    ],
)
def test_refusal(answer: Any, expected: str) -> None:
    assert refusal_of(answer) == expected


@pytest.mark.parametrize("changed", [True, False])
@pytest.mark.parametrize("check", [True, False])
def test_command(run_module: Any, program: Any, tmp_path: Path, changed: bool, check: bool) -> None:
    executable = program(json.dumps({"changed": changed, "more": 1}))
    given = {"command": ["identity", "ensure"], "input": {"a": 1}, "executable": executable}
    result = run_module("service_command", check=check, **given)
    assert (result["changed"], result["pending"]) == (changed, False)
    assert result["answer"] == {"changed": changed, "more": 1}
    assert (tmp_path / "arguments").read_text() == (
        "identity ensure --check\n" if check else "identity ensure\n"
    )
    assert (tmp_path / "input").read_text().strip() == '{"a": 1}'


def test_a_secret_is_nowhere_but_on_standard_input(run_module: Any, program: Any, tmp_path: Path) -> None:
    executable = program('{"changed": true, "quoted": "the-secret"}')
    secret = {"users": [{"password": "the-secret"}]}
    result = run_module("service_command", command=["users"], secret_input=secret, executable=executable)
    assert "the-secret" in (tmp_path / "input").read_text()
    assert "the-secret" not in result.output
    assert "the-secret" not in (tmp_path / "arguments").read_text() + (tmp_path / "environment").read_text()


@pytest.mark.parametrize(
    "out, err, code, text",
    [
        ('{"error": {"message": "No key.", "remedy": "Make one."}}', "", 1, "a b: No key. Make one."),
        ("{}", "it went wrong\n", 1, "a b: it went wrong"),
        ("text", "", 1, "a b: text"),
        ("", "", 3, "a b: exit code 3"),
        ("text", "", 0, "a b: the answer is not a JSON document: text"),
        ("", "", 0, "a b: the answer is not a JSON document: "),
    ],
)
def test_a_command_that_fails(
    run_module: Any, program: Any, out: str, err: str, code: int, text: str
) -> None:
    result = run_module("service_command", command=["a", "b"], executable=program(out, code, err))
    assert (result["failed"], result["msg"]) == (True, text)
    assert "Traceback" not in result.output


def test_before_the_services_are_installed(run_module: Any, tmp_path: Path) -> None:
    given = {"command": ["a"], "executable": str(tmp_path / "nowhere")}
    result = run_module("service_command", check=True, **given)
    assert (result["changed"], result["pending"], result["answer"]) == (True, True, {})
    assert (
        "is not installed: run the role service_runtime first"
        in run_module("service_command", **given)["msg"]
    )
