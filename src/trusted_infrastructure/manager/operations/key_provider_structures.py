# SPDX-License-Identifier: GPL-3.0-or-later
"""Structures of kms/providers, and how they relate to the document. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from trusted_infrastructure.config import documents
from trusted_infrastructure.manager.comparison import Health
from trusted_infrastructure.manager.operations.structures import KMIP_PORT, NetworkAddress, address_of
from trusted_infrastructure.manager.vapi.errors import LocalizableMessage
from trusted_infrastructure.manager.vapi.structure import FieldError, Identifier, Structure, check_name

Timeout = Annotated[int, msgspec.Meta(ge=1, le=300)]
PROXY_PORT = 1080
Userspace = Literal["verity", "ima", "none"]


class Server(Structure, frozen=True):
    """A KMIP server; port 5696 by default."""

    name: Identifier
    address: NetworkAddress


class KmipServerCreateSpec(Structure, frozen=True):
    """The KMIP servers of a provider, which replicate keys."""

    servers: list[Server]
    username: Identifier | None = None

    def __post_init__(self) -> None:
        check_servers(self.servers)


class KeyServerCreateSpec(Structure, frozen=True):
    """The key server of a provider."""

    type: Literal["KMIP"]
    description: str | None = None
    proxy_server: NetworkAddress | None = None
    connection_timeout: Timeout | None = None
    kmip_server: KmipServerCreateSpec | None = None

    def __post_init__(self) -> None:
        if self.kmip_server is None:
            raise FieldError("kmip_server", "is required for type KMIP")


class CreateSpec(Structure, frozen=True):
    """A provider: one primary key that exists on its key servers.

    required_userspace is ours: what a host's base image must cover to be given keys."""

    provider: Identifier
    master_key_id: Identifier
    key_server: KeyServerCreateSpec
    required_userspace: Userspace = "none"

    def __post_init__(self) -> None:
        check_name("provider", self.provider)

    def content(self) -> documents.KeyProvider:
        """As the document holds it."""
        key_server = self.key_server
        kmip = key_server.kmip_server
        return documents.KeyProvider(
            master_key_id=self.master_key_id,
            servers=[] if kmip is None else [server_document(server) for server in kmip.servers],
            description=key_server.description or "",
            username=None if kmip is None else kmip.username,
            proxy_server=proxy_document(key_server.proxy_server),
            connection_timeout=key_server.connection_timeout or DEFAULT_TIMEOUT,
            required_userspace=self.required_userspace,
        )


class KmipServerUpdateSpec(Structure, frozen=True):
    """servers: replaces the whole list. Unset: unchanged."""

    servers: list[Server] | None = None
    username: Identifier | None = None

    def __post_init__(self) -> None:
        if self.servers is not None:
            check_servers(self.servers)


class KeyServerUpdateSpec(Structure, frozen=True):
    """Unset: unchanged."""

    type: Literal["KMIP"] | None = None
    description: str | None = None
    proxy_server: NetworkAddress | None = None
    connection_timeout: Timeout | None = None
    kmip_server: KmipServerUpdateSpec | None = None


class UpdateSpec(Structure, frozen=True):
    """Unset: unchanged. master_key_id: another primary key for new keys, which is a rotation."""

    master_key_id: Identifier | None = None
    key_server: KeyServerUpdateSpec | None = None
    required_userspace: Userspace | None = None

    @property
    def has_settings(self) -> bool:
        """Whether anything but the primary key is given."""
        return self.key_server is not None or self.required_userspace is not None

    def applied_to(self, before: documents.KeyProvider) -> documents.KeyProvider:
        """The document with these changes, but for the primary key."""
        key_server = self.key_server or KeyServerUpdateSpec()
        kmip = key_server.kmip_server or KmipServerUpdateSpec()
        values: dict[str, object] = {
            "description": key_server.description,
            "proxy_server": proxy_document(key_server.proxy_server),
            "connection_timeout": key_server.connection_timeout,
            "servers": None if kmip.servers is None else [server_document(item) for item in kmip.servers],
            "username": kmip.username,
            "required_userspace": self.required_userspace,
        }
        changes = {name: value for name, value in values.items() if value is not None}
        return msgspec.structs.replace(before, **changes)


class KeyAvailability(Structure, frozen=True):
    """A primary key on one key server. available: every host has it from there. state: KMIP's, ACTIVE or
    DEACTIVATED, empty where none has it; code: why a host has it not."""

    master_key_id: str
    available: bool
    state: str
    code: str


class ServerInfo(Structure, frozen=True):
    """How a key server does, and who trusts whom. keys is ours: the primary keys, the one that wraps
    first."""

    health: Health
    details: list[LocalizableMessage]
    client_trust_server: bool
    server_trust_client: bool
    name: str
    keys: list[KeyAvailability] = []


class Status(Structure, frozen=True):
    """How a provider does."""

    health: Health
    details: list[LocalizableMessage]
    servers: list[ServerInfo]


class KmipServerInfo(Structure, frozen=True):
    """The KMIP servers."""

    servers: list[Server]
    username: str | None = None


class KeyServerInfo(Structure, frozen=True):
    """The key server."""

    type: Literal["KMIP"]
    description: str
    proxy_server: NetworkAddress | None = None
    connection_timeout: int | None = None
    kmip_server: KmipServerInfo | None = None


class Info(Structure, frozen=True):
    """A provider. has_credential is ours: a password was set, for the key servers, proxy and trusted
    certificates that the provider has now; it cannot be read. So is previous_master_key_ids: earlier primary
    keys, which still open; while there are any, there is no other rotation."""

    master_key_id: str
    key_server: KeyServerInfo
    status: Status
    required_userspace: str
    has_credential: bool
    previous_master_key_ids: list[str]


DEFAULT_TIMEOUT = 10


def check_servers(servers: list[Server]) -> None:
    """At least one, with different names. Raises FieldError."""
    if not servers:
        raise FieldError("servers", "must have at least one server")
    names = [server.name for server in servers]
    for position, name in enumerate(names):
        if name in names[:position]:
            raise FieldError(f"servers[{position}].name", f"{name!r} is there twice")


def server_document(server: Server) -> documents.KmipServer:
    """As the document holds it."""
    return documents.KmipServer(server.name, server.address.document(KMIP_PORT))


def proxy_document(address: NetworkAddress | None) -> documents.NetworkAddress | None:
    """As the document holds it."""
    return None if address is None else address.document(PROXY_PORT)


def key_server_info(content: documents.KeyProvider) -> KeyServerInfo:
    """As the API gives it."""
    servers = [Server(name=item.name, address=address_of(item.address)) for item in content.servers]
    return KeyServerInfo(
        type="KMIP",
        description=content.description,
        proxy_server=None if content.proxy_server is None else address_of(content.proxy_server),
        connection_timeout=content.connection_timeout,
        kmip_server=KmipServerInfo(servers=servers, username=content.username),
    )
