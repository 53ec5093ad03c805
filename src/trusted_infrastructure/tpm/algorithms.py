# SPDX-License-Identifier: GPL-3.0-or-later
"""TPM algorithm identifiers and what they are here.

Sources: TCG Algorithm Registry, clause 6 (TPM_ALG_ID) and 6.4 (TPM_ECC_CURVE).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

RSA = 0x0001
SHA1 = 0x0004
HMAC = 0x0005
AES = 0x0006
KEYEDHASH = 0x0008
XOR = 0x000A
SHA256 = 0x000B
SHA384 = 0x000C
SHA512 = 0x000D
NULL = 0x0010
SM3_256 = 0x0012
SM4 = 0x0013
RSASSA = 0x0014
RSAES = 0x0015
RSAPSS = 0x0016
OAEP = 0x0017
ECDSA = 0x0018
ECDH = 0x0019
ECDAA = 0x001A
SM2 = 0x001B
ECSCHNORR = 0x001C
ECMQV = 0x001D
ECC = 0x0023
SYMCIPHER = 0x0025
CFB = 0x0043

NAMES = {
    RSA: "RSA",
    SHA1: "SHA1",
    HMAC: "HMAC",
    AES: "AES",
    KEYEDHASH: "KEYEDHASH",
    XOR: "XOR",
    SHA256: "SHA256",
    SHA384: "SHA384",
    SHA512: "SHA512",
    NULL: "NULL",
    SM3_256: "SM3_256",
    SM4: "SM4",
    RSASSA: "RSASSA",
    RSAES: "RSAES",
    RSAPSS: "RSAPSS",
    OAEP: "OAEP",
    ECDSA: "ECDSA",
    ECDH: "ECDH",
    ECDAA: "ECDAA",
    SM2: "SM2",
    ECSCHNORR: "ECSCHNORR",
    ECMQV: "ECMQV",
    ECC: "ECC",
    SYMCIPHER: "SYMCIPHER",
    CFB: "CFB",
}


def name_of(identifier: int) -> str:
    """Human name of a TPM_ALG_ID; unknown ones as a number."""
    return NAMES.get(identifier, f"algorithm 0x{identifier:04x}")


@dataclass(frozen=True)
class Hash:
    """A hash algorithm that we can compute.

    identifier: TPM_ALG_ID. name: bank name as in documents ('sha256'). size: digest size in bytes.
    """

    identifier: int
    name: str
    size: int

    def digest(self, data: bytes) -> bytes:
        """Digest of `data`."""
        return hashlib.new(self.name, data).digest()

    @property
    def cryptography(self) -> hashes.HashAlgorithm:
        """The same algorithm for `cryptography`."""
        return _CRYPTOGRAPHY[self.identifier]()


_CRYPTOGRAPHY: dict[int, type[hashes.HashAlgorithm]] = {
    SHA1: hashes.SHA1,
    SHA256: hashes.SHA256,
    SHA384: hashes.SHA384,
    SHA512: hashes.SHA512,
}

HASHES = {
    SHA1: Hash(SHA1, "sha1", 20),
    SHA256: Hash(SHA256, "sha256", 32),
    SHA384: Hash(SHA384, "sha384", 48),
    SHA512: Hash(SHA512, "sha512", 64),
}
HASHES_BY_NAME = {known.name: known for known in HASHES.values()}

# SHA-1 collisions are practical, so a name or a signature made with it could stand for two keys or two
# quotes.
STRONG_HASHES = frozenset({SHA256, SHA384, SHA512})


@dataclass(frozen=True)
class Curve:
    """An elliptic curve. identifier: TPM_ECC_CURVE; size: bytes of a coordinate."""

    identifier: int
    name: str
    size: int


CURVES = {
    0x0001: Curve(0x0001, "P-192", 24),
    0x0002: Curve(0x0002, "P-224", 28),
    0x0003: Curve(0x0003, "P-256", 32),
    0x0004: Curve(0x0004, "P-384", 48),
    0x0005: Curve(0x0005, "P-521", 66),
    0x0010: Curve(0x0010, "BN P-256", 32),
    0x0011: Curve(0x0011, "BN P-638", 80),
    0x0020: Curve(0x0020, "SM2 P-256", 32),
}
CURVE_P256 = 0x0003
CURVE_P384 = 0x0004

# The curves and sizes that the project works with; everything else is refused by name.
SUPPORTED_CURVES: dict[int, type[ec.EllipticCurve]] = {CURVE_P256: ec.SECP256R1, CURVE_P384: ec.SECP384R1}
SUPPORTED_RSA_BITS = frozenset({2048, 3072})
MAXIMUM_RSA_BITS = 4096
DEFAULT_RSA_EXPONENT = 65537
