# SPDX-License-Identifier: GPL-3.0-or-later
"""MakeCredential in software: a secret that only the TPM with a given endorsement key can open, and only
while it holds the key with a given Name. It proves to us that both are in one TPM.

Sources: TCG TPM 2.0 Library Part 1, 24 (credential protection), 11.4.10 (KDFa, KDFe), Annex B.10 (RSA secret
sharing) and C.6.1, C.6.4 (ECC secret sharing); Part 2, 12.4.3 (TPM2B_ID_OBJECT), 11.4.3
(TPM2B_ENCRYPTED_SECRET).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from trusted_infrastructure.refusal import InvalidField, Refusal
from trusted_infrastructure.tpm import algorithms
from trusted_infrastructure.tpm.keys import check_endorsement_key
from trusted_infrastructure.tpm.public_area import PublicArea
from trusted_infrastructure.tpm.structures import tpm2b, u32

_IDENTITY = b"IDENTITY\0"
_NO_IV = bytes(16)  # Part 1, 24.4: the key is used once, with an IV of zeros


def make_credential(ek: PublicArea, ak_name: bytes, secret: bytes) -> tuple[bytes, bytes]:
    """Protect `secret` for the TPM that holds `ek`, bound to the key named `ak_name`.

    ek: RSA or ECC endorsement key. ak_name: nameAlg (2 bytes) and digest, as `PublicArea.name`. secret: 1
    byte up to the size of the endorsement key's nameAlg digest.
    Returns (TPM2B_ID_OBJECT, TPM2B_ENCRYPTED_SECRET), each with its 16-bit size in front.
    Raises Refusal (ek_attributes, ek_weak, ak_name).
    """
    # Without this, the secret could be encrypted to a key whose private half is in software.
    check_endorsement_key(ek)
    _check_name(ak_name)
    hash_ = ek.name_hash
    if not 1 <= len(secret) <= hash_.size:
        raise ValueError(f"secret must be 1 to {hash_.size} bytes, not {len(secret)}")
    seed, encrypted_seed = _share_seed(ek, hash_)
    # Key and MAC are bound to the Name: the TPM computes it from the key that it holds, so a credential for
    # one key does not open with another.
    key = kdfa(hash_, seed, b"STORAGE", ak_name, b"", ek.symmetric.key_bits)
    encryptor = Cipher(AES(key), CFB(_NO_IV)).encryptor()
    identity = encryptor.update(tpm2b(secret)) + encryptor.finalize()
    # Without the MAC, CFB ciphertext can be changed bit by bit on its way.
    mac_key = kdfa(hash_, seed, b"INTEGRITY", b"", b"", hash_.size * 8)
    integrity = hmac.digest(mac_key, identity + ak_name, hash_.name)
    return tpm2b(tpm2b(integrity) + identity), tpm2b(encrypted_seed)


def kdfa(
    hash_: algorithms.Hash, key: bytes, label: bytes, context_u: bytes, context_v: bytes, bits: int
) -> bytes:
    """KDFa (Part 1, 11.4.10.2): SP 800-108 in counter mode with HMAC. bits: a multiple of 8."""
    size = bits // 8
    tail = label + b"\0" + context_u + context_v + u32(bits)
    blocks = -(-size // hash_.size)
    stream = b"".join(hmac.digest(key, u32(n) + tail, hash_.name) for n in range(1, blocks + 1))
    return stream[:size]


def kdfe(hash_: algorithms.Hash, z: bytes, label: bytes, party_u: bytes, party_v: bytes, bits: int) -> bytes:
    """KDFe (Part 1, 11.4.10.3): SP 800-56A concatenation KDF. bits: a multiple of 8."""
    size = bits // 8
    tail = z + label + b"\0" + party_u + party_v
    blocks = -(-size // hash_.size)
    stream = b"".join(hashlib.new(hash_.name, u32(n) + tail).digest() for n in range(1, blocks + 1))
    return stream[:size]


def _check_name(name: bytes) -> None:
    # Without this, a cut or empty Name would bind the credential to no key at all.
    known = algorithms.HASHES.get(int.from_bytes(name[:2], "big"))
    if known is None or len(name) != 2 + known.size:
        raise Refusal("ak_name", f"attestation key name: {len(name)} bytes are not a nameAlg and its digest")


def _share_seed(ek: PublicArea, hash_: algorithms.Hash) -> tuple[bytes, bytes]:
    """The seed, and what lets only the endorsement key find it (content of TPM2B_ENCRYPTED_SECRET)."""
    public = ek.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        seed = secrets.token_bytes(hash_.size)
        oaep = padding.OAEP(padding.MGF1(hash_.cryptography), hash_.cryptography, _IDENTITY)
        try:
            return seed, public.encrypt(seed, oaep)
        except ValueError:
            # Only the form of a modulus was judged until here; one that is even is none.
            raise InvalidField(ek.structure, f"is not a usable {ek.algorithm_name} key") from None
    size = algorithms.CURVES[ek.curve].size
    ephemeral = ec.generate_private_key(public.curve)
    point = ephemeral.public_key().public_numbers()
    x, y = point.x.to_bytes(size, "big"), point.y.to_bytes(size, "big")
    z = ephemeral.exchange(ec.ECDH(), public)  # the x coordinate, padded to the size of the field
    return kdfe(hash_, z, b"IDENTITY", x, ek.x, hash_.size * 8), tpm2b(x) + tpm2b(y)
