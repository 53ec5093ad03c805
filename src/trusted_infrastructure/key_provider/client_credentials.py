# SPDX-License-Identifier: GPL-3.0-or-later
"""What this side shows key servers: client keys, certificates, requests; their sealing to hosts. SYSTEM K2.

Pure but for randomness. A client key is made on one Trust Authority host and leaves it only sealed to the
configuration keys of the hosts that the manager names; the certificate or request travels in the clear.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Annotated

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from trusted_infrastructure import sealing
from trusted_infrastructure.config.documents import KeyProvider, Sealed
from trusted_infrastructure.refusal import InvalidField, Refusal
from trusted_infrastructure.sealing import SealedSecret, SealingKey

CERTIFICATE_DAYS = 1825
# Clocks of hosts and key servers differ.
BACKDATE = datetime.timedelta(minutes=5)


class SealTo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A host's configuration key, as `GET /kms/manage/v1/sealing-key` of that host gives it."""

    suite: str
    public_key: bytes


class HostsToSealTo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of the requests that answer with a sealed secret. hosts: host id -> configuration key."""

    hosts: Annotated[dict[str, SealTo], msgspec.Meta(min_length=1)]


def private_key_purpose(provider: str) -> str:
    """What a sealed client key is, before its certificate is there (csr_private_key) and after."""
    return f"key_provider/{provider}/client_private_key"


def password_purpose(provider: str) -> str:
    """What a sealed password is."""
    return f"key_provider/{provider}/password"


def client_name(provider: str) -> str:
    """Common name of a provider's client certificates: by it a key server knows the client. 64 characters."""
    return f"trusted-key-provider.{provider}"[:64]


def self_signed(provider: str, now: int) -> tuple[bytes, str]:
    """A new P-256 client key (PKCS 8 PEM) and its self-signed certificate (PEM)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _subject(provider)
    start = datetime.datetime.fromtimestamp(now, datetime.UTC) - BACKDATE
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
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


def certificate_request(provider: str) -> tuple[bytes, str]:
    """A new P-256 client key (PKCS 8 PEM) and a certificate request for it (PKCS 10 PEM)."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(_subject(provider))
    for extension, critical in _extensions():
        builder = builder.add_extension(extension, critical)
    request = builder.sign(key, hashes.SHA256())
    return _private_pem(key), request.public_bytes(serialization.Encoding.PEM).decode()


def seal_for(secret: bytes, hosts: Mapping[str, SealTo], purpose: str) -> Sealed:
    """The secret, sealed for each host. Raises InvalidField naming the host's field."""
    suites = {target.suite for target in hosts.values()}
    if len(suites) != 1:
        raise InvalidField(
            "hosts", f"have configuration keys of different suites: {', '.join(sorted(suites))}"
        )
    suite = suites.pop()
    for host, target in hosts.items():
        sealing.check_public_key(suite, target.public_key, f"hosts.{host}.public_key")
    sealed = sealing.seal_secret(
        secret, suite, {host: target.public_key for host, target in hosts.items()}, purpose
    )
    return Sealed(sealed.suite, sealed.digest, sealed.sealed)


def open_for(sealed: Sealed, host: str, key: SealingKey, purpose: str) -> bytes:
    """This host's part of a sealed field. Raises Refusal `sealed_value_invalid`."""
    return sealing.open_secret(SealedSecret(sealed.suite, sealed.digest, sealed.sealed), host, key, purpose)


def reseal(
    provider: str, document: KeyProvider, host: str, key: SealingKey, hosts: Mapping[str, SealTo]
) -> dict[str, Sealed | None]:
    """The provider's secrets (by field of its document), opened here and sealed for `hosts`.

    Each keeps the digest that the document has, so that the manager can add the new parts to the old ones.
    Raises Refusal `sealed_value_invalid`, InvalidField.
    """
    fields: dict[str, tuple[Sealed | None, str]] = {
        "client_private_key": (document.client_private_key, private_key_purpose(provider)),
        "csr_private_key": (document.csr_private_key, private_key_purpose(provider)),
        "password": (document.password, password_purpose(provider)),
    }
    answer: dict[str, Sealed | None] = {}
    for field, (sealed, purpose) in fields.items():
        if sealed is None:
            answer[field] = None
            continue
        again = seal_for(open_for(sealed, host, key, purpose), hosts, purpose)
        if again.suite != sealed.suite:
            raise InvalidField(
                "hosts",
                f"have configuration keys of suite {again.suite}; {field} is sealed with {sealed.suite}",
            )
        answer[field] = msgspec.structs.replace(again, digest=sealed.digest)
    return answer


def certificate_end(pem: str) -> datetime.datetime:
    """When a certificate ends. Raises Refusal `certificate_invalid`."""
    try:
        return x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc
    except ValueError:
        raise Refusal(
            "certificate_invalid", "the client certificate is not PEM", "Make or import it again."
        ) from None


def _subject(provider: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, client_name(provider))])


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
