# SPDX-License-Identifier: GPL-3.0-or-later
"""Client certificates that are given for key providers, trusted and standard: which key each goes with. Pure.

Three ways lead to a certificate that somebody else issued: it comes with its private key, it is
another one for the client key that the provider has (a renewed one), or it answers the outstanding request.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from trusted_infrastructure.config.documents import KeyProvider, Sealed
from trusted_infrastructure.manager.certificates import ClientChain, read_client_chain, read_private_key
from trusted_infrastructure.manager.standard_providers import StandardProvider
from trusted_infrastructure.manager.vapi.errors import InvalidArgument
from trusted_infrastructure.manager.vapi.structure import FieldError, argument_error

Provider = TypeVar("Provider", KeyProvider, StandardProvider)


@dataclass(frozen=True)
class Given:
    """A certificate with what follows it, and its private key (PKCS 8 PEM) where that was given, too."""

    certificate: ClientChain
    private_key: bytes | None = field(repr=False)


def read(certificate: str, private_key: str | None, now: float) -> Given:
    """Both as they were given (PEM). now: Unix seconds at which the certificate must not have ended.

    Raises InvalidArgument below "spec"; that the two fit was checked before."""
    try:
        chain = read_client_chain("certificate", certificate, now)
        key = None if private_key is None else read_private_key("private_key", private_key)
    except FieldError as error:
        raise argument_error(error, "spec") from None
    plain = None if key is None else key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Given(chain, plain)


def update(before: Provider, certificate: ClientChain, private_key: Sealed | str | None) -> Provider:
    """The provider with this certificate. private_key: the one that was given, as the provider keeps it
    (sealed, or encrypted for the database); None where none was.

    A request that the certificate does not answer stays outstanding. Raises InvalidArgument."""
    if private_key is not None:
        return msgspec.structs.replace(
            before, client_certificate=certificate.pem, client_private_key=private_key
        )
    if is_for_the_key_of_now(certificate.x509, before):
        return msgspec.structs.replace(before, client_certificate=certificate.pem)
    check_answers_request(certificate.x509, before)
    return msgspec.structs.replace(
        before,
        client_certificate=certificate.pem,
        client_private_key=before.csr_private_key,
        csr=None,
        csr_private_key=None,
    )


def is_for_the_key_of_now(certificate: x509.Certificate, provider: KeyProvider | StandardProvider) -> bool:
    """Whether it is another certificate for the client key that the provider has: a renewed one, say."""
    if provider.client_certificate is None or provider.client_private_key is None:
        return False
    known = x509.load_pem_x509_certificate(provider.client_certificate.encode())
    return known.public_key() == certificate.public_key()


def check_answers_request(certificate: x509.Certificate, provider: KeyProvider | StandardProvider) -> None:
    """The certificate is for the key of the outstanding request. Raises InvalidArgument."""
    if provider.csr is None or provider.csr_private_key is None:
        raise InvalidArgument(
            "spec.private_key",
            "is required: there is no outstanding certificate request that this could answer",
        )
    if x509.load_pem_x509_csr(provider.csr.encode()).public_key() != certificate.public_key():
        raise InvalidArgument("spec.certificate", "is not for the key of the outstanding certificate request")
