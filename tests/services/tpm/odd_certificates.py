# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates changed by the byte and signed again by their issuer: what vendors' tools write, and worse."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from services.tpm.vendor import Authority

from trusted_infrastructure.tpm import der

Fields = list[bytes]
SERIAL, ALGORITHM, ISSUER, VALIDITY, SUBJECT, KEY, EXTENSIONS = range(1, 8)
ECDSA_SHA256 = bytes.fromhex("06082a8648ce3d040302")
OIDS = {
    "basicConstraints": "551d13",
    "keyUsage": "551d0f",
    "extendedKeyUsage": "551d25",
    "alternativeNames": "551d11",
    "authorityKeyIdentifier": "551d23",
    "crlDistributionPoints": "551d1f",
    "policies": "551d20",
}


def resigned(
    certificate: bytes,
    issuer: Authority,
    change: Callable[[Fields], None],
    outside: Callable[[bytes], bytes] = lambda algorithm: algorithm,
) -> bytes:
    """The certificate (DER) with its fields changed, in place, and a new signature. Fields: DER of version,
    serial number and so on, as numbered above. outside: changes the algorithm beside the signature."""
    outer = der.inside(certificate, der.SEQUENCE, "certificate")
    fields = [element.raw for element in der.elements(outer[0].content)]
    change(fields)
    signed = der.encode(der.SEQUENCE, b"".join(fields))
    key = issuer.key
    if isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    else:
        signature = cast("ec.EllipticCurvePrivateKey", key).sign(signed, ec.ECDSA(hashes.SHA256()))
    algorithm = outside(fields[ALGORITHM])
    return der.encode(der.SEQUENCE, signed + algorithm + der.encode(der.BIT_STRING, b"\0" + signature))


def field(position: int, value: bytes) -> Callable[[Fields], None]:
    """Replaces a field."""

    def change(fields: Fields) -> None:
        fields[position] = value

    return change


def extension(name: str, value: bytes, critical: bytes = b"") -> bytes:
    """An extension. critical: DER of the truth value, nothing leaves it out."""
    identifier = der.encode(der.OBJECT_IDENTIFIER, bytes.fromhex(OIDS[name]))
    return der.encode(der.SEQUENCE, identifier + critical + der.encode(der.OCTET_STRING, value))


def with_extension(name: str, value: bytes, critical: bytes = b"") -> Callable[[Fields], None]:
    """Replaces, or adds, an extension."""

    def change(fields: Fields) -> None:
        wrapped = der.inside(fields[EXTENSIONS], 0xA3, "extensions")[0]
        oid = bytes.fromhex(OIDS[name])
        kept = [each.raw for each in der.elements(wrapped.content) if oid not in each.raw[:10]]
        listed = der.encode(der.SEQUENCE, b"".join([*kept, extension(name, value, critical)]))
        fields[EXTENSIONS] = der.encode(0xA3, listed)

    return change


def twice(fields: Fields) -> None:
    """Has its last extension two times."""
    wrapped = der.inside(fields[EXTENSIONS], 0xA3, "extensions")[0]
    last = der.elements(wrapped.content)[-1].raw
    fields[EXTENSIONS] = der.encode(0xA3, der.encode(der.SEQUENCE, wrapped.content + last))


def attribute(oid: str, text: str) -> bytes:
    """An attribute of a name. oid: DER content, hex."""
    kind = der.encode(der.OBJECT_IDENTIFIER, bytes.fromhex(oid))
    return der.encode(der.SEQUENCE, kind + der.encode(0x0C, text.encode()))


def name(*parts: bytes) -> bytes:
    """A Name of relative names, each of one or more attributes one after the other."""
    return der.encode(der.SEQUENCE, b"".join(der.encode(der.SET, part) for part in parts))
