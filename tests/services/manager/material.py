# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys and certificates for tests."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
END = datetime.datetime(2036, 1, 1, tzinfo=datetime.UTC)
EK_USAGE = x509.ObjectIdentifier("2.23.133.8.1")


class Issuer:
    """A CA or leaf with its key."""

    def __init__(
        self,
        name: str,
        issuer: Issuer | None = None,
        *,
        ca: bool = True,
        key: ec.EllipticCurvePrivateKey | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        """key: a new one without it. names: DNS names and addresses that it is for."""
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        signer = issuer or self
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.subject = subject
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(signer.subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(START)
            .not_valid_after(END)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(key_usage(ca), critical=True)
        )
        if not ca:
            builder = builder.add_extension(x509.ExtendedKeyUsage([EK_USAGE]), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(general(names)), critical=False)
        self.certificate = builder.sign(signer.key, hashes.SHA256())

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    @property
    def public_pem(self) -> str:
        public = self.key.public_key()
        return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def request(self) -> str:
        """A certificate request for the key, PEM."""
        builder = x509.CertificateSigningRequestBuilder().subject_name(self.subject)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()

    def certify(self, key: ec.EllipticCurvePublicKey, end: datetime.datetime = END) -> str:
        """A certificate for somebody's key, PEM."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "certified")]))
            .issuer_name(self.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(START)
            .not_valid_after(end)
        )
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()

    def crl(self, *serials: int, start: datetime.datetime = START, end: datetime.datetime = END) -> str:
        """A certificate revocation list of this CA, PEM."""
        builder = x509.CertificateRevocationListBuilder(self.subject, start, end)
        for serial in serials:
            entry = x509.RevokedCertificateBuilder(serial, START)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def key_usage(ca: bool) -> x509.KeyUsage:
    """Certificate signing for CAs, key agreement for endorsement keys."""
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def general(names: Sequence[str]) -> list[x509.GeneralName]:
    """Names of a certificate: addresses as such, the rest as DNS names."""
    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found
