# SPDX-License-Identifier: GPL-3.0-or-later
"""The TLS front of the key server.

- TLS 1.2 or later; a client certificate is required, and must be, or chain to, one in the clients' folder.
  The folder is read again when it changes: a new client, or one that goes, needs no restart.
- The common name of the certificate is who the client is. It is its group, too, so that a policy can let a
  client read one key and no other.
- The other key servers are clients, too: they bring the changes of objects (replication.py).
- The database is readable for this process's user alone, and so is its folder.
- Logs go to standard error, never below INFO: at DEBUG, PyKMIP logs key bytes.
- SIGTERM ends the server within two seconds, between two requests.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.x509.oid import ExtendedKeyUsageOID
from kmip.core import exceptions, utils
from kmip.core import policy as operation_policy
from kmip.services.server import auth
from kmip.services.server.server import KmipServer
from kmip.services.server.session import KmipSession

from . import replication
from .endpoint import Endpoint
from .engine import Engine
from .errors import KeyServerError
from .journal import MAX_SERVERS

CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH
HANDSHAKE_TIMEOUT = 10
IDLE_TIMEOUT = 900
ACCEPT_INTERVAL = 1.0


@dataclass(frozen=True)
class Settings:
    """The settings file. clients: folder of PEM files; policies: JSON file of PyKMIP operation policies.

    number: of this server among its peers, 0 to 15: the remainder of the ids that it gives. peers: the other
    servers, each {"host", "port"}. authority: PEM file of the CA of their certificates.
    """

    address: str
    port: int
    certificate: str
    key: str
    clients: str
    database: str
    policies: str
    administrators: tuple[str, ...] = ()
    number: int = 0
    peers: tuple[dict[str, Any], ...] = ()
    authority: str = ""
    compare_interval: float = 2.0

    @classmethod
    def read(cls, path: Path) -> Settings:
        """Read the file. Raises SystemExit with a sentence."""
        try:
            content = json.loads(path.read_text())
            made = cls(
                **{**content, **{name: tuple(content.get(name, ())) for name in ("administrators", "peers")}}
            )
            if not 0 <= made.number < MAX_SERVERS:
                raise ValueError(f"number is {made.number}; expected 0 to {MAX_SERVERS - 1}")
            return made
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise SystemExit(f"{path}: {error}") from None

    def endpoints(self) -> list[Endpoint]:
        """The peers, with this server's own certificate as the client's. Raises SystemExit."""
        try:
            return [
                Endpoint(peer["host"], int(peer["port"]), self.authority, self.certificate, self.key)
                for peer in self.peers
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise SystemExit(f"peers: {error}") from None


class Session(KmipSession):
    """One client's connection. An idle one stays open; a dead or broken one ends quietly."""

    def authenticate(self, certificate: Any, request: Any) -> tuple[str, list[str | None]]:
        name, _groups = super().authenticate(certificate, request)
        return name, [name, None]

    def _receive_request(self) -> Any:
        """The next KMIP request; messages of other key servers that come before it are answered here."""
        while True:
            header = self._receive_bytes(replication.HEADER)
            size = int.from_bytes(header[4:], "big")
            peer = replication.is_replication(header)
            if size > (replication.MAX_MESSAGE if peer else self._max_request_size):
                raise exceptions.ConnectionClosed()  # what follows is not worth reading
            body = self._receive_bytes(size)
            if not peer:
                return utils.BytearrayStream(header + body)
            self._send_response(replication.encoded(self._answer_peer(body)))

    def _answer_peer(self, body: bytes) -> replication.Message:
        try:
            certificate = auth.get_certificate_from_connection(self._connection)
            usage = auth.get_extended_key_usage_from_certificate(certificate)
            name = auth.get_client_identity_from_certificate(certificate)
            if usage is None or CLIENT_AUTH not in usage or not self._engine.is_administrator(name):
                return {"error": f"{name} is not a key server"}
            return replication.answer(self._engine.journal, body)
        except (exceptions.KmipError, KeyServerError) as error:
            return {"error": str(error)}

    def _receive_bytes(self, message_size: int) -> bytes:
        self._connection.settimeout(IDLE_TIMEOUT)
        try:
            received: bytes = super()._receive_bytes(message_size)
        except OSError:
            raise exceptions.ConnectionClosed() from None
        return received


