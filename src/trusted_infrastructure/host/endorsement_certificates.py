# SPDX-License-Identifier: GPL-3.0-or-later
"""EK certificates as they lie in a TPM's NV storage. Pure.

An NV index is often larger than the certificate in it, filled up with 0x00 or 0xFF. The manufacturer's
intermediates are one run of DER certificates that may be cut anywhere between two indices.

Source: TCG EK Credential Profile for TPM 2.0, 2.2.1.4 (EK certificate indices), 2.2.1.5 (chain indices).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cryptography.hazmat.primitives import serialization

from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tpm.certificates import parse_certificate

CHAIN_INDICES = range(0x01C00100, 0x01C00200)

_SEQUENCE = 0x30
_MAXIMUM_LENGTH_OCTETS = 3  # 16 MB: far above what NV storage holds


def certificates_in(data: bytes) -> list[bytes]:
    """The DER certificates at the front of `data`; what follows the last whole one is filling.

    Only the outermost length is read: whether these are certificates that anybody believes, the Attestation
    Service decides.
    """
    return list(_sequences(data))


def certified_key(certificates: Sequence[bytes]) -> str | None:
    """The public key (PEM SubjectPublicKeyInfo) in the first certificate, or None where it cannot be read."""
    if not certificates:
        return None
    try:
        key = parse_certificate(certificates[0]).public_key
    except Refusal:
        return None
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return pem.decode("ascii")


def _sequences(data: bytes) -> Iterator[bytes]:
    offset = 0
    while (size := _sequence_size(data, offset)) is not None:
        yield data[offset : offset + size]
        offset += size


def _sequence_size(data: bytes, offset: int) -> int | None:
    """Size of the DER SEQUENCE at `offset` with its header (X.690, 8.1.3), or None when no whole one is."""
    if offset + 2 > len(data) or data[offset] != _SEQUENCE:
        return None
    first = data[offset + 1]
    if first < 0x80:
        size = 2 + first
    else:
        octets = first & 0x7F
        if not 1 <= octets <= _MAXIMUM_LENGTH_OCTETS or offset + 2 + octets > len(data):
            return None
        size = 2 + octets + int.from_bytes(data[offset + 2 : offset + 2 + octets], "big")
    return size if offset + size <= len(data) else None
