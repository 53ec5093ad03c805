# SPDX-License-Identifier: GPL-3.0-or-later
"""The public area of a TPM key: parse, marshal, Name, and the public key in it.

A public area says what a TPM lets its key do, and the Name (a digest over all of it) is what credential
protection and quotes refer to. The exact bytes are kept: Name and `ek_digest` are over what was sent.

Sources: TCG TPM 2.0 Library Part 2, 12.2.4 (TPMT_PUBLIC), 12.2.5 (TPM2B_PUBLIC), 12.2.3 (parameters), 8.3
(TPMA_OBJECT); Part 1, 16 (Names).
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field
from enum import IntFlag

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from trusted_infrastructure.refusal import InvalidField
from trusted_infrastructure.tpm import algorithms
from trusted_infrastructure.tpm.structures import Reader, tpm2b, u16, u32, unwrap_tpm2b

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

MAXIMUM_SIZE = 1024  # a P-521 or RSA-4096 area takes under 700 bytes; more is not a key of ours
MAXIMUM_DIGEST = 64
RH_OWNER = 0x40000001  # Part 2, 7.4 (TPM_RH)
RH_ENDORSEMENT = 0x4000000B


class Attributes(IntFlag):
    """TPMA_OBJECT (Part 2, 8.3)."""

    FIXED_TPM = 1 << 1
    ST_CLEAR = 1 << 2
    FIXED_PARENT = 1 << 4
    SENSITIVE_DATA_ORIGIN = 1 << 5
    USER_WITH_AUTH = 1 << 6
    ADMIN_WITH_POLICY = 1 << 7
    FIRMWARE_LIMITED = 1 << 8
    SVN_LIMITED = 1 << 9
    NO_DA = 1 << 10
    ENCRYPTED_DUPLICATION = 1 << 11
    RESTRICTED = 1 << 16
    DECRYPT = 1 << 17
    SIGN = 1 << 18
    X509_SIGN = 1 << 19


_DEFINED_ATTRIBUTES = sum(Attributes)


@dataclass(frozen=True)
class Scheme:
    """TPMT_RSA_SCHEME, TPMT_ECC_SCHEME or TPMT_KDF_SCHEME. hash: TPM_ALG_ID, 0 where the scheme has none."""

    algorithm: int
    hash: int = 0
    count: int = 0  # ECDAA only

    def marshal(self) -> bytes:
        """Big-endian wire form."""
        data = u16(self.algorithm)
        if self.algorithm not in _SCHEMES_WITHOUT_HASH:
            data += u16(self.hash)
        if self.algorithm == algorithms.ECDAA:
            data += u16(self.count)
        return data


@dataclass(frozen=True)
class Symmetric:
    """TPMT_SYM_DEF_OBJECT: algorithm (TPM_ALG_ID), key size in bits, mode (TPM_ALG_ID). NULL has neither."""

    algorithm: int
    key_bits: int = 0
    mode: int = 0

    def marshal(self) -> bytes:
        """Big-endian wire form."""
        if self.algorithm == algorithms.NULL:
            return u16(self.algorithm)
        return u16(self.algorithm) + u16(self.key_bits) + u16(self.mode)


_RSA_SCHEMES = frozenset(
    {algorithms.NULL, algorithms.RSASSA, algorithms.RSAPSS, algorithms.RSAES, algorithms.OAEP}
)
_ECC_SCHEMES = frozenset(
    {
        algorithms.NULL,
        algorithms.ECDSA,
        algorithms.ECDH,
        algorithms.ECDAA,
        algorithms.SM2,
        algorithms.ECSCHNORR,
        algorithms.ECMQV,
    }
)
_SCHEMES_WITHOUT_HASH = frozenset({algorithms.NULL, algorithms.RSAES})


@dataclass(frozen=True)
class PublicArea:
    """TPMT_PUBLIC of an RSA or ECC key, with exactly the bytes that it came in.

    key_type: TPM_ALG_ID (RSA or ECC). name_alg: TPM_ALG_ID of a hash that we can compute.
    RSA: key_bits, exponent (65537 where the TPM says 0), modulus (big-endian bytes).
    ECC: curve (TPM_ECC_CURVE), kdf, x and y as the TPM gave them (big-endian bytes).
    marshalled: the TPMT_PUBLIC itself. structure: how refusals name it ('ek_public', 'ak_public').
    """

    key_type: int
    name_alg: int
    attributes: Attributes
    auth_policy: bytes
    symmetric: Symmetric
    scheme: Scheme
    marshalled: bytes
    structure: str = field(default="public", compare=False)
    key_bits: int = 0
    exponent: int = 0
    modulus: bytes = b""
    curve: int = 0
    kdf: Scheme = Scheme(algorithms.NULL)
    x: bytes = b""
    y: bytes = b""

    @property
    def algorithm_name(self) -> str:
        """Such as 'RSA-2048' or 'ECC P-256'."""
        if self.key_type == algorithms.RSA:
            return f"RSA-{self.key_bits}"
        return f"ECC {algorithms.CURVES[self.curve].name}"

    @property
    def name_hash(self) -> algorithms.Hash:
        """The hash of the Name."""
        return algorithms.HASHES[self.name_alg]

    @functools.cached_property
    def name(self) -> bytes:
        """Name: nameAlg (2 bytes) and the digest of TPMT_PUBLIC (Part 1, 16, 'Names')."""
        return u16(self.name_alg) + self.name_hash.digest(self.marshalled)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of TPMT_PUBLIC, lower-case hex: how the project identifies an endorsement key."""
        return hashlib.sha256(self.marshalled).hexdigest()

    @functools.cached_property
    def key_digest(self) -> str:
        """SHA-256 of the key's SubjectPublicKeyInfo (DER), lower-case hex: the same for the same key,
        whatever its public area says of it. Raises InvalidField as `public_key`."""
        der = self.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return hashlib.sha256(der).hexdigest()

    def tpm2b(self) -> bytes:
        """TPM2B_PUBLIC: with the 16-bit size in front."""
        return tpm2b(self.marshalled)

    def public_key(self) -> PublicKey:
        """The public key. Raises InvalidField when the numbers are not a usable key of a supported kind."""
        return self._public_key

    @functools.cached_property
    def _public_key(self) -> PublicKey:
        try:
            if self.key_type == algorithms.RSA:
                modulus = int.from_bytes(self.modulus, "big")
                return rsa.RSAPublicNumbers(self.exponent, modulus).public_key()
            curve = algorithms.SUPPORTED_CURVES.get(self.curve)
            if curve is None:
                raise InvalidField(self.structure, f"{self.algorithm_name} is not a supported curve")
            # cryptography refuses points off the curve. Without that, a MakeCredential to a point on a weaker
            # curve of the same form would leak the shared secret (invalid curve attack).
            x, y = int.from_bytes(self.x, "big"), int.from_bytes(self.y, "big")
            return ec.EllipticCurvePublicNumbers(x, y, curve()).public_key()
        except (ValueError, UnsupportedAlgorithm) as error:
            raise InvalidField(
                self.structure, f"is not a usable {self.algorithm_name} key: {error}"
            ) from None

    def subject_public_key_info(self) -> str:
        """SubjectPublicKeyInfo (RFC 5280, 4.1.2.7), PEM."""
        pem = self.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return pem.decode("ascii")


