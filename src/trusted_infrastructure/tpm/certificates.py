# SPDX-License-Identifier: GPL-3.0-or-later
"""X.509 certificates of TPMs and their vendors: read everything that a decision needs, at once, or refuse.

A `Certificate` here has no lazy fields: whatever is wrong with the bytes shows while parsing, as
'malformed certificate: ...', and path building works with plain values.

Sources: RFC 5280, 4 (certificate profile); TCG EK Credential Profile for TPM 2.0, 2.2.1.4 (NV indices may be
larger than the certificate) and 3.2 (fields of an EK certificate).
"""

from __future__ import annotations

import base64
import hashlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtensionOID, ObjectIdentifier
from cryptography.x509.oid import SignatureAlgorithmOID as Signed

from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tpm import certificate_deviations as deviations
from trusted_infrastructure.tpm import roca
from trusted_infrastructure.tpm.certificate_deviations import Parts, take_apart
from trusted_infrastructure.tpm.x509_names import Name, read_name, tpm_names

CODE = "ek_certificate_invalid"
MAXIMUM_SIZE = 16 << 10  # EK certificates take 1 to 2 kB; vendors' CAs under 4 kB

# Extensions that we process, or that have nothing to process here (a critical certificatePolicies asks for
# nothing when every policy is acceptable, RFC 5280, 6.1.1). Any other critical one is a refusal.
_HANDLED = frozenset(
    oid.dotted_string
    for oid in (
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.CERTIFICATE_POLICIES,
    )
)

_SIGNATURES = frozenset(
    {
        Signed.RSA_WITH_SHA256,
        Signed.RSA_WITH_SHA384,
        Signed.RSA_WITH_SHA512,
        Signed.RSASSA_PSS,
        Signed.ECDSA_WITH_SHA256,
        Signed.ECDSA_WITH_SHA384,
        Signed.ECDSA_WITH_SHA512,
    }
)
_STRONG_HASHES = frozenset({"sha256", "sha384", "sha512"})
_STRONG_CURVES = frozenset({"secp256r1", "secp384r1", "secp521r1"})
_MINIMUM_RSA_BITS, _MAXIMUM_RSA_BITS = 2048, 8192
_MINIMUM_EXPONENT = 65537
_MAXIMUM_REASON = 300
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


