# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules run in this process, their requests carried to a manager in this process."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.error import HTTPError
from urllib.parse import parse_qsl, urlsplit

from ansible.module_utils.common import warnings
from ansible.module_utils.testing import patch_module_args
from ansible.module_utils.urls import basic_auth_header
from services.manager.harness import PASSWORD, Api, Clock, FakeNodes, Side, open_api

from trusted_infrastructure.manager.operations import TABLE
from trusted_infrastructure.manager.vapi.download import Download
from trusted_infrastructure.manager.vapi.operation import AnyOperation
from trusted_infrastructure.manager.vapi.routing import Router, check_task_parameter

PLUGINS = "ansible_collections.trusted.infrastructure.plugins"
ROUTER = Router(TABLE)
CallSite = tuple[str, int]
# What a module shows in place of what it cannot know before, or never shows.
UNKNOWN = ("<new>", "<changed>")


class Answer(io.BytesIO):
    """As urllib's."""

    def __init__(self, content: bytes, headers: Message) -> None:
        super().__init__(content)
        self.headers = headers


class Door:
    """In place of Ansible's `Request`: requests go to a manager, and are compared with its table."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.operations: list[AnyOperation] = []
        # Beginning of the paths that this server does not have, as a vCenter would not.
        self.missing = ""
        # What becomes of a file on its way: its bytes, and the headers, which may be changed.
        self.carry: Callable[[bytes, Message], bytes] = lambda content, _headers: content

    def __call__(self, **_options: Any) -> Door:
        return self

    def open(self, method: str, url: str, data: str | None = None, **options: Any) -> Answer:
        """As `Request.open`."""
        split = urlsplit(url)
        path = split.path.removeprefix("/api")
        if self.missing and path.startswith(self.missing):
            raise HTTPError(url, 404, "Not Found", Message(), io.BytesIO())
        query = parse_qsl(split.query, strict_parsing=bool(split.query))
        operation = ROUTER.find(method, path, query).operation
        check_task_parameter(operation, query)
        self.operations.append(operation)
        headers = dict(options["headers"])
        if "url_username" in options:
            headers["Authorization"] = basic_auth_header(options["url_username"], options["url_password"])
        path += f"?{split.query}" if split.query else ""
        response = self.api.request(method, path, content=data, headers=headers)
        if not response.is_success:
            body = io.BytesIO(response.content)
            raise HTTPError(url, response.status_code, response.reason_phrase, Message(), body)
        headers = Message()
        for name, value in response.headers.multi_items():
            headers[name] = value
        content = self.carry(response.content, headers) if operation.output is Download else response.content
        return Answer(content, headers)

    def changes(self) -> list[str]:
        """Operations that change something, sessions apart, since the last call."""
        found = [item.wire_id for item in self.operations if item.changes and "session" not in item.service]
        self.operations.clear()
        return found


class Site:
    """One manager, and the modules that configure it. sites: where the modules made calls that were sent."""

    def __init__(self, api: Api, directory: Path) -> None:
        self.api = api
        self.directory = directory
        self.door = Door(api)
        self.call_sites: set[CallSite] = set()
        self.modules: set[str] = set()

    def run(self, name: str, /, check: bool = False, **parameters: Any) -> dict[str, Any]:
        """The result of a module. Unless it fails, `failed` is False."""
        self.modules.add(name)
        management_api = importlib.import_module(f"{PLUGINS}.module_utils.management_api")
        module = importlib.import_module(f"{PLUGINS}.modules.{name}")
        connection = {"hostname": "manager.example", "username": "administrator", "password": PASSWORD}
        arguments = {**connection, **parameters, "_ansible_check_mode": check, "_ansible_diff": True}
        output = io.StringIO()
        with contextlib.ExitStack() as stack:
            stack.enter_context(patch_module_args(arguments))
            stack.enter_context(mock.patch.object(management_api, "Request", self.door))
            stack.enter_context(mock.patch.object(management_api, "make_context", lambda **_options: None))
            stack.enter_context(self.recording(management_api))
            stack.enter_context(mock.patch.dict(warnings._global_warnings, clear=True))
            stack.enter_context(contextlib.redirect_stdout(output))
            stack.enter_context(contextlib.suppress(SystemExit))
            module.main()
        # The manager logs to the same place.
        result: dict[str, Any] = {"failed": False, **json.loads(output.getvalue().splitlines()[-1])}
        assert PASSWORD not in output.getvalue()
        assert "unreachable" not in result, "Ansible takes it for a host that its connection does not reach"
        return result

    @contextlib.contextmanager
    def recording(self, management_api: Any) -> Iterator[None]:
        """Notes where each call was made that was sent."""
        made: dict[int, tuple[Any, CallSite]] = {}
        create, client_type = management_api.Call.__init__, management_api.ManagementClient
        send, send_pages = client_type.call, client_type.rows

        def noting(call: Any, *values: Any, **named: Any) -> None:
            create(call, *values, **named)
            frame = sys._getframe(1)
            # The call is kept, so that no other gets its id.
            made[id(call)] = (call, (frame.f_code.co_filename, frame.f_lineno))

        def sending(client: Any, call: Any) -> Any:
            self.call_sites.add(made[id(call)][1])
            return send(client, call)

        def sending_pages(client: Any, call: Any, *keys: str) -> Any:
            # The calls of its pages are made from this one, elsewhere.
            self.call_sites.add(made[id(call)][1])
            return send_pages(client, call, *keys)

        with (
            mock.patch.object(management_api.Call, "__init__", noting),
            mock.patch.object(client_type, "call", sending),
            mock.patch.object(client_type, "rows", sending_pages),
        ):
            yield

    def ok(self, name: str, /, **parameters: Any) -> dict[str, Any]:
        """The result of a module that must not fail."""
        result = self.run(name, **parameters)
        assert not result["failed"], result["msg"]
        return result

    def refused(self, name: str, /, **parameters: Any) -> str:
        """The message of a module that must fail, and change nothing."""
        result = self.run(name, **parameters)
        assert result["failed"], result
        return str(result["msg"])

    def foreseen(self, name: str, /, **parameters: Any) -> tuple[str, str]:
        """The messages of check mode and of the run, of a module that its manager refuses whatever others do:
        check mode fails before, without a change, for the same reason."""
        predicted, result = self._foreseen(name, parameters)
        assert (predicted["failed"], predicted["error_type"]) == (True, result["error_type"]), predicted
        assert predicted["changed"] == result["changed"]
        return predicted["msg"], result["msg"]

    def warned(self, name: str, /, **parameters: Any) -> tuple[str, str]:
        """The same where another task could clear the way: check mode warns, and goes on."""
        predicted, result = self._foreseen(name, parameters)
        assert (predicted.get("failed", False), predicted["changed"]) == (False, True), predicted
        (warning,) = predicted["warnings"]
        return str(warning), result["msg"]

    def _foreseen(self, name: str, parameters: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        self.door.changes()
        predicted = self.run(name, check=True, **parameters)
        assert self.door.changes() == []
        result = self.run(name, **parameters)
        assert result["failed"], result
        assert self.door.changes() != [], "the manager decides"
        return predicted, result

    def converges(self, name: str, /, **parameters: Any) -> dict[str, Any]:
        """Check, apply, apply, check: the result of the first time that it applies."""
        self.door.changes()
        predicted = self.ok(name, check=True, **parameters)
        assert predicted["changed"] is True
        assert self.door.changes() == []
        result = self.ok(name, **parameters)
        assert result["changed"] is True
        assert predicted["resource"] == result["resource"]
        assert self.door.changes() != []
        expected = {key: value for key, value in (result["resource"] or {}).items() if value not in UNKNOWN}
        for check in (False, True):
            again = self.ok(name, check=check, **parameters)
            assert again["changed"] is False, again["diff"]
            assert again["diff"]["before"] == again["diff"]["after"]
            assert {key: again["resource"][key] for key in expected} == expected
        assert self.door.changes() == []
        return result

    def stays(self, name: str, /, **parameters: Any) -> dict[str, Any]:
        """The result of a module that finds everything as wanted."""
        result = self.ok(name, **parameters)
        assert result["changed"] is False, result["diff"]
        return result


@contextlib.contextmanager
def open_site(directory: Path, side: Side, **options: Any) -> Iterator[Site]:
    """A manager of a side, without clusters."""
    with open_api(directory, side, FakeNodes(), Clock(), **options) as api:
        yield Site(api, directory)
