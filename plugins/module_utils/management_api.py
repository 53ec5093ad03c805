# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Client of the vSphere management API (REST below /api), as far as the modules of this collection use it.

It logs in once, sends calls, waits for tasks, and turns every error into an `ApiError` that carries the server's own
message. It knows no resource.
"""

from __future__ import annotations

import json
import time
import typing as t
from dataclasses import dataclass, field
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode

from ansible.module_utils.urls import ConnectionError as UrlConnectionError
from ansible.module_utils.urls import NoSSLError, SSLValidationError, open_url

SESSION_HEADER = "vmware-api-session-id"
POLL_FIRST = 0.05
POLL_LONGEST = 2.0


class ApiError(Exception):
    """The server refused, or could not be reached.

    error_type: vSphere error type ("NOT_FOUND"), or "" when there was no such answer. status: HTTP status, or 0.
    """

    def __init__(self, message: str, error_type: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.status = status


@dataclass(frozen=True)
class Call:
    """One API call. path: below /api, already quoted; task: the operation runs as a task (`vmw-task=true`)."""

    method: str
    path: str
    body: t.Any = None
    query: tuple[tuple[str, str], ...] = ()
    task: bool = False


def path(template: str, **names: str) -> str:
    """Fill `{name}` places of a path template; every name is quoted, slashes included."""
    return template.format(**{key: quote(value, safe="") for key, value in names.items()})


@dataclass
class ManagementClient:
    """A session with one manager. Use as a context manager: it logs out at the end."""

    hostname: str
    username: str
    password: str = field(repr=False)
    port: int = 443
    validate_certs: bool = True
    ca_path: str | None = None
    timeout: int = 60
    task_timeout: int = 300
    _session: str = field(default="", repr=False)

    def __enter__(self) -> ManagementClient:
        self.login()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.logout()

    def login(self) -> None:
        """POST /api/session. Raises ApiError."""
        self._session = self._send(
            "POST", "/session", None, (), url_username=self.username, url_password=self.password, force_basic_auth=True
        )

    def logout(self) -> None:
        """End the session; one that is gone already is no error."""
        if self._session:
            try:
                self._send("DELETE", "/session", None, ())
            except ApiError:
                pass
            self._session = ""

    def call(self, call: Call) -> t.Any:
        """Send a call; wait for its task, where it is one. Returns the value or the task's result. Raises ApiError."""
        query = call.query + ((("vmw-task", "true"),) if call.task else ())
        answer = self._send(call.method, call.path, call.body, query)
        return self.wait(answer) if call.task else answer

    def find(self, call: Call) -> t.Any:
        """Like `call`, but None where the server says NOT_FOUND."""
        try:
            return self.call(call)
        except ApiError as error:
            if error.error_type == "NOT_FOUND" or error.status == 404:
                return None
            raise

    def wait(self, task: str) -> t.Any:
        """Wait until a task has ended. Returns its result; raises ApiError with its error, or after task_timeout."""
        end = time.monotonic() + self.task_timeout
        pause = POLL_FIRST
        while True:
            info = self._send("GET", "/cis/tasks/" + quote(task, safe=""), None, ())
            if info["status"] == "SUCCEEDED":
                return info.get("result")
            if info["status"] == "FAILED":
                raise _task_error(info)
            if time.monotonic() > end:
                raise ApiError(f"{info['operation']} has not ended within {self.task_timeout} s (task {task})")
            time.sleep(pause)
            pause = min(pause * 1.5, POLL_LONGEST)

    def _send(
        self, method: str, api_path: str, body: t.Any, query: tuple[tuple[str, str], ...], **auth: t.Any
    ) -> t.Any:
        url = f"https://{self.hostname}:{self.port}/api{api_path}"
        if query:
            url += "?" + urlencode(query)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._session:
            headers[SESSION_HEADER] = self._session
        try:
            response = open_url(
                url,
                method=method,
                data=None if body is None else json.dumps(body),
                headers=headers,
                validate_certs=self.validate_certs,
                ca_path=self.ca_path,
                timeout=self.timeout,
                use_proxy=False,
                **auth,
            )
            return _value(response.read())
        except HTTPError as error:
            raise _http_error(error, method, api_path) from error
        except (URLError, SSLValidationError, NoSSLError, UrlConnectionError, OSError) as error:
            reason = getattr(error, "reason", None) or error
            raise ApiError(f"{self.hostname}:{self.port} does not answer: {reason}") from error


def _value(data: bytes) -> t.Any:
    if not data:
        return None
    try:
        return json.loads(data)
    except ValueError as error:
        raise ApiError(f"the server's answer is not JSON: {data[:200]!r}") from error


def _messages(error: t.Mapping[str, t.Any]) -> str:
    return " ".join(message.get("default_message", "") for message in error.get("messages") or [])


def _http_error(error: HTTPError, method: str, api_path: str) -> ApiError:
    try:
        body = json.loads(error.read())
    except (ValueError, OSError):
        body = {}
    if not isinstance(body, dict):
        body = {}
    text = _messages(body) or str(error.reason)
    return ApiError(f"{method} /api{api_path}: {text}", body.get("error_type") or "", error.code)


def _task_error(info: t.Mapping[str, t.Any]) -> ApiError:
    error = info.get("error") or {}
    return ApiError(_messages(error) or f"{info['operation']} failed", error.get("error_type") or "")
