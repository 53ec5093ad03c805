# SPDX-License-Identifier: GPL-3.0-or-later
"""The KMIP client against a key server that misbehaves: whom it trusts, which key it takes, what it shows."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kmip.core import enums
from services.hostile_key_server import KEY, Answers, HostileKeyServer, Pair, make_pair

from trusted_infrastructure.kmip.client_certificates import certificate_end
from trusted_infrastructure.kmip.connection import (
    ClientCredentials,
    KeyServer,
    KeyServerFailure,
    client_context,
    connect,
    presented_certificate,
)
from trusted_infrastructure.kmip.pool import KeyServerPool, judge, judge_state, require_active
from trusted_infrastructure.kmip.session import KeyAttributes, KeyServerRefusal
from trusted_infrastructure.refusal import Refusal

SERVER = make_pair("kms.test")
CLIENT = make_pair("trusted-key-provider.finance", address=None)
CREDENTIALS = ClientCredentials(CLIENT.certificate, CLIENT.private_key)
SECRETS = [KEY.hex(), KEY.hex().upper(), repr(KEY), CLIENT.private_key.decode(), "s3cret-passw0rd"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HostileKeyServer]:
    with HostileKeyServer(tmp_path, SERVER, client_ca=CLIENT.certificate) as running:
        yield running


def pool_for(
    server: HostileKeyServer,
    *,
    trusted: tuple[str, ...] = (SERVER.certificate,),
    credentials: ClientCredentials = CREDENTIALS,
    hostname: str = "127.0.0.1",
    timeout: int = 5,
) -> KeyServerPool:
    return KeyServerPool(
        KeyServer("kms1", hostname, server.port, timeout=timeout),
        credentials,
        client_context(credentials, trusted),
    )


def refusal_of(pool: KeyServerPool, key_id: str = "1001") -> Refusal:
    with pytest.raises(Refusal) as refused:
        pool.primary_key(key_id)
    for secret in SECRETS:
        assert secret not in f"{refused.value} {refused.value!r} {refused.value.as_dict()}"
    return refused.value


def test_a_good_key_comes(server: HostileKeyServer) -> None:
    key = pool_for(server).primary_key("1001")
    assert (key.material, key.key_id, key.server) == (KEY, "1001", "kms1")
    assert KEY.hex() not in repr(key)
    assert "material" not in repr(key)


def test_when_the_servers_certificate_ends_is_known_whatever_it_says_of_the_key(
    server: HostileKeyServer,
) -> None:
    pool = pool_for(server, trusted=(CLIENT.certificate,))
    assert refusal_of(pool).code == "key_server_unreachable"
    assert pool.certificate_end is None
    pool = pool_for(server)
    server.answers.state = "COMPROMISED"
    assert refusal_of(pool).code == "key_compromised"
    assert pool.certificate_end == certificate_end(SERVER.certificate)


# ---- which key is taken ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"state": "PRE_ACTIVE"}, "primary_key_state", "PRE_ACTIVE"),
        ({"state": "COMPROMISED"}, "key_compromised", "COMPROMISED"),
        ({"state": "DESTROYED"}, "key_destroyed", "DESTROYED"),
        ({"state": "DESTROYED_COMPROMISED"}, "key_destroyed", "DESTROYED_COMPROMISED"),
        ({"state": None}, "primary_key_state", "None"),
        ({"algorithm": "TRIPLE_DES"}, "primary_key_unavailable", "TRIPLE_DES"),
        ({"length": 128}, "primary_key_unavailable", "128 bits"),
        ({"usage": []}, "primary_key_unavailable", "nothing"),
        ({"usage": ["SIGN", "ENCRYPT"]}, "primary_key_unavailable", "ENCRYPT, SIGN"),
        ({"object_type": "SECRET_DATA"}, "primary_key_unavailable", "SECRET_DATA"),
        ({"key": KEY[:16]}, "primary_key_unavailable", "16 bytes"),
        ({"key": KEY + b"x"}, "primary_key_unavailable", "33 bytes"),
        ({"key_id": "7"}, "key_server_unreachable", "not the KMIP that was asked for"),
        ({"wrapped": True}, "key_server_unreachable", "not the KMIP that was asked for"),
        ({"secret_data": True}, "key_server_unreachable", "not the KMIP that was asked for"),
        ({"versions": ((1, 0), (2, 0))}, "primary_key_unavailable", "none of KMIP 1.1 to 1.4"),
        ({"refuse": {"GET": "ITEM_NOT_FOUND"}}, "key_missing", "item_not_found"),
        ({"refuse": {"GET_ATTRIBUTES": "ITEM_NOT_FOUND"}}, "key_missing", "item_not_found"),
        ({"refuse": {"GET": "OBJECT_DESTROYED"}}, "key_destroyed", "object_destroyed"),
        ({"refuse": {"GET_ATTRIBUTES": "PERMISSION_DENIED"}}, "primary_key_unavailable", "permission_denied"),
        ({"refuse": {"DISCOVER_VERSIONS": "GENERAL_FAILURE"}}, "primary_key_unavailable", "general_failure"),
        ({"raw": b"HTTP/1.1 400 Bad Request\r\n\r\n"}, "key_server_unreachable", "announced"),
        ({"raw": b"\x42\x00\x7b\x01\x00\x00\x00\x08notkmip!"}, "key_server_unreachable", "not the KMIP"),
        ({"raw": b"\x42\x00\x7b\x01\x7f\xff\xff\xff"}, "key_server_unreachable", "at most"),
        ({"cut_after": 0}, "key_server_unreachable", "closed the connection"),
        ({"cut_after": 40}, "key_server_unreachable", "closed the connection"),
    ],
)
def test_what_is_not_taken(server: HostileKeyServer, change: dict[str, Any], code: str, words: str) -> None:
    server.answers = Answers(**change)
    refusal = refusal_of(pool_for(server))
    assert refusal.code == code
    assert words in refusal.message
    assert "kms1" in refusal.message
    assert refusal.remedy


@pytest.mark.parametrize("state", ["PRE_ACTIVE", "COMPROMISED", "DESTROYED", "DESTROYED_COMPROMISED"])
def test_a_key_that_must_not_be_used_is_not_even_fetched(server: HostileKeyServer, state: str) -> None:
    server.answers = Answers(state=state)
    refusal_of(pool_for(server))
    operations = [request.batch_items[0].operation.value.name for request in server.seen]
    assert "GET" not in operations


def test_an_active_key_wraps_and_a_deactivated_one_opens_only(server: HostileKeyServer) -> None:
    key = pool_for(server).primary_key("1001")
    assert key.state == "ACTIVE"
    require_active(key)
    server.answers = Answers(state="DEACTIVATED")
    key = pool_for(server).primary_key("1001")
    assert (key.state, key.material) == ("DEACTIVATED", KEY)
    with pytest.raises(Refusal) as refused:
        require_active(key)
    assert refused.value.code == "key_deactivated"
    assert refused.value.remedy
    assert KEY.hex() not in f"{refused.value!r} {refused.value.as_dict()} {key!r}"


@pytest.mark.parametrize("state", [*(state.name for state in enums.State), None, "active", "SUSPENDED", ""])
def test_every_state_has_one_meaning(state: str | None) -> None:
    """All states of KMIP, and what is none: only these two are usable."""
    server = KeyServer("kms1", "kms.test", 5696)
    if state in ("ACTIVE", "DEACTIVATED"):
        assert judge_state(server, "1", state) == state
        return
    with pytest.raises(Refusal) as refused:
        judge_state(server, "1", state)
    codes = {"COMPROMISED": "key_compromised", "DESTROYED": "key_destroyed"}
    codes["DESTROYED_COMPROMISED"] = "key_destroyed"
    assert refused.value.code == codes.get(state or "", "primary_key_state")
    assert str(state) in refused.value.message
    assert refused.value.remedy


@pytest.mark.parametrize("usage", [["WRAP_KEY", "UNWRAP_KEY"], ["ENCRYPT", "DECRYPT"], ["DERIVE_KEY"]])
def test_usages_that_will_do(usage: list[str]) -> None:
    attributes = KeyAttributes("SYMMETRIC_KEY", "AES", 256, frozenset(usage), "ACTIVE")
    assert judge(KeyServer("kms1", "kms.test", 5696), "1", attributes) == "ACTIVE"


@pytest.mark.parametrize("version", [(1, 1), (1, 2), (1, 3), (1, 4)])
def test_the_highest_common_version_is_spoken(server: HostileKeyServer, version: tuple[int, int]) -> None:
    server.answers = Answers(versions=((2, 0), version, (1, 0)))
    assert pool_for(server).primary_key("1001").material == KEY
    spoken = server.seen[-1].request_header.protocol_version
    assert (spoken.major, spoken.minor) == version


# ---- who is trusted ----------------------------------------------------------------------------------------

CA = make_pair("ca.test", ca=True)
OTHER_CA = make_pair("other-ca.test", ca=True)


@pytest.mark.parametrize(
    ("pair", "trusted"),
    [
        (SERVER, [SERVER.certificate]),
        (make_pair("kms.test", issuer=CA), [CA.certificate]),
        (SERVER, [OTHER_CA.certificate, SERVER.certificate]),
    ],
    ids=["pinned leaf", "CA", "one of several"],
)
def test_trusted_servers(tmp_path: Path, pair: Pair, trusted: list[str]) -> None:
    with HostileKeyServer(tmp_path, pair) as server:
        assert pool_for(server, trusted=tuple(trusted)).primary_key("1001").material == KEY


@pytest.mark.parametrize(
    ("pair", "trusted", "words"),
    [
        (SERVER, CA.certificate, "self-signed"),
        (make_pair("kms.test", issuer=OTHER_CA), CA.certificate, "unable to get local issuer"),
        (make_pair("kms.test", address=None), None, "IP address mismatch"),
        (make_pair("kms.test", ended=True), None, "expired"),
        (make_pair("kms.test", issuer=CA, ended=True), CA.certificate, "expired"),
    ],
    ids=["another", "another CA", "another name", "expired leaf", "expired under CA"],
)
def test_servers_that_are_not_trusted(tmp_path: Path, pair: Pair, trusted: str | None, words: str) -> None:
    with HostileKeyServer(tmp_path, pair) as server:
        refusal = refusal_of(pool_for(server, trusted=(trusted or pair.certificate,)))
        assert isinstance(refusal, KeyServerFailure)
        assert refusal.code == "key_server_unreachable"
        assert words in refusal.message
        assert refusal.client_trust_server is False
        assert server.seen == []


def test_the_name_is_verified_also_for_a_pinned_leaf(tmp_path: Path) -> None:
    pair = make_pair("somebody-else.test", address=None)
    with HostileKeyServer(tmp_path, pair) as server:
        refusal = refusal_of(pool_for(server, trusted=(pair.certificate,), hostname="localhost"))
        assert "Hostname mismatch" in refusal.message


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_that_the_server_does_not_know(tmp_path: Path, version: ssl.TLSVersion) -> None:
    def only(context: ssl.SSLContext) -> None:
        context.maximum_version = version

    with HostileKeyServer(tmp_path, SERVER, client_ca=CA.certificate, tls=only) as server:
        refusal = refusal_of(pool_for(server))
        assert isinstance(refusal, KeyServerFailure)
        assert refusal.client_trust_server is True
        assert not refusal.server_trust_client
        assert "client certificate" in refusal.message


def test_a_server_that_refuses_the_client_in_kmip(server: HostileKeyServer) -> None:
    server.answers = Answers(refuse={"DISCOVER_VERSIONS": "AUTHENTICATION_NOT_SUCCESSFUL"})
    refusal = refusal_of(pool_for(server))
    assert isinstance(refusal, KeyServerRefusal)
    assert refusal.server_trust_client is False


def test_tls_below_1_2_is_refused(tmp_path: Path) -> None:
    def old(context: ssl.SSLContext) -> None:
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")

    with HostileKeyServer(tmp_path, SERVER, tls=old) as server:
        assert refusal_of(pool_for(server)).code == "key_server_unreachable"


@pytest.mark.parametrize(
    ("trusted", "words"),
    [([], "no trusted certificates"), (["", " \n"], "no trusted"), (["junk"], "not a PEM")],
)
def test_nothing_trusted_trusts_nobody(trusted: list[str], words: str) -> None:
    """An empty list must not fall back to the system's CA certificates."""
    with pytest.raises(Refusal) as refused:
        client_context(CREDENTIALS, trusted)
    assert refused.value.code == "certificate_invalid"
    assert words in refused.value.message


