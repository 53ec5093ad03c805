# SPDX-License-Identifier: GPL-3.0-or-later
"""TLS connections to key servers.

What is required of a key server, always:

1. TLS 1.2 or later.
2. A certificate that chains to one of the provider's trusted certificates, or is one of them. There is no
   other trust: the system's CA certificates are never used, and an empty list trusts nobody.
3. The certificate is for the host name or address that was dialled.

`presented_certificate` is the exception by design: it shows an administrator what a server presents, trusts
nothing, and sends nothing but a TLS hello.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from trusted_infrastructure.refusal import Refusal, Unavailable

_TLS_HANDSHAKE = 22
_HANDSHAKE_CERTIFICATE = 11
# What a server says of a client certificate that it does not take (RFC 5246 7.2.2, RFC 8446 6.2).
_ABOUT_OUR_CERTIFICATE = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "HANDSHAKE_FAILURE")
_MAX_PROXY_ANSWER = 16 * 1024
_MAX_HELLO = 256 * 1024  # what a server may send before its certificate must have come


@dataclass(frozen=True)
class KeyServer:
    """One key server. name: the provider's name for it; proxy: (host, port) of an HTTP CONNECT proxy.

    timeout: seconds for a connection, or for an answer."""

    name: str
    hostname: str
    port: int
    proxy: tuple[str, int] | None = None
    timeout: float = 10


@dataclass(frozen=True)
class ClientCredentials:
    """What this side shows a key server. certificate, private_key: PEM (the key as PKCS 8, not encrypted)."""

    certificate: str
    private_key: bytes = field(repr=False)
    username: str | None = None
    password: str | None = field(default=None, repr=False)


class KeyServerFailure(Unavailable):
    """A key server could not be used: `key_server_unreachable`. Says nothing about the key.

    client_trust_server, server_trust_client: how far the TLS handshake came; None where it is not known.
    """

    def __init__(
        self,
        server: KeyServer,
        cause: str,
        remedy: str = "",
        client_trust_server: bool | None = None,
        server_trust_client: bool | None = None,
    ) -> None:
        super().__init__(
            "key_server_unreachable",
            f"key server {server.name!r} ({server.hostname}:{server.port}): {cause}",
            remedy or "Check that the key server runs and can be reached from this host.",
        )
        self.server = server.name
        self.cause = cause
        self.client_trust_server = client_trust_server
        self.server_trust_client = server_trust_client


def client_context(credentials: ClientCredentials, trusted_certificates: Sequence[str]) -> ssl.SSLContext:
    """The TLS context for one provider: rules 1 to 3 of this module, and the client's certificate and key.

    trusted_certificates: PEM; CA or leaf. Raises Refusal `certificate_invalid` naming what cannot be used.
    """
    trusted = "\n".join(trusted_certificates).strip()
    if not trusted:
        # create_default_context would take the system's CA certificates for an empty list.
        raise Refusal(
            "certificate_invalid",
            "the provider has no trusted certificates, so no key server is trusted",
            "Check the certificates that the key servers present, and set them as trusted.",
        )
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cadata=trusted)
    except (ssl.SSLError, ValueError):
        raise Refusal(
            "certificate_invalid",
            "a trusted certificate of the provider is not a PEM certificate",
            "Set the provider's trusted certificates again.",
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = True
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a trusted leaf is an anchor by itself
    # Python 3.13 asks for extensions (RFC 5280) that many a key server's CA does not have, and 3.11 does not.
    # Whether a key server is trusted must not depend on the host's release.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    _load_client_key(context, credentials)
    return context


def connect(server: KeyServer, context: ssl.SSLContext) -> ssl.SSLSocket:
    """A verified TLS connection. Raises KeyServerFailure saying who did not trust whom."""
    end = time.monotonic() + server.timeout  # one timeout for all of it
    connection = _dial(server, end)
    try:
        _bound(connection, end)
        return context.wrap_socket(connection, server_hostname=server.hostname)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        connection.close()
        raise tls_failure(server, error) from None


def tls_failure(server: KeyServer, error: Exception, verified: bool = False) -> KeyServerFailure:
    """The failure behind an error of a TLS connection: whose certificate was at fault, as far as TLS says.

    verified: the handshake was over, so the server's certificate had been accepted.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return KeyServerFailure(
            server,
            f"its certificate is not trusted: {error.verify_message}",
            "Compare the certificate that the server presents with the trusted certificates, and set them.",
            client_trust_server=False,
        )
    reason = (error.reason or "") if isinstance(error, ssl.SSLError) else ""
    if "ALERT" in reason and any(word in reason for word in _ABOUT_OUR_CERTIFICATE):
        # A server answers our certificate after we have accepted its own.
        return KeyServerFailure(
            server,
            f"it refused the client certificate: {reason.lower().replace('_', ' ')}",
            "Make the provider's client certificate known to the key server.",
            client_trust_server=True,
            server_trust_client=False,
        )
    return KeyServerFailure(server, _cause(error), client_trust_server=verified or None)


