# SPDX-License-Identifier: GPL-3.0-or-later
"""The key servers of one standard provider: equal, of one vendor, with replicated keys. docs/protocol.md 7.5.

They are asked in order. One that fails (not reached, no answer in time, another answer than was asked for) is
passed over for the next; the one that works is remembered, and the first is tried again every so often, by
one request at a time. What a server refuses, the next is asked as well: it may have the key where the first
did not get it yet. But a server that knows the key, and says that it is not to be used, has the last word.
"""

from __future__ import annotations

import datetime
import ssl
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import structlog
from cryptography import x509

from trusted_infrastructure.kmip import key_making
from trusted_infrastructure.kmip.connection import ClientCredentials, KeyServer, KeyServerFailure, connect
from trusted_infrastructure.kmip.pool import DEACTIVATED, KeyServerPool, judge, judge_material
from trusted_infrastructure.kmip.session import KeyAttributes, KeyServerRefusal, Session
from trusted_infrastructure.refusal import Refusal, Unavailable

FAIL_BACK_AFTER = 30.0
# Keys that were made and never used, remembered until they can be destroyed.
MAX_ORPHANS = 1000
log = structlog.get_logger("trusted_infrastructure.kmip")
Result = TypeVar("Result")


@dataclass(frozen=True)
class ServedKey:
    """A key as a server gave it. material: 32 bytes, never shown. attributes_problem: why the vendor
    attributes of its use could not be set; empty when they are."""

    key_id: str
    server: str
    state: str
    material: bytes = field(repr=False)
    attributes_problem: str = ""


@dataclass(frozen=True)
class ServerStatus:
    """How a key server does: None where it is not known who trusts whom. certificate_end: of the server's.
    vendor: who made it, in its own words; "" where it does not say."""

    name: str
    problem: str = ""
    client_trust_server: bool | None = None
    server_trust_client: bool | None = None
    certificate_end: datetime.datetime | None = None
    vendor: str = ""


class KeyServerGroup:
    """Thread-safe; every call blocks for the network: for the timeout of each server, at most."""

    def __init__(
        self,
        servers: Sequence[KeyServer],
        credentials: ClientCredentials,
        context: ssl.SSLContext,
        *,
        withheld: Collection[str] = (),
        fail_back_after: float = FAIL_BACK_AFTER,
        clock: Callable[[], float] = time.monotonic,
        open_connection: Callable[[KeyServer, ssl.SSLContext], ssl.SSLSocket] = connect,
    ) -> None:
        """withheld: names of servers that the password was not set for; nothing is sent to them."""
        self._members = [KeyServerPool(server, credentials, context, open_connection) for server in servers]
        self._withheld = frozenset(withheld)
        self._fail_back_after = fail_back_after
        self._clock = clock
        self._lock = threading.Lock()
        self._working = 0
        self._tried_first = clock()
        self._orphans: list[tuple[str, str]] = []

    def create(self, vendor: Mapping[str, str], use: Mapping[str, str]) -> ServedKey:
        """A new, active AES-256 key with these vendor attributes. use: those of the object that it is put to
        use for; empty where that is not known yet.

        A server that fails in the middle may keep a key that nobody uses: it is logged and, where its id is
        known, destroyed by a later `check`. Raises Refusal `key_server_unreachable`,
        `primary_key_unavailable`, and those of `pool.judge`.
        """

        def make(member: KeyServerPool, session: Session) -> ServedKey:
            return self._made(member, session, vendor, use)

        return self._first(lambda member: member.visit(lambda session: make(member, session), fresh=True))

    def get(self, key_id: str, use: Mapping[str, str] | None = None) -> ServedKey:
        """A key. use: vendor attributes of the object that it is put to use for. A DEACTIVATED key is put to
        no other use any more, and given all the same: it opens what was encrypted with it.

        Raises Refusal: those of `pool.judge`, `key_missing`, `key_server_unreachable`,
        `primary_key_unavailable`.
        """

        def got(member: KeyServerPool, session: Session) -> ServedKey:
            found = session.attributes(key_id)
            state = judge(member.server, key_id, found)
            return _served(member, session, key_id, state, use)

        return self._first(lambda member: member.visit(lambda session: got(member, session)))

    def attributes(self, key_id: str, vendor: Sequence[str] = ()) -> KeyAttributes:
        """State, kind and vendor attributes of a key. Raises Refusal as `get` does, but for its state."""
        return self._first(lambda member: member.visit(lambda session: session.attributes(key_id, vendor)))

    def check(self, kept: Collection[str] = ()) -> list[ServerStatus]:
        """Ask every server, all at once, who trusts whom; destroy keys that were made for nothing.

        kept: ids of keys that are in use. A server that gave one of them for a new key loses none for that.
        """
        with ThreadPoolExecutor(len(self._members)) as workers:
            found = list(workers.map(self._look, self._members))
        for member, status in zip(self._members, found, strict=True):
            if not status.problem:
                self._destroy_orphans(member, kept)
        if not found[0].problem:
            with self._lock:
                self._working = 0
        return found

    def close(self) -> None:
        """Close all connections that are idle; others when they are back."""
        for member in self._members:
            member.close()

    def _first(self, ask: Callable[[KeyServerPool], Result]) -> Result:
        failures: list[KeyServerFailure] = []
        refusals: list[KeyServerRefusal] = []
        for position in self._order():
            member = self._members[position]
            try:
                if member.server.name in self._withheld:
                    raise _withheld(member.server)
                result = ask(member)
            except KeyServerFailure as failure:
                log.warning("key_server_failed", server=failure.server, cause=failure.cause)
                failures.append(failure)
                continue
            except KeyServerRefusal as refusal:
                if refusal.code == "key_destroyed":
                    raise
                refusals.append(refusal)
                continue
            self._remember(position)
            return result
        raise _combined(failures, refusals)

    def _order(self) -> list[int]:
        everyone = list(range(len(self._members)))
        with self._lock:
            now, working = self._clock(), self._working
            if working == 0 or now - self._tried_first >= self._fail_back_after:
                self._tried_first = now
                return everyone
        return [working, *(position for position in everyone if position != working)]

    def _remember(self, position: int) -> None:
        with self._lock:
            if position and not self._working:
                self._tried_first = self._clock()
            self._working = position

    def _made(
        self, member: KeyServerPool, session: Session, vendor: Mapping[str, str], use: Mapping[str, str]
    ) -> ServedKey:
        server = member.server.name
        try:
            key_id = key_making.create_key(session, vendor)
        except KeyServerFailure:
            log.warning("key_may_be_orphaned", server=server)
            raise
        try:
            key_making.activate(session, key_id)
            found = session.attributes(key_id)
            state = judge(member.server, key_id, found)
            if state == DEACTIVATED:
                raise _deactivated(member.server, key_id)
            return _served(member, session, key_id, state, use)
        except Refusal:
            log.warning("key_orphaned", server=server, key_id=key_id)
            with self._lock:
                self._orphans = [*self._orphans, (server, key_id)][-MAX_ORPHANS:]
            raise

    def _look(self, member: KeyServerPool) -> ServerStatus:
        name = member.server.name
        try:
            if name in self._withheld:
                raise _withheld(member.server)
            # A new connection: an idle one would not show that the certificate is another one by now.
            der, vendor = member.visit(_introduced, fresh=True)
        except KeyServerFailure as failure:
            return ServerStatus(name, failure.cause, failure.client_trust_server, failure.server_trust_client)
        except KeyServerRefusal as refusal:
            return ServerStatus(name, refusal.message, True, refusal.server_trust_client)
        end = x509.load_der_x509_certificate(der).not_valid_after_utc
        return ServerStatus(name, "", True, True, end, vendor)

    def _destroy_orphans(self, member: KeyServerPool, kept: Collection[str]) -> None:
        with self._lock:
            mine = [orphan for orphan in self._orphans if orphan[0] == member.server.name]
            self._orphans = [orphan for orphan in self._orphans if orphan not in mine]
        for _server, key_id in mine:
            if key_id in kept:
                log.error("orphan_in_use", server=member.server.name, key_id=key_id)
                continue
            try:
                member.visit(partial(key_making.discard, key_id=key_id))
            except Refusal as refusal:
                log.warning("orphan_kept", server=member.server.name, key_id=key_id, reason=refusal.message)
            else:
                log.info("orphan_destroyed", server=member.server.name, key_id=key_id)