@dataclass(frozen=True)
class Certificate:
    """One certificate, fully read. der: its bytes without padding. path_length: None where unlimited.
    key_usage: names as in RFC 5280 ('keyCertSign'), None where the extension is absent. extended_key_usage:
    dotted OIDs, None where absent. critical_unknown: dotted OIDs of critical extensions that nobody here
    handles. tpm: what its subject alternative name says of a TPM ('manufacturer', 'model', 'version'), None
    where it has no such name; names_critical: whether that name is critical. strict: False when it was read
    with `certificate_deviations`."""

    der: bytes
    serial: int
    subject_name: Name
    issuer_name: Name
    not_before: datetime
    not_after: datetime
    public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    signed: bytes
    signature: bytes
    signature_algorithm: ObjectIdentifier
    signature_hash: hashes.HashAlgorithm | None
    signature_padding: padding.PSS | padding.PKCS1v15 | None
    is_ca: bool
    path_length: int | None
    key_usage: frozenset[str] | None
    extended_key_usage: frozenset[str] | None
    critical_unknown: tuple[str, ...]
    tpm: Mapping[str, str] | None
    names_critical: bool
    strict: bool

    @property
    def subject(self) -> str:
        """The subject for people; empty where it has none."""
        return self.subject_name.text

    @property
    def issuer(self) -> str:
        """The issuer for people."""
        return self.issuer_name.text

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
        return self.subject_name == self.issuer_name

    def pem(self) -> str:
        """PEM (RFC 7468) of exactly the bytes that were read, with a final newline."""
        text = base64.b64encode(self.der).decode("ascii")
        lines = [text[at : at + 64] for at in range(0, len(text), 64)]
        return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])

    def public_key_der(self) -> bytes:
        """SubjectPublicKeyInfo, DER: equal for equal keys."""
        return self.public_key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def is_signed_by(self, issuer: Certificate) -> bool:
        """Whether `issuer`'s name is this certificate's issuer and its key made the signature."""
        if self.issuer_name != issuer.subject_name or self.signature_hash is None:
            return False
        key = issuer.public_key
        try:
            if isinstance(key, ec.EllipticCurvePublicKey):
                # An ECDSA signature has no padding; one that has is not by this key.
                if self.signature_padding is not None:
                    return False
                key.verify(self.signature, self.signed, ec.ECDSA(self.signature_hash))
            elif self.signature_padding is None:
                return False
            else:
                key.verify(self.signature, self.signed, self.signature_padding, self.signature_hash)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            return False
        return True

    def weakness(self) -> str | None:
        """What is too weak in the key of this certificate, None where nothing is."""
        key = self.public_key
        if isinstance(key, ec.EllipticCurvePublicKey):
            if key.curve.name in _STRONG_CURVES:
                return None
            return f"EC key must be on P-256, P-384 or P-521: found {key.curve.name}"
        # The upper bounds keep a signature check cheap: the host sends these keys.
        if not _MINIMUM_RSA_BITS <= key.key_size <= _MAXIMUM_RSA_BITS:
            bound = "at least 2048" if key.key_size < _MINIMUM_RSA_BITS else "at most 8192"
            return f"RSA key must have {bound} bits: found {key.key_size}"
        numbers = key.public_numbers()
        # Small exponents make errors in the padding of a signature exploitable.
        if not _MINIMUM_EXPONENT <= numbers.e < 1 << 64:
            return f"RSA exponent must be at least 65537, and below 2^64: found {numbers.e:#x}"
        # CVE-2017-15361: the private key can be computed.
        if roca.has_fingerprint(numbers.n):
            return "its RSA key is of the weak kind of CVE-2017-15361 (ROCA)"
        return None

    def weak_signature(self) -> str | None:
        """Why the signature on this certificate proves nothing, None where it does."""
        # With SHA-1 or MD5, a second certificate with the same signature can be made.
        strong = self.signature_hash is not None and self.signature_hash.name in _STRONG_HASHES
        if self.signature_algorithm in _SIGNATURES and strong:
            return None
        return f"signature algorithm {self.signature_algorithm.dotted_string} is not RSA or ECDSA with SHA-2"


def parse_certificate(data: bytes) -> Certificate:
    """One DER certificate, with padding of 0x00 or 0xff after it allowed (NV indices are larger).

    Raises Refusal (ek_certificate_invalid, 'malformed certificate: ...').
    """
    if len(data) > MAXIMUM_SIZE:
        raise malformed(f"is {len(data)} bytes long: expected at most {MAXIMUM_SIZE}")
    der = without_padding(data)
    return _guarded(lambda: _read(der))


def parse_pem_certificate(pem: str) -> Certificate:
    """One PEM certificate. Raises Refusal (ek_certificate_invalid, 'malformed certificate: ...')."""
    if len(pem) > 2 * MAXIMUM_SIZE:
        raise malformed(f"is {len(pem)} characters long: expected at most {2 * MAXIMUM_SIZE}")
    if pem.count("-----BEGIN") != 1:
        raise malformed("expected exactly one PEM certificate")

    return _guarded(lambda: _read(_armoured(pem)))


def _armoured(pem: str) -> bytes:
    """The bytes in the one PEM block (RFC 7468) of this text. Raises ValueError."""
    _before, begin, rest = pem.partition(_BEGIN)
    body, end, _after = rest.partition(_END)
    if not begin or not end:
        raise ValueError("expected a PEM block with the label CERTIFICATE")
    return base64.b64decode("".join(body.split()), validate=True)


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
        raise malformed((str(error) or type(error).__name__)[:_MAXIMUM_REASON]) from None


def _read(data: bytes) -> Certificate:
    """Strictly; where that fails, with the deviations that are known and harmless. What both refuse is
    refused with the strict reason."""
    try:
        return _read_strictly(data)
    except Refusal:
        raise
    except Exception as error:
        try:
            return _read_tolerantly(data)
        except Refusal:
            raise
        except Exception:
            raise error from None