def ek_digest(public: PublicArea) -> str:
    """SHA-256 of TPMT_PUBLIC, lower-case hex: the identity of an endorsement key in documents and tokens."""
    return public.digest


def parse_tpm2b_public(data: bytes, structure: str = "public") -> PublicArea:
    """Parse TPM2B_PUBLIC (with its 16-bit size), exactly. Raises InvalidField (malformed_request)."""
    return parse_tpmt_public(unwrap_tpm2b(data, structure, MAXIMUM_SIZE), structure)


def parse_tpmt_public(data: bytes, structure: str = "public") -> PublicArea:
    """Parse TPMT_PUBLIC (without a size), exactly. Raises InvalidField (malformed_request).

    Only the form is judged: what the key may do and how strong it is, `keys.check_*` decides.
    """
    # Without a limit, a megabyte of public area would be hashed and kept for everyone who sends one.
    if len(data) > MAXIMUM_SIZE:
        raise InvalidField(structure, f"is {len(data)} bytes long: expected at most {MAXIMUM_SIZE}")
    reader = Reader(data, structure)
    key_type = reader.u16("type")
    # A keyed hash or symmetric object has no public key: its 'Name' would prove nothing about an asymmetric
    # key.
    if key_type not in (algorithms.RSA, algorithms.ECC):
        raise reader.refusal("type", f"{algorithms.name_of(key_type)} is not a key: expected RSA or ECC")
    name_alg = reader.u16("nameAlg")
    if name_alg not in algorithms.HASHES:
        raise reader.refusal("nameAlg", f"{algorithms.name_of(name_alg)} is not a hash that is supported")
    attributes = _attributes(reader)
    policy = reader.sized(MAXIMUM_DIGEST, "authPolicy")
    # A policy digest of another size could never be satisfied or is empty; the TPM makes none.
    if len(policy) not in (0, algorithms.HASHES[name_alg].size):
        raise reader.refusal("authPolicy", f"is {len(policy)} bytes long: expected none or a nameAlg digest")
    area = functools.partial(
        PublicArea,
        key_type=key_type,
        name_alg=name_alg,
        attributes=attributes,
        auth_policy=policy,
        symmetric=_symmetric(reader),
        marshalled=data,
        structure=structure,
    )
    parsed = _rsa(reader, area) if key_type == algorithms.RSA else _ecc(reader, area)
    reader.finish()
    return parsed


