# SPDX-License-Identifier: GPL-3.0-or-later
"""Endorsement and attestation keys in software, with the wire structures of a TPM: an attester that does what
it is told, also the wrong thing.

`activate` is written from the specification, apart from the code under test: it is what a TPM does on its
side.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from trusted_infrastructure.tpm import algorithms
from trusted_infrastructure.tpm.keys import endorsement_hierarchy_names
from trusted_infrastructure.tpm.public_area import (
    Attributes,
    PublicArea,
    Scheme,
    Symmetric,
    marshal_tpmt_public,
    parse_tpmt_public,
)

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

EK_ATTRIBUTES = Attributes(0x000300B2)
AK_ATTRIBUTES = Attributes(0x00050072)
_CURVES = {"secp256r1": 0x0003, "secp384r1": 0x0004, "secp224r1": 0x0002}
_HASHES: dict[int, hashes.HashAlgorithm] = {
    algorithms.SHA1: hashes.SHA1(),
    algorithms.SHA256: hashes.SHA256(),
    algorithms.SHA384: hashes.SHA384(),
}


@functools.cache
def private_key(kind: str) -> PrivateKey:
    """A key of 'rsa1024', 'rsa2048', 'rsa3072', 'rsa4096', 'p224', 'p256' or 'p384'; the same one each time.
    'rsa2048e3' has the public exponent 3.
    A number after a colon asks for another key of that kind ('p256:2')."""
    name = kind.partition(":")[0]
    if name.startswith("rsa"):
        bits, _separator, exponent = name[3:].partition("e")
        return rsa.generate_private_key(int(exponent or 65537), int(bits))
    curves = {"p224": ec.SECP224R1(), "p256": ec.SECP256R1(), "p384": ec.SECP384R1()}
    return ec.generate_private_key(curves[name])


def public_area(key: PrivateKey, **fields: Any) -> PublicArea:
    """The public area of `key`; `fields` override those of a PublicArea."""
    area = PublicArea(
        key_type=algorithms.RSA,
        name_alg=algorithms.SHA256,
        attributes=AK_ATTRIBUTES,
        auth_policy=b"",
        symmetric=Symmetric(algorithms.NULL),
        scheme=Scheme(algorithms.NULL),
        marshalled=b"",
    )
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.public_key().public_numbers()
        size = key.key_size // 8
        modulus = numbers.n.to_bytes(size, "big")
        area = replace(area, key_bits=key.key_size, exponent=numbers.e, modulus=modulus)
    else:
        point = key.public_key().public_numbers()
        size = (key.key_size + 7) // 8
        x, y = point.x.to_bytes(size, "big"), point.y.to_bytes(size, "big")
        area = replace(area, key_type=algorithms.ECC, curve=_CURVES[key.curve.name], x=x, y=y)
    area = replace(area, **fields)
    return parse_tpmt_public(marshal_tpmt_public(area))


def endorsement_key(kind: str = "rsa2048", aes: int = 128, **fields: Any) -> PublicArea:
    """Public area of an endorsement key by the TCG templates."""
    template: dict[str, Any] = {
        "attributes": EK_ATTRIBUTES,
        "symmetric": Symmetric(algorithms.AES, aes, algorithms.CFB),
    }
    return public_area(private_key(kind), **(template | fields))


def attestation_key(kind: str = "p256", **fields: Any) -> PublicArea:
    """Public area of an attestation key."""
    scheme = algorithms.RSASSA if kind.startswith("rsa") else algorithms.ECDSA
    template: dict[str, Any] = {"scheme": Scheme(scheme, algorithms.SHA256)}
    return public_area(private_key(kind), **(template | fields))


def activate(key: PrivateKey, ek: PublicArea, name: bytes, blob: bytes, encrypted: bytes) -> bytes | None:
    """TPM2_ActivateCredential for a loaded key called `name`: the secret, None where the TPM refuses."""
    hash_name = {algorithms.SHA256: "sha256", algorithms.SHA384: "sha384"}[ek.name_alg]
    size = hashlib.new(hash_name).digest_size
    secret = encrypted[2:]
    if isinstance(key, rsa.RSAPrivateKey):
        algorithm = _HASHES[ek.name_alg]
        seed = key.decrypt(secret, padding.OAEP(padding.MGF1(algorithm), algorithm, b"IDENTITY\0"))
    else:
        length = (key.key_size + 7) // 8
        x, y = secret[2 : 2 + length], secret[4 + length :]
        point = ec.EllipticCurvePublicKey.from_encoded_point(key.curve, b"\x04" + x + y)
        z = key.exchange(ec.ECDH(), point)
        seed = hashlib.new(hash_name, struct.pack(">I", 1) + z + b"IDENTITY\0" + x + ek.x).digest()

    def derive(label: bytes, context: bytes, bits: int) -> bytes:
        message = struct.pack(">I", 1) + label + b"\0" + context + struct.pack(">I", bits)
        return hmac.new(seed, message, hash_name).digest()[: bits // 8]

    integrity, identity = blob[4 : 4 + size], blob[4 + size :]
    if hmac.new(derive(b"INTEGRITY", b"", size * 8), identity + name, hash_name).digest() != integrity:
        return None
    decryptor = Cipher(AES(derive(b"STORAGE", name, ek.symmetric.key_bits)), CFB(bytes(16))).decryptor()
    return decryptor.update(identity)[2:]


def pcr_digest(values: Mapping[int, bytes], pcrs: Iterable[int], hash_name: str = "sha256") -> bytes:
    """Digest of PCR values, ascending."""
    return hashlib.new(hash_name, b"".join(values[pcr] for pcr in sorted(pcrs))).digest()


@dataclass(frozen=True)
class Attest:
    """A TPMS_ATTEST to be: every field can be set wrong. selections: (bank, bitmap octets)."""

    magic: int = 0xFF544347
    kind: int = 0x8018
    signer: bytes = b""
    extra: bytes = b""
    clock: int = 1000
    resets: int = 3
    restarts: int = 0
    safe: int = 1
    firmware: int = 0x2024
    selections: tuple[tuple[int, bytes], ...] = ((0x000B, b"\x91\x00\x00"),)
    digest: bytes = b""
    trailing: bytes = b""

    def marshal(self) -> bytes:
        """The signed bytes."""
        head = struct.pack(">IH", self.magic, self.kind)
        names = b"".join(struct.pack(">H", len(part)) + part for part in (self.signer, self.extra))
        clock = struct.pack(">QIIBQ", self.clock, self.resets, self.restarts, self.safe, self.firmware)
        chosen = b"".join(struct.pack(">HB", bank, len(bits)) + bits for bank, bits in self.selections)
        count = struct.pack(">I", len(self.selections))
        digest = struct.pack(">H", len(self.digest)) + self.digest
        return head + names + clock + count + chosen + digest + self.trailing


def sign(key: PrivateKey, ak: PublicArea, data: bytes) -> bytes:
    """TPMT_SIGNATURE over `data` by the scheme of `ak`."""
    scheme, hash_id = ak.scheme.algorithm, ak.scheme.hash
    algorithm = _HASHES[hash_id]
    head = struct.pack(">HH", scheme, hash_id)
    if isinstance(key, rsa.RSAPrivateKey):
        if scheme == algorithms.RSASSA:
            signature = key.sign(data, padding.PKCS1v15(), algorithm)
        else:
            pss = padding.PSS(padding.MGF1(algorithm), padding.PSS.MAX_LENGTH)
            signature = key.sign(data, pss, algorithm)
        return head + struct.pack(">H", len(signature)) + signature
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(algorithm)))
    size = (key.key_size + 7) // 8
    return head + b"".join(struct.pack(">H", size) + n.to_bytes(size, "big") for n in (r, s))


def genuine_attest(
    ek: PublicArea, ak: PublicArea, extra: bytes, values: Mapping[int, bytes], pcrs: Iterable[int]
) -> Attest:
    """What an honest TPM would sign."""
    chosen = sorted(pcrs)
    bits = sum(1 << pcr for pcr in chosen).to_bytes(3, "little")
    return Attest(
        signer=endorsement_hierarchy_names(ek, ak)[1],
        extra=extra,
        selections=((0x000B, bits),),
        digest=pcr_digest(values, chosen, algorithms.HASHES[ak.scheme.hash].name),
    )
