# SPDX-License-Identifier: GPL-3.0-or-later
"""The client of the management API, from the table of calls down to what urllib is asked to send."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import socket
import ssl
import urllib.request
from email.message import Message
from http.client import BadStatusLine, HTTPResponse, IncompleteRead
from typing import Any
from urllib.error import HTTPError, URLError

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils import management_api
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    ApiError,
    Call,
    ManagementClient,
    NotWhole,
    path,
)

PASSWORD = "p\u00e4ssw\u00f6rd:\u20ac\U0001f511"
SESSION = "the-session-id"
GET = Call("GET", "/x")
TASK = Call("POST", "/x", task=True)


class Response(io.BytesIO):
    """What urlopen returns."""

    headers = Message()


class Wire:
    """In place of urlopen: answers one after the other, and keeps the requests. After the answers, "null"."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.requests: list[urllib.request.Request] = []

    def __call__(self, request: urllib.request.Request, _data: None, timeout: float) -> Any:
        self.requests.append(request)
        if not self.answers:
            return Response()
        answer = self.answers.pop(0)
        if answer is not None and isinstance(answer, Exception):
            raise answer
        if isinstance(answer, io.BufferedIOBase):
            response = answer
        elif isinstance(answer, bytes):
            response = Response(answer)
        else:
            response = Response(b"" if answer is None else json.dumps(answer).encode())
        return response

    @property
    def sent(self) -> list[str]:
        """Methods and URLs."""
        return [f"{request.method} {request.full_url}" for request in self.requests]


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    found = Wire()
    monkeypatch.setattr(urllib.request, "urlopen", found)
    monkeypatch.setattr(management_api.time, "sleep", lambda _seconds: None)
    return found


def client(**changes: Any) -> ManagementClient:
    values = {
        "hostname": "manager.example",
        "username": "admin",
        "password": PASSWORD,
        "validate_certs": False,
    }
    return ManagementClient(**{**values, **changes})


def logged_in(wire: Wire, *answers: Any, **changes: Any) -> ManagementClient:
    """A client with a session; the wire has forgotten the login."""
    found = client(**changes)
    wire.answers = [SESSION]
    found.login()
    wire.requests.clear()
    wire.answers = list(answers)
    return found


def http_error(status: int, body: bytes, reason: str = "Bad Request") -> HTTPError:
    return HTTPError("https://manager.example/api/x", status, reason, Message(), io.BytesIO(body))


def vsphere(error_type: str, *texts: str) -> dict[str, Any]:
    return {
        "error_type": error_type,
        "messages": [{"id": "i", "default_message": text, "args": []} for text in texts],
    }


def test_login_sends_the_password_in_utf8_and_only_then(wire: Wire) -> None:
    wire.answers = [SESSION, [1], None]
    with client() as session:
        assert session.call(GET) == [1]
    assert wire.sent == [
        "POST https://manager.example:443/api/session",
        "GET https://manager.example:443/api/x",
        "DELETE https://manager.example:443/api/session",
    ]
    login, call, logout = wire.requests
    encoded = login.get_header("Authorization").removeprefix(b"Basic ")
    assert base64.b64decode(encoded).decode("utf-8") == f"admin:{PASSWORD}"
    assert login.get_header("Vmware-api-session-id") is None
    for request in (call, logout):
        assert request.get_header("Vmware-api-session-id") == SESSION
        assert request.get_header("Authorization") is None


def test_the_session_ends_when_the_work_fails(wire: Wire) -> None:
    wire.answers = [SESSION]
    with pytest.raises(RuntimeError), client():
        raise RuntimeError
    assert wire.sent[-1].startswith("DELETE")


def test_a_session_that_is_gone_is_no_error_at_the_end(wire: Wire) -> None:
    wire.answers = [SESSION, http_error(401, b"")]
    with client():
        pass
    assert len(wire.requests) == 2


@pytest.mark.parametrize("answer", [None, "", {"value": "x"}, 7])
def test_a_login_without_a_session_is_refused(wire: Wire, answer: Any) -> None:
    wire.answers = [answer]
    with pytest.raises(ApiError, match="did not give a session"):
        client().login()


def test_a_failed_login_says_what_the_server_says(wire: Wire) -> None:
    wire.answers = [http_error(401, json.dumps(vsphere("UNAUTHENTICATED", "Wrong.")).encode())]
    with pytest.raises(ApiError, match=r"^POST /api/session: Wrong\.$") as caught:
        client().login()
    assert (caught.value.status, caught.value.error_type) == (401, "UNAUTHENTICATED")


