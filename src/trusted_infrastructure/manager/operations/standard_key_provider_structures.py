# SPDX-License-Identifier: GPL-3.0-or-later
"""Structures of trust/standard-key-providers, and how they relate to what the manager keeps. Pure."""

from __future__ import annotations

import msgspec

from trusted_infrastructure.config.provider_password import KeyServers
from trusted_infrastructure.manager.comparison import Health
from trusted_infrastructure.manager.operations.key_provider_structures import (
    DEFAULT_TIMEOUT,
    Server,
    ServerInfo,
    Status,
    Timeout,
    check_servers,
    proxy_document,
    server_document,
)
from trusted_infrastructure.manager.operations.structures import NetworkAddress, address_of
from trusted_infrastructure.manager.standard_provider_health import Report
from trusted_infrastructure.manager.standard_providers import StandardProvider
from trusted_infrastructure.manager.vapi.structure import FieldError, Identifier, Structure, check_name

DESCRIPTION_LIMIT = 4096
USERNAME_LIMIT = 255


class CreateSpec(Structure, frozen=True):
    """A standard provider: key servers of one vendor, which replicate keys, in the order in which they are
    asked. connection_timeout: seconds for each. proxy_server: of HTTP CONNECT."""

    provider: Identifier
    servers: list[Server]
    description: str | None = None
    username: str | None = None
    proxy_server: NetworkAddress | None = None
    connection_timeout: Timeout | None = None

    def __post_init__(self) -> None:
        check_name("provider", self.provider)
        check_servers(self.servers)
        check_texts(self.description, self.username)

    def content(self) -> StandardProvider:
        """As the manager keeps it."""
        return StandardProvider(
            servers=[server_document(server) for server in self.servers],
            description=self.description or "",
            username=self.username or None,
            proxy_server=proxy_document(self.proxy_server),
            connection_timeout=self.connection_timeout or DEFAULT_TIMEOUT,
        )


class UpdateSpec(Structure, frozen=True):
    """Unset: unchanged. servers: replaces the whole list. username: empty for none."""

    servers: list[Server] | None = None
    description: str | None = None
    username: str | None = None
    proxy_server: NetworkAddress | None = None
    connection_timeout: Timeout | None = None

    def __post_init__(self) -> None:
        if self.servers is not None:
            check_servers(self.servers)
        check_texts(self.description, self.username)

    def applied_to(self, before: StandardProvider) -> StandardProvider:
        """The provider with these changes."""
        servers = None if self.servers is None else [server_document(server) for server in self.servers]
        values: dict[str, object] = {
            "servers": servers,
            "description": self.description,
            "proxy_server": proxy_document(self.proxy_server),
            "connection_timeout": self.connection_timeout,
        }
        changes = {name: value for name, value in values.items() if value is not None}
        if self.username is not None:
            changes["username"] = self.username or None
        return msgspec.structs.replace(before, **changes)


class Summary(Structure, frozen=True):
    """A provider and its health."""

    provider: str
    health: Health


class Info(Structure, frozen=True):
    """A provider, and how its key servers do now. has_credential: a password was set, for the key servers,
    proxy and trusted certificates that the provider has now; it cannot be read. has_certificate_request: one
    is outstanding. keys: how many keys of it are known."""

    provider: str
    servers: list[Server]
    description: str
    connection_timeout: int
    has_credential: bool
    has_client_certificate: bool
    has_certificate_request: bool
    trusted_certificates: int
    keys: int
    status: Status
    username: str | None = None
    proxy_server: NetworkAddress | None = None


def check_texts(description: str | None, username: str | None) -> None:
    """Raises FieldError."""
    for name, text, limit in (
        ("description", description, DESCRIPTION_LIMIT),
        ("username", username, USERNAME_LIMIT),
    ):
        if text is not None and len(text) > limit:
            raise FieldError(name, f"must have at most {limit} characters, has {len(text)}")


def servers_of(provider: KeyServers) -> list[Server]:
    """As the API gives them."""
    return [Server(name=item.name, address=address_of(item.address)) for item in provider.servers]


def status_of(found: Report) -> Status:
    """As the API gives it."""
    servers = [
        ServerInfo(
            name=server.name,
            health=server.health,
            details=server.details,
            client_trust_server=server.client_trust_server,
            server_trust_client=server.server_trust_client,
        )
        for server in found.servers
    ]
    return Status(health=found.health, details=found.details, servers=servers)
