# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Client of the vSphere management API (REST below /api), as far as the modules of this collection use it.

It logs in once, sends calls, waits for tasks, and turns every error into an `ApiError` that carries the server's own
message. It knows no resource.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
import typing as t
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit

from ansible.module_utils.urls import Request, make_context

SESSION_HEADER = "vmware-api-session-id"
POLL_FIRST = 0.05
POLL_LONGEST = 2.0
EXCERPT = 200
# Rows of a page of a list, and pages: a list that is longer has no end.
PAGE, PAGES = 1000, 1000
# Bytes of a file that is fetched with a token; a provider's backup has some thousand.
LARGEST_FILE = 1 << 20
# Ids of the messages that say that there is no such operation, or no API: not that a resource is not there.
NO_OPERATION = {"trusted.infrastructure.no_operation", "trusted.infrastructure.proxy_not_found"}


class ApiError(Exception):
    """The server refused, or could not be reached.

    error_type: vSphere error type ("NOT_FOUND"), or "" when there was no such answer. status: HTTP status, or 0.
    """

    def __init__(self, message: str, error_type: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.status = status


class NotWhole(ApiError):
    """A file did not arrive whole; the server may count it as fetched all the same."""


@dataclass(frozen=True)
class File:
    """A file that the server gave. length, digests: of the whole, as the server's headers Content-Length and
    Repr-Digest (RFC 9530) say it; "" for nothing."""

    content: bytes = field(repr=False)
    length: str = ""
    digests: str = ""

    def check(self, kept: bytes) -> None:
        """Whether what was read back from where the content went is the whole. Raises NotWhole."""
        sha256 = f":{base64.b64encode(hashlib.sha256(kept).digest()).decode()}:"
        said = dict(item.strip().partition("=")[::2] for item in self.digests.split(","))
        if (
            kept != self.content
            or self.length not in ("", str(len(kept)))
            or said.get("sha-256", sha256) != sha256
        ):
            raise NotWhole("the file is not whole")


@dataclass(frozen=True)
class Call:
    """One API call. path: below /api, already quoted; task: the operation runs as a task (`vmw-task=true`).

    raw: the answer is a file, given as its bytes.
    """

    method: str
    path: str
    body: t.Any = None
    query: tuple[tuple[str, str], ...] = ()
    task: bool = False
    raw: bool = False


def path(template: str, **names: str) -> str:
    """Fill `{name}` places of a path template; every name is quoted, slashes included.

    Raises ApiError for a name that would make another path of it.
    """
    for key, value in names.items():
        if value in ("", ".", ".."):
            raise ApiError(f"{key}: {value!r} cannot be a name")
    return template.format(**{key: quote(value, safe="") for key, value in names.items()})


@dataclass
class ManagementClient:
    """A session with one manager. Use as a context manager: it logs out at the end.

    timeout: seconds for one request; task_timeout: seconds for a task.
    """

    hostname: str
    username: str
    password: str = field(repr=False)
    port: int = 443
    validate_certs: bool = True
    ca_path: str | None = None
    timeout: int = 60
    task_timeout: int = 300
    _session: str = field(default="", repr=False)
    _request: Request | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        """Name and port as they stand in a URL; an IPv6 address stands in brackets."""
        bare = ":" in self.hostname and not self.hostname.startswith("[")
        return f"[{self.hostname}]:{self.port}" if bare else f"{self.hostname}:{self.port}"

    def __enter__(self) -> ManagementClient:
        self.login()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.logout()

    def login(self) -> None:
        """POST /api/session. User and password go in UTF-8. Raises ApiError."""
        session = self._send(
            "POST",
            "/session",
            None,
            (),
            url_username=self.username,
            url_password=self.password,
            force_basic_auth=True,
        )
        if not isinstance(session, str) or not session:
            raise ApiError(f"{self.address} did not give a session: is it a manager?")
        self._session = session

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
        if call.raw:
            return self._bytes(call.method, call.path, call.body, query)
        answer = self._send(call.method, call.path, call.body, query)
        return self.wait(answer) if call.task else answer

    def rows(self, call: Call, *keys: str) -> list[dict[str, t.Any]]:
        """All rows of a list that is given in pages. keys: fields of the last row that say where to read on.
        Raises ApiError."""
        found: list[dict[str, t.Any]] = []
        after: tuple[tuple[str, str], ...] = ()
        for _number in range(PAGES):
            page = self.call(replace(call, query=(*call.query, ("limit", str(PAGE)), *after)))
            if not isinstance(page, list):
                raise ApiError(f"{self.address} answered with what is no list: {str(page)[:EXCERPT]!r}")
            found += page
            if len(page) < PAGE:
                return found
            after = tuple(("after", page[-1][key]) for key in keys)
        raise ApiError(f"{self.address} gives a list of more than {PAGES * PAGE} rows")

    def find(self, call: Call) -> t.Any:
        """Like `call`, but None where the server says NOT_FOUND."""
        try:
            return self.call(call)
        except ApiError as error:
            # Any other 404 says that there is no such API here, and nothing of the resource.
            if error.error_type == "NOT_FOUND":
                return None
            raise

    def fetch(self, url: str, token: str) -> File:
        """The file that the server offers at a URL of its own, opened by a token. Raises ApiError, NotWhole.

        It is asked for at the address of this client, whatever name the URL has: the token goes nowhere else.
        """
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.path.startswith("/"):
            raise ApiError(f"{self.address} offers a file at {url[:EXCERPT]!r}, which is no HTTPS URL")
        target = f"https://{self.address}{parts.path}" + (f"?{parts.query}" if parts.query else "")
        try:
            answer = self._opened().open("GET", target, headers={"Authorization": f"Bearer {token}"})
            data = t.cast(bytes, answer.read(LARGEST_FILE + 1))
        except HTTPError as error:
            raise _http_error(error, "GET", parts.path.removeprefix("/api")) from error
        except (URLError, HTTPException, OSError, UnicodeError) as error:
            reason = getattr(error, "reason", None) or str(error) or type(error).__name__
            raise NotWhole(f"{self.address} did not give the file: {reason}") from error
        if len(data) > LARGEST_FILE:
            raise ApiError(f"{self.address} gives a file of more than {LARGEST_FILE} bytes")
        headers = answer.headers
        return File(data, headers.get("Content-Length", ""), ",".join(headers.get_all("Repr-Digest", [])))

    def wait(self, task: str) -> t.Any:
        """Wait until a task has ended. Returns its result; raises ApiError with its error, or after task_timeout."""
        end = time.monotonic() + self.task_timeout
        pause = POLL_FIRST
        if not isinstance(task, str) or not task:
            raise ApiError(f"{self.address} did not name the task that it started")
        while True:
            info = self._send("GET", "/cis/tasks/" + quote(task, safe=""), None, ())
            status = info.get("status") if isinstance(info, dict) else None
            if status == "SUCCEEDED":
                return info.get("result")
            if status == "FAILED":
                raise _task_error(info)
            if status not in ("PENDING", "RUNNING", "BLOCKED"):
                raise ApiError(f"{self.address}: task {task} has the status {status!r}, which is not known")
            if time.monotonic() > end:
                operation = info.get("operation", "the operation")
                raise ApiError(
                    f"{operation} has not ended within {self.task_timeout} s; it goes on as task {task}"
                )
            time.sleep(pause)
            pause = min(pause * 1.5, POLL_LONGEST)

    def _send(
        self, method: str, api_path: str, body: t.Any, query: tuple[tuple[str, str], ...], **auth: t.Any
    ) -> t.Any:
        return _value(self._bytes(method, api_path, body, query, **auth))

    def _bytes(
        self, method: str, api_path: str, body: t.Any, query: tuple[tuple[str, str], ...], **auth: t.Any
    ) -> bytes:
        url = f"https://{self.address}/api{api_path}"
        if query:
            url += "?" + urlencode(query)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._session:
            headers[SESSION_HEADER] = self._session
        try:
            data = None if body is None else json.dumps(body)
            return t.cast(bytes, self._opened().open(method, url, data=data, headers=headers, **auth).read())
        except HTTPError as error:
            raise _http_error(error, method, api_path) from error
        except (URLError, HTTPException, OSError, UnicodeError) as error:
            reason = getattr(error, "reason", None) or str(error) or type(error).__name__
            raise ApiError(f"{self.address} does not answer: {reason}") from error

    def _opened(self) -> Request:
        """What sends requests; the CAs are read once. It follows no redirect, which would carry the session away,
        and looks for no other password."""
        if self._request is None:
            try:
                context = make_context(
                    cafile=self.ca_path if self.validate_certs else None, validate_certs=self.validate_certs
                )
            except OSError as error:
                raise ApiError(f"ca_path: {self.ca_path}: {error.strerror or error}") from error
            self._request = Request(
                use_proxy=False,
                timeout=self.timeout,
                follow_redirects="none",
                use_netrc=False,
                context=context,
            )
        return self._request


def _value(data: bytes) -> t.Any:
    if not data:
        return None
    try:
        return json.loads(data)
    except ValueError as error:
        raise ApiError(f"the server's answer is not JSON: {data[:EXCERPT]!r}") from error


def _error(body: t.Any) -> tuple[str, str]:
    """Text and type of an error in vSphere's form; both are empty for anything else."""
    if not isinstance(body, dict):
        return "", ""
    messages = body.get("messages")
    rows = [row for row in messages if isinstance(row, dict)] if isinstance(messages, list) else []
    text = " ".join(str(row["default_message"]) for row in rows if row.get("default_message"))
    if any(str(row.get("id")) in NO_OPERATION for row in rows):
        return text, ""
    return text, str(body.get("error_type") or "")


def _http_error(error: HTTPError, method: str, api_path: str) -> ApiError:
    try:
        text, error_type = _error(json.loads(error.read()))
    except (ValueError, OSError, HTTPException):
        text, error_type = "", ""
    reason = text or f"HTTP status {error.code} {error.reason}"
    return ApiError(f"{method} /api{api_path}: {reason}", error_type, error.code)


def _task_error(info: t.Mapping[str, t.Any]) -> ApiError:
    text, error_type = _error(info.get("error"))
    return ApiError(
        text or f"{info.get('operation', 'the operation')} failed, and does not say why", error_type
    )
