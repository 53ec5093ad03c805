# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys from one key server, over sessions that stay open. docs/protocol.md 7.4.

Rules for a primary key, numbered as in `judge`:

1. It is a symmetric key.
2. It is AES with 256 bits, by its attributes and by the bytes that came.
3. It may be used for what a primary key is used for: wrapping, encryption or derivation, both ways.
4. Its state lets it be used (KMIP 3.22). KMIP's Get gives a revoked key without a word; this side must look:

   | state | here |
   | --- | --- |
   | Active | wraps and opens |
   | Deactivated | opens only; wrapping is refused: `key_deactivated` |
   | Compromised | `key_compromised` |
   | Destroyed, Destroyed Compromised | `key_destroyed` |
   | Pre-Active, or none given | `primary_key_state` |

A key that the server does not have is `key_missing` (`KeyServerRefusal`).
"""

from __future__ import annotations

import datetime
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from cryptography import x509

from trusted_infrastructure.kmip.connection import ClientCredentials, KeyServer, KeyServerFailure, connect
from trusted_infrastructure.kmip.session import KeyAttributes, KeyMaterial, Session
from trusted_infrastructure.refusal import Refusal

KEY_BYTES = 32
MAX_IDLE = 4
ACTIVE = "ACTIVE"
DEACTIVATED = "DEACTIVATED"
# An idle session whose server is gone may take this share of the time before a new one is tried.
IDLE_SHARE = 0.5
_USES = (
    frozenset({"WRAP_KEY", "UNWRAP_KEY"}),
    frozenset({"ENCRYPT", "DECRYPT"}),
    frozenset({"DERIVE_KEY"}),
)
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class PrimaryKey:
    """A primary key that passed every rule. material: 32 bytes, never shown. server: who gave it.

    state: ACTIVE or DEACTIVATED, as that server said. What wraps asks `require_active` first.
    """

    key_id: str
    server: str
    material: bytes = field(repr=False)
    state: str = ACTIVE


def require_active(key: PrimaryKey) -> None:
    """Only an active key wraps. Raises Refusal `key_deactivated`."""
    if key.state != ACTIVE:
        raise Refusal(
            "key_deactivated",
            f"key {key.key_id!r} is {key.state} on key server {key.server!r}: it opens what it wrapped, and"
            " wraps nothing more",
            "Rotate to another key of the key server, which is active.",
        )


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
        # Of the certificate that the server presented when it was last connected to; None before, or where it
        # cannot be read.
        self.certificate_end: datetime.datetime | None = None
        self._credentials = credentials
        self._context = context
        self._open_connection = open_connection
        self._lock = threading.Lock()
        self._idle: list[Session] = []
        self._version: tuple[int, int] | None = None
        self._closed = False

    def primary_key(self, key_id: str) -> PrimaryKey:
        """The key, if it passes every rule. Takes at most the server's timeout, whatever the server does.

        Raises KeyServerFailure (`key_server_unreachable`), KeyServerRefusal (`key_missing`, `key_destroyed`,
        `primary_key_unavailable`), or Refusal (`key_compromised`, `key_destroyed`, `primary_key_state`,
        `primary_key_unavailable`) that names the rule.
        """

        def get(session: Session) -> PrimaryKey:
            # Attributes first: a key that must not be used is not even fetched.
            attributes = session.attributes(key_id)
            state = judge(self.server, key_id, attributes)
            material = session.material(key_id)
            judge_material(self.server, key_id, material)
            return PrimaryKey(key_id, self.server.name, material.material, state)

        return self.visit(get)

    def close(self) -> None:
        """Close what is idle; what is in use closes when it comes back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for session in idle:
            session.close()

    def visit(self, use: Callable[[Session], _Result], *, fresh: bool = False) -> _Result:
        """Use a session, for at most the server's timeout. fresh: over a new connection, for what must not be
        asked twice. Raises what `use` raises, and KeyServerFailure."""
        end = time.monotonic() + self.server.timeout
        session = None if fresh else self._take()
        if session is not None:
            session.deadline = end - self.server.timeout * IDLE_SHARE
            try:
                return self._used(session, use)
            except KeyServerFailure:
                # The server may have closed an idle session: one new one, then it counts.
                self._forget()
        return self._used(self._open(end), use)

    def _used(self, session: Session, use: Callable[[Session], _Result]) -> _Result:
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

    def _open(self, end: float) -> Session:
        """A session whose server has until `end` (time.monotonic) for all of it."""
        left = max(end - time.monotonic(), 0.001)
        connection = self._open_connection(replace(self.server, timeout=left), self._context)
        self.certificate_end = _end_of(connection)
        try:
            session = Session(self.server, connection, self._credentials, self._version, deadline=end)
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


def _end_of(connection: ssl.SSLSocket) -> datetime.datetime | None:
    try:
        der = connection.getpeercert(binary_form=True) or b""
        return x509.load_der_x509_certificate(der).not_valid_after_utc
    except ValueError:
        return None  # OpenSSL took it; when it ends is for people


def judge(server: KeyServer, key_id: str, found: KeyAttributes) -> str:
    """Rules 1 to 4 on a key's attributes; its state, ACTIVE or DEACTIVATED. Raises Refusal."""
    # 1
    if found.object_type not in (None, "SYMMETRIC_KEY"):
        raise _unfit(server, key_id, f"is a {found.object_type}, not a SYMMETRIC_KEY")
    # 2
    if found.algorithm != "AES" or found.length != KEY_BYTES * 8:
        raise _unfit(server, key_id, f"is {found.algorithm} with {found.length} bits, not AES with 256 bits")
    # 3
    if not any(uses <= found.usage for uses in _USES):
        allowed = ", ".join(sorted(found.usage)) or "nothing"
        raise _unfit(
            server, key_id, f"may be used for {allowed}; it must be for wrapping, encryption or derivation"
        )
    # 4
    return judge_state(server, key_id, found.state)


def judge_state(server: KeyServer, key_id: str, state: str | None) -> str:
    """Rule 4: the state, ACTIVE or DEACTIVATED. state: KMIP's name, None where the server gave none.

    Raises Refusal `key_compromised`, `key_destroyed`, `primary_key_state`.
    """
    if state in (ACTIVE, DEACTIVATED):
        return state
    code, remedy = _UNUSABLE.get(state or "", _NOT_ACTIVE)
    raise Refusal(code, f"key {key_id!r} on key server {server.name!r} is in state {state}", remedy)


_NOT_ACTIVE = (
    "primary_key_state",
    "Activate the key on the key server, or set another primary key on the provider.",
)
_DESTROYED = (
    "key_destroyed",
    "What only this key opens is lost, unless the key server can restore the key. Set another key.",
)
_UNUSABLE = {
    "COMPROMISED": (
        "key_compromised",
        "Set another primary key on the provider, and encrypt anew what this one protected (deep recrypt).",
    ),
    "DESTROYED": _DESTROYED,
    "DESTROYED_COMPROMISED": _DESTROYED,
}


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