def test_a_client_key_that_does_not_fit_is_not_shown() -> None:
    other = make_pair("other", address=None)
    for private_key in (other.private_key, b"not a key", b""):
        with pytest.raises(Refusal) as refused:
            client_context(ClientCredentials(CLIENT.certificate, private_key), [SERVER.certificate])
        assert refused.value.code == "certificate_invalid"
        assert other.private_key.decode() not in str(refused.value)
        assert refused.value.__context__ is None or refused.value.__suppress_context__


def test_the_client_key_touches_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = set(os.listdir("/proc/self/fd"))
    client_context(CREDENTIALS, [SERVER.certificate])
    assert list(tmp_path.iterdir()) == []
    # Fewer there may be: servers of earlier tests go away.
    assert set(os.listdir("/proc/self/fd")) <= before


# ---- connections -------------------------------------------------------------------------------------------


def test_sessions_are_kept_and_replaced(server: HostileKeyServer) -> None:
    pool = pool_for(server)
    for _index in range(5):
        pool.primary_key("1001")
    assert server.connections == 1
    server.drop()
    pool.primary_key("1001")
    assert server.connections == 2
    pool.close()
    pool.primary_key("1001")
    pool.primary_key("1001")
    assert server.connections == 4  # a closed pool keeps nothing


def test_a_refusal_keeps_the_session_and_a_failure_does_not(server: HostileKeyServer) -> None:
    pool = pool_for(server)
    server.answers = Answers(state="COMPROMISED")
    refusal_of(pool)
    refusal_of(pool)
    assert server.connections == 1
    server.answers = Answers(key_id="7")
    refusal_of(pool)
    server.answers = Answers()
    pool.primary_key("1001")
    assert server.connections == 3