@pytest.mark.parametrize(
    "hostname, expected",
    [
        ("manager.example", "https://manager.example:443/api/x"),
        ("192.0.2.1", "https://192.0.2.1:443/api/x"),
        ("2001:db8::1", "https://[2001:db8::1]:443/api/x"),
        ("[2001:db8::1]", "https://[2001:db8::1]:443/api/x"),
    ],
)
def test_address(wire: Wire, hostname: str, expected: str) -> None:
    logged_in(wire, {}, hostname=hostname).call(GET)
    assert wire.requests[0].full_url == expected


def test_names_and_queries_are_quoted(wire: Wire) -> None:
    call = Call(
        "POST", path("/a/{name}/b", name="x/y ?\u00e4"), {"k": "\u00e4"}, (("q", "a b&c"), ("q", "d"))
    )
    logged_in(wire, {}).call(call)
    request = wire.requests[0]
    assert request.full_url == "https://manager.example:443/api/a/x%2Fy%20%3F%C3%A4/b?q=a+b%26c&q=d"
    assert json.loads(request.data) == {"k": "\u00e4"}
    assert request.get_header("Content-type") == "application/json"


@pytest.mark.parametrize("value", ["", ".", ".."])
def test_a_name_that_would_make_another_path_is_refused(value: str) -> None:
    with pytest.raises(ApiError, match="^name: .* cannot be a name"):
        path("/a/{name}", name=value)


@pytest.mark.parametrize(
    "value, expected", [("a/../b", "/a/a%2F..%2Fb"), ("%2e%2e", "/a/%252e%252e"), ("...", "/a/...")]
)
def test_a_name_cannot_leave_its_place(value: str, expected: str) -> None:
    assert path("/a/{name}", name=value) == expected


def test_falsy_bodies_are_sent(wire: Wire) -> None:
    session = logged_in(wire, {}, {})
    session.call(Call("PATCH", "/x", {}))
    session.call(Call("PATCH", "/x"))
    assert [request.data for request in wire.requests] == [b"{}", None]


@pytest.mark.parametrize("pending", [[], ["PENDING"], ["PENDING", "RUNNING", "RUNNING", "BLOCKED"]])
def test_a_task_is_waited_for(wire: Wire, pending: list[str]) -> None:
    states = [{"status": status, "operation": "create$task"} for status in pending]
    session = logged_in(wire, "5:a/b", *states, {"status": "SUCCEEDED", "result": {"id": 1}})
    assert session.call(TASK) == {"id": 1}
    assert wire.sent[0] == "POST https://manager.example:443/api/x?vmw-task=true"
    assert set(wire.sent[1:]) == {"GET https://manager.example:443/api/cis/tasks/5%3Aa%2Fb"}
    assert len(wire.sent) == len(pending) + 2


def test_a_task_without_a_result(wire: Wire) -> None:
    assert logged_in(wire, "task", {"status": "SUCCEEDED"}).call(TASK) is None


@pytest.mark.parametrize(
    "error, text, error_type",
    [
        (
            vsphere("RESOURCE_INACCESSIBLE", "Not on ta2.", "ta2: refused"),
            "Not on ta2. ta2: refused",
            "RESOURCE_INACCESSIBLE",
        ),
        ({"error_type": "ERROR", "messages": []}, "create$task failed, and does not say why", "ERROR"),
        (None, "create$task failed, and does not say why", ""),
        ("text", "create$task failed, and does not say why", ""),
        ({"messages": [None, {"default_message": "x"}, {}]}, "x", ""),
    ],
)
def test_a_failed_task_says_why(wire: Wire, error: Any, text: str, error_type: str) -> None:
    info = {"status": "FAILED", "operation": "create$task", "error": error}
    with pytest.raises(ApiError) as caught:
        logged_in(wire, "task", info).call(TASK)
    assert (str(caught.value), caught.value.error_type) == (text, error_type)


@pytest.mark.parametrize(
    "answers, text",
    [
        (["task", {"status": "DONE"}], "task task has the status 'DONE', which is not known"),
        (["task", ["no task"]], "task task has the status None, which is not known"),
        ([None], "did not name the task"),
        ([{"task": "x"}], "did not name the task"),
    ],
)
def test_a_task_that_is_not_understood(wire: Wire, answers: list[Any], text: str) -> None:
    with pytest.raises(ApiError, match=text):
        logged_in(wire, *answers).call(TASK)


