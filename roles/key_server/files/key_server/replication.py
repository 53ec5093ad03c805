# SPDX-License-Identifier: GPL-3.0-or-later
"""The same objects on all servers: each change goes to the peers before it is answered.

A change is sent at once to each peer that is up, and the answer to the client waits for it, for PATIENCE
seconds at most. A peer that does not answer in time is down: nothing waits for it, until a look at it, every
few seconds and at the start, finds it again. Such a look compares the versions of all objects and brings
either side what it missed. So a peer can be away for any time, and can lose its database.

Messages are KMIP's TTLV with a tag of the extensions' range (KMIP 1.x section 9.1.3.1) and type Byte String,
whose value is JSON; they go over the port, and with the certificates, of KMIP. Only servers may send them:
clients whose common name is an administrator's.

    {"summary": digest}             -> {"same": bool}
    {"versions": {id: version}}     -> {"records": what the asking server misses, "wanted": ids}
    {"records": [record, ...]}      -> {"problems": [text, ...]}
"""

from __future__ import annotations

import json
import logging
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from .endpoint import Endpoint, connected
from .errors import KeyServerError
from .journal import Journal, Record, summary

PATIENCE = 1.0
LOOK_PATIENCE = 3.0
BATCH = 200
MAX_MESSAGE = 16 * 1024 * 1024
HEADER = 8
_BEGINNING = bytes.fromhex("54000108")  # tag 540001, Byte String

Message = dict[str, Any]


def is_replication(header: bytes) -> bool:
    """Whether the first HEADER bytes of a message begin one of this module."""
    return header.startswith(_BEGINNING)


def encoded(message: Message) -> bytes:
    """The TTLV of a message. JSON may end with blanks, so it is its own padding."""
    value = json.dumps(message, separators=(",", ":")).encode()
    value += b" " * (-len(value) % 8)
    return _BEGINNING + len(value).to_bytes(4, "big") + value


def answer(journal: Journal, value: bytes) -> Message:
    """What this server says to a peer's message. Raises KeyServerError for one that it cannot read."""
    try:
        message = json.loads(value)
        if "summary" in message:
            return {"same": message["summary"] == summary(journal.versions())}
        if "records" in message:
            return {"problems": take(journal, message["records"])}
        theirs = {int(uid): int(version) for uid, version in message["versions"].items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise KeyServerError("a message of another server cannot be read") from None
    mine = journal.versions()
    missing = [uid for uid in mine if mine[uid] > theirs.get(uid, -1)]
    wanted = [uid for uid in theirs if theirs[uid] > mine.get(uid, -1)]
    return {"records": journal.records(missing[:BATCH]), "wanted": wanted[:BATCH]}


def take(journal: Journal, records: Sequence[Record]) -> list[str]:
    """Take records over; what was wrong with some of them."""
    problems = []
    for record in records:
        try:
            journal.take(record)
        except KeyServerError as error:
            problems.append(str(error))
    return problems


class Link:
    """One peer, as this server sees it. Thread-safe; one message at a time."""

    def __init__(self, endpoint: Endpoint, journal: Journal, logger: logging.Logger) -> None:
        self._endpoint = endpoint
        self._journal = journal
        self._logger = logger
        self._lock = threading.Lock()
        self._connection: ssl.SSLSocket | None = None
        self._problems: set[str] = set()
        self._sent = 0
        self.up = False

    def forward(self, deadline: float) -> None:
        """Send what changed since the last time, if the peer is up. Takes until `deadline` at most."""
        if not self.up:
            return
        newest, changed = self._journal.changed_since(self._sent)
        try:
            for begin in range(0, len(changed), BATCH):
                records = self._journal.records(changed[begin : begin + BATCH])
                self._complain(self._exchange({"records": records}, deadline)["problems"])
            self._sent = max(self._sent, newest)
        except KeyServerError as error:
            self._down(error)

    def look(self) -> None:
        """Compare with the peer, bring both what they miss, and take it for up if that went well."""
        try:
            newest, _changed = self._journal.changed_since(self._sent)
            before: object = None
            while not self._ask({"summary": summary(self._journal.versions())})["same"]:
                versions = self._journal.versions()
                found = self._ask({"versions": versions})
                problems = take(self._journal, found["records"])
                problems += self._ask({"records": self._journal.records(found["wanted"])})["problems"]
                self._complain(problems)
                if versions == before:
                    break  # no progress: what is left are the problems
                before = versions
            self._sent = max(self._sent, newest)
            if not self.up:
                self._logger.info("%s has the same objects", self._endpoint.host)
            self.up = True
        except KeyServerError as error:
            self._down(error)

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._hang_up()

    def _ask(self, message: Message) -> Message:
        return self._exchange(message, time.monotonic() + LOOK_PATIENCE)

    def _exchange(self, message: Message, deadline: float) -> Message:
        if not self._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise KeyServerError(f"{self._endpoint.host}: other changes are still on their way")
        try:
            if self._connection is None:
                self._connection = connected(self._endpoint, _left(deadline))
            found = _exchange(self._connection, message, deadline)
            if "error" in found:
                raise KeyServerError(found["error"])
            return found
        except (OSError, ValueError, TypeError, KeyServerError) as error:
            self._hang_up()
            raise KeyServerError(f"{self._endpoint.host}: {error}") from None
        finally:
            self._lock.release()

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _down(self, error: KeyServerError) -> None:
        if self.up:
            self._logger.warning("changes are kept for later: %s", error)
        self.up = False

    def _complain(self, problems: list[str]) -> None:
        for problem in problems:
            if problem not in self._problems:
                self._logger.error("not replicated: %s", problem)
        self._problems |= set(problems)


class Replication:
    """All peers, and the thread that looks at them."""

    def __init__(
        self, journal: Journal, peers: Sequence[Endpoint], interval: float, logger: logging.Logger
    ) -> None:
        """interval: seconds between two looks at each peer."""
        self.links = [Link(peer, journal, logger) for peer in peers]
        self._interval = interval
        self._ended = threading.Event()

    def start(self) -> None:
        """Look at each peer once, so that ids that it knows are known here; then go on in a thread."""
        for link in self.links:
            link.look()
            threading.Thread(target=self._watch, args=(link.look,), daemon=True).start()

    def forward(self) -> None:
        """Send what changed to all peers that are up. Takes PATIENCE seconds at most."""
        deadline = time.monotonic() + PATIENCE
        for link in self.links:
            link.forward(deadline)

    def close(self) -> None:
        """End."""
        self._ended.set()
        for link in self.links:
            link.close()

    def _watch(self, look: Callable[[], None]) -> None:
        while not self._ended.wait(self._interval):
            look()


def _exchange(connection: ssl.SSLSocket, message: Message, deadline: float) -> Message:
    connection.settimeout(_left(deadline))
    connection.sendall(encoded(message))
    header = _receive(connection, HEADER, deadline)
    size = int.from_bytes(header[4:], "big")
    if not is_replication(header) or size > MAX_MESSAGE:
        raise KeyServerError("it is no key server of this kind")
    found: Message = json.loads(_receive(connection, size, deadline))
    return found


def _receive(connection: ssl.SSLSocket, size: int, deadline: float) -> bytes:
    received = bytearray()
    while len(received) < size:
        connection.settimeout(_left(deadline))
        data = connection.recv(size - len(received))
        if not data:
            raise KeyServerError("it closed the connection")
        received += data
    return bytes(received)


def _left(deadline: float) -> float:
    """Seconds until then; raises TimeoutError when there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("no answer in time")
    return left
