# SPDX-License-Identifier: GPL-3.0-or-later
"""The identity by which a workload manager vouches for its hosts (docs/protocol.md 2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from trusted_infrastructure.refusal import InvalidField


@dataclass(frozen=True)
class Principal:
    """issuer: URL-like name. certificates: the chain, leaf first. key: signs host assertions."""

    issuer: str
    certificates: tuple[x509.Certificate, ...]
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    def pem_chain(self) -> list[str]:
        """The chain as PEM, leaf first."""
        return [item.public_bytes(Encoding.PEM).decode() for item in self.certificates]


def load(issuer: str, certificate: Path, key: Path) -> Principal:
    """A principal from its PEM files. Raises InvalidField naming the file."""
    try:
        chain = x509.load_pem_x509_certificates(certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidField(str(certificate), f"is not a PEM certificate chain: {error}") from None
    try:
        private = load_pem_private_key(key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError):
        raise InvalidField(str(key), "is not an unencrypted PEM private key that can be read") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP256R1):
        raise InvalidField(str(key), "must be an EC key on P-256 (host assertions are ES256)")
    if chain[0].public_key() != private.public_key():
        raise InvalidField(str(key), f"is not the key of the first certificate in {certificate}")
    return Principal(issuer, tuple(chain), private)
