# SPDX-License-Identifier: GPL-3.0-or-later
"""The routes for the manager of this side: health, client credentials, key servers' certificates, use of
keys.

Secrets leave only sealed to the hosts that the manager names. What trusts nobody new (status, presented
certificates, check values, use) is read; what makes a secret stores nothing: the manager puts it in the
document.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from trusted_infrastructure.audit import AuditLog, Decision, Detail
from trusted_infrastructure.config.documents import KeyProvider, Name
from trusted_infrastructure.key_provider import client_credentials
from trusted_infrastructure.key_provider.client_credentials import (
    HostsToSealTo,
    client_name,
    private_key_purpose,
    seal_for,
)
from trusted_infrastructure.key_provider.health import service_status
from trusted_infrastructure.key_provider.host_state import HostState
from trusted_infrastructure.key_provider.provider_documents import client_credentials as opened_credentials
from trusted_infrastructure.key_provider.provider_documents import key_servers
from trusted_infrastructure.key_provider.usage import Usage
from trusted_infrastructure.kmip import client_certificates
from trusted_infrastructure.kmip.connection import ClientCredentials, KeyServer, presented_certificate
from trusted_infrastructure.refusal import InvalidField, Refusal
from trusted_infrastructure.transport import JSONAnswer

BODY_LIMIT = 1 << 20
Body = TypeVar("Body", bound=msgspec.Struct)


class PrimaryKeyWanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `check_value`."""

    master_key_id: Name


class ManagementRoutes:
    """The management application's handlers. The transport has verified that a manager of this side calls."""

    def __init__(self, state: HostState, audit: AuditLog, usage: Usage) -> None:
        self._state = state
        self._audit = audit
        self._usage = usage

    def routes(self) -> list[BaseRoute]:
        """The routes."""
        provider = "/kms/manage/v1/providers/{provider:path}"
        return [
            Route("/kms/manage/v1/status", self.status, methods=["GET"]),
            Route("/kms/manage/v1/sealing-key", self.sealing_key, methods=["GET"]),
            Route(f"{provider}/client-certificate", self.client_certificate, methods=["POST"]),
            Route(f"{provider}/csr", self.csr, methods=["POST"]),
            Route(f"{provider}/reseal", self.reseal, methods=["POST"]),
            Route(f"{provider}/peer-certs", self.peer_certs, methods=["GET"]),
            Route(f"{provider}/check-value", self.check_value, methods=["POST"]),
            Route(f"{provider}/usage", self.usage, methods=["GET"]),
        ]

    async def status(self, _request: Request) -> Response:
        """Health of the service, of each provider and of each key server, as last seen; asks nobody."""
        return JSONAnswer(service_status(self._state))

    async def sealing_key(self, _request: Request) -> Response:
        """This host's configuration key, for the manager and its peers to seal to."""
        key = self._state.sealing_key
        return JSONAnswer({"suite": key.suite, "public_key": key.public_bytes()})

    async def client_certificate(self, request: Request) -> Response:
        """A new client key and self-signed certificate: {certificate, private_key: Sealed}."""
        name, hosts = request.path_params["provider"], _decode(await request.body(), HostsToSealTo)
        self._document(name)
        key, certificate = client_certificates.self_signed(client_name(name), int(self._state.clock()))
        sealed = seal_for(key, hosts.hosts, private_key_purpose(name))
        await self._record("client_certificate_made", name, sealed_for=sorted(hosts.hosts))
        return JSONAnswer({"certificate": certificate, "private_key": sealed})

    async def csr(self, request: Request) -> Response:
        """A new client key and a certificate request for it: {csr, private_key: Sealed}."""
        name, hosts = request.path_params["provider"], _decode(await request.body(), HostsToSealTo)
        self._document(name)
        key, csr = client_certificates.certificate_request(client_name(name))
        sealed = seal_for(key, hosts.hosts, private_key_purpose(name))
        await self._record("certificate_request_made", name, sealed_for=sorted(hosts.hosts))
        return JSONAnswer({"csr": csr, "private_key": sealed})

    async def reseal(self, request: Request) -> Response:
        """A provider's secrets, sealed for further hosts: {client_private_key, csr_private_key, password}."""
        name, hosts = request.path_params["provider"], _decode(await request.body(), HostsToSealTo)
        document, state = self._document(name), self._state
        sealed = await asyncio.to_thread(
            client_credentials.reseal, name, document, state.host, state.sealing_key, hosts.hosts
        )
        await self._record("secrets_resealed", name, sealed_for=sorted(hosts.hosts))
        return JSONAnswer(sealed)

    async def peer_certs(self, request: Request) -> Response:
        """What each key server presents: [{server_name, certificate?, error?}]. Trusts nothing."""
        name = request.path_params["provider"]
        document = self._document(name)
        credentials = self._credentials_if_any(name, document)
        found = await asyncio.gather(
            *(asyncio.to_thread(_presented, server, credentials) for server in key_servers(document))
        )
        return JSONAnswer(found)

    async def check_value(self, request: Request) -> Response:
        """The check value that all key servers agree on: {master_key_id, check_value}.

        Body: none, for the provider's own primary key; or {master_key_id}, for one that is to wrap from now
        on: then every server must have it, active.
        """
        name, body = request.path_params["provider"], await request.body()
        await self._state.take_configuration()
        document = self._document(name)
        candidate = _decode(body, PrimaryKeyWanted).master_key_id if body else None
        keys = self._state.primary_keys
        value = await asyncio.to_thread(keys.first_check_value, name, candidate)
        key_id = candidate or document.master_key_id
        await self._record("primary_key_check_value_read", name, primary_key_id=key_id)
        return JSONAnswer({"master_key_id": key_id, "check_value": value})

    async def usage(self, request: Request) -> Response:
        """What this host knows of who keeps keys of a provider: {usage: [HostUsage]}."""
        name = request.path_params["provider"]
        self._document(name)
        return JSONAnswer({"usage": await asyncio.to_thread(self._usage.of, name)})

    def _document(self, name: str) -> KeyProvider:
        document = self._state.snapshot().get("key_provider", name, KeyProvider)
        if document is None:
            raise Refusal("provider_unknown", f"this host has no provider {name[:255]!r}", status=404)
        return document

    def _credentials_if_any(self, name: str, document: KeyProvider) -> ClientCredentials | None:
        try:
            # A server that is only looked at gets no password.
            return opened_credentials(name, document, self._state.host, self._state.sealing_key, None)
        except Refusal:
            return None  # a key server's certificate can be seen without

    async def _record(self, code: str, provider: str, **detail: Detail) -> None:
        decision = Decision(
            time=int(self._state.clock()),
            service=self._state.service_id,
            host="",
            address="",
            code=code,
            detail={"provider": provider, **detail},
        )
        await asyncio.to_thread(self._audit.append, decision)


def _presented(server: KeyServer, credentials: ClientCredentials | None) -> dict[str, Any]:
    try:
        return {"server_name": server.name, "certificate": presented_certificate(server, credentials)}
    except Refusal as refusal:
        return {"server_name": server.name, "error": refusal.message}


def _decode(body: bytes, struct: type[Body]) -> Body:
    try:
        return msgspec.json.decode(body, type=struct)
    except msgspec.ValidationError as error:
        reason, _separator, path = str(error).partition(" - at `$")
        raise InvalidField(path.rstrip("`").lstrip(".") or "body", reason) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidField("body", f"is not JSON: {error}") from None
