# SPDX-License-Identifier: GPL-3.0-or-later
"""The operations as REST below /api: an ASGI application made from the table."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Sequence
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from trusted_infrastructure.manager.context import Basic, Manager
from trusted_infrastructure.manager.vapi.binding import bind
from trusted_infrastructure.manager.vapi.dispatch import Caller, authenticate, explain, locate, perform
from trusted_infrastructure.manager.vapi.download import Download
from trusted_infrastructure.manager.vapi.errors import InvalidArgument, NotFound, VapiError
from trusted_infrastructure.manager.vapi.routing import Router, check_task_parameter

PREFIX = "/api"
SESSION_HEADER = "vmware-api-session-id"
ADDRESS_HEADER = "x-real-ip"  # set by the reverse proxy, which alone reaches the socket
QUERY_LIMIT = 16384
TIME_LIMIT = 90.0


class RestApi:
    """ASGI application for /api of one manager."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._router = Router(manager.table)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await (await self._answer(Request(scope, receive)))(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        try:
            async with asyncio.timeout(TIME_LIMIT):
                return await self._handle(request)
        except Exception as error:
            return error_response(explain(error))

    async def _handle(self, request: Request) -> Response:
        path = raw_path(request)
        query = query_pairs(request)
        match = self._router.find(request.method, path, query)
        operation = match.operation
        context = await authenticate(self._manager, operation, caller_of(request))
        check_task_parameter(operation, query)
        context = await locate(context, operation, match.path)
        body = await read_body(request, operation.limit)
        values = bind(operation, match.path, query, body)
        result = await perform(context, operation, values, match.path)
        if operation.output is None and not operation.task:
            return Response(status_code=operation.status)
        if isinstance(result, Download):
            return download_response(result, operation.status)
        return json_response(result, operation.status)


def raw_path(request: Request) -> str:
    """The path below /api, still percent-encoded. Raises NotFound for other paths."""
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    path = raw.split(b"?")[0].decode("ascii", "replace")
    if path != PREFIX and not path.startswith(PREFIX + "/"):
        raise NotFound(
            f"There is nothing at {path[:200]!r}; the API begins with {PREFIX}.", reason="no_operation"
        )
    return path.removeprefix(PREFIX)


def query_pairs(request: Request) -> Sequence[tuple[str, str]]:
    """Decoded query parameters in order. Raises InvalidArgument."""
    raw: bytes = request.scope.get("query_string", b"")
    if len(raw) > QUERY_LIMIT:
        raise InvalidArgument("query", f"is longer than {QUERY_LIMIT} bytes")
    try:
        return parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, strict_parsing=bool(raw), errors="strict"
        )
    except (ValueError, UnicodeDecodeError):
        raise InvalidArgument("query", "is not a list of name=value pairs in UTF-8") from None


async def read_body(request: Request, limit: int) -> bytes:
    """The body. Raises InvalidArgument when it is larger than the operation takes."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise InvalidArgument("body", f"is larger than {limit} bytes")
    return bytes(body)


def caller_of(request: Request) -> Caller:
    """Session id, credentials and address of a request. Raises InvalidArgument for a broken header."""
    authorization = request.headers.get("authorization")
    return Caller(
        address=request.headers.get(ADDRESS_HEADER, "")[:64],
        session=request.headers.get(SESSION_HEADER),
        basic=None if authorization is None else basic_credentials(authorization),
        bearer=None if authorization is None else bearer_token(authorization),
    )


def basic_credentials(header: str) -> Basic | None:
    """User and password of an RFC 7617 header (UTF-8); None for another or a malformed one."""
    scheme, _separator, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, separator, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return Basic(name, password) if separator else None


def bearer_token(header: str) -> str | None:
    """The token of an RFC 6750 header; None for another."""
    scheme, _separator, token = header.partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def json_response(content: object, status: int) -> Response:
    """A JSON answer; it may be about secrets, so nobody keeps it."""
    return Response(
        msgspec.json.encode(content),
        status_code=status,
        media_type="application/json",
        headers={"cache-control": "no-store"},
    )


def download_response(download: Download, status: int) -> Response:
    """A file, at once or in pieces."""
    content = download.content
    if isinstance(content, bytes):
        return Response(content, status, download.headers, download.media_type)
    return StreamingResponse(content, status, download.headers, download.media_type)


def error_response(error: VapiError) -> Response:
    """The REST form of an error."""
    response = json_response(error.body(), error.status)
    response.headers.update(error.headers)
    return response
