# SPDX-License-Identifier: GPL-3.0-or-later
"""A TPM vendor: certificates of CAs and endorsement keys, right ones and every kind of wrong one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import NameOID
from services.tpm.software_keys import PrivateKey, private_key

NOW = datetime(2026, 6, 1, tzinfo=UTC)
PAST = datetime(2020, 1, 1, tzinfo=UTC)
EXPIRED = datetime(2026, 5, 31, tzinfo=UTC)
NEVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
EK_USAGE = x509.ObjectIdentifier("2.23.133.8.1")
_MANUFACTURER = x509.ObjectIdentifier("2.23.133.2.1")
_UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)] if text else [])


def key_usage(**chosen: bool) -> x509.KeyUsage:
    fields = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment")
    fields += ("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{field: chosen.get(field, False) for field in fields})


@dataclass(frozen=True)
class Authority:
    """A CA: its key and certificate."""

    subject: x509.Name
    key: PrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def issue(
        self,
        subject: str,
        key: PrivateKey,
        *,
        ca: bool | None = True,
        path_length: int | None = None,
        usage: x509.KeyUsage | None = None,
        extended: Sequence[x509.ObjectIdentifier] | None = None,
        not_before: datetime = PAST,
        not_after: datetime = NEVER,
        unknown_critical: bool = False,
        hash_: hashes.HashAlgorithm | None = None,
        signer: PrivateKey | None = None,
        tpm_names: bool = False,
        names: Sequence[x509.GeneralName] = (),
    ) -> Authority:
        """A certificate by this CA. usage: None leaves the extension out. names: critical, in place of those
        of a TPM."""
        certificate = _certificate(
            name(subject),
            self.subject,
            key.public_key(),
            signer or self.key,
            ca=ca,
            path_length=path_length,
            usage=usage,
            extended=extended,
            not_before=not_before,
            not_after=not_after,
            unknown_critical=unknown_critical,
            hash_=hash_ or hashes.SHA256(),
            tpm_names=tpm_names,
            alternative=names,
        )
        return Authority(name(subject), key, certificate)

    def revoke(
        self,
        serials: Sequence[int],
        next_update: datetime,
        signer: PrivateKey | None = None,
        this_update: datetime = PAST,
    ) -> str:
        """A CRL of this CA, PEM."""
        builder = x509.CertificateRevocationListBuilder(self.subject, this_update, next_update)
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(PAST).build()
            builder = builder.add_revoked_certificate(entry)
        return (
            builder.sign(signer or self.key, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
            .decode()
        )


CA_USAGE = key_usage(key_cert_sign=True, crl_sign=True)
EK_KEY_USAGE = key_usage(key_encipherment=True)


def root(subject: str = "Vendor root", kind: str = "p384:root", **fields: Any) -> Authority:
    """A self-signed CA."""
    key = private_key(kind)
    unsigned = Authority(name(subject), key, cast("x509.Certificate", None))
    return unsigned.issue(subject, key, **({"usage": CA_USAGE} | fields))


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    public: CertificatePublicKeyTypes,
    signer: PrivateKey,
    *,
    ca: bool | None,
    path_length: int | None,
    usage: x509.KeyUsage | None,
    extended: Sequence[x509.ObjectIdentifier] | None,
    not_before: datetime,
    not_after: datetime,
    unknown_critical: bool,
    hash_: hashes.HashAlgorithm,
    tpm_names: bool,
    alternative: Sequence[x509.GeneralName],
) -> x509.Certificate:
    builder = x509.CertificateBuilder(
        issuer, subject, public, x509.random_serial_number(), not_before, not_after
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, path_length), critical=True)
    if usage is not None:
        builder = builder.add_extension(usage, critical=True)
    if extended is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
    if alternative:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternative), critical=True)
    elif tpm_names:
        # How EK certificates name the TPM: a critical subject alternative name with a directory name.
        names = x509.DirectoryName(x509.Name([x509.NameAttribute(_MANUFACTURER, "id:12345678")]))
        builder = builder.add_extension(x509.SubjectAlternativeName([names]), critical=True)
    if unknown_critical:
        builder = builder.add_extension(_UNKNOWN, critical=True)
    return builder.sign(signer, hash_)
