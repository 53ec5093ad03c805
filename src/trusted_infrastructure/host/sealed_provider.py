# SPDX-License-Identifier: GPL-3.0-or-later
"""A native provider as it lies in the agent's state directory: its keys encrypted under a key that only this
host's TPM gives, and only after a boot that a signed PCR policy describes.

One file for each provider. The keys (32 bytes each, the current one first) are encrypted with AES-256-GCM;
the additional data is everything else that the file says, so that nothing in it can be changed. The AES key
is random, used for this one file, and sealed to the TPM (`tpm_device.sealed_data`). Nothing is in the clear.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import msgspec
import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from trusted_infrastructure.config.documents import PcrPolicy
from trusted_infrastructure.host.pcr_policies import fitting_policy
from trusted_infrastructure.host.tpm_values import SealedData, StorageKeyType
from trusted_infrastructure.host.tpm_worker import Tpm
from trusted_infrastructure.messages import length_prefixed
from trusted_infrastructure.refusal import InvalidField, Refusal
from trusted_infrastructure.state_files import read_state, unusable, write_state
from trusted_infrastructure.tpm.policy import policy_authorize_digest, policy_key_name
from trusted_infrastructure.wrapping import KEY_BYTES, check_value

DIRECTORY = "native_providers"
LABEL = b"trusted.infrastructure/native-provider/v1"
_NONCE = bytes(12)  # each AES key encrypts once

log = structlog.get_logger("trusted_infrastructure.host")


class Described(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of a provider without its keys.

    key_id: of the current key. check_values: key id -> check value, the current key first. policy_public_key:
    PEM of the key that signs PCR policies. policy_reference: of those for this host's cluster; None in a file
    of an earlier release, whose reference was the same for every cluster.
    """

    provider: str
    key_id: str
    check_values: dict[str, str]
    tpm_required: bool
    policy_public_key: str | None
    policy_reference: bytes | None = None

    def authenticated(self, host: str) -> bytes:
        """The additional data of the encryption: everything here, and the host."""
        required = "required" if self.tpm_required else ""
        texts = [host, self.provider, self.key_id, required, self.policy_public_key or ""]
        keys = [text for key_and_value in self.check_values.items() for text in key_and_value]
        reference = self.policy_reference or b""
        return length_prefixed(
            [LABEL, *(text.encode() for text in texts), reference, *(text.encode() for text in keys)]
        )


