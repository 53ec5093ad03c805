# SPDX-License-Identifier: GPL-3.0-or-later
"""X.509 certificates of TPMs and their vendors: read everything that a decision needs, at once, or refuse.

A `Certificate` here has no lazy fields: whatever is wrong with the bytes shows while parsing, as
'malformed certificate: ...', and path building works with plain values.

Sources: RFC 5280, 4 (certificate profile); TCG EK Credential Profile for TPM 2.0, 2.2.1.4 (NV indices may be
larger than the certificate) and 3.2 (fields of an EK certificate).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtensionOID, ObjectIdentifier
from cryptography.x509.oid import SignatureAlgorithmOID as Signed

from trusted_infrastructure.refusal import Refusal

CODE = "ek_certificate_invalid"
MAXIMUM_SIZE = 16 << 10  # EK certificates take 1 to 2 kB; vendors' CAs under 4 kB

# Extensions that we process, or that have nothing to process here (a critical certificatePolicies asks for
# nothing when every policy is acceptable, RFC 5280, 6.1.1). Any other critical one is a refusal.
_HANDLED = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.CERTIFICATE_POLICIES,
    }
)

_STRONG_SIGNATURES = frozenset(
    {
        Signed.RSA_WITH_SHA256,
        Signed.RSA_WITH_SHA384,
        Signed.RSA_WITH_SHA512,
        Signed.ECDSA_WITH_SHA256,
        Signed.ECDSA_WITH_SHA384,
        Signed.ECDSA_WITH_SHA512,
    }
)
_STRONG_CURVES = frozenset({"secp256r1", "secp384r1", "secp521r1"})
_MINIMUM_RSA_BITS = 2048


@dataclass(frozen=True)
class Certificate:
    """One certificate, fully read. der: its bytes without padding. path_length: None where unlimited.
    key_usage: names as in RFC 5280 ('keyCertSign'), None where the extension is absent. extended_key_usage:
    dotted OIDs, None where absent. critical_unknown: dotted OIDs of critical extensions that nobody here
    handles."""

    der: bytes
    x509: x509.Certificate
    serial: int
    subject: str
    issuer: str
    not_before: datetime
    not_after: datetime
    public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    signature_algorithm: ObjectIdentifier
    is_ca: bool
    path_length: int | None
    key_usage: frozenset[str] | None
    extended_key_usage: frozenset[str] | None
    critical_unknown: tuple[str, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of the DER form, lower-case hex."""
        return hashlib.sha256(self.der).hexdigest()

    @property
    def label(self) -> str:
        """How refusals name it: its subject, or its issuer and serial number where the subject is empty."""
        return f"'{self.subject}'" if self.subject else f"serial {self.serial:x} of '{self.issuer}'"

    @property
    def self_issued(self) -> bool:
        """Whether subject and issuer are the same name (RFC 5280, 6.1)."""
        return self.x509.subject == self.x509.issuer

    def public_key_der(self) -> bytes:
        """SubjectPublicKeyInfo, DER: equal for equal keys."""
        return self.public_key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def is_signed_by(self, issuer: Certificate) -> bool:
        """Whether `issuer`'s name is this certificate's issuer and its key made the signature."""
        try:
            self.x509.verify_directly_issued_by(issuer.x509)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    def weakness(self) -> str | None:
        """What is too weak in the key of this certificate, None where nothing is."""
        key = self.public_key
        if isinstance(key, rsa.RSAPublicKey):
            if key.key_size < _MINIMUM_RSA_BITS:
                return f"RSA key must have at least {_MINIMUM_RSA_BITS} bits: found {key.key_size}"
        elif key.curve.name not in _STRONG_CURVES:
            return f"EC key must be on P-256, P-384 or P-521: found {key.curve.name}"
        return None

    def weak_signature(self) -> str | None:
        """Why the signature on this certificate proves nothing, None where it does."""
        # With SHA-1 or MD5, a second certificate with the same signature can be made.
        if self.signature_algorithm in _STRONG_SIGNATURES:
            return None
        return f"signature algorithm {self.signature_algorithm.dotted_string} is not RSA or ECDSA with SHA-2"


