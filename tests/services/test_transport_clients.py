# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTPS clients: whom they trust, what an answer must be; and log lines without secrets."""

from __future__ import annotations

import contextlib
import json
import logging
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import structlog
from services.side_authority import SideAuthority

from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.transport import (
    UNTYPED_LIMIT,
    answer_of,
    ask_once,
    check_success,
    config_url,
    configure_logging,
    management_client,
    public_client,
    tls_context,
    unreachable,
)

DAY = 86400


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        connection: Any = self.connection
        body = json.dumps({"client": connection.getpeercert() is not None}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: pytest shows enough."""


@contextlib.contextmanager
def tls_server(
    directory: Path, authority: SideAuthority, *, client_ca: bool = False, **leaf: Any
) -> Iterator[str]:
    """An HTTPS server on 127.0.0.1 with a server leaf of `authority`; its URL."""
    key, certificate = authority.leaf("server", "ta1", **{"dns": ("ta1",), "ips": ("127.0.0.1",), **leaf})
    (directory / "pair.pem").write_bytes(key + certificate.encode())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "pair.pem")
    if client_ca:
        context.load_verify_locations(cadata=authority.certificate)
        context.verify_mode = ssl.CERT_REQUIRED
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def authority() -> SideAuthority:
    return SideAuthority(now=int(time.time()))


def get(client: httpx.AsyncClient) -> httpx.Response:
    return ask_once(client, "GET", "/")


def test_trusts_the_pinned_ca(tmp_path: Path, authority: SideAuthority) -> None:
    path = tmp_path / "ca.pem"
    path.write_text(authority.certificate)
    with tls_server(tmp_path, authority) as url:
        for ca in (path, authority.certificate):
            assert get(public_client(ca, base_url=url)).json() == {"client": False}


def test_trusts_nobody_else(tmp_path: Path, authority: SideAuthority) -> None:
    impostor = SideAuthority(now=authority.now)
    with tls_server(tmp_path, impostor) as url:
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            get(public_client(authority.certificate, base_url=url))


def test_the_name_must_match(tmp_path: Path, authority: SideAuthority) -> None:
    with tls_server(tmp_path, authority, ips=("127.0.0.2",)) as url:
        with pytest.raises(httpx.ConnectError, match="IP address mismatch"):
            get(public_client(authority.certificate, base_url=url))


def test_an_expired_server_certificate_has_its_own_code(tmp_path: Path, authority: SideAuthority) -> None:
    with tls_server(tmp_path, authority, days=1, now=authority.now - 5 * DAY) as url:
        with pytest.raises(httpx.ConnectError) as failed:
            get(public_client(authority.certificate, base_url=url))
    assert unreachable("ta1", failed.value).code == "certificate_expired"


def test_an_address_without_a_listener_is_unreachable(authority: SideAuthority) -> None:
    with pytest.raises(httpx.ConnectError) as failed:
        get(public_client(authority.certificate, base_url="https://127.0.0.1:1"))
    refusal = unreachable("ta1", failed.value)
    assert (refusal.code, refusal.status) == ("peer_unreachable", 503)
    assert "ta1" in refusal.message


def test_management_needs_the_client_certificate(tmp_path: Path, authority: SideAuthority) -> None:
    authority.write_leaf(tmp_path, "manager", "manager", "ta-manager")
    files = tmp_path / "manager.pem", tmp_path / "manager.key"
    with tls_server(tmp_path, authority, client_ca=True) as url:
        client = management_client(authority.certificate, *files, base_url=url)
        assert get(client).json() == {"client": True}
        with pytest.raises(httpx.HTTPError):
            get(public_client(authority.certificate, base_url=url))


def test_the_environment_does_not_count(
    tmp_path: Path, authority: SideAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nothing"))
    with tls_server(tmp_path, authority) as url:
        assert get(public_client(authority.certificate, base_url=url)).status_code == 200


def test_the_context_takes_tls_1_2_and_checks_names(authority: SideAuthority) -> None:
    context = tls_context(authority.certificate)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.check_hostname and context.verify_mode == ssl.CERT_REQUIRED


def test_missing_or_mixed_files_are_named(tmp_path: Path, authority: SideAuthority) -> None:
    authority.write_leaf(tmp_path, "a", "manager", "ta-manager")
    authority.write_leaf(tmp_path, "b", "manager", "ta-manager")
    for ca, certificate, key in (
        (tmp_path / "none.pem", None, None),
        (authority.certificate, tmp_path / "a.pem", tmp_path / "b.key"),
        (authority.certificate, tmp_path / "none.pem", tmp_path / "a.key"),
        ("not PEM", None, None),
    ):
        with pytest.raises(Refusal) as refused:
            tls_context(ca, certificate, key)
        assert refused.value.code == "certificate_invalid"
        assert "BEGIN" not in refused.value.message


def test_config_names() -> None:
    assert config_url("ta1") == "https://config.ta1"
    assert config_url("ta1", 8443) == "https://config.ta1:8443"


REFUSED = b'{"error":{"code":"host_denied","message":"host1 is denied","remedy":"ask"}}'
ANSWERS = {
    "refusal": (403, REFUSED, "host_denied", 403),
    "redirect with a refusal": (302, REFUSED, "host_denied", 502),
    "error page": (502, b"<html>nginx</html>", "peer_answer_invalid", 503),
    "no JSON": (200, b"hello", "peer_answer_invalid", 503),
    "other JSON": (500, b'{"detail":"x"}', "peer_answer_invalid", 503),
    "code of a wrong type": (400, b'{"error":{"code":7}}', "peer_answer_invalid", 503),
    "error of a wrong type": (400, b'{"error":"x"}', "peer_answer_invalid", 503),
    "not UTF-8": (200, b'"\xff"', "peer_answer_invalid", 503),
    "deep": (200, b"[" * 100_000 + b"]" * 100_000, "peer_answer_invalid", 503),
    "empty": (204, b"", "peer_answer_invalid", 503),
}


@pytest.mark.parametrize(("status", "body", "code", "own_status"), ANSWERS.values(), ids=ANSWERS.keys())
def test_what_is_not_an_answer_is_a_refusal(status: int, body: bytes, code: str, own_status: int) -> None:
    with pytest.raises(Refusal) as refused:
        answer_of(httpx.Response(status, content=body), "ta1")
    assert (refused.value.code, refused.value.status) == (code, own_status)


def test_what_becomes_large_in_memory_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    body = b"[" + b"{}," * (UNTYPED_LIMIT // 3) + b"{}]"
    assert len(body) > UNTYPED_LIMIT
    answer = httpx.Response(200, content=body)
    with monkeypatch.context() as patched, pytest.raises(Refusal) as refused:
        patched.setattr(msgspec.json, "decode", None)
        answer_of(answer, "ta1")
    assert (refused.value.code, refused.value.status) == ("answer_refused", 503)
    assert len(answer_of(answer, "ta1", len(body))) == UNTYPED_LIMIT // 3 + 1
    check_success(answer, "ta1")
    exact = b'"' + b"x" * (UNTYPED_LIMIT - 2) + b'"'
    assert answer_of(httpx.Response(200, content=exact), "ta1") == exact[1:-1].decode()


def test_an_answer_is_its_json() -> None:
    assert answer_of(httpx.Response(200, content=b'{"a":1}'), "ta1") == {"a": 1}


@pytest.fixture
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def test_log_lines_are_json_without_secrets(
    capsys: pytest.CaptureFixture[str], restored_logging: None
) -> None:
    configure_logging("config")
    log = structlog.get_logger("trusted_infrastructure.test")
    log.info(
        "event",
        password="hunter2",
        kmip_password="hunter2",
        private_key="hunter2",
        Token="hunter2",
        key_id="k1",
    )
    log.info("event", blob=b"hunter2", authorization="DPoP hunter2")
    log.debug("hunter2")
    logging.getLogger("kmip").info("hunter2")
    logging.getLogger("kmip").warning("from a library")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert "hunter2" not in json.dumps(lines)
    assert lines[0]["key_id"] == "k1" and lines[0]["password"] == "<redacted>"
    assert lines[1]["blob"] == "<7 bytes>"
    assert [line["event"] for line in lines] == ["event", "event", "from a library"]
    assert {line["service"] for line in lines} == {"config"}
