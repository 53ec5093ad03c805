# SPDX-License-Identifier: GPL-3.0-or-later
"""What a PKCS#12 file would make its reader do, seen before it is opened. Pure.

A file says itself how often its reader is to hash a password: one number makes a few kilobytes cost hours, in
a library call that nothing can stop. So a file is taken apart first, strictly, and its numbers are compared
with a limit. Taken is one form: what `native_backup` writes, and what OpenSSL 3 writes by default (PBES2 with
PBKDF2, HMAC-SHA-256 and AES-256-CBC), or no encryption at all. What is encrypted is looked into as well: a
further encrypted part in it could bring a number of its own.

Sources: RFC 7292, 4 (PFX, SafeBag); RFC 5652, 8 (EncryptedData); RFC 8018, A.2 and A.4 (PBKDF2, PBES2).
"""

from __future__ import annotations

from collections.abc import Iterator

from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from trusted_infrastructure.tpm import der

MAXIMUM_BYTES = 64 * 1024
MAXIMUM_ITERATIONS = 1_000_000  # some tenths of a second
MAXIMUM_PARTS = 8

_DATA = "1.2.840.113549.1.7.1"
_ENCRYPTED_DATA = "1.2.840.113549.1.7.6"
_PBES2 = "1.2.840.113549.1.5.13"
_PBKDF2 = "1.2.840.113549.1.5.12"
_HMAC_SHA256 = "1.2.840.113549.2.9"
_AES256_CBC = "2.16.840.1.101.3.4.1.42"
# Hashes of an integrity check. Another algorithm (PBMAC1, RFC 9579) has a number of iterations of its own.
_HASHES = {
    "1.3.14.3.2.26",  # SHA-1
    "2.16.840.1.101.3.4.2.1",  # SHA-256
    "2.16.840.1.101.3.4.2.2",  # SHA-384
    "2.16.840.1.101.3.4.2.3",  # SHA-512
}
_KEY_BAG = "1.2.840.113549.1.12.10.1.1"
_SHROUDED_KEY_BAG = "1.2.840.113549.1.12.10.1.2"
_CERTIFICATE_BAG = "1.2.840.113549.1.12.10.1.3"
_CONTEXT_0 = 0xA0
_CONTEXT_0_PRIMITIVE = 0x80
_BLOCK = 128


class WrongPassword(Exception):
    """What is encrypted does not open with the password, or there is none."""


def check(data: bytes, password: bytes | None) -> None:
    """Raises ValueError, with what is wrong, for what is no PKCS#12 file of the form above; WrongPassword."""
    parts = der.inside(data, der.SEQUENCE, "the file")
    if len(parts) not in (2, 3) or parts[0].raw != der.encode(der.INTEGER, b"\x03"):
        raise ValueError("the file is not PKCS#12 of version 3")
    if len(parts) == 3:
        _check_mac(parts[2])
    for kind, content in _contents(_data(parts[1])):
        if kind == _DATA:
            inner = der.content(content, der.OCTET_STRING, "a part")
            _check_bags(inner, {_KEY_BAG, _SHROUDED_KEY_BAG, _CERTIFICATE_BAG})
        elif kind == _ENCRYPTED_DATA:
            _check_bags(_decrypted(content, password), {_CERTIFICATE_BAG})
        else:
            raise ValueError("a part is neither in the clear nor encrypted by a password")


def _data(content_info: der.Element) -> bytes:
    """The bytes in a ContentInfo of type data."""
    found = list(_contents(der.encode(der.SEQUENCE, content_info.raw)))
    if len(found) != 1 or found[0][0] != _DATA:
        raise ValueError("the file is protected by a key, not by a password")
    return der.content(found[0][1], der.OCTET_STRING, "the content")


