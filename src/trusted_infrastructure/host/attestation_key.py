# SPDX-License-Identifier: GPL-3.0-or-later
"""The attestation key that the agent keeps between starts, and with it the identity of this host.

The file (0600) holds what only this TPM can load, and the authorization value without which the TPM does not
use it. Losing it costs nothing: no service trusts an attestation key from storage, and a new one is made.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from trusted_infrastructure.host.tpm_values import AttestationKey, EndorsementKey, EndorsementKeyType
from trusted_infrastructure.host.tpm_worker import Tpm
from trusted_infrastructure.refusal import Unavailable

FILE_NAME = "attestation_key.json"
log = structlog.get_logger("trusted_infrastructure.host")


@dataclass(frozen=True)
class Identity:
    """Who this host is to an Attestation Service."""

    endorsement_key: EndorsementKey
    attestation_key: AttestationKey


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    endorsement_key: EndorsementKeyType
    public: bytes
    private: bytes
    authorization: bytes
    version: int = 1


def identity(tpm: Tpm, key_type: EndorsementKeyType, state_directory: Path) -> Identity:
    """The endorsement key of `key_type`, and the kept attestation key below it, or a new one where the TPM
    does not take the kept one (cleared, replaced, another endorsement key). Raises Refusal, Unavailable."""
    endorsement_key = tpm.endorsement_key(key_type)
    kept = load(state_directory)
    if kept is not None and kept.endorsement_key == key_type and tpm.accepts(kept):
        return Identity(endorsement_key, kept)
    made = tpm.create_attestation_key(key_type)
    save(state_directory, made)
    log.info("attestation_key_made", endorsement_key=key_type, replaced=kept is not None)
    return Identity(endorsement_key, made)


def load(state_directory: Path) -> AttestationKey | None:
    """The kept key, or None where there is none that can be read."""
    try:
        data = (state_directory / FILE_NAME).read_bytes()
        stored = msgspec.json.decode(data, type=_Stored)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("attestation_key_unreadable", error=type(error).__name__)
        return None
    return AttestationKey(stored.endorsement_key, stored.public, stored.private, stored.authorization)


def save(state_directory: Path, key: AttestationKey) -> None:
    """Keep `key`: 0600 from the first byte, replaced in one step. Raises Unavailable `state_unwritable`."""
    stored = _Stored(key.endorsement_key, key.public, key.private, key.authorization)
    temporary = state_directory / f".{FILE_NAME}.{secrets.token_hex(8)}"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(msgspec.json.encode(stored))
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, state_directory / FILE_NAME)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise Unavailable(
            "state_unwritable",
            f"cannot keep the attestation key in {state_directory}: {error.strerror}",
            "check owner and free space of the agent's state directory",
        ) from None