def _read_strictly(data: bytes) -> Certificate:
    certificate = x509.load_der_x509_certificate(data)
    constraints = usage = extended = None
    names = None
    for extension in certificate.extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints):
            constraints = value
        elif isinstance(value, x509.KeyUsage):
            usage = _usage_names(value)
        elif isinstance(value, x509.ExtendedKeyUsage):
            extended = frozenset(oid.dotted_string for oid in value)
        elif isinstance(value, x509.SubjectAlternativeName):
            names = tpm_names(value.public_bytes())
    return _certificate(
        data,
        certificate,
        take_apart(data),
        is_ca=constraints is not None and constraints.ca,
        path_length=constraints.path_length if constraints else None,
        key_usage=usage,
        extended_key_usage=extended,
        critical=tuple(e.oid.dotted_string for e in certificate.extensions if e.critical),
        tpm=names,
        strict=True,
    )


def _read_tolerantly(data: bytes) -> Certificate:
    parts = take_apart(data)
    found = parts.extensions
    constraints = found.get(deviations.BASIC_CONSTRAINTS)
    usage = found.get(deviations.KEY_USAGE)
    extended = found.get(deviations.EXTENDED_KEY_USAGE)
    names = found.get(deviations.ALTERNATIVE_NAMES)
    is_ca, path_length = deviations.basic_constraints(constraints[1]) if constraints else (False, None)
    return _certificate(
        data,
        x509.load_der_x509_certificate(parts.normal()),
        parts,
        is_ca=is_ca,
        path_length=path_length,
        key_usage=deviations.key_usage(usage[1]) if usage else None,
        extended_key_usage=deviations.extended_key_usage(extended[1]) if extended else None,
        critical=tuple(oid for oid, (critical, _value) in found.items() if critical),
        tpm=tpm_names(names[1]) if names else None,
        strict=False,
    )


def _certificate(
    data: bytes,
    certificate: x509.Certificate,
    parts: Parts,
    *,
    critical: tuple[str, ...],
    is_ca: bool,
    path_length: int | None,
    key_usage: frozenset[str] | None,
    extended_key_usage: frozenset[str] | None,
    tpm: Mapping[str, str] | None,
    strict: bool,
) -> Certificate:
    if certificate.version is not x509.Version.v3:
        raise malformed("version must be 3")
    # Without this, the algorithm that is judged need not be the one that was signed.
    if not parts.algorithms_agree:
        raise malformed("the signature algorithm outside is not the one that was signed")
    key = certificate.public_key()
    if not isinstance(key, (rsa.RSAPublicKey, ec.EllipticCurvePublicKey)):
        raise malformed("public key is not RSA or EC")
    # Without a name, the issuer would be everybody whose name is empty.
    issuer = read_name(parts.issuer)
    if not issuer.parts:
        raise malformed("has no issuer")
    hash_, padding_ = _signature_parameters(certificate)
    return Certificate(
        der=data,
        serial=certificate.serial_number,
        subject_name=read_name(parts.subject),
        issuer_name=issuer,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        public_key=key,
        signed=parts.signed,
        signature=certificate.signature,
        signature_algorithm=certificate.signature_algorithm_oid,
        signature_hash=hash_,
        signature_padding=padding_,
        is_ca=is_ca,
        path_length=path_length,
        key_usage=key_usage,
        extended_key_usage=extended_key_usage,
        critical_unknown=tuple(oid for oid in critical if oid not in _HANDLED),
        tpm=tpm,
        names_critical=deviations.ALTERNATIVE_NAMES in critical,
        strict=strict,
    )


def _signature_parameters(
    certificate: x509.Certificate,
) -> tuple[hashes.HashAlgorithm | None, padding.PSS | padding.PKCS1v15 | None]:
    """Hash and padding; no hash where the algorithm is not known (`weak_signature` then refuses)."""
    try:
        parameters = certificate.signature_algorithm_parameters
        hash_ = certificate.signature_hash_algorithm
    except (UnsupportedAlgorithm, ValueError):
        return None, None
    return hash_, parameters if isinstance(parameters, (padding.PSS, padding.PKCS1v15)) else None


def _usage_names(usage: x509.KeyUsage) -> frozenset[str]:
    names = {
        "digitalSignature": usage.digital_signature,
        "keyEncipherment": usage.key_encipherment,
        "keyAgreement": usage.key_agreement,
        "keyCertSign": usage.key_cert_sign,
        "cRLSign": usage.crl_sign,
    }
    return frozenset(name for name, is_set in names.items() if is_set)
