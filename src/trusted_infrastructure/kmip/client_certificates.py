# SPDX-License-Identifier: GPL-3.0-or-later
"""What a client shows key servers: a key with a self-signed certificate, or with a certificate request.

Pure but for randomness.
"""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from trusted_infrastructure.refusal import Refusal

CERTIFICATE_DAYS = 1825
# Clocks of clients and key servers differ.
BACKDATE = datetime.timedelta(minutes=5)


def client_name(prefix: str, provider: str) -> str:
    """Common name of a provider's client certificates: by it a key server knows the client. 64 characters.

    prefix: kind of the provider, such as "trusted-key-provider"."""
    return f"{prefix}.{provider}"[:64]


def self_signed(name: str, now: int) -> tuple[bytes, str]:
    """A new P-256 client key (PKCS 8 PEM) and its self-signed certificate (PEM)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(name)
    start = datetime.datetime.fromtimestamp(now, datetime.UTC) - BACKDATE
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=CERTIFICATE_DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    for extension, critical in _extensions():
        builder = builder.add_extension(extension, critical)
    certificate = builder.sign(key, hashes.SHA256())
    return _private_pem(key), certificate.public_bytes(serialization.Encoding.PEM).decode()


def certificate_request(name: str) -> tuple[bytes, str]:
    """A new P-256 client key (PKCS 8 PEM) and a certificate request for it (PKCS 10 PEM)."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(_subject(name))
    for extension, critical in _extensions():
        builder = builder.add_extension(extension, critical)
    request = builder.sign(key, hashes.SHA256())
    return _private_pem(key), request.public_bytes(serialization.Encoding.PEM).decode()


def certificate_end(pem: str) -> datetime.datetime:
    """When a certificate ends. Raises Refusal `certificate_invalid`."""
    try:
        return x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc
    except ValueError:
        raise Refusal(
            "certificate_invalid", "the client certificate is not PEM", "Make or import it again."
        ) from None


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _extensions() -> list[tuple[x509.ExtensionType, bool]]:
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    return [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (usage, True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False),
    ]


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
