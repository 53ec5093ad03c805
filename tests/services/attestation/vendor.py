# SPDX-License-Identifier: GPL-3.0-or-later
"""A TPM vendor's CA, and the EK certificates that it issues."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from trusted_infrastructure.tpm.public_area import PublicArea, PublicKey


class Vendor:
    """now: Unix seconds; certificates begin 30 days before."""

    def __init__(self, now: int) -> None:
        self._start = datetime.datetime.fromtimestamp(now, datetime.UTC) - datetime.timedelta(days=30)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Vendor CA")])
        self.certificate = (
            self._builder(self._name, self._key.public_key(), 3650)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage("key_cert_sign"), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def pem(self) -> str:
        """The CA's certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def certify(self, ek: PublicArea, days: int = 3650, usage: str = "2.23.133.8.1") -> bytes:
        """An EK certificate (DER)."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "TPM")])
        certificate = (
            self._builder(subject, ek.public_key(), days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage("key_agreement"), critical=True)
            .add_extension(x509.ExtendedKeyUsage([x509.ObjectIdentifier(usage)]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.DER)

    def _builder(self, subject: x509.Name, key: PublicKey, days: int) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._start)
            .not_valid_after(self._start + datetime.timedelta(days=days))
        )


def _usage(wanted: str) -> x509.KeyUsage:
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign"
        " crl_sign encipher_only decipher_only"
    )
    return x509.KeyUsage(**{name: name == wanted for name in names.split()})
