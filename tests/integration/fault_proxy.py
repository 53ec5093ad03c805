# SPDX-License-Identifier: GPL-3.0-or-later
"""Between a client and a real key server, and at fault: what networks, middle boxes and broken servers do.

Without a fault, and for faults below TLS, it relays bytes that it cannot read. For faults in what the server
says it ends TLS with the server's own key, asks the real server over a connection of its own, and alters the
answer. For a wrong certificate it presents another one, and asks nobody.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from integration.software_key_server import SoftwareKeyServer
from kmip.core import enums

PIECE = 65536
PATIENCE = 60.0
PATIENCE_BYTES = 60
_OPERATION = bytes.fromhex("42005c0500000004")
_UNIQUE_IDENTIFIER = bytes.fromhex("42009407")

Answer = Callable[[ssl.SSLSocket, bytes], None]
"""Sends an answer (bytes) to the client, in its way; raises OSError to end the connection."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong.

    below: in place of relaying bytes to the server, do this with the client's connection.
    answer: how an answer is sent. operations: whose answers; none named: all of them.
    ask: changes the request on its way. back: changes the answer on its way.
    certificate: PEM file of certificate and key to present in place of the server's.
    """

    below: Callable[[socket.socket], None] | None = None
    answer: Answer | None = None
    operations: tuple[str, ...] = ()
    ask: Callable[[bytes], bytes] | None = None
    back: Callable[[bytes], bytes] | None = None
    certificate: Path | None = None

    def at(self, *operations: str) -> Fault:
        """The same, at these operations alone."""
        return replace(self, operations=operations)


def _wait_for_the_client(connection: socket.socket) -> None:
    connection.settimeout(PATIENCE)
    while connection.recv(PIECE):
        pass


def _garbage(connection: socket.socket) -> None:
    connection.recv(PIECE)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def _cut_in_hello(connection: socket.socket) -> None:
    connection.recv(64)


def _drip_tls(connection: socket.socket) -> None:
    """The beginning of a handshake that never ends, a byte each second: a record of 16 kB."""
    connection.recv(PIECE)
    for byte in b"\x16\x03\x03\x40\x00" + bytes(PATIENCE_BYTES):
        connection.sendall(bytes([byte]))
        threading.Event().wait(1.0)


def _hang(connection: ssl.SSLSocket, _answer: bytes) -> None:
    _wait_for_the_client(connection)
    raise OSError


def _half_then_hang(connection: ssl.SSLSocket, answer: bytes) -> None:
    connection.sendall(answer[: len(answer) // 2])
    _hang(connection, answer)


def _half_then_cut(connection: ssl.SSLSocket, answer: bytes) -> None:
    connection.sendall(answer[: len(answer) // 2])
    raise OSError


def _cut(_connection: ssl.SSLSocket, _answer: bytes) -> None:
    raise OSError


def _noise(connection: ssl.SSLSocket, answer: bytes) -> None:
    connection.sendall(os.urandom(len(answer)))


def _broken(connection: ssl.SSLSocket, answer: bytes) -> None:
    """The right length and tag, and then noise."""
    connection.sendall(answer[:8] + os.urandom(len(answer) - 8))


def _huge(connection: ssl.SSLSocket, answer: bytes) -> None:
    connection.sendall(answer[:4] + b"\x7f\xff\xff\xff" + answer[8:])
    _hang(connection, answer)


def _drip(connection: ssl.SSLSocket, answer: bytes) -> None:
    for byte in answer:
        connection.sendall(bytes([byte]))
        threading.Event().wait(1.0)


SILENT = Fault(below=_wait_for_the_client)
NO_TLS = Fault(below=_garbage)
DRIP_IN_HELLO = Fault(below=_drip_tls)
CUT_IN_HELLO = Fault(below=_cut_in_hello)
HANG = Fault(answer=_hang)
HALF_THEN_HANG = Fault(answer=_half_then_hang)
HALF_THEN_CUT = Fault(answer=_half_then_cut)
CUT = Fault(answer=_cut)
NOISE = Fault(answer=_noise)
BROKEN = Fault(answer=_broken)
HUGE = Fault(answer=_huge)
DRIP = Fault(answer=_drip)


def another_object(asked: str, other: str) -> Fault:
    """The server answers, truthfully, about another object. Ids of one length."""
    return Fault(ask=_renamed(asked, other))


def another_key(asked: str, other: str) -> Fault:
    """The server gives another object's key under the id that was asked for. Ids of one length."""
    return Fault(ask=_renamed(asked, other), back=_renamed(other, asked))


