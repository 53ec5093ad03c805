# SPDX-License-Identifier: GPL-3.0-or-later
"""A TPM in Python for tables of mutations: it makes real structures, and lies on request.

It knows nothing of the project's writing side but the public area's encoding: quotes are packed by hand.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import struct
from typing import Any

from cryptography import x509
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.x509.oid import NameOID

from trusted_infrastructure.tpm import algorithms
from trusted_infrastructure.tpm.credential import kdfa, kdfe
from trusted_infrastructure.tpm.public_area import (
    Attributes,
    PublicArea,
    Scheme,
    Symmetric,
    marshal_tpmt_public,
    parse_tpmt_public,
)

BOUND = Attributes.FIXED_TPM | Attributes.FIXED_PARENT | Attributes.SENSITIVE_DATA_ORIGIN
EK_ATTRIBUTES = BOUND | Attributes.ADMIN_WITH_POLICY | Attributes.RESTRICTED | Attributes.DECRYPT
AK_ATTRIBUTES = BOUND | Attributes.USER_WITH_AUTH | Attributes.RESTRICTED | Attributes.SIGN
SHA256 = algorithms.HASHES[algorithms.SHA256]
NOTHING = Symmetric(algorithms.NULL)
AES_128 = Symmetric(algorithms.AES, 128, algorithms.CFB)


def public_area(
    key: ec.EllipticCurvePrivateKey,
    attributes: Attributes,
    symmetric: Symmetric = NOTHING,
    scheme: Scheme | None = None,
) -> PublicArea:
    """A public area of a P-256 key."""
    numbers = key.public_key().public_numbers()
    area = PublicArea(
        key_type=algorithms.ECC,
        name_alg=algorithms.SHA256,
        attributes=attributes,
        auth_policy=b"",
        symmetric=symmetric,
        scheme=scheme or Scheme(algorithms.NULL),
        marshalled=b"",
        curve=algorithms.CURVE_P256,
        x=numbers.x.to_bytes(32, "big"),
        y=numbers.y.to_bytes(32, "big"),
    )
    return parse_tpmt_public(marshal_tpmt_public(area))


class FakeTpm:
    """One TPM with an EK, an AK that is primary in the endorsement hierarchy, and PCRs of the sha256 bank."""

    def __init__(self) -> None:
        self.ek_key = ec.generate_private_key(ec.SECP256R1())
        self.ak_key = ec.generate_private_key(ec.SECP256R1())
        self.ek = public_area(self.ek_key, EK_ATTRIBUTES, AES_128)
        self.ak = public_area(
            self.ak_key, AK_ATTRIBUTES, scheme=Scheme(algorithms.ECDSA, algorithms.SHA256)
        )
        self.reset_count = 7
        self.restart_count = 1
        self.clock = 1_000_000
        self.safe = 1
        self.firmware = 0x2024_0001_0002_0003
        self.pcrs = {pcr: bytes(32) for pcr in range(24)}

    def reboot(self) -> None:
        """Power cycle: PCRs are zero, resetCount rises."""
        self.reset_count += 1
        self.restart_count = 0
        self.pcrs = {pcr: bytes(32) for pcr in range(24)}

    def extend(self, pcr: int, digest: bytes) -> None:
        """TPM2_PCR_Extend."""
        self.pcrs[pcr] = hashlib.sha256(self.pcrs[pcr] + digest).digest()

    def activate(self, credential_blob: bytes, encrypted_secret: bytes) -> bytes:
        """TPM2_ActivateCredential for the AK. Raises ValueError when it is not for this EK and AK."""
        point = encrypted_secret[2:]
        x, y = point[2:34], point[36:68]
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + x + y)
        z = self.ek_key.exchange(ec.ECDH(), public)
        seed = kdfe(SHA256, z, b"IDENTITY", x, self.ek.x, 256)
        integrity, identity = credential_blob[4:36], credential_blob[36:]
        mac_key = kdfa(SHA256, seed, b"INTEGRITY", b"", b"", 256)
        if hmac.digest(mac_key, identity + self.ak.name, "sha256") != integrity:
            raise ValueError("integrity")
        key = kdfa(SHA256, seed, b"STORAGE", self.ak.name, b"", 128)
        decryptor = Cipher(AES(key), CFB(bytes(16))).decryptor()
        return (decryptor.update(identity) + decryptor.finalize())[2:]

    def qualified_name(self) -> bytes:
        """Of the AK, a primary key of the endorsement hierarchy."""
        return b"\x00\x0b" + hashlib.sha256(bytes.fromhex("4000000b") + self.ak.name).digest()

    def attest(self, qualifying_data: bytes, pcrs: list[int], **lies: Any) -> bytes:
        """TPMS_ATTEST of a quote. lies: fields to change (magic, type, signer, extra, clock, reset_count, ...)."""
        selected = lies.get("selected", pcrs)
        bits = sum(1 << pcr for pcr in selected)
        bank = lies.get("bank", algorithms.SHA256)
        count = lies.get("selections", 1)
        selection = struct.pack(">I", count) + (struct.pack(">HB", bank, 3) + bits.to_bytes(3, "little")) * count
        digest = hashlib.sha256(b"".join(self.pcrs[pcr] for pcr in sorted(pcrs))).digest()
        parts = [
            struct.pack(">IH", lies.get("magic", 0xFF544347), lies.get("type", 0x8018)),
            _sized(lies.get("signer", self.qualified_name())),
            _sized(lies.get("extra", qualifying_data)),
            struct.pack(
                ">QIIB",
                lies.get("clock", self.clock),
                lies.get("reset_count", self.reset_count),
                lies.get("restart_count", self.restart_count),
                lies.get("safe", self.safe),
            ),
            struct.pack(">Q", lies.get("firmware", self.firmware)),
            selection,
            _sized(lies.get("digest", digest)),
            lies.get("tail", b""),
        ]
        return b"".join(parts)

    def sign(self, attest: bytes, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
        """TPMT_SIGNATURE, ECDSA with SHA-256."""
        der = (key or self.ak_key).sign(attest, ec.ECDSA(hashes.SHA256()))
        r, s = decode_dss_signature(der)
        return struct.pack(">HH", algorithms.ECDSA, algorithms.SHA256) + b"".join(
            _sized(number.to_bytes(32, "big")) for number in (r, s)
        )


class FakeVendor:
    """A TPM vendor's CA."""

    def __init__(self, now: int) -> None:
        self._now = datetime.datetime.fromtimestamp(now, datetime.UTC)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Vendor CA")])
        self.certificate = (
            self._builder(self._name, self._key.public_key(), 3650)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(key_cert_sign=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def pem(self) -> str:
        """The CA's certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def certify(self, key: ec.EllipticCurvePublicKey, days: int = 3650, usage: str = "2.23.133.8.1") -> bytes:
        """An EK certificate (DER)."""
        certificate = (
            self._builder(x509.Name([]), key, days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(key_agreement=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([x509.ObjectIdentifier(usage)]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.DER)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, days: int
    ) -> x509.CertificateBuilder:
        start = self._now - datetime.timedelta(days=30)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + datetime.timedelta(days=days))
        )


def _usage(**usages: bool) -> x509.KeyUsage:
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign"
        " crl_sign encipher_only decipher_only"
    )
    return x509.KeyUsage(**({name: False for name in names.split()} | usages))


def _sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data
