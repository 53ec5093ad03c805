# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets in the manager's database, encrypted under a key that is not in it.

The key is a file beside the database (0600): a copy of the database alone, a dump or a backup of it, shows no
key of a native provider and no credential of a key server. Whoever has both has the secrets.

    stored = base64( version (1 byte) || nonce (12 random bytes) || AES-256-GCM(key, nonce, secret, purpose) )

The purpose, such as "native_provider/NAME/KEY ID", is authenticated: a value opens in its own place only.
Source: NIST SP 800-38D.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from trusted_infrastructure.refusal import Unavailable
from trusted_infrastructure.state_files import read_state, state_lock, write_state

KEY_BYTES = 32
_VERSION = b"\x01"
_NONCE_BYTES = 12


class DatabaseSecrets:
    """Encrypts and opens values of the database. path: file of the key; made where it is not there."""

    def __init__(self, path: Path) -> None:
        """Raises Unavailable `state_unusable`."""
        with state_lock(path):
            key = read_state(path)
            if key is None:
                key = AESGCM.generate_key(bit_length=KEY_BYTES * 8)
                write_state(path, key)
        if len(key) != KEY_BYTES:
            raise _unusable(f"{path} does not hold {KEY_BYTES} bytes")
        self._cipher = AESGCM(key)

    def encrypt(self, purpose: str, secret: bytes) -> str:
        """The secret as text for the database."""
        nonce = os.urandom(_NONCE_BYTES)
        stored = _VERSION + nonce + self._cipher.encrypt(nonce, secret, purpose.encode())
        return base64.b64encode(stored).decode()

    def decrypt(self, purpose: str, stored: str) -> bytes:
        """The secret. Raises Unavailable `state_unusable`: changed, from elsewhere, or under another key."""
        try:
            data = base64.b64decode(stored, validate=True)
            if data[:1] != _VERSION:
                raise _unusable(f"the secret {purpose!r} is of an unknown version")
            nonce, ciphertext = data[1 : 1 + _NONCE_BYTES], data[1 + _NONCE_BYTES :]
            return self._cipher.decrypt(nonce, ciphertext, purpose.encode())
        except (InvalidTag, binascii.Error, ValueError):
            raise _unusable(f"the secret {purpose!r} in the database does not open") from None


def _unusable(text: str) -> Unavailable:
    return Unavailable(
        "state_unusable",
        text,
        "Put the key file back that belongs to this database, or import the secrets again.",
    )
