# SPDX-License-Identifier: GPL-3.0-or-later
"""The password of a key provider, bound to the key servers that it is for. Pure. docs/protocol.md 11.

Who may change a provider's document need not know its password. So what is sealed to the hosts is not the
password alone, but the password and where it may go. A key server, proxy or certificate that came into the
document afterwards gets no password until somebody who knows it sets it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from trusted_infrastructure.config.documents import KmipServer, NetworkAddress, PasswordBinding
from trusted_infrastructure.refusal import Refusal


class KeyServers(Protocol):
    """What of a provider, trusted or standard, a password is bound to."""

    @property
    def servers(self) -> Sequence[KmipServer]: ...

    @property
    def proxy_server(self) -> NetworkAddress | None: ...

    @property
    def trusted_certificates(self) -> Sequence[str]: ...


class ProviderPassword(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Plaintext of the sealed field `password`, as JSON. version: 1 in this release."""

    version: Literal[1]
    password: str
    binding: PasswordBinding


def binding_of(provider: KeyServers) -> PasswordBinding:
    """Where a password that is set now may go. Raises Refusal `certificate_invalid`."""
    return PasswordBinding(
        servers=[server.address for server in provider.servers],
        proxy_server=provider.proxy_server,
        certificates=sorted({one for pem in provider.trusted_certificates for one in fingerprints(pem)}),
    )


def may_go_to(binding: PasswordBinding, address: NetworkAddress, proxy_server: NetworkAddress | None) -> bool:
    """Whether the password was set for this key server, by this way."""
    return address in binding.servers and proxy_server == binding.proxy_server


def vouched_for_by(binding: PasswordBinding, trusted: Sequence[str]) -> list[str]:
    """Those of the trusted certificates (PEM) that may vouch for a server which gets the password."""
    if not binding.certificates:
        return list(trusted)
    return [pem for pem in trusted if set(fingerprints(pem)) <= set(binding.certificates)]


def covers(binding: PasswordBinding, provider: KeyServers) -> bool:
    """Whether the password serves all of the provider as it is now."""
    servers = (may_go_to(binding, server.address, provider.proxy_server) for server in provider.servers)
    trusted = vouched_for_by(binding, provider.trusted_certificates)
    return all(servers) and trusted == list(provider.trusted_certificates)


def sealable(password: str, binding: PasswordBinding) -> bytes:
    """What is sealed to the hosts. A text that is no Unicode (lone surrogates) loses what is not."""
    text = password.encode("utf-8", "replace").decode()
    return msgspec.json.encode(ProviderPassword(1, text, binding))


def opened(plaintext: bytes) -> ProviderPassword:
    """What `sealable` made. Raises Refusal `sealed_value_invalid`."""
    try:
        return msgspec.json.decode(plaintext, type=ProviderPassword)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # The decoder's words would hold the password.
        raise Refusal(
            "sealed_value_invalid",
            "the password is not of a form that this release knows",
            "Set the provider's password again.",
        ) from None


def fingerprints(pem: str) -> list[str]:
    """SHA-256 (hex) over the DER of each certificate. Raises Refusal `certificate_invalid`."""
    try:
        certificates = x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        raise Refusal(
            "certificate_invalid",
            "a trusted certificate of the provider is not a PEM certificate",
            "Set the provider's trusted certificates again.",
        ) from None
    return [hashlib.sha256(one.public_bytes(Encoding.DER)).hexdigest() for one in certificates]
