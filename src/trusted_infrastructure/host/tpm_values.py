# SPDX-License-Identifier: GPL-3.0-or-later
"""What this host's TPM gives: keys, quotes, properties. Plain values, no libtss2."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

StorageKeyType = Literal["ECC_NIST_P_256", "RSA_2048"]
EndorsementKeyType = Literal["RSA_2048", "RSA_3072", "ECC_NIST_P_256", "ECC_NIST_P_384"]


@dataclass(frozen=True)
class EndorsementKey:
    """An endorsement key (EK) of the TPM.

    public: TPM2B_PUBLIC. name, qualified_name: nameAlg (2 bytes) and digest. certificates: DER from the TPM's
    NV storage, the key's own first, then the manufacturer's intermediates; empty where the TPM has none.
    """

    type: EndorsementKeyType
    public: bytes
    name: bytes
    qualified_name: bytes
    certificates: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class AttestationKey:
    """An attestation key (AK) as the agent keeps it outside the TPM.

    endorsement_key: the EK that is its parent. public: TPM2B_PUBLIC. private: TPM2B_PRIVATE, which only this
    TPM can load. authorization: the value without which the TPM does not use the key; never shown.
    """

    endorsement_key: EndorsementKeyType
    public: bytes
    private: bytes = field(repr=False)
    authorization: bytes = field(repr=False)


@dataclass(frozen=True)
class SealedData:
    """Data that only this TPM opens, as the agent keeps it outside the TPM.

    storage_key, storage_key_name: the storage primary key that is its parent, and its Name. public:
    TPM2B_PUBLIC, with the policy under which it opens. private: TPM2B_PRIVATE.
    """

    storage_key: StorageKeyType
    storage_key_name: bytes
    public: bytes
    private: bytes = field(repr=False)


@dataclass(frozen=True)
class SignedQuote:
    """attest: TPMS_ATTEST. signature: TPMT_SIGNATURE. pcrs: PCR number -> value at the time of the quote."""

    attest: bytes
    signature: bytes
    pcrs: dict[int, bytes]


@dataclass(frozen=True)
class TpmProperties:
    """What the TPM says about itself. banks: hash name -> PCR numbers that the bank has."""

    major_version: int
    minor_version: int
    specification: str
    manufacturer: str
    model: str
    firmware_version: str
    banks: dict[str, tuple[int, ...]]


# TPM_PT of the group "fixed" (TCG TPM 2.0 Library Part 2, 6.13).
_FAMILY, _REVISION, _MANUFACTURER = 0x100, 0x102, 0x105
_VENDOR_STRINGS = (0x106, 0x107, 0x108, 0x109)
_FIRMWARE_VERSIONS = (0x10B, 0x10C)


def properties_of(fixed: Mapping[int, int], banks: dict[str, tuple[int, ...]]) -> TpmProperties:
    """Properties from TPM_PT values. Texts are four ASCII characters a number; missing ones are empty."""
    major, _point, minor = _text(fixed, _FAMILY).partition(".")
    revision = fixed.get(_REVISION, 0)
    firmware = struct.unpack(">4H", _raw(fixed, *_FIRMWARE_VERSIONS))
    return TpmProperties(
        major_version=int(major) if major.isdigit() else 0,
        minor_version=int(minor) if minor.isdigit() else 0,
        specification=f"{revision // 100}.{revision % 100:02d}",
        manufacturer=_text(fixed, _MANUFACTURER),
        model=_text(fixed, *_VENDOR_STRINGS),
        firmware_version=".".join(str(part) for part in firmware),
        banks=banks,
    )


def _raw(fixed: Mapping[int, int], *properties: int) -> bytes:
    return b"".join(struct.pack(">I", fixed.get(number, 0)) for number in properties)


def _text(fixed: Mapping[int, int], *properties: int) -> str:
    words = _raw(fixed, *properties).replace(b"\0", b"").decode("ascii", "replace").split()
    return " ".join(words)
