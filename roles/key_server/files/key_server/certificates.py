# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates of the key servers' operator: a CA on the first server, leaves for servers and clients.

Private keys are made where they are used. A certificate has the names that the caller wants, not those that a
request asks for. A server's serves in both directions, because key servers read keys from each other.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .errors import KeyServerError

AUTHORITY_DAYS = 3650
LEAF_DAYS = 825
RENEW_BEFORE = datetime.timedelta(days=120)
BACKDATE = datetime.timedelta(minutes=5)
CERTIFICATE, KEY = "ca.pem", "ca.key"


def ensure_authority(folder: Path, name: str, *, check: bool) -> bool:
    """Make the CA in `folder` where there is none; one that is there is never replaced. Says if so."""
    if (folder / CERTIFICATE).exists() and (folder / KEY).exists():
        return False
    if not check:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject(name)
        certificate = (
            _builder(subject, subject, key.public_key(), AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        write(folder / KEY, _private_pem(key), 0o600)
        write(folder / CERTIFICATE, _pem(certificate), 0o644)
    return True


def request(certificate: Path, key: Path, name: str, addresses: list[str], *, check: bool) -> str:
    """A certificate request (PEM) where the server's certificate is due; "" where it is good.

    The key is made where it is missing. check: make nothing, and answer "due" without a key.
    """
    held = _load_key(key)
    if held is not None and not _is_due(certificate, held, name, addresses):
        return ""
    if held is None:
        if check:
            return "due"
        held = ec.generate_private_key(ec.SECP256R1())
        write(key, _private_pem(held), 0o600)
    csr = x509.CertificateSigningRequestBuilder().subject_name(_subject(name)).sign(held, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM).decode()


def sign(folder: Path, csr: str, name: str, addresses: list[str], current: str, *, server: bool) -> str:
    """The certificate (PEM) for a request, with exactly these names.

    current: the certificate that is in use, PEM or ""; it is the answer while it fits. server: for a key
    server; else for a client. Raises KeyServerError for a request that is not whole, or of another name.
    """
    ca_key = _load_key(folder / KEY)
    if ca_key is None:
        raise KeyServerError(f"{folder} holds no CA; it is on the first key server")
    ca = x509.load_pem_x509_certificate((folder / CERTIFICATE).read_bytes())
    asked = _load_request(csr, name)
    if current and _fits(current, asked, ca):
        return current
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH] + ([ExtendedKeyUsageOID.SERVER_AUTH] if server else [])
    key = asked.public_key()
    own = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        _builder(_subject(name), ca.subject, key, LEAF_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False)
    )
    if server:
        builder = builder.add_extension(x509.SubjectAlternativeName(_names(name, addresses)), critical=False)
    return _pem(builder.sign(ca_key, hashes.SHA256())).decode()


def install(path: Path, key: Path, certificate: str) -> bool:
    """Put a signed certificate in its place. Says if it changed. Raises KeyServerError for another key's."""
    held, found = _load_key(key), x509.load_pem_x509_certificate(certificate.encode())
    if held is None or held.public_key() != found.public_key():
        raise KeyServerError(f"the certificate for {path} is not for the key in {key}")
    if path.exists() and path.read_text().strip() == certificate.strip():
        return False
    write(path, certificate.encode(), 0o644)
    return True


def write(path: Path, content: bytes, mode: int) -> None:
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


def _is_due(certificate: Path, key: ec.EllipticCurvePrivateKey, name: str, addresses: list[str]) -> bool:
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return True
    others = set(names) != set(_names(name, addresses)) or found.public_key() != key.public_key()
    return others or _ends_soon(found)


def _fits(current: str, asked: x509.CertificateSigningRequest, ca: x509.Certificate) -> bool:
    """Whether a client's certificate can stay: same key and name, ours, and not at its end."""
    try:
        found = x509.load_pem_x509_certificate(current.encode())
        found.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    same = found.public_key() == asked.public_key() and found.subject == asked.subject
    return same and not _ends_soon(found)


def _ends_soon(certificate: x509.Certificate) -> bool:
    return certificate.not_valid_after_utc - RENEW_BEFORE <= datetime.datetime.now(datetime.UTC)


def _load_request(csr: str, name: str) -> x509.CertificateSigningRequest:
    try:
        asked = x509.load_pem_x509_csr(csr.encode())
    except ValueError:
        raise KeyServerError(f"the certificate request of {name} is not PEM") from None
    if not asked.is_signature_valid:
        raise KeyServerError(f"the certificate request of {name} is not signed by its key")
    if asked.subject != _subject(name):
        raise KeyServerError(f"the request is of {asked.subject.rfc4514_string()}, not of CN={name}")
    return asked


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey | None:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except FileNotFoundError:
        return None
    except ValueError:
        raise KeyServerError(f"{path} holds no private key; remove it, and a new one is made") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise KeyServerError(f"{path} holds another kind of key than elliptic curve")
    return key


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _names(name: str, addresses: list[str]) -> list[x509.GeneralName]:
    ips = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
    return [x509.DNSName(name), *ips]


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    start = datetime.datetime.now(datetime.UTC) - BACKDATE
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=days))
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
