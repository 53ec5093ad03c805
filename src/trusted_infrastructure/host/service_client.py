# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTPS to the Trust Authority's services, verified against this host's anchor and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import httpx

from trusted_infrastructure.host.registered_services import Service
from trusted_infrastructure.messages import Message, decode
from trusted_infrastructure.refusal import InvalidField, Unavailable
from trusted_infrastructure.transport import check_success, public_client, unreachable

TIMEOUT = 10.0


class ServiceClient:
    """One connection pool. It is made anew when the anchor changes.

    client_for: makes the client that trusts an anchor (PEM) alone; tests give one that runs an application in
    this process.
    """

    def __init__(self, client_for: Callable[[str], httpx.AsyncClient] | None = None) -> None:
        self._client_for = client_for or (lambda anchor: public_client(anchor, timeout=TIMEOUT))
        self._anchor = ""
        self._client: httpx.AsyncClient | None = None

    async def trust(self, anchor: str) -> None:
        """Trust `anchor` (PEM) from now on. Raises Refusal `certificate_invalid`."""
        if self._client is not None and anchor == self._anchor:
            return
        client = self._client_for(anchor)
        await self.close()
        self._client, self._anchor = client, anchor

    async def close(self) -> None:
        """Close connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def get(self, service: Service, path: str) -> httpx.Response:
        """GET; see `post`."""
        return await self._request("GET", service, path, None, {})

    async def post(
        self,
        service: Service,
        path: str,
        body: bytes,
        message: type[Message],
        headers: Mapping[str, str] | None = None,
    ) -> Message:
        """POST JSON; the answer as `message`.

        Raises the service's own Refusal, or Unavailable: peer_unreachable, certificate_expired,
        peer_answer_invalid.
        """
        response = await self._request("POST", service, path, body, headers or {})
        try:
            return decode(response.content, message)
        except InvalidField as error:
            raise Unavailable(
                "peer_answer_invalid",
                f"{service.name} gave an answer that is not understood: {error.message}",
                "check that the service has a release that this host understands",
            ) from None

    async def _request(
        self, method: str, service: Service, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> httpx.Response:
        if self._client is None:
            raise Unavailable("anchor_missing", "this host has no anchor yet", "run site.yml for this host")
        content_type = {} if body is None else {"content-type": "application/json"}
        try:
            response = await self._client.request(
                method, service.url + path, content=body, headers={**headers, **content_type}
            )
        except httpx.HTTPError as error:
            raise unreachable(service.name, error) from None
        check_success(response, service.name)
        return response