def test_many_threads_share_a_pool(server: HostileKeyServer) -> None:
    pool, keys = pool_for(server), []
    threads = [threading.Thread(target=lambda: keys.append(pool.primary_key("1001"))) for _index in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [key.material for key in keys] == [KEY] * 12


def test_a_silent_server_is_given_up(server: HostileKeyServer) -> None:
    server.answers = Answers(silent=True)
    refusal = refusal_of(pool_for(server, timeout=1))
    assert refusal.code == "key_server_unreachable"
    assert "no answer in time" in refusal.message


@pytest.mark.parametrize(
    "change", [{"silent": True}, {"trickle": 0.2}], ids=["silent", "a byte now and then"]
)
@pytest.mark.parametrize("known", [False, True], ids=["first session", "idle session"])
def test_a_key_takes_no_longer_than_the_timeout(
    server: HostileKeyServer, change: dict[str, Any], known: bool
) -> None:
    """Connecting, agreeing on a version and two questions share the one timeout, with the second try."""
    pool = pool_for(server, timeout=1)
    if known:
        pool.primary_key("1001")
    server.answers = Answers(**change)
    started = time.monotonic()
    assert refusal_of(pool).code == "key_server_unreachable"
    assert time.monotonic() - started < 2
    server.answers = Answers()
    assert pool.primary_key("1001").material == KEY


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = KeyServer("kms1", "127.0.0.1", port)
    with pytest.raises(KeyServerFailure) as refused:
        connect(server, client_context(CREDENTIALS, [SERVER.certificate]))
    assert refused.value.code == "key_server_unreachable"
    assert refused.value.status == 503
    assert f"127.0.0.1:{port}" in refused.value.message
    assert "Connection refused" in refused.value.message


def test_a_name_that_does_not_resolve() -> None:
    with pytest.raises(KeyServerFailure) as refused:
        connect(
            KeyServer("kms1", "no-such-host.invalid", 5696),
            client_context(CREDENTIALS, [SERVER.certificate]),
        )
    assert refused.value.code == "key_server_unreachable"


def test_through_a_proxy(server: HostileKeyServer) -> None:
    with _proxy(b"HTTP/1.1 200 OK\r\n\r\n", server.port) as port:
        through = KeyServer("kms1", "127.0.0.1", server.port, proxy=("127.0.0.1", port))
        pool = KeyServerPool(through, CREDENTIALS, client_context(CREDENTIALS, [SERVER.certificate]))
        assert pool.primary_key("1001").material == KEY
        pool.close()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 403 Forbidden\r\n\r\n", b"garbage\r\n\r\n", b""])
def test_a_proxy_that_refuses(server: HostileKeyServer, answer: bytes) -> None:
    with _proxy(answer, None) as port:
        through = KeyServer("kms1", "127.0.0.1", server.port, proxy=("127.0.0.1", port), timeout=3)
        with pytest.raises(KeyServerFailure) as refused:
            connect(through, client_context(CREDENTIALS, [SERVER.certificate]))
    assert "proxy 127.0.0.1" in refused.value.message


# ---- credentials, logs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("password", ["s3cret-passw0rd", "None", ""])
def test_user_name_and_password_are_sent(server: HostileKeyServer, password: str) -> None:
    credentials = ClientCredentials(CLIENT.certificate, CLIENT.private_key, "admin", password)
    pool_for(server, credentials=credentials).primary_key("1001")
    for request in server.seen:
        sent = request.request_header.authentication.credentials[0].credential_value
        assert (sent.username, sent.password or "") == ("admin", password)
    assert "s3cret" not in repr(credentials)


def test_without_a_user_name_none_is_sent(server: HostileKeyServer) -> None:
    pool_for(server).primary_key("1001")
    assert all(request.request_header.authentication is None for request in server.seen)


def test_no_key_bytes_in_logs_even_at_debug(
    server: HostileKeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    credentials = ClientCredentials(CLIENT.certificate, CLIENT.private_key, "admin", "s3cret-passw0rd")
    names = ["", "kmip", "kmip.services.kmip_client", "kmip.services.kmip_protocol", "kmip.core"]
    for name in names:
        caplog.set_level(logging.DEBUG, logger=name)
    pool_for(server, credentials=credentials).primary_key("1001")
    server.answers = Answers(secret_data=True)
    refusal_of(pool_for(server, credentials=credentials))
    for secret in (*SECRETS, b"s3cret-passw0rd".hex()):
        assert secret not in caplog.text


def test_no_configuration_file_is_read(
    server: HostileKeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyKMIP would take its host, key files and password from ~/.pykmip/pykmip.conf."""
    folder = tmp_path / ".pykmip"
    folder.mkdir()
    (folder / "pykmip.conf").write_text("[client]\nusername=intruder\npassword=intruder\nhost=203.0.113.1\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    from kmip.core import config_helper

    monkeypatch.setattr(config_helper, "CONFIG_FILE", [str(folder / "pykmip.conf")])
    pool_for(server).primary_key("1001")
    assert server.seen[-1].request_header.authentication is None


# ---- the certificate that is presented ---------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("client_ca", [None, CLIENT.certificate, CA.certificate])
@pytest.mark.parametrize("credentials", [None, CREDENTIALS])
def test_presented_certificate_without_trust(
    tmp_path: Path, version: ssl.TLSVersion, client_ca: str | None, credentials: ClientCredentials | None
) -> None:
    """Also of a server that ends the handshake because it does not take our certificate, or wants one."""

    def only(context: ssl.SSLContext) -> None:
        context.maximum_version = version

    with HostileKeyServer(tmp_path, SERVER, client_ca=client_ca, tls=only) as server:
        found = presented_certificate(KeyServer("kms1", "127.0.0.1", server.port), credentials)
    assert found == SERVER.certificate


def test_a_certificate_that_comes_a_byte_at_a_time_is_not_waited_for() -> None:
    def trickle(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            for byte in b"\x16\x03\x03\x40\x00" + bytes(1000):
                time.sleep(0.2)
                connection.sendall(bytes([byte]))

    started = time.monotonic()
    with _Listener(trickle) as port, pytest.raises(KeyServerFailure) as refused:
        presented_certificate(KeyServer("kms1", "127.0.0.1", port, timeout=1))
    assert "no answer in time" in refused.value.message
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "hello",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x03\xff\xff" + bytes(40),
        b"\x16\x03\x03\x00\x04\x0b\x00\x00\x00",
        b"\x16\x03\x03\x00\x0c\x0b\x00\x00\x08\x00\x00\x05\x00\x00\x00zz",
    ],
)
def test_no_certificate_is_presented(hello: bytes) -> None:
    with _talker(hello) as port, pytest.raises(KeyServerFailure) as refused:
        presented_certificate(KeyServer("kms1", "127.0.0.1", port, timeout=3))
    assert refused.value.code == "key_server_unreachable"


# ---- small servers -----------------------------------------------------------------------------------------


class _Listener:
    """A loopback port whose connections are handled by a function, one thread each."""

    def __init__(self, handle: Callable[[socket.socket], None]) -> None:
        self._handle = handle
        self._listener = socket.create_server(("127.0.0.1", 0))

    def __enter__(self) -> int:
        threading.Thread(target=self._accept, daemon=True).start()
        port: int = self._listener.getsockname()[1]
        return port

    def __exit__(self, *_error: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._handle, args=(connection,), daemon=True).start()


def _talker(hello: bytes) -> _Listener:
    def talk(connection: socket.socket) -> None:
        with connection:
            connection.recv(4096)
            connection.sendall(hello)

    return _Listener(talk)


def _proxy(answer: bytes, onward: int | None) -> _Listener:
    def talk(connection: socket.socket) -> None:
        with connection:
            request = connection.recv(4096)
            assert request.startswith(b"CONNECT 127.0.0.1:")
            connection.sendall(answer)
            if onward is None:
                return
            with socket.create_connection(("127.0.0.1", onward)) as target:
                threading.Thread(target=_copy, args=(target, connection), daemon=True).start()
                _copy(connection, target)

    return _Listener(talk)


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        return
