# SPDX-License-Identifier: GPL-3.0-or-later
"""From a provider's document, with secrets sealed to this host, to what its key servers are asked with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trusted_infrastructure.config import provider_password
from trusted_infrastructure.config.documents import KeyProvider
from trusted_infrastructure.config.provider_password import ProviderPassword
from trusted_infrastructure.key_provider.client_credentials import (
    open_for,
    password_purpose,
    private_key_purpose,
)
from trusted_infrastructure.key_provider.key_servers import ProviderConfiguration, WantedKey
from trusted_infrastructure.kmip.connection import ClientCredentials, KeyServer
from trusted_infrastructure.refusal import Refusal, Unavailable
from trusted_infrastructure.sealing import SealingKey


def configurations(
    documents: Mapping[str, KeyProvider], host: str, key: SealingKey
) -> dict[str, ProviderConfiguration]:
    """Name -> configuration. A document whose secrets cannot be opened is there, with its problem."""
    return {name: configuration(name, document, host, key) for name, document in documents.items()}


def configuration(name: str, document: KeyProvider, host: str, key: SealingKey) -> ProviderConfiguration:
    """One provider's configuration. host, key: this host and its configuration key."""
    credentials, password, problem = None, None, None
    trusted: Sequence[str] = document.trusted_certificates
    try:
        password = password_of(name, document, host, key)
        credentials = client_credentials(name, document, host, key, password)
        if password is not None:
            trusted = provider_password.vouched_for_by(password.binding, trusted)
        if document.trusted_certificates and not trusted:
            raise Unavailable(
                "credential_not_bound",
                f"the password of provider {name!r} was set for other trusted certificates than it has now",
                "If they were changed on purpose, set the provider's password again.",
            )
    except Refusal as refusal:
        problem = refusal
    return ProviderConfiguration(
        name=name,
        primary_key_id=document.master_key_id,
        check_value=document.primary_key_check_value,
        servers=tuple(key_servers(document)),
        credentials=credentials,
        trusted_certificates=tuple(trusted),
        withheld=() if password is None else withheld(password, document),
        problem=problem,
        previous=tuple(WantedKey(key.master_key_id, key.check_value) for key in document.previous_keys),
    )


def key_servers(document: KeyProvider) -> list[KeyServer]:
    """The document's key servers."""
    proxy = document.proxy_server
    through = None if proxy is None else (proxy.hostname, proxy.port)
    return [
        KeyServer(
            name=server.name,
            hostname=server.address.hostname,
            port=server.address.port,
            proxy=through,
            timeout=document.connection_timeout,
        )
        for server in document.servers
    ]


def password_of(name: str, document: KeyProvider, host: str, key: SealingKey) -> ProviderPassword | None:
    """The password, opened; None where there is none. Raises Refusal `sealed_value_invalid`."""
    if document.password is None:
        return None
    return provider_password.opened(open_for(document.password, host, key, password_purpose(name)))


def withheld(password: ProviderPassword, document: KeyProvider) -> tuple[str, ...]:
    """Names of the key servers that the password was not set for."""
    return tuple(
        server.name
        for server in document.servers
        if not provider_password.may_go_to(password.binding, server.address, document.proxy_server)
    )


def client_credentials(
    name: str, document: KeyProvider, host: str, key: SealingKey, password: ProviderPassword | None
) -> ClientCredentials | None:
    """What key servers are shown, the client key opened; None where there is no certificate yet.

    Raises Refusal `sealed_value_invalid`.
    """
    if document.client_certificate is None or document.client_private_key is None:
        return None
    return ClientCredentials(
        certificate=document.client_certificate,
        private_key=open_for(document.client_private_key, host, key, private_key_purpose(name)),
        username=document.username,
        password=None if password is None else password.password,
    )