def marshal_tpmt_public(area: PublicArea) -> bytes:
    """TPMT_PUBLIC from the fields. For a parsed area this gives its bytes again (a test holds us to it),
    except that exponent 65537 is written as the TPM's default, 0."""
    head = (
        u16(area.key_type)
        + u16(area.name_alg)
        + u32(int(area.attributes))
        + tpm2b(area.auth_policy)
        + area.symmetric.marshal()
        + area.scheme.marshal()
    )
    if area.key_type == algorithms.RSA:
        exponent = 0 if area.exponent == algorithms.DEFAULT_RSA_EXPONENT else area.exponent
        return head + u16(area.key_bits) + u32(exponent) + tpm2b(area.modulus)
    return head + u16(area.curve) + area.kdf.marshal() + tpm2b(area.x) + tpm2b(area.y)


def _attributes(reader: Reader) -> Attributes:
    value = reader.u32("objectAttributes")
    reserved = value & ~_DEFINED_ATTRIBUTES
    # A TPM never sets a reserved bit; what one means in a later specification we could not judge.
    if reserved:
        raise reader.refusal("objectAttributes", f"has reserved bits set: 0x{reserved:08x}")
    return Attributes(value)


def _symmetric(reader: Reader) -> Symmetric:
    algorithm = reader.u16("symmetric.algorithm")
    if algorithm == algorithms.NULL:
        return Symmetric(algorithm)
    if algorithm not in (algorithms.AES, algorithms.SM4):
        raise reader.refusal("symmetric.algorithm", f"{algorithms.name_of(algorithm)} is not a block cipher")
    return Symmetric(algorithm, reader.u16("symmetric.keyBits"), reader.u16("symmetric.mode"))


def _scheme(reader: Reader, field: str, allowed: frozenset[int] | None) -> Scheme:
    algorithm = reader.u16(field)
    if allowed is not None and algorithm not in allowed:
        raise reader.refusal(field, f"{algorithms.name_of(algorithm)} is not a scheme of this kind of key")
    if algorithm in _SCHEMES_WITHOUT_HASH:
        return Scheme(algorithm)
    hash_algorithm = reader.u16(field + ".hashAlg")
    count = reader.u16(field + ".count") if algorithm == algorithms.ECDAA else 0
    return Scheme(algorithm, hash_algorithm, count)


def _rsa(reader: Reader, area: functools.partial[PublicArea]) -> PublicArea:
    """TPMS_RSA_PARMS (Part 2, 12.2.3.5) and TPM2B_PUBLIC_KEY_RSA."""
    scheme = _scheme(reader, "scheme", _RSA_SCHEMES)
    key_bits = reader.u16("keyBits")
    exponent = reader.u32("exponent") or algorithms.DEFAULT_RSA_EXPONENT
    modulus = reader.sized(algorithms.MAXIMUM_RSA_BITS // 8, "unique")
    # Without this, keyBits could claim 3072 for a 1024-bit modulus, and the strength check would believe it.
    if len(modulus) * 8 != key_bits or not modulus or modulus[0] < 0x80:
        found = int.from_bytes(modulus, "big").bit_length()
        raise reader.refusal("unique", f"modulus has {found} bits but keyBits says {key_bits}")
    return area(scheme=scheme, key_bits=key_bits, exponent=exponent, modulus=modulus)


def _ecc(reader: Reader, area: functools.partial[PublicArea]) -> PublicArea:
    """TPMS_ECC_PARMS (Part 2, 12.2.3.6) and TPMS_ECC_POINT."""
    scheme = _scheme(reader, "scheme", _ECC_SCHEMES)
    curve = reader.u16("curveID")
    if curve not in algorithms.CURVES:
        raise reader.refusal("curveID", f"0x{curve:04x} is not a curve that is known")
    kdf = _scheme(reader, "kdf", None)
    size = algorithms.CURVES[curve].size
    x = reader.sized(size, "unique.x")
    y = reader.sized(size, "unique.y")
    if not x or not y:
        raise reader.refusal("unique", "has an empty coordinate: the key is a template, not a key")
    return area(scheme=scheme, curve=curve, kdf=kdf, x=x, y=y)
