# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules run in this process against a client that answers from a table."""

from __future__ import annotations

import importlib
import json
from typing import Any
from unittest import mock

import pytest
from ansible.module_utils.common import warnings
from ansible.module_utils.testing import patch_module_args

from ansible_collections.trusted.infrastructure.plugins.module_utils import desired_state
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    Call,
    ManagementClient,
)

CONNECTION = {"hostname": "manager.example", "username": "administrator", "password": "the-password"}


class FakeClient(ManagementClient):
    """Answers from `answers`: (method, path below /api) -> value, error to raise, or function of the call."""

    def __init__(self, answers: dict[tuple[str, str], Any]) -> None:
        super().__init__("manager.example", "administrator", "the-password")
        self.answers = {("GET", "/vcenter/cluster"): [{"cluster": "domain-c1", "name": "one"}], **answers}
        self.calls: list[Call] = []
        self.open = False

    def login(self) -> None:
        self.open = True

    def logout(self) -> None:
        self.open = False

    def call(self, call: Call) -> Any:
        assert self.open
        self.calls.append(call)
        answer = self.answers[call.method, call.path]
        if isinstance(answer, Exception):
            raise answer
        return answer(call) if callable(answer) else answer

    @property
    def changes(self) -> list[Call]:
        """Calls that were sent and change something."""
        return [call for call in self.calls if call.method != "GET" and ("action", "query") not in call.query]


class Result(dict):
    """What a module printed. output: all of it."""

    def __init__(self, output: str) -> None:
        super().__init__(json.loads(output.splitlines()[-1]))
        self.output = output


@pytest.fixture
def run_module(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a module: run_module(name, client or None, check=..., connection=..., parameters...) -> Result."""

    def run(
        module_name: str, fake: FakeClient | None = None, /, *, check: bool = False, **parameters: Any
    ) -> Result:
        module = importlib.import_module(
            f"ansible_collections.trusted.infrastructure.plugins.modules.{module_name}"
        )
        arguments = {**(CONNECTION if fake else {}), **parameters}
        arguments |= {"_ansible_check_mode": check, "_ansible_diff": True}
        if fake is not None:
            monkeypatch.setattr(desired_state, "client_of", lambda _module: fake)
        capsys.readouterr()
        with patch_module_args(arguments), mock.patch.dict(warnings._global_warnings, clear=True):
            with pytest.raises(SystemExit):
                module.main()
        return Result(capsys.readouterr().out)

    return run


@pytest.fixture
def client() -> type[FakeClient]:
    """Makes a client: client({(method, path): answer})."""
    return FakeClient
