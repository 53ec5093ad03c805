# SPDX-License-Identifier: GPL-3.0-or-later
"""The backup of a native key provider: a PKCS#12 file with all its keys. Pure but for randomness.

PKCS#12 has a place for secrets of any kind, which few tools write or read. So the file is one that they all
can open: a P-256 key and its self-signed certificate. The certificate carries the provider in an extension,
encrypted under that key:

    extension   = OID BACKUP_OID, not critical; value = DER OCTET STRING of envelope
    envelope    = "TINB" || version (1 byte, 1) || salt (32 random bytes) || ciphertext and tag
    key || nonce (32 + 12 bytes) = HKDF-SHA-256(private scalar (32 bytes, big-endian), salt, info = LABEL)
    ciphertext  = AES-256-GCM(key, nonce, document, additional data = "TINB" || version || salt)
    document    = JSON of `BackupDocument`

Who can open the file has all keys of the provider. With a password, key and certificate are encrypted by
PBES2 (PBKDF2 with HMAC-SHA-256, ITERATIONS, AES-256-CBC). Without one nothing is: the file is as secret as
the place where it lies. What a password is worth is less than ITERATIONS says: the integrity check of
PKCS#12, whose 2048 rounds cannot be set here, tells right from wrong guesses, too. So take a long one.

Sources: RFC 7292 (PKCS#12), RFC 8018 (PBES2), RFC 5280 4.2 (extensions), ITU-T X.667 (OIDs from UUIDs), RFC
5869 (HKDF), NIST SP 800-38D (GCM).
"""

from __future__ import annotations

import datetime
import os
from typing import Annotated, Any, Literal

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID

from trusted_infrastructure import key_delivery
from trusted_infrastructure.json_names import repeated_name
from trusted_infrastructure.manager import pkcs12_form
from trusted_infrastructure.manager.vapi.structure import FieldError, check_name
from trusted_infrastructure.times import Moment
from trusted_infrastructure.tpm import der

BACKUP_OID = x509.ObjectIdentifier("2.25.229116422192664471780728643815307835973")
LABEL = b"trusted.infrastructure/native-backup/v1"
ITERATIONS = 600_000
MAXIMUM_PASSWORD = 1024  # characters
CONFIG, PASSWORD = "config", "password"  # fields that errors name

_MAGIC = b"TINB\x01"
_SALT, _KEY, _NONCE = 32, 32, 12
_NEVER = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)  # RFC 5280, 4.1.2.5
_NOT_OURS = "is a PKCS#12 file, but not a backup of a native key provider"