def presented_certificate(server: KeyServer, credentials: ClientCredentials | None = None) -> str:
    """The leaf certificate (PEM) that a key server presents. Nothing is trusted. Raises KeyServerFailure.

    A server that asks for a client certificate and gets none ends a TLS 1.2 handshake before Python shows its
    certificate; that one has come in the clear by then, and is taken from what was received.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if credentials is not None:
        _load_client_key(context, credentials)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=server.hostname)
    received = bytearray()
    end = time.monotonic() + server.timeout
    with _dial(server, end) as connection:
        try:
            _handshake(connection, tls, incoming, outgoing, received, end)
            certificate = tls.getpeercert(binary_form=True)
        except (OSError, EOFError) as error:
            certificate = _certificate_in_the_clear(bytes(received))
            if certificate is None:
                raise KeyServerFailure(server, _cause(error)) from None
    if not certificate:
        raise KeyServerFailure(server, "it presented no certificate")
    return ssl.DER_cert_to_PEM_cert(certificate)


def _dial(server: KeyServer, end: float) -> socket.socket:
    """A connection to the server, through its proxy if it has one, until `end` (time.monotonic)."""
    try:
        left = max(end - time.monotonic(), 0.001)
        connection = socket.create_connection(server.proxy or (server.hostname, server.port), timeout=left)
        if server.proxy is not None:
            try:
                _open_tunnel(connection, server, end)
            except BaseException:
                connection.close()
                raise
        return connection
    except (OSError, ValueError) as error:
        via = f" through proxy {server.proxy[0]}:{server.proxy[1]}" if server.proxy else ""
        raise KeyServerFailure(server, _cause(error) + via) from None


def _open_tunnel(connection: socket.socket, server: KeyServer, end: float) -> None:
    """HTTP CONNECT (RFC 9110 9.3.6). http.client would wait the timeout for each line of the answer."""
    host = f"[{server.hostname}]" if ":" in server.hostname else server.hostname
    target = f"{host}:{server.port}"
    if not target.isascii() or not target.isprintable() or " " in target:
        raise ValueError("the server's name cannot be sent to a proxy")
    connection.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    answer = bytearray()
    while not answer.endswith(b"\r\n\r\n"):
        _bound(connection, end)
        byte = connection.recv(1)  # what comes after the answer is the server's
        if not byte or len(answer) > _MAX_PROXY_ANSWER:
            raise ValueError("the proxy did not answer")
        answer += byte
    version, _space, rest = bytes(answer).partition(b" ")
    if not version.startswith(b"HTTP/1.") or not rest.startswith(b"2"):
        raise ValueError(f"the proxy refused: {_plain_text(rest)}")


def _plain_text(words: bytes) -> str:
    line = words.partition(b"\r")[0][:100].decode("ascii", "replace")
    return "".join(character for character in line if character.isprintable())


def _bound(connection: socket.socket, end: float) -> None:
    """Let no step on a connection take longer than until `end`. Raises TimeoutError when that was."""
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connection.settimeout(left)


def _load_client_key(context: ssl.SSLContext, credentials: ClientCredentials) -> None:
    # OpenSSL's interface in Python takes a path. An anonymous memory file has one under /proc/self/fd, has no
    # name in any file system, is not inherited, and is gone when it is closed: the key is on no disk.
    descriptor = os.memfd_create("kmip-client", os.MFD_CLOEXEC)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(credentials.private_key.strip() + b"\n" + credentials.certificate.encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=_no_password)
    except (OSError, ValueError):
        raise Refusal(
            "certificate_invalid",
            "the provider's client certificate and private key cannot be used, or do not belong together",
            "Make or set the provider's client certificate again.",
        ) from None
    finally:
        os.close(descriptor)


def _no_password() -> str:
    """An encrypted key must fail, not ask on the terminal."""
    raise ValueError("the private key is encrypted")


def _handshake(
    connection: socket.socket,
    tls: ssl.SSLObject,
    incoming: ssl.MemoryBIO,
    outgoing: ssl.MemoryBIO,
    received: bytearray,
    end: float,
) -> None:
    while True:
        try:
            tls.do_handshake()
            return
        except ssl.SSLWantReadError:
            _bound(connection, end)
            connection.sendall(outgoing.read())
            data = connection.recv(16384)
            received += data
            if not data or len(received) > _MAX_HELLO:
                raise EOFError("the connection was closed during the TLS handshake") from None
            incoming.write(data)


def _certificate_in_the_clear(received: bytes) -> bytes | None:
    """The first certificate (DER) of a TLS 1.2 Certificate message (RFC 5246 7.4.2) among plain records."""
    messages = bytearray()
    while len(received) >= 5 and received[0] == _TLS_HANDSHAKE:
        size = int.from_bytes(received[3:5], "big")
        messages += received[5 : 5 + size]
        received = received[5 + size :]
    rest = bytes(messages)
    while len(rest) >= 4:
        body = rest[4 : 4 + int.from_bytes(rest[1:4], "big")]
        if rest[0] == _HANDSHAKE_CERTIFICATE and len(body) >= 6:
            certificate = body[6 : 6 + int.from_bytes(body[3:6], "big")]
            return certificate or None
        rest = rest[4 + len(body) :]
    return None


def _cause(error: Exception) -> str:
    """A short, plain cause: the system's words, never a path or an object's representation."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {(error.reason or 'protocol error').lower().replace('_', ' ')}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)[:200] or type(error).__name__