def _served(
    member: KeyServerPool, session: Session, key_id: str, state: str, use: Mapping[str, str] | None
) -> ServedKey:
    material = session.material(key_id)
    judge_material(member.server, key_id, material)
    problem = ""
    if use:
        problem = "the key is deactivated" if state == DEACTIVATED else _put_to_use(session, key_id, use)
    return ServedKey(key_id, member.server.name, state, material.material, problem)


def _introduced(session: Session) -> tuple[bytes, str]:
    """The server's certificate (DER), and who made it. Asking also shows whether it knows us: a handshake in
    TLS 1.3 is over before the server has judged the client's certificate."""
    return session.peer_certificate, session.vendor()


def _deactivated(server: KeyServer, key_id: str) -> Refusal:
    return Refusal(
        "key_deactivated",
        f"key {key_id!r} is deactivated on key server {server.name!r}: it opens what was encrypted with it,"
        " and encrypts nothing more",
        "Let the object have a new key.",
    )


def _put_to_use(session: Session, key_id: str, use: Mapping[str, str]) -> str:
    """Vendor attributes are for people: who lacks them keeps no key from an object. Answers what is wrong."""
    try:
        key_making.set_vendor_attributes(session, key_id, use)
    except KeyServerRefusal as refusal:
        if refusal.reason == "ITEM_NOT_FOUND":
            raise
        log.warning("vendor_attributes_not_set", server=session.server.name, key_id=key_id)
        return refusal.message
    return ""


def _withheld(server: KeyServer) -> KeyServerFailure:
    return KeyServerFailure(
        server,
        "not asked: the provider's password was set for other addresses or another proxy",
        "If this key server was added on purpose, set the provider's password again.",
    )


def _combined(failures: Sequence[KeyServerFailure], refusals: Sequence[KeyServerRefusal]) -> Refusal:
    """What nobody having answered means. A key is only missing where every server said so."""
    if failures:
        told = "; ".join(item.message for item in [*failures, *refusals])
        return Unavailable("key_server_unreachable", told, failures[0].remedy)
    unlike = [refusal for refusal in refusals if refusal.reason != "ITEM_NOT_FOUND"]
    if unlike:
        return unlike[0]
    return Refusal(
        "key_missing",
        "; ".join(refusal.message for refusal in refusals),
        "Restore the key on the key servers, or compare the provider's servers with those that have it.",
        status=503,
    )