class Server(KmipServer):
    """PyKMIP's server on our settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._context: ssl.SSLContext | None = None
        self._clients_seen: object = None
        super().__init__(
            hostname=settings.address,
            port=settings.port,
            certificate_path=settings.certificate,
            key_path=settings.key,
            auth_suite="TLS1.2",
            config_path=None,
            enable_tls_client_auth=True,
            logging_level="INFO",
            database_path=settings.database,
        )

    def _setup_logging(self, _path: str) -> None:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
        self._logger.addHandler(handler)
        self._logger.setLevel(logging.INFO)

    def start(self) -> None:
        """Open the database and listen. Policies are read once: the role restarts the server for new ones."""
        policies = dict(operation_policy.policies)
        policies |= operation_policy.read_policy_from_file(self._settings.policies)
        endpoints = self._settings.endpoints()
        keep_private(Path(self._settings.database))
        self._engine = Engine(
            policies, self._settings.database, list(self._settings.administrators), self._settings.number
        )
        self._replication = replication.Replication(
            self._engine.journal, endpoints, self._settings.compare_interval, self._logger
        )
        self._engine.forward = self._replication.forward
        self._replication.start()
        listener = socket.create_server((self._settings.address, self._settings.port), backlog=64)
        listener.settimeout(ACCEPT_INTERVAL)
        self._socket = listener
        self._is_serving = True
        self._logger.info("listening on %s port %s", *listener.getsockname()[:2])
        notify_ready()

    def stop(self) -> None:
        """Stop between two requests: whoever has the engine's lock finishes what it does."""
        self._socket.close()
        self._replication.close()
        with self._engine._lock:
            self._logger.info("stopped")

    def _setup_connection_handler(self, connection: socket.socket, address: tuple[str, int]) -> None:
        connection.settimeout(HANDSHAKE_TIMEOUT)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            secured = self._tls().wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        except OSError as error:
            self._logger.warning("no connection with %s: %s", address[0], error)
            connection.close()
            return
        self._session_id += 1
        session = Session(self._engine, secured, address, name=f"{self._session_id:08}")
        session.daemon = True
        session.start()

    def _tls(self) -> ssl.SSLContext:
        """The TLS context, made anew when the clients' folder changed."""
        files = sorted(Path(self._settings.clients).glob("*.pem"))
        seen = [(path.name, path.stat().st_mtime_ns) for path in files]
        if self._context is None or seen != self._clients_seen:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.verify_mode = ssl.CERT_REQUIRED
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            context.options |= ssl.OP_NO_TICKET
            context.load_cert_chain(self._settings.certificate, self._settings.key)
            for path in files:
                context.load_verify_locations(path)
            self._context, self._clients_seen = context, seen
        return self._context


def keep_private(database: Path) -> None:
    """Make the database where there is none, for this user alone. Raises SystemExit when others can reach it.

    SQLite gives its other files the mode of the database."""
    mode = database.parent.stat().st_mode & 0o777
    if mode & 0o077:
        raise SystemExit(f"{database.parent} has mode {mode:04o}: keys go only where nobody else can look")
    descriptor = os.open(database, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def notify_ready() -> None:
    """Tell systemd that clients can connect (sd_notify(3)); nothing where nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifying:
            notifying.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
            notifying.sendall(b"READY=1")


def serve(settings: Settings) -> None:
    """Serve until SIGTERM."""
    os.umask(0o077)
    with Server(settings) as server:
        server.serve()
