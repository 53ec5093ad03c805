# SPDX-License-Identifier: GPL-3.0-or-later
"""A primary key from one key server, over sessions that stay open. SYSTEM K2, K5, K8; PROTOCOL 5.

Rules for a primary key, numbered as in `judge`:

1. It is a symmetric key.
2. It is AES with 256 bits, by its attributes and by the bytes that came.
3. It may be used for what a primary key is used for: wrapping, encryption or derivation, both ways.
4. Its state is Active. KMIP's Get gives a deactivated key without a word, so this side must look.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from trusted_infrastructure.kmip.connection import ClientCredentials, KeyServer, KeyServerFailure, connect
from trusted_infrastructure.kmip.session import KeyAttributes, KeyMaterial, Session
from trusted_infrastructure.refusal import Refusal

KEY_BYTES = 32
MAX_IDLE = 4
_USES = (
    frozenset({"WRAP_KEY", "UNWRAP_KEY"}),
    frozenset({"ENCRYPT", "DECRYPT"}),
    frozenset({"DERIVE_KEY"}),
)


@dataclass(frozen=True)
class PrimaryKey:
    """A primary key that passed every rule. material: 32 bytes, never shown. server: who gave it."""

    key_id: str
    server: str
    material: bytes = field(repr=False)


class KeyServerPool:
    """Sessions to one key server for one provider. Thread-safe; every call blocks for the network."""

    def __init__(
        self,
        server: KeyServer,
        credentials: ClientCredentials,
        context: ssl.SSLContext,
        open_connection: Callable[[KeyServer, ssl.SSLContext], ssl.SSLSocket] = connect,
    ) -> None:
        """context: from `client_context`, shared by the servers of a provider."""
        self.server = server
        self._credentials = credentials
        self._context = context
        self._open_connection = open_connection
        self._lock = threading.Lock()
        self._idle: list[Session] = []
        self._version: tuple[int, int] | None = None
        self._closed = False

    def primary_key(self, key_id: str) -> PrimaryKey:
        """The key, if it passes every rule.

        Raises KeyServerFailure (`key_server_unreachable`), KeyServerRefusal (`primary_key_unavailable`), or
        Refusal (`primary_key_state`, `primary_key_unavailable`) that names the rule.
        """

        def get(session: Session) -> PrimaryKey:
            # Attributes first: a key that is not active is not even fetched.
            attributes = session.attributes(key_id)
            judge(self.server, key_id, attributes)
            material = session.material(key_id)
            judge_material(self.server, key_id, material)
            return PrimaryKey(key_id, self.server.name, material.material)

        return self._with_session(get)

    def close(self) -> None:
        """Close what is idle; what is in use closes when it comes back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for session in idle:
            session.close()

    def _with_session(self, use: Callable[[Session], PrimaryKey]) -> PrimaryKey:
        session = self._take()
        if session is not None:
            try:
                return self._used(session, use)
            except KeyServerFailure:
                # The server may have closed an idle session: one new one, then it counts.
                self._forget()
        return self._used(self._open(), use)

    def _used(self, session: Session, use: Callable[[Session], PrimaryKey]) -> PrimaryKey:
        try:
            result = use(session)
        except KeyServerFailure:
            session.close()
            raise
        except Refusal:
            self._give_back(session)  # answered in full: the connection is in step
            raise
        except BaseException:
            session.close()
            raise
        self._give_back(session)
        return result

    def _open(self) -> Session:
        connection = self._open_connection(self.server, self._context)
        try:
            session = Session(self.server, connection, self._credentials, self._version)
        except BaseException:
            connection.close()
            raise
        self._version = session.version
        return session

    def _take(self) -> Session | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _give_back(self, session: Session) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < MAX_IDLE:
                self._idle.append(session)
                return
        session.close()

    def _forget(self) -> None:
        """Drop idle sessions and the version: the server may be another one by now."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._version = None
        for session in idle:
            session.close()


def judge(server: KeyServer, key_id: str, found: KeyAttributes) -> None:
    """Rules 1 to 4 on a key's attributes. Raises Refusal."""
    # 1
    if found.object_type not in (None, "SYMMETRIC_KEY"):
        raise _unfit(server, key_id, f"is a {found.object_type}, not a SYMMETRIC_KEY")
    # 2
    if found.algorithm != "AES" or found.length != KEY_BYTES * 8:
        raise _unfit(server, key_id, f"is {found.algorithm} with {found.length} bits, not AES with 256 bits")
    # 3
    if not any(uses <= found.usage for uses in _USES):
        allowed = ", ".join(sorted(found.usage)) or "nothing"
        raise _unfit(server, key_id, f"may be used for {allowed}; it must be for wrapping or encryption")
    # 4
    if found.state != "ACTIVE":
        raise Refusal(
            "primary_key_state",
            f"primary key {key_id!r} on key server {server.name!r} is in state {found.state}, not ACTIVE",
            "Activate the key, or set another primary key on the provider.",
        )


def judge_material(server: KeyServer, key_id: str, found: KeyMaterial) -> None:
    """Rule 2 on the bytes. Raises Refusal; the message holds their number, never the bytes."""
    if len(found.material) != KEY_BYTES:
        raise _unfit(server, key_id, f"has {len(found.material)} bytes, not {KEY_BYTES}")
    if found.algorithm not in (None, "AES"):
        raise _unfit(server, key_id, f"is {found.algorithm}, not AES")


def _unfit(server: KeyServer, key_id: str, message: str) -> Refusal:
    return Refusal(
        "primary_key_unavailable",
        f"primary key {key_id!r} on key server {server.name!r} {message}",
        "Set an AES-256 key of the key server as the provider's primary key.",
        status=503,
    )