class SealedProvider(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of a file. stored: Unix seconds. See `tpm_values.SealedData` and the module."""

    described: Described
    stored: int
    storage_key: StorageKeyType
    storage_key_name: bytes
    public: bytes
    private: bytes
    ciphertext: bytes
    version: Literal[1] = 1

    @property
    def sealed_data(self) -> SealedData:
        """What the TPM opens."""
        return SealedData(self.storage_key, self.storage_key_name, self.public, self.private)


Keys = dict[str, bytearray]


def seal(
    tpm: Tpm, host: str, described: Described, keys: Mapping[str, bytearray], now: int
) -> SealedProvider:
    """Seal the keys of a provider. Raises Refusal `pcr_policy_missing`: it came without a policy key or
    its reference; Unavailable: the TPM's."""
    public_key, reference = described.policy_public_key, described.policy_reference
    if public_key is None or reference is None:
        raise Refusal(
            "pcr_policy_missing",
            f"native provider {described.provider!r} came without a key for the cluster's PCR policies, so "
            "nothing can be sealed for one",
            "give the cluster a PCR policy",
            status=409,
        )
    key = secrets.token_bytes(KEY_BYTES)
    sealed = tpm.seal(key, policy_authorize_digest(policy_key_name(public_key), reference))
    plaintext = b"".join(keys[key_id] for key_id in described.check_values)
    return SealedProvider(
        described=described,
        stored=now,
        storage_key=sealed.storage_key,
        storage_key_name=sealed.storage_key_name,
        public=sealed.public,
        private=sealed.private,
        ciphertext=AESGCM(key).encrypt(_NONCE, plaintext, described.authenticated(host)),
    )


def unseal(tpm: Tpm, host: str, sealed: SealedProvider, policies: Mapping[str, PcrPolicy]) -> Keys:
    """The keys. policies: document id -> policy.

    Raises Refusal: pcr_policy_missing, pcr_policy_invalid, pcr_policy_mismatch (see `fitting_policy`),
    sealed_data_foreign, sealed_data_invalid, sealed_data_outdated; Unavailable: the TPM's.
    """
    described = sealed.described
    if described.policy_public_key is None:
        raise invalid(described.provider)
    if described.policy_reference is None:
        raise outdated(described.provider)
    policy = fitting_policy(tpm, policies, described.policy_public_key, described.policy_reference)
    try:
        key = tpm.unseal(sealed.sealed_data, policy)
        plaintext = AESGCM(key).decrypt(_NONCE, sealed.ciphertext, described.authenticated(host))
    except (InvalidField, InvalidTag, ValueError):
        raise invalid(described.provider) from None
    pieces = [bytearray(plaintext[at : at + KEY_BYTES]) for at in range(0, len(plaintext), KEY_BYTES)]
    if len(pieces) != len(described.check_values):
        raise invalid(described.provider)
    keys = dict(zip(described.check_values, pieces, strict=True))
    for key_id, key_bytes in keys.items():
        if not is_key(bytes(key_bytes), key_id, described.check_values[key_id]):
            raise invalid(described.provider)
    return keys


def is_key(key: bytes, key_id: str, expected: str) -> bool:
    """Whether `key` is the one of 32 bytes with this check value."""
    return len(key) == KEY_BYTES and hmac.compare_digest(check_value(key, key_id), expected)


def invalid(provider: str) -> Refusal:
    """The refusal of a file that is not what was written."""
    return Refusal(
        "sealed_data_invalid",
        f"the stored keys of provider {provider!r} are not what was sealed: the file was changed",
        "let the workload manager push the provider again",
        status=409,
    )


def outdated(provider: str) -> Refusal:
    """The refusal of a file of an earlier release."""
    return Refusal(
        "sealed_data_outdated",
        f"the stored keys of provider {provider!r} were sealed by an earlier release, for PCR policies of "
        "every cluster; they are not opened under these",
        "let the workload manager push the provider again",
        status=409,
    )


class SealedProviders:
    """The files. directory: the agent's state directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / DIRECTORY

    def read(self) -> Iterator[SealedProvider]:
        """Those that can be read. The manager pushes what is missing, so the others are only reported."""
        for leftover in self._directory.glob(".*"):
            leftover.unlink(missing_ok=True)  # of a write that was interrupted
        for path in sorted(self._directory.glob("*.json")):
            try:
                sealed = msgspec.json.decode(read_state(path) or b"", type=SealedProvider)
                if path != self._path(sealed.described.provider):
                    raise invalid(sealed.described.provider)
            except (Refusal, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                log.warning("native_provider_unreadable", file=path.name, error=type(error).__name__)
                continue
            yield sealed

    def write(self, sealed: SealedProvider) -> None:
        """Keep it, durably, in place of what was there. Raises Unavailable `state_unusable`."""
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise unusable(self._directory, error.strerror) from None
        write_state(self._path(sealed.described.provider), msgspec.json.encode(sealed))

    def remove(self, provider: str) -> None:
        """Forget it, durably. Raises Unavailable `state_unusable`."""
        try:
            self._path(provider).unlink()
            descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            return
        except OSError as error:
            raise unusable(self._directory, error.strerror) from None

    def _path(self, provider: str) -> Path:
        # A provider's name is free text; a digest is a file's name everywhere.
        return self._directory / f"{hashlib.sha256(provider.encode()).hexdigest()[:32]}.json"
