# SPDX-License-Identifier: GPL-3.0-or-later
"""PEM in and out: EC keys and X.509 certificates. Loading refuses what we do not use. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Callable

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
    return _whole(lambda: x509.load_pem_x509_certificates(pem_bytes(pem)), "not a PEM certificate")


def load_der_certificate(der: bytes) -> x509.Certificate:
    """One certificate from DER. Raises Refusal `certificate_invalid`."""
    return _whole(lambda: [x509.load_der_x509_certificate(der)], "not a certificate in DER")[0]


def _whole(load: Callable[[], list[x509.Certificate]], otherwise: str) -> list[x509.Certificate]:
    """Certificates all of whose parts can be read: the library reads them when they are asked for, and then
    raises where nobody expects it."""
    try:
        certificates = load()
        for one in certificates:
            one.public_key()
            for _part in (one.subject, one.issuer, *one.extensions):
                pass
            for _moment in (one.not_valid_before_utc, one.not_valid_after_utc):
                pass
    except Exception:  # hostile bytes meet a foreign parser here: what it may raise is not to be listed
        raise invalid(otherwise) from None
    return certificates


def load_certificate(pem: str | bytes) -> x509.Certificate:
    """Exactly one certificate from PEM. Raises Refusal `certificate_invalid`."""
    certificates = load_certificates(pem)
    if len(certificates) != 1:
        raise invalid(f"{len(certificates)} certificates where exactly one is expected")
    return certificates[0]


def certificate_pem(certificate: x509.Certificate) -> str:
    """The certificate in PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def pem_bytes(pem: str | bytes) -> bytes:
    """PEM as bytes, in whichever form it was given."""
    return pem.encode() if isinstance(pem, str) else pem


def described(certificate: x509.Certificate) -> str:
    """The certificate in a message: by its subject (RFC 4514)."""
    return f"certificate '{certificate.subject.rfc4514_string()}'"


def moment_of(now: int | None) -> datetime.datetime:
    """Unix seconds as a moment in UTC; None is this second."""
    if now is None:
        return datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    return datetime.datetime.fromtimestamp(now, datetime.UTC)


def utc(moment: datetime.datetime) -> str:
    """A moment as RFC 3339 in UTC, to the second."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def invalid(message: str, remedy: str = "") -> Refusal:
    """Refusal `certificate_invalid`."""
    return Refusal("certificate_invalid", message, remedy)
