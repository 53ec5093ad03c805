# SPDX-License-Identifier: GPL-3.0-or-later
"""From a provider's document, with secrets sealed to this host, to what its key servers are asked with."""

from __future__ import annotations

from collections.abc import Mapping

from trusted_infrastructure.config.documents import KeyProvider
from trusted_infrastructure.key_provider.client_credentials import (
    open_for,
    password_purpose,
    private_key_purpose,
)
from trusted_infrastructure.key_provider.providers import ProviderConfiguration
from trusted_infrastructure.kmip.connection import ClientCredentials, KeyServer
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.sealing import SealingKey


def configurations(
    documents: Mapping[str, KeyProvider], host: str, key: SealingKey
) -> dict[str, ProviderConfiguration]:
    """Name -> configuration. A document whose secrets cannot be opened is there, with its problem."""
    return {name: configuration(name, document, host, key) for name, document in documents.items()}


def configuration(name: str, document: KeyProvider, host: str, key: SealingKey) -> ProviderConfiguration:
    """One provider's configuration. host, key: this host and its configuration key."""
    credentials, problem = None, None
    try:
        credentials = client_credentials(name, document, host, key)
    except Refusal as refusal:
        problem = refusal
    return ProviderConfiguration(
        name=name,
        primary_key_id=document.master_key_id,
        check_value=document.primary_key_check_value,
        servers=tuple(key_servers(document)),
        credentials=credentials,
        trusted_certificates=tuple(document.trusted_certificates),
        problem=problem,
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


def client_credentials(
    name: str, document: KeyProvider, host: str, key: SealingKey
) -> ClientCredentials | None:
    """Client certificate, key and password, opened; None where there is no certificate yet.

    Raises Refusal `sealed_value_invalid`.
    """
    if document.client_certificate is None or document.client_private_key is None:
        return None
    password = None
    if document.password is not None:
        opened = open_for(document.password, host, key, password_purpose(name))
        password = opened.decode("utf-8", "surrogateescape")
    return ClientCredentials(
        certificate=document.client_certificate,
        private_key=open_for(document.client_private_key, host, key, private_key_purpose(name)),
        username=document.username,
        password=password,
    )