def another_certificate(certificate: Path) -> Fault:
    """certificate: PEM file of a certificate and its key."""
    return Fault(certificate=certificate)


def _renamed(one: str, other: str) -> Callable[[bytes], bytes]:
    def encoded(key_id: str) -> bytes:
        return _UNIQUE_IDENTIFIER + len(key_id).to_bytes(4, "big") + key_id.encode()

    return lambda message: message.replace(encoded(one), encoded(other))


class FaultProxy:
    """Context manager: listens on a port of its own. `fault` may be set at any time; connections that are
    open keep theirs, so `drop` them. asked: names of the operations that came through, in order."""

    def __init__(self, server: SoftwareKeyServer, client: Path, fault: Fault | None = None) -> None:
        """client: PEM file of the certificate and key to ask the real server with."""
        self.fault = fault
        self.asked: list[str] = []
        self._server = server
        self._client = client
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []

    def __enter__(self) -> FaultProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()

    def drop(self) -> None:
        """Cut all connections. The threads that use them close them."""
        opened, self._open = self._open, []
        for connection in opened:
            with contextlib.suppress(OSError):
                # Not that of ssl.SSLSocket, after which the other thread would send in the clear.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection, self.fault), daemon=True).start()

    def _serve(self, connection: socket.socket, fault: Fault | None) -> None:
        self._open.append(connection)
        try:
            with contextlib.suppress(OSError, EOFError):
                if fault is None:
                    self._relay(connection)
                elif fault.below is not None:
                    fault.below(connection)
                else:
                    self._alter(connection, fault)
        finally:
            connection.close()

    def _dial(self) -> socket.socket:
        made = socket.create_connection((self._server.address, self._server.port), timeout=PATIENCE)
        self._open.append(made)
        return made

    def _relay(self, client: socket.socket) -> None:
        with self._dial() as server:
            back = threading.Thread(target=_pour, args=(server, client), daemon=True)
            back.start()
            _pour(client, server)
            back.join()

    def _alter(self, plain: socket.socket, fault: Fault) -> None:
        own = self._server.folder / "server.pem", self._server.folder / "server.key"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*((fault.certificate,) if fault.certificate is not None else own))
        with context.wrap_socket(plain, server_side=True) as client:
            self._open.append(client)
            upstream = ssl.create_default_context(cafile=str(self._server.folder / "server.pem"))
            upstream.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            upstream.load_cert_chain(self._client)
            with upstream.wrap_socket(self._dial(), server_hostname=self._server.address) as server:
                while True:
                    self._exchange(client, server, fault)

    def _exchange(self, client: ssl.SSLSocket, server: ssl.SSLSocket, fault: Fault) -> None:
        request = _message(client)
        operation = operation_of(request)
        self.asked.append(operation)
        at_fault = not fault.operations or operation in fault.operations
        server.sendall(fault.ask(request) if at_fault and fault.ask is not None else request)
        answer = _message(server)
        if at_fault and fault.back is not None:
            answer = fault.back(answer)
        if at_fault and fault.answer is not None:
            fault.answer(client, answer)
        else:
            client.sendall(answer)


def operation_of(request: bytes) -> str:
    """Name of the KMIP operation of a request ("GET")."""
    begin = request.index(_OPERATION) + len(_OPERATION)
    return enums.Operation(int.from_bytes(request[begin : begin + 4], "big")).name


def _message(connection: ssl.SSLSocket) -> bytes:
    header = _receive(connection, 8)
    return header + _receive(connection, int.from_bytes(header[4:], "big"))


def _receive(connection: ssl.SSLSocket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        data = connection.recv(size - len(received))
        if not data:
            raise EOFError
        received += data
    return received


def _pour(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(PIECE):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