def test_a_task_that_does_not_end(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter(range(0, 1000, 20))
    monkeypatch.setattr(management_api.time, "monotonic", lambda: next(moments))
    running = [{"status": "RUNNING", "operation": "create$task"}] * 9
    with pytest.raises(ApiError, match="create.task has not ended within 50 s; it goes on as task T"):
        logged_in(wire, "T", *running, task_timeout=50).call(TASK)
    assert len(wire.requests) == 4


def test_polling_slows_down_to_a_limit(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(management_api.time, "sleep", pauses.append)
    running = [{"status": "RUNNING"}] * 15
    logged_in(wire, "T", *running, {"status": "SUCCEEDED"}).call(TASK)
    assert pauses == sorted(pauses)
    assert pauses[0] <= 0.1
    assert pauses[-1] == management_api.POLL_LONGEST


def no_operation(identifier: str) -> bytes:
    """A 404 that looks like the API's, of a server that does not have the path."""
    messages = [{"id": identifier, "default_message": "Nothing is at this path.", "args": []}]
    return json.dumps({"error_type": "NOT_FOUND", "messages": messages}).encode()


NOT_FOUND = json.dumps(vsphere("NOT_FOUND", "No such thing.")).encode()


def test_rows_are_read_page_by_page(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(management_api, "PAGE", 2)
    rows = [{"provider": "a&b", "key_id": str(number)} for number in range(4)]
    opened = logged_in(wire, rows[:2], rows[2:], [])
    assert opened.rows(Call("GET", "/x", query=(("hosts", "h"),)), "provider", "key_id") == rows
    assert [request.full_url.partition("?")[2] for request in wire.requests] == [
        "hosts=h&limit=2",
        "hosts=h&limit=2&after=a%26b&after=1",
        "hosts=h&limit=2&after=a%26b&after=3",
    ]


def test_a_list_without_end_is_given_up(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(management_api, "PAGE", 1)
    monkeypatch.setattr(management_api, "PAGES", 3)
    with pytest.raises(ApiError, match="more than 3 rows"):
        logged_in(wire, *[[{"id": "1"}]] * 10).rows(GET, "id")
    assert len(wire.requests) == 3
    with pytest.raises(ApiError, match="no list"):
        logged_in(wire, {"id": "1"}).rows(GET, "id")


def test_find_is_none_where_the_server_says_not_found(wire: Wire) -> None:
    assert logged_in(wire, http_error(404, NOT_FOUND)).find(GET) is None
    failed = {"status": "FAILED", "operation": "get$task", "error": vsphere("NOT_FOUND", "No such thing.")}
    assert logged_in(wire, "task", failed).find(TASK) is None
    assert logged_in(wire, {"a": 1}).find(GET) == {"a": 1}


@pytest.mark.parametrize(
    "answer",
    [
        http_error(404, b"<html>nginx</html>", "Not Found"),
        http_error(404, no_operation("trusted.infrastructure.no_operation")),
        http_error(404, no_operation("trusted.infrastructure.proxy_not_found")),
        http_error(403, json.dumps(vsphere("UNAUTHORIZED", "No.")).encode()),
        http_error(500, b""),
        URLError("refused"),
    ],
)
def test_find_takes_nothing_else_for_absence(wire: Wire, answer: Exception) -> None:
    with pytest.raises(ApiError):
        logged_in(wire, answer).find(GET)


@pytest.mark.parametrize(
    "body, text, error_type",
    [
        (
            json.dumps(vsphere("INVALID_ARGUMENT", "spec.name: bad.", "Look.")).encode(),
            "spec.name: bad. Look.",
            "INVALID_ARGUMENT",
        ),
        (b"<html>Bad Gateway</html>", "HTTP status 400 Bad Request", ""),
        (b"", "HTTP status 400 Bad Request", ""),
        (b"[]", "HTTP status 400 Bad Request", ""),
        (b'{"messages": "text"}', "HTTP status 400 Bad Request", ""),
        (b'{"messages": [{"id": 1}], "error_type": null}', "HTTP status 400 Bad Request", ""),
        (b"\xff\xfe", "HTTP status 400 Bad Request", ""),
    ],
)
def test_http_errors(wire: Wire, body: bytes, text: str, error_type: str) -> None:
    with pytest.raises(ApiError) as caught:
        logged_in(wire, http_error(400, body)).call(GET)
    assert str(caught.value) == f"GET /api/x: {text}"
    assert (caught.value.error_type, caught.value.status) == (error_type, 400)


def test_an_answer_that_is_no_json(wire: Wire) -> None:
    with pytest.raises(ApiError, match="not JSON: b'<html>"):
        logged_in(wire, b"<html>" + b"x" * 10000).call(GET)


def test_an_empty_answer(wire: Wire) -> None:
    assert logged_in(wire, b"").call(GET) is None


class Broken(Response):
    def read(self, *_size: int) -> bytes:
        raise IncompleteRead(b"half")


@pytest.mark.parametrize(
    "error, text",
    [
        (URLError(ConnectionRefusedError(111, "Connection refused")), "Connection refused"),
        (URLError(ssl.SSLCertVerificationError(1, "certificate verify failed")), "certificate verify failed"),
        (TimeoutError("timed out"), "timed out"),
        (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
        (BadStatusLine("garbage"), "garbage"),
        (UnicodeError("label too long"), "label too long"),
        (Broken(), "IncompleteRead"),
        (OSError(), "OSError"),
    ],
)
def test_no_answer(wire: Wire, error: Any, text: str) -> None:
    with pytest.raises(ApiError, match=f"^manager.example:443 does not answer: .*{text}") as caught:
        logged_in(wire, error).call(GET)
    assert (caught.value.error_type, caught.value.status) == ("", 0)


def test_connection_refused() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        with pytest.raises(ApiError, match=f"^127.0.0.1:{port} does not answer: .*refused"):
            client(hostname="127.0.0.1", port=port).login()


def test_a_missing_ca_file_is_named(wire: Wire) -> None:
    with pytest.raises(ApiError, match="^ca_path: /nowhere/ca.pem: No such file"):
        client(ca_path="/nowhere/ca.pem", validate_certs=True).login()
    logged_in(wire, {}, ca_path="/nowhere/ca.pem", validate_certs=False).call(GET)


@pytest.mark.parametrize("validate", [True, False])
def test_certificates_are_validated_as_told(validate: bool) -> None:
    context = client(validate_certs=validate)._opened().context
    assert context.check_hostname is validate
    assert context.verify_mode == (ssl.CERT_REQUIRED if validate else ssl.CERT_NONE)


def test_the_session_goes_nowhere_else(wire: Wire, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """No redirect is followed, no proxy of the environment is asked, no password of a netrc file is sent."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine manager.example login other password of-netrc\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("https_proxy", "http://proxy.example:1")
    handlers: list[Any] = []
    build = urllib.request.build_opener

    def building(*given: Any) -> Any:
        handlers[:] = given
        return build(*given)

    monkeypatch.setattr(urllib.request, "build_opener", building)
    logged_in(wire, {}).call(GET)
    assert wire.requests[0].get_header("Authorization") is None
    (proxies,) = [item for item in handlers if isinstance(item, urllib.request.ProxyHandler)]
    assert proxies.proxies == {}
    (redirects,) = [item for item in handlers if isinstance(item, urllib.request.HTTPRedirectHandler)]
    with pytest.raises(HTTPError):
        redirects.redirect_request(wire.requests[0], None, 302, "Found", {}, "https://elsewhere.example/")


def test_the_certificates_are_read_once(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    make = management_api.make_context
    monkeypatch.setattr(management_api, "make_context", lambda **options: made.append(1) or make(**options))
    session = logged_in(wire, {}, {})
    session.call(GET)
    session.call(GET)
    assert len(made) == 1


def test_secrets_are_in_no_text(wire: Wire) -> None:
    session = logged_in(wire, http_error(400, b""), URLError("refused"), b"no json")
    texts = [repr(session), str(session)]
    for _index in range(3):
        with pytest.raises(ApiError) as caught:
            session.call(Call("PUT", "/credential", "kmip-secret"))
        texts += [str(caught.value), repr(caught.value)]
    for secret in (PASSWORD, SESSION, "kmip-secret"):
        assert not any(secret in text for text in texts)


# ---- files that are opened by a token


URL = "https://another.example/api/trust/backups/1?part=2"


def test_a_file_is_fetched_from_the_server_that_offered_it(wire: Wire) -> None:
    """The token goes to no other host, and the session nowhere."""
    wire.answers = [SESSION, b"the file", None]
    with ManagementClient("manager.example", "administrator", PASSWORD) as client:
        file = client.fetch(URL, "the-token")
    assert file.content == b"the file"
    file.check(b"the file")
    request = wire.requests[1]
    assert request.full_url == "https://manager.example:443/api/trust/backups/1?part=2"
    assert request.get_header("Authorization") == "Bearer the-token"
    assert SESSION not in str(request.headers.values())
    assert (request.get_method(), request.data) == ("GET", None)


@pytest.mark.parametrize(
    "url", ["http://manager.example/api/x", "file:///etc/passwd", "/api/x", "https://manager.example", ""]
)
def test_a_file_elsewhere_is_not_fetched(wire: Wire, url: str) -> None:
    client = ManagementClient("manager.example", "administrator", PASSWORD)
    with pytest.raises(ApiError, match="is no HTTPS URL"):
        client.fetch(url, "the-token")
    assert wire.requests == []


def test_a_file_without_end_is_given_up(wire: Wire) -> None:
    wire.answers = [bytes(management_api.LARGEST_FILE + 1)]
    client = ManagementClient("manager.example", "administrator", PASSWORD)
    with pytest.raises(ApiError, match="more than"):
        client.fetch(URL, "the-token")


class Stream:
    """A socket that has received what it will ever receive."""

    def __init__(self, received: bytes) -> None:
        self._received = received

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._received)


def received(wire: Wire, body: bytes, *headers: str) -> management_api.File:
    """The file as the client takes it from these bytes."""
    lines = ["HTTP/1.1 200 OK", *headers, "", ""]
    answer = HTTPResponse(Stream("\r\n".join(lines).encode() + body))  # type: ignore[arg-type]
    answer.begin()
    wire.answers = [answer]
    return ManagementClient("manager.example", "administrator", PASSWORD).fetch(URL, "the-token")


WHOLE = b"the file"
LENGTH = f"Content-Length: {len(WHOLE)}"
SHA256 = f"sha-256=:{base64.b64encode(hashlib.sha256(WHOLE).digest()).decode()}:"
OTHER_SHA256 = f"sha-256=:{base64.b64encode(hashlib.sha256(b'other').digest()).decode()}:"


@pytest.mark.parametrize(
    "body, headers",
    [
        (b"the fi", [LENGTH]),  # http.client is silent about it
        (b"", [LENGTH, f"Repr-Digest: {SHA256}"]),
        (b"the fi", [f"Repr-Digest: {SHA256}"]),
        (b"tho file", [LENGTH, f"Repr-Digest: {SHA256}"]),
        (WHOLE, [LENGTH, f"Repr-Digest: {OTHER_SHA256}"]),
        (WHOLE, [LENGTH, "Repr-Digest: sha-512=:AAAA:", f"Repr-Digest: {OTHER_SHA256}"]),
        (WHOLE, [LENGTH, "Repr-Digest: sha-256=no bytes"]),
        (WHOLE, [LENGTH, "Repr-Digest: sha-256"]),
    ],
)
def test_a_file_that_is_not_whole(wire: Wire, body: bytes, headers: list[str]) -> None:
    with pytest.raises(NotWhole, match="the file is not whole"):
        received(wire, body, *headers).check(body)


def test_a_stream_that_ends_in_the_middle(wire: Wire) -> None:
    with pytest.raises(NotWhole, match="did not give the file"):
        received(wire, b"8\r\nthe fi", "Transfer-Encoding: chunked")


@pytest.mark.parametrize(
    "headers",
    [
        [],  # of a vCenter Server
        [LENGTH],
        [f"Repr-Digest: {SHA256}"],
        [LENGTH, f"repr-digest: sha-512=:AAAA:, {SHA256}"],
        [LENGTH, f"Repr-Digest: {SHA256}", "Repr-Digest: sha-512=:AAAA:"],
        [LENGTH, "Repr-Digest: sha-512=:AAAA:"],
    ],
)
def test_a_file_that_is_whole(wire: Wire, headers: list[str]) -> None:
    file = received(wire, WHOLE, *headers)
    file.check(WHOLE)
    for kept in (WHOLE[:-1], WHOLE + b"\0", b"tho file"):
        with pytest.raises(NotWhole):
            file.check(kept)


USED = b'{"error_type": "UNAUTHENTICATED", "messages": [{"id": "x", "default_message": "was used"}]}'


@pytest.mark.parametrize(
    "error, text",
    [
        (HTTPError(URL, 401, "no", Message(), io.BytesIO(USED)), "was used"),
        (URLError("refused"), "did not give the file: refused"),
        (IncompleteRead(b"half"), "did not give the file"),
    ],
)
def test_a_file_that_does_not_come(wire: Wire, error: Exception, text: str) -> None:
    wire.answers = [error]
    client = ManagementClient("manager.example", "administrator", PASSWORD)
    with pytest.raises(ApiError, match=text) as caught:
        client.fetch(URL, "the-token")
    assert "the-token" not in str(caught.value)
