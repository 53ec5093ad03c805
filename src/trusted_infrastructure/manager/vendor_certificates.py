# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates of TPMs and their vendors as the API takes them: PEM, or base64 of DER. Pure; errors name the
field. Read as the Attestation Service reads them, also those that are not quite DER."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from trusted_infrastructure.manager.certificates import CHAIN_LIMIT, TEXT_LIMIT
from trusted_infrastructure.manager.vapi.structure import FieldError
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tpm.certificates import Certificate, parse_certificate, parse_pem_certificate


def read_vendor_certificate(field: str, text: str) -> Certificate:
    """One certificate. Raises FieldError."""
    if len(text) > TEXT_LIMIT:
        raise FieldError(field, f"is larger than {TEXT_LIMIT} characters")
    try:
        if "-----BEGIN" in text:
            return parse_pem_certificate(text)
        return parse_certificate(base64.b64decode("".join(text.split()), validate=True))
    except (ValueError, binascii.Error):
        raise FieldError(field, "is not a certificate (PEM, or base64 of DER)") from None
    except Refusal as refusal:
        raise FieldError(field, f"is not a certificate (PEM, or base64 of DER): {refusal.message}") from None


def read_vendor_chain(field: str, texts: Sequence[str]) -> list[Certificate]:
    """A list of certificates. Raises FieldError."""
    if not 1 <= len(texts) <= CHAIN_LIMIT:
        raise FieldError(field, f"must have 1 to {CHAIN_LIMIT} certificates, has {len(texts)}")
    return [read_vendor_certificate(f"{field}[{position}]", text) for position, text in enumerate(texts)]


def check_root_first(field: str, chain: Sequence[Certificate]) -> None:
    """Each certificate after the first is issued by the one before. Raises FieldError."""
    for position in range(1, len(chain)):
        issuer, certificate = chain[position - 1], chain[position]
        if not certificate.is_signed_by(issuer):
            raise FieldError(
                f"{field}[{position}]",
                f"{certificate.label} is not issued by the certificate before it ({issuer.label}); "
                "the chain goes from the root to the leaf",
            )


def key_pem(certificate: Certificate) -> str:
    """The public key of a certificate, PEM SubjectPublicKeyInfo."""
    return certificate.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
