# SPDX-License-Identifier: GPL-3.0-or-later
"""A side's CA, certificate requests, and the leaves that the CA signs. Pure.

Keys are EC P-256, certificates X.509 v3 (RFC 5280), requests PKCS#10. PEM goes in as str or bytes and comes
out as str; private keys come out as bytes (PKCS#8 PEM). Times are Unix seconds.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Collection, Sequence

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import NameOID

from trusted_infrastructure.identity.names import (
    DNS_NAME,
    ROLE_USAGES,
    SIDES,
    LeafIdentity,
    LeafNames,
    canonical_ip,
    leaf_names,
    parse_role_uri,
)
from trusted_infrastructure.identity.pem import (
    certificate_pem,
    described,
    invalid,
    load_certificate,
    load_key,
    moment_of,
    pem_bytes,
    private_pem,
)
from trusted_infrastructure.identity.verification import check_times
from trusted_infrastructure.refusal import InvalidField, Refusal

LEAF_DAYS = 90
AUTHORITY_DAYS = 3650
# Clocks of machines that were just installed differ by seconds, not by minutes.
BACKDATE = 300


def create_authority(
    common_name: str,
    side: str,
    days: int = AUTHORITY_DAYS,
    *,
    now: int | None = None,
    key_pem: str | bytes | None = None,
) -> tuple[bytes, str]:
    """A side's CA: (private key PEM, self-signed certificate PEM). It signs leaves only (path length 0).

    key_pem: an existing key to certify; a new one is made otherwise. Raises InvalidField for an unknown side.
    """
    if side not in SIDES:
        raise InvalidField("side", f"is {side!r}; expected one of {', '.join(SIDES)}")
    key = ec.generate_private_key(ec.SECP256R1()) if key_pem is None else load_key(key_pem)
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "trusted.infrastructure"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, side),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )
    start = moment_of(now) - datetime.timedelta(seconds=BACKDATE)
    certificate = (
        _builder(subject, subject, key.public_key(), start, start + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return private_pem(key), certificate_pem(certificate)


def create_request(
    key: ec.EllipticCurvePrivateKey | str | bytes,
    uri: str,
    dns_names: Sequence[str],
    ips: Sequence[str],
) -> str:
    """A certificate request (PKCS#10 PEM) for one role. Raises InvalidField for a bad name or address."""
    key = key if isinstance(key, ec.EllipticCurvePrivateKey) else load_key(key)
    identity = parse_role_uri(uri)
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_subject(identity))
        .add_extension(_alternative_names(uri, dns_names, ips), critical=False)
        .sign(key, hashes.SHA256())
    )
    return request.public_bytes(serialization.Encoding.PEM).decode()


def sign_request(
    csr_pem: str | bytes,
    ca_key: ec.EllipticCurvePrivateKey | str | bytes,
    ca_cert: x509.Certificate | str | bytes,
    uri: str,
    dns_names: Sequence[str],
    ips: Sequence[str],
    days: int = LEAF_DAYS,
    *,
    now: int | None = None,
) -> str:
    """The leaf certificate (PEM) for a request, with exactly the names that the caller expects.

    Everything but the public key comes from the arguments; a request that asks for other names is refused,
    not corrected: somebody else wrote it. Raises Refusal `request_invalid`, `certificate_expired` (the CA).
    """
    ca_key = ca_key if isinstance(ca_key, ec.EllipticCurvePrivateKey) else load_key(ca_key)
    ca_cert = ca_cert if isinstance(ca_cert, x509.Certificate) else load_certificate(ca_cert)
    if ca_cert.public_key() != ca_key.public_key():
        raise invalid("the CA's key does not belong to the CA's certificate", "put the pair in place again")
    moment = moment_of(now)
    check_times(ca_cert, moment)
    public_key = _requested_key(csr_pem, LeafNames(uri, tuple(dns_names), tuple(ips)))
    identity = parse_role_uri(uri)
    start = moment - datetime.timedelta(seconds=BACKDATE)
    end = min(moment + datetime.timedelta(days=days), ca_cert.not_valid_after_utc)
    certificate = (
        _builder(_subject(identity), ca_cert.subject, public_key, start, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(ROLE_USAGES[identity.role]), critical=False)
        .add_extension(_alternative_names(uri, dns_names, ips), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(_authority_key_identifier(ca_cert), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return certificate_pem(certificate)


def _requested_key(csr_pem: str | bytes, expected: LeafNames) -> ec.EllipticCurvePublicKey:
    """The public key of a request that asks for the expected names. Raises Refusal `request_invalid`."""
    try:
        request = x509.load_pem_x509_csr(pem_bytes(csr_pem))
        signed = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm):
        raise _request_invalid("the request is not PKCS#10 PEM") from None
    if not signed:
        raise _request_invalid("the request's signature is wrong")
    public_key = request.public_key()
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or public_key.curve.name != "secp256r1":
        raise _request_invalid("the request's key is not EC P-256")
    found = leaf_names(request)
    for name, asked, allowed in (
        ("URI", {found.uri}, {expected.uri}),
        ("DNS names", set(found.dns), set(expected.dns)),
        ("IP addresses", set(found.ips), {canonical_ip(ip) for ip in expected.ips}),
    ):
        if asked != allowed:
            raise _request_invalid(f"{name} in the request: {_list(asked)}; expected {_list(allowed)}")
    return public_key


def _alternative_names(uri: str, dns_names: Sequence[str], ips: Sequence[str]) -> x509.SubjectAlternativeName:
    for name in dns_names:
        if not DNS_NAME.fullmatch(name):
            raise InvalidField("dns", f"{name!r} is not a DNS name")
    return x509.SubjectAlternativeName(
        [
            x509.UniformResourceIdentifier(uri),
            *(x509.DNSName(name) for name in dns_names),
            *(x509.IPAddress(ipaddress.ip_address(canonical_ip(ip))) for ip in ips),
        ]
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: CertificatePublicKeyTypes,
    start: datetime.datetime,
    end: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )


def _authority_key_identifier(ca_cert: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Points at the CA's own key identifier; an operator's CA may have made it in a way of its own."""
    try:
        own = ca_cert.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        key = ca_cert.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise invalid(f"{described(ca_cert)} has no elliptic curve key") from None
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(identity: LeafIdentity) -> x509.Name:
    # A common name takes 64 characters (RFC 5280 A.1); the URI is what counts.
    return x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, f"{identity.role} {identity.host}"[:64].strip())]
    )


def _list(items: Collection[str]) -> str:
    return ", ".join(sorted(items)) or "none"


def _request_invalid(message: str) -> Refusal:
    return Refusal("request_invalid", message, "make the request again with 'identity ensure'")