def parse_certificate(data: bytes) -> Certificate:
    """One DER certificate, with padding of 0x00 or 0xff after it allowed (NV indices are larger).

    Raises Refusal (ek_certificate_invalid, 'malformed certificate: ...').
    """
    if len(data) > MAXIMUM_SIZE:
        raise malformed(f"is {len(data)} bytes long: expected at most {MAXIMUM_SIZE}")
    der = without_padding(data)
    return _guarded(lambda: _read(der, x509.load_der_x509_certificate(der)))


def parse_pem_certificate(pem: str) -> Certificate:
    """One PEM certificate. Raises Refusal (ek_certificate_invalid, 'malformed certificate: ...')."""
    if len(pem) > 2 * MAXIMUM_SIZE:
        raise malformed(f"is {len(pem)} characters long: expected at most {2 * MAXIMUM_SIZE}")
    if pem.count("-----BEGIN") != 1:
        raise malformed("expected exactly one PEM certificate")

    def load() -> Certificate:
        certificate = x509.load_pem_x509_certificate(pem.encode("ascii"))
        return _read(certificate.public_bytes(serialization.Encoding.DER), certificate)

    return _guarded(load)


def without_padding(data: bytes) -> bytes:
    """The DER value at the front of `data`, when only padding follows. Raises Refusal."""
    size = _der_size(data)
    padding = data[size:]
    # Without this, bytes after the certificate could carry anything into logs and caches keyed by its digest.
    if padding.strip(b"\0") and padding.strip(b"\xff"):
        raise malformed(f"{len(padding)} bytes after the certificate are not padding")
    return data[:size]


def malformed(reason: str) -> Refusal:
    """The refusal of bytes that are not a certificate."""
    return Refusal(CODE, f"malformed certificate: {reason}", "send certificates in DER, exactly", status=400)


def _der_size(data: bytes) -> int:
    """Size of the SEQUENCE at the front, header included (X.690, 8.1.3; lengths of up to two octets)."""
    if len(data) < 4 or data[0] != 0x30:
        raise malformed("does not begin with a DER sequence")
    first = data[1]
    if first < 0x80:
        size = 2 + first
    elif first in (0x81, 0x82):
        octets = first & 0x7F
        size = 2 + octets + int.from_bytes(data[2 : 2 + octets], "big")
    else:
        raise malformed("has a length that no certificate has")
    if size > len(data):
        raise malformed(f"says {size} bytes but has {len(data)}")
    return size


def _guarded(read: Callable[[], Certificate]) -> Certificate:
    # The one place where hostile bytes meet a foreign parser that reports in many exception types: whatever
    # it raises, the certificate is what was wrong.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # serial numbers and the like of old vendors' CAs
            return read()
    except Refusal:
        raise
    except Exception as error:
        raise malformed(str(error) or type(error).__name__) from None


def _read(der: bytes, certificate: x509.Certificate) -> Certificate:
    if certificate.version is not x509.Version.v3:
        raise malformed("version must be 3")
    key = certificate.public_key()
    if not isinstance(key, (rsa.RSAPublicKey, ec.EllipticCurvePublicKey)):
        raise malformed("public key is not RSA or EC")
    extensions = certificate.extensions
    constraints = usage = extended = None
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints):
            constraints = value
        elif isinstance(value, x509.KeyUsage):
            usage = _usage_names(value)
        elif isinstance(value, x509.ExtendedKeyUsage):
            extended = frozenset(oid.dotted_string for oid in value)
    return Certificate(
        der=der,
        x509=certificate,
        serial=certificate.serial_number,
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        public_key=key,
        signature_algorithm=certificate.signature_algorithm_oid,
        is_ca=constraints is not None and constraints.ca,
        path_length=constraints.path_length if constraints else None,
        key_usage=usage,
        extended_key_usage=extended,
        critical_unknown=tuple(
            extension.oid.dotted_string
            for extension in extensions
            if extension.critical and extension.oid not in _HANDLED
        ),
    )


def _usage_names(usage: x509.KeyUsage) -> frozenset[str]:
    names = {
        "digitalSignature": usage.digital_signature,
        "keyEncipherment": usage.key_encipherment,
        "keyAgreement": usage.key_agreement,
        "keyCertSign": usage.key_cert_sign,
        "cRLSign": usage.crl_sign,
    }
    return frozenset(name for name, is_set in names.items() if is_set)