KeyId = Annotated[
    str, msgspec.Meta(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$(?!\n)")
]
Secret = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class BackupKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key derivation key: 32 bytes, base64 in JSON."""

    key_id: KeyId
    key: Secret

    def __repr__(self) -> str:
        return f"BackupKey({self.key_id})"


class BackupDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A native provider, whole. key_id: of the current key. keys: the current one first. exported: Unix
    seconds."""

    version: Literal[1] = 1
    provider: str
    key_id: KeyId
    keys: Annotated[
        list[BackupKey], msgspec.Meta(min_length=1, max_length=1 + key_delivery.MAX_PREVIOUS_KEYS)
    ]
    tpm_required: bool
    exported: Moment

    def __post_init__(self) -> None:
        check_name("provider", self.provider)
        ids = [key.key_id for key in self.keys]
        if len(set(ids)) != len(ids) or ids[0] != self.key_id:
            raise FieldError("keys", "must begin with the current key and have each once")


def write(document: BackupDocument, password: str | None) -> bytes:
    """The PKCS#12 file. password: as `check_password` takes it; None: nothing is encrypted."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "native key provider backup")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime.fromtimestamp(document.exported, datetime.UTC))
        .not_valid_after(_NEVER)
        .add_extension(x509.UnrecognizedExtension(BACKUP_OID, _envelope(document, key)), critical=False)
        .sign(key, hashes.SHA256())
    )
    return pkcs12.serialize_key_and_certificates(
        document.provider.encode(), key, certificate, None, _encryption(password)
    )


def read(data: bytes, password: str | None) -> BackupDocument:
    """What a file holds. Raises FieldError naming CONFIG (no such file) or PASSWORD (missing, wrong)."""
    if len(data) > pkcs12_form.MAXIMUM_BYTES:
        raise FieldError(CONFIG, f"is larger than {pkcs12_form.MAXIMUM_BYTES} bytes")
    given = password.encode() if password else None
    try:
        pkcs12_form.check(data, given)
    except pkcs12_form.WrongPassword:
        raise _password_error(given) from None
    except ValueError as error:
        raise FieldError(CONFIG, f"is not a PKCS#12 file that can be read here: {error}") from None
    try:
        opened = pkcs12.load_pkcs12(data, given)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _password_error(given) from None
    if opened.cert is None or not isinstance(opened.key, ec.EllipticCurvePrivateKey):
        raise FieldError(CONFIG, _NOT_OURS)
    return _document(opened.cert.certificate, opened.key)


def check_password(field: str, password: str) -> None:
    """A password for a file. Raises FieldError."""
    if len(password) > MAXIMUM_PASSWORD or "\0" in password:
        raise FieldError(field, f"must have at most {MAXIMUM_PASSWORD} characters, and no NUL")
    try:
        password.encode()
    except UnicodeEncodeError:
        raise FieldError(field, "is no text that UTF-8 can hold") from None


def _password_error(password: bytes | None) -> FieldError:
    if password is None:
        return FieldError(PASSWORD, "is needed: the file is encrypted, or damaged")
    return FieldError(PASSWORD, "does not open the file: it is another one, or the file is damaged")


def _encryption(password: str | None) -> serialization.KeySerializationEncryption:
    if not password:
        return serialization.NoEncryption()
    return (
        serialization.PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(ITERATIONS)
        .key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC)
        .hmac_hash(hashes.SHA256())
        .build(password.encode())
    )


def _envelope(document: BackupDocument, key: ec.EllipticCurvePrivateKey) -> bytes:
    header = _MAGIC + os.urandom(_SALT)
    cipher, nonce = _cipher(key, header)
    return der.encode(der.OCTET_STRING, header + cipher.encrypt(nonce, msgspec.json.encode(document), header))


def _cipher(key: ec.EllipticCurvePrivateKey, header: bytes) -> tuple[AESGCM, bytes]:
    scalar = key.private_numbers().private_value.to_bytes((key.curve.key_size + 7) // 8, "big")
    hkdf = HKDF(hashes.SHA256(), _KEY + _NONCE, salt=header[len(_MAGIC) :], info=LABEL)
    derived = hkdf.derive(scalar)
    return AESGCM(derived[:_KEY]), derived[_KEY:]


def _document(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> BackupDocument:
    """What the certificate carries. Raises FieldError."""
    try:
        extension: Any = certificate.extensions.get_extension_for_oid(BACKUP_OID).value
        envelope = der.content(extension.value, der.OCTET_STRING, "the extension")
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        raise FieldError(CONFIG, _NOT_OURS) from None
    header, sealed = envelope[: len(_MAGIC) + _SALT], envelope[len(_MAGIC) + _SALT :]
    if not header.startswith(_MAGIC) or len(header) != len(_MAGIC) + _SALT:
        raise FieldError(CONFIG, "is a backup of a version that this release does not read")
    cipher, nonce = _cipher(key, header)
    try:
        plain = cipher.decrypt(nonce, sealed, header)
        document = msgspec.json.decode(plain, type=BackupDocument)
    except (InvalidTag, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise FieldError(CONFIG, "is a backup that was changed: what it carries does not open") from None
    if repeated_name(plain) is not None:
        raise FieldError(CONFIG, "is a backup that was changed: a name in it is given twice")
    return document
