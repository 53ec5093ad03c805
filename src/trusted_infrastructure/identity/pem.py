# SPDX-License-Identifier: GPL-3.0-or-later
"""PEM in and out: EC keys and X.509 certificates. Loading refuses what we do not use. Pure."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from trusted_infrastructure.refusal import Refusal


def generate_key() -> bytes:
    """A new EC P-256 private key as PKCS#8 PEM."""
    return private_pem(ec.generate_private_key(ec.SECP256R1()))


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8 PEM, not encrypted: the file's mode protects it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_key(pem: str | bytes) -> ec.EllipticCurvePrivateKey:
    """An EC private key from PEM. Raises Refusal `certificate_invalid`; the text never holds key material."""
    try:
        key = serialization.load_pem_private_key(pem_bytes(pem), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise invalid("the private key is not an unencrypted PEM key") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise invalid(f"the private key is {type(key).__name__}; expected an elliptic curve key")
    return key


def load_certificates(pem: str | bytes) -> list[x509.Certificate]:
    """All certificates of a PEM text, at least one. Raises Refusal `certificate_invalid`."""
    try:
        return x509.load_pem_x509_certificates(pem_bytes(pem))
    except (ValueError, UnsupportedAlgorithm):
        raise invalid("not a PEM certificate") from None


def load_certificate(pem: str | bytes) -> x509.Certificate:
    """Exactly one certificate from PEM. Raises Refusal `certificate_invalid`."""
    certificates = load_certificates(pem)
    if len(certificates) != 1:
        raise invalid(f"{len(certificates)} certificates where exactly one is expected")
    return certificates[0]


def certificate_pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def pem_bytes(pem: str | bytes) -> bytes:
    return pem.encode() if isinstance(pem, str) else pem


def described(certificate: x509.Certificate) -> str:
    return f"certificate '{certificate.subject.rfc4514_string()}'"


def moment_of(now: int | None) -> datetime.datetime:
    if now is None:
        return datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    return datetime.datetime.fromtimestamp(now, datetime.UTC)


def utc(moment: datetime.datetime) -> str:
    """A moment as RFC 3339 in UTC, to the second."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def invalid(message: str, remedy: str = "") -> Refusal:
    return Refusal("certificate_invalid", message, remedy)