def _contents(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Type and content of each ContentInfo in a SEQUENCE."""
    parts = der.inside(data, der.SEQUENCE, "the content")
    if len(parts) > MAXIMUM_PARTS:
        raise ValueError(f"the file has more than {MAXIMUM_PARTS} parts")
    for part in parts:
        kind, value = _pair(part.raw, "a part")
        if value.tag != _CONTEXT_0:
            raise ValueError("a part has no content")
        yield _identifier(kind), value.content


def _check_bags(data: bytes, allowed: set[str]) -> None:
    bags = der.inside(data, der.SEQUENCE, "a part")
    if len(bags) > MAXIMUM_PARTS:
        raise ValueError(f"a part has more than {MAXIMUM_PARTS} bags")
    for bag in bags:
        fields = der.inside(bag.raw, der.SEQUENCE, "a bag")
        if len(fields) not in (2, 3) or fields[1].tag != _CONTEXT_0:
            raise ValueError("a bag is malformed")
        kind = _identifier(fields[0])
        if kind not in allowed:
            raise ValueError("a bag holds neither a key nor a certificate")
        if kind == _SHROUDED_KEY_BAG:
            algorithm, _encrypted = _pair(fields[1].content, "an encrypted key")
            _parameters(algorithm)


def _check_mac(mac: der.Element) -> None:
    fields = der.inside(mac.raw, der.SEQUENCE, "the integrity check")
    if len(fields) not in (2, 3):
        raise ValueError("the integrity check is malformed")
    algorithm, _digest = _pair(fields[0].raw, "the integrity check")
    kind = der.inside(algorithm.raw, der.SEQUENCE, "the integrity check")[:1]
    if not kind or _identifier(kind[0]) not in _HASHES:
        raise ValueError("has an integrity check that is not taken: one by SHA-1 or SHA-2 is")
    if len(fields) == 3:
        _check_iterations(fields[2])


def _check_iterations(element: der.Element) -> int:
    if element.tag != der.INTEGER or not 1 <= len(element.content) <= 8:
        raise ValueError("a number of iterations is malformed")
    count = int.from_bytes(element.content, "big", signed=True)
    if not 1 <= count <= MAXIMUM_ITERATIONS:
        raise ValueError(f"the password is to be hashed {count} times; at most {MAXIMUM_ITERATIONS} are done")
    return count


def _parameters(algorithm: der.Element) -> tuple[bytes, int, bytes]:
    """Salt, iterations and initialization vector of a PBES2 AlgorithmIdentifier."""
    kind, parameters = _pair(algorithm.raw, "an encryption")
    if _identifier(kind) != _PBES2:
        raise ValueError("is encrypted in a way that is not taken: PBES2 with AES-256-CBC is")
    derivation, encryption = _pair(parameters.raw, "PBES2")
    function, values = _pair(derivation.raw, "a key derivation")
    cipher, vector = _pair(encryption.raw, "a cipher")
    if _identifier(function) != _PBKDF2 or _identifier(cipher) != _AES256_CBC:
        raise ValueError("is encrypted in a way that is not taken: PBKDF2 and AES-256-CBC are")
    fields = der.inside(values.raw, der.SEQUENCE, "PBKDF2")
    if len(fields) < 3 or fields[0].tag != der.OCTET_STRING or vector.tag != der.OCTET_STRING:
        raise ValueError("the parameters of an encryption are malformed")
    if _identifier(_pair(fields[-1].raw, "a hash")[0]) != _HMAC_SHA256:
        raise ValueError("is encrypted in a way that is not taken: PBKDF2 with HMAC-SHA-256 is")
    return fields[0].content, _check_iterations(fields[1]), vector.content


def _decrypted(content: bytes, password: bytes | None) -> bytes:
    """The plaintext of an EncryptedData (RFC 5652, 8)."""
    fields = der.inside(content, der.SEQUENCE, "an encrypted part")
    inner = der.inside(fields[-1].raw, der.SEQUENCE, "an encrypted part") if len(fields) == 2 else []
    if len(inner) != 3 or inner[2].tag != _CONTEXT_0_PRIMITIVE:
        raise ValueError("an encrypted part is malformed")
    salt, iterations, vector = _parameters(inner[1])
    if len(vector) * 8 != _BLOCK or not inner[2].content or len(inner[2].content) * 8 % _BLOCK:
        raise ValueError("an encrypted part is malformed")
    if password is None:
        raise WrongPassword
    key = PBKDF2HMAC(hashes.SHA256(), 32, salt, iterations).derive(password)
    decryptor = Cipher(algorithms.AES256(key), modes.CBC(vector)).decryptor()
    unpadder = padding.PKCS7(_BLOCK).unpadder()
    try:
        padded = decryptor.update(inner[2].content) + decryptor.finalize()
        plain = unpadder.update(padded) + unpadder.finalize()
        der.content(plain, der.SEQUENCE, "an encrypted part")
    except ValueError:
        raise WrongPassword from None
    return plain


def _pair(data: bytes, what: str) -> tuple[der.Element, der.Element]:
    """The two values of the SEQUENCE that is all of `data`."""
    fields = der.inside(data, der.SEQUENCE, what)
    if len(fields) != 2:
        raise ValueError(f"{what} is malformed")
    return fields[0], fields[1]


def _identifier(element: der.Element) -> str:
    if element.tag != der.OBJECT_IDENTIFIER:
        raise ValueError("an object identifier is expected")
    return der.dotted(element.content)
