# SPDX-License-Identifier: GPL-3.0-or-later
"""Standard key providers: what the manager keeps of them, and how it reaches their key servers.

Passwords and client keys are in the database encrypted (database_secrets), and opened where a connection is
made. A password is bound to key servers, proxy and certificates as that of a trusted provider: what came
later gets none until it is set again (config/provider_password).
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import sqlalchemy as sql

from trusted_infrastructure.config import provider_password
from trusted_infrastructure.config.documents import KmipServer, NetworkAddress, PasswordBinding
from trusted_infrastructure.kmip.connection import ClientCredentials, KeyServer, client_context
from trusted_infrastructure.kmip.servers import KeyServerGroup
from trusted_infrastructure.manager.database import standard_key_providers as table
from trusted_infrastructure.manager.database_secrets import DatabaseSecrets
from trusted_infrastructure.manager.vapi.errors import NotFound
from trusted_infrastructure.refusal import Unavailable

CLIENT_NAME_PREFIX = "standard-key-provider"


class StandardProvider(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A standard key provider. connection_timeout: seconds for each server. client_certificate: PEM; csr:
    outstanding request (PEM). client_private_key, csr_private_key, password: encrypted. trusted_certificates:
    PEM of what the servers must present (CA or leaf); nothing is trusted until set. password_binding: for
    people; what counts is the one that is encrypted with the password."""

    servers: Annotated[list[KmipServer], msgspec.Meta(min_length=1)]
    description: str = ""
    username: str | None = None
    proxy_server: NetworkAddress | None = None
    connection_timeout: int = 10
    client_certificate: str | None = None
    client_private_key: str | None = None
    csr: str | None = None
    csr_private_key: str | None = None
    password: str | None = None
    password_binding: PasswordBinding | None = None
    trusted_certificates: list[str] = []


def providers(connection: sql.Connection) -> dict[str, StandardProvider]:
    """All standard providers by name, in the order of names."""
    rows = connection.execute(sql.select(table).order_by(table.c.name))
    return {row.name: msgspec.json.decode(row.content, type=StandardProvider) for row in rows}


def find(connection: sql.Connection, name: str) -> StandardProvider:
    """A provider. Raises NotFound."""
    row = connection.execute(sql.select(table).where(table.c.name == name)).one_or_none()
    if row is None:
        text = f"This manager has no standard key provider {name!r}."
        raise NotFound(text, name, reason="no_provider")
    return msgspec.json.decode(row.content, type=StandardProvider)


def store(connection: sql.Connection, name: str, provider: StandardProvider) -> None:
    """Keeps a provider, in place of what was there."""
    connection.execute(table.delete().where(table.c.name == name))
    connection.execute(table.insert().values(name=name, content=msgspec.json.encode(provider).decode()))


def delete(connection: sql.Connection, name: str) -> None:
    """Forgets a provider."""
    connection.execute(table.delete().where(table.c.name == name))


def purpose(name: str, field: str) -> str:
    """What an encrypted value is. A request's key becomes the client key."""
    kind = "password" if field == "password" else "client_private_key"
    return f"standard_key_provider/{name}/{kind}"


def has_credential(provider: StandardProvider) -> bool:
    """Whether a password was set, for the key servers and certificates that the provider has now."""
    if provider.password is None or provider.password_binding is None:
        return False
    return provider_password.covers(provider.password_binding, provider)


def connected(secrets: DatabaseSecrets, name: str, provider: StandardProvider) -> KeyServerGroup:
    """The provider's key servers, to be asked. Nothing is sent yet.

    Raises Refusal `primary_key_unavailable` without a client certificate, `certificate_invalid`,
    `credential_not_bound`, `state_unusable`.
    """
    password = opened_password(secrets, name, provider)
    credentials = client_credentials(secrets, name, provider, password)
    trusted = list(provider.trusted_certificates)
    withheld: list[str] = []
    if password is not None:
        trusted = provider_password.vouched_for_by(password.binding, trusted)
        withheld = [
            server.name
            for server in provider.servers
            if not provider_password.may_go_to(password.binding, server.address, provider.proxy_server)
        ]
    if provider.trusted_certificates and not trusted:
        raise Unavailable(
            "credential_not_bound",
            f"the password of provider {name!r} was set for other trusted certificates than it has now",
            "If they were changed on purpose, set the provider's password again.",
        )
    context = client_context(credentials, trusted)
    return KeyServerGroup(key_servers(provider), credentials, context, withheld=withheld)


def key_servers(provider: StandardProvider) -> list[KeyServer]:
    """The provider's key servers, in order."""
    proxy = provider.proxy_server
    through = None if proxy is None else (proxy.hostname, proxy.port)
    return [
        KeyServer(
            name=server.name,
            hostname=server.address.hostname,
            port=server.address.port,
            proxy=through,
            timeout=provider.connection_timeout,
        )
        for server in provider.servers
    ]


def opened_password(
    secrets: DatabaseSecrets, name: str, provider: StandardProvider
) -> provider_password.ProviderPassword | None:
    """The password with what it is bound to. Raises Refusal `state_unusable`, `sealed_value_invalid`."""
    if provider.password is None:
        return None
    return provider_password.opened(secrets.decrypt(purpose(name, "password"), provider.password))


def client_credentials(
    secrets: DatabaseSecrets,
    name: str,
    provider: StandardProvider,
    password: provider_password.ProviderPassword | None,
) -> ClientCredentials:
    """What the key servers are shown. Raises Refusal `primary_key_unavailable`, `state_unusable`."""
    if provider.client_certificate is None or provider.client_private_key is None:
        raise Unavailable(
            "primary_key_unavailable",
            f"provider {name!r} has no client certificate for its key servers",
            "Make one, or import one, and make it known to the key servers.",
        )
    return ClientCredentials(
        certificate=provider.client_certificate,
        private_key=secrets.decrypt(purpose(name, "client_private_key"), provider.client_private_key),
        username=provider.username,
        password=None if password is None else password.password,
    )
