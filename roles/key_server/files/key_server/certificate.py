# SPDX-License-Identifier: GPL-3.0-or-later
"""The key server's own certificate: self-signed, so that whoever trusts the server pins exactly it.

It serves for TLS in both directions, because key servers read keys from each other when they replicate.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAYS = 825
RENEW_BEFORE = datetime.timedelta(days=60)


def ensure(certificate: Path, key: Path, name: str, addresses: list[str], *, check: bool = False) -> bool:
    """Make key (0600) and certificate where they are missing, end soon or have other names. Says if so.

    check: only say.
    """
    if not _is_due(certificate, key, name, addresses):
        return False
    if not check:
        made = _make(name, addresses)
        _write(key, made[0], 0o600)
        _write(certificate, made[1], 0o644)
    return True


def _is_due(certificate: Path, key: Path, name: str, addresses: list[str]) -> bool:
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        held = serialization.load_pem_private_key(key.read_bytes(), None)
    except (OSError, ValueError, x509.ExtensionNotFound):
        return True
    due = found.not_valid_after_utc - RENEW_BEFORE <= datetime.datetime.now(datetime.UTC)
    return due or set(names) != set(_names(name, addresses)) or held.public_key() != found.public_key()


def _names(name: str, addresses: list[str]) -> list[x509.GeneralName]:
    ips = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
    return [x509.DNSName(name), *ips]


def _make(name: str, addresses: list[str]) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=5)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(_names(name, addresses)), critical=False)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, certificate.public_bytes(serialization.Encoding.PEM)


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replace the file; it never has a wider mode. It belongs to the folder's owner and group."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        folder = path.parent.stat()
        if os.geteuid() == 0:
            os.fchown(descriptor, folder.st_uid, folder.st_gid)
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    os.replace(temporary, path)
