# SPDX-License-Identifier: GPL-3.0-or-later
"""Challenges: given out without keeping anything, taken back once. docs/protocol.md 3.2.

The state of a challenge travels with it, in an AEAD envelope under a key that is in this host's memory alone:
so a flood of requests fills no table, nobody can read the secret or change the nonce, and a restart voids
all. Taking one back is one insert into a table whose key is the challenge's id: of two that come at once, one
fails. The table lies on tmpfs, because it has to outlive a worker but not a restart.

Envelope: base64url of version (1 byte, 0x01) || nonce (12) || AES-256-GCM of the state; AAD is the label.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import sqlite3
import threading
from pathlib import Path
from typing import Literal

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from trusted_infrastructure.messages import base64url
from trusted_infrastructure.refusal import Refusal, Unavailable

LIFETIME = 30
KEY_SIZE = 32
SECRET_SIZE = 32
NONCE_SIZE = 32
IDENTIFIER_SIZE = 16
MAX_ENVELOPE = 131072  # a request with eight certificates, in base64 twice, is under 100 kB

_LABEL = b"trusted.infrastructure/challenge/v1"
_VERSION = b"\x01"
_AEAD_NONCE = 12


class ChallengeState(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """What the service has to know when the evidence comes. docs/protocol.md 3.2.

    request: exact body of the challenge request (which has assertion, EK and AK). secret: what was put into
    the credential; it never leaves but in there. expires: Unix seconds. bank, pcrs: what the quote must have.
    """

    version: Literal[1]
    identifier: bytes
    nonce: bytes
    secret: bytes
    request: bytes
    purpose: str
    service_id: str
    bank: str
    pcrs: tuple[int, ...]
    expires: int


def new_state(
    request: bytes, purpose: str, service_id: str, bank: str, pcrs: tuple[int, ...], now: int
) -> ChallengeState:
    """A fresh challenge: random id, nonce and secret; ends LIFETIME seconds after `now`."""
    return ChallengeState(
        version=1,
        identifier=secrets.token_bytes(IDENTIFIER_SIZE),
        nonce=secrets.token_bytes(NONCE_SIZE),
        secret=secrets.token_bytes(SECRET_SIZE),
        request=request,
        purpose=purpose,
        service_id=service_id,
        bank=bank,
        pcrs=pcrs,
        expires=now + LIFETIME,
    )


class ChallengeEnvelope:
    """Closes and opens envelopes. key: 32 bytes that all workers of this host share, and nobody else."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def close(self, state: ChallengeState) -> str:
        """The challenge as text, opaque to the agent."""
        nonce = os.urandom(_AEAD_NONCE)
        return base64url(_VERSION + nonce + self._aead.encrypt(nonce, msgspec.msgpack.encode(state), _LABEL))

    def open(self, challenge: str, service_id: str, purpose: str, now: int) -> ChallengeState:
        """The state of a challenge that this service gave out.

        Raises Refusal `challenge_invalid` (not ours, changed, or from before a restart), `challenge_expired`.
        """
        try:
            if len(challenge) > MAX_ENVELOPE:
                raise ValueError("too long")
            data = base64.b64decode(challenge + "=" * (-len(challenge) % 4), altchars=b"-_", validate=True)
            if data[:1] != _VERSION or len(data) < 1 + _AEAD_NONCE + 16:
                raise ValueError("another version, or too short")
            nonce, ciphertext = data[1 : 1 + _AEAD_NONCE], data[1 + _AEAD_NONCE :]
            state = msgspec.msgpack.decode(self._aead.decrypt(nonce, ciphertext, _LABEL), type=ChallengeState)
        except (ValueError, binascii.Error, InvalidTag, msgspec.DecodeError):
            raise _invalid("this service did not give out the challenge, or was restarted since") from None
        # The key is this service's own; this holds should two services ever be given the same one.
        if (state.service_id, state.purpose) != (service_id, purpose):
            raise _invalid(f"the challenge is of {state.service_id} for {state.purpose!r}")
        if now >= state.expires:
            raise Refusal(
                "challenge_expired",
                f"the challenge ended {now - state.expires} s ago; it holds for {LIFETIME} s",
                "Attest again; if it stays, look at what makes the host's TPM slow.",
                status=400,
            )
        return state


class UsedChallenges:
    """Which challenges were taken back. Thread-safe; several processes may share the file."""

    def __init__(self, path: Path) -> None:
        """Open or create the database at `path`, on tmpfs. Raises Unavailable `state_unavailable`."""
        self._lock = threading.Lock()
        self._cleaned = 0
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
            # Nothing here has to survive a power cut: tmpfs does not.
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = OFF")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS used (identifier BLOB PRIMARY KEY, expires INTEGER NOT NULL)"
                " WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error) as error:
            raise _unavailable(error) from None

    def use(self, state: ChallengeState, now: int) -> None:
        """Take the challenge back, once. Raises Refusal `challenge_used`, Unavailable `state_unavailable`."""
        try:
            with self._lock:
                self._forget_ended(now)
                self._database.execute("INSERT INTO used VALUES (?, ?)", (state.identifier, state.expires))
        except sqlite3.IntegrityError:
            raise Refusal(
                "challenge_used", "the challenge was used before", "Attest again.", status=400
            ) from None
        except sqlite3.Error as error:
            raise _unavailable(error) from None

    def _forget_ended(self, now: int) -> None:
        """An ended challenge is refused before it gets here; its row is kept for as long again, then goes."""
        if abs(now - self._cleaned) >= LIFETIME:
            self._database.execute("DELETE FROM used WHERE expires < ?", (now - LIFETIME,))
            self._cleaned = now

    def close(self) -> None:
        """Close the database."""
        self._database.close()


def _invalid(message: str) -> Refusal:
    return Refusal("challenge_invalid", message, "Attest again with this service.", status=400)


def _unavailable(error: Exception) -> Unavailable:
    return Unavailable(
        "state_unavailable",
        f"the record of used challenges cannot be written: {error}",
        "Check the run directory of the attestation service: its owner, and the space on it.",
    )
