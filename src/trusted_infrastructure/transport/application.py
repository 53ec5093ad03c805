# SPDX-License-Identifier: GPL-3.0-or-later
"""An ASGI application as every service builds it: routes, limits, errors, and who may call.

The order of the checks is fixed here, so that no service can forget one: time, who calls (management
sockets), size, route. Whatever is raised below becomes an error answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote_to_bytes

from starlette.routing import BaseRoute, Router
from starlette.types import Message, Receive, Scope, Send

from trusted_infrastructure.refusal import InvalidField, Refusal, Unavailable, stopping
from trusted_infrastructure.transport.errors import error_answer, log_refusal, refusal_of

BODY_LIMIT = 1 << 20
TIME_LIMIT = 30.0
CONCURRENCY = 256
CERTIFICATE_HEADER = b"x-client-certificate"
CERTIFICATE_LIMIT = 16 * 1024


class Caller(Protocol):
    """Who a client certificate speaks for: `request.state.caller` on a management socket."""

    @property
    def role(self) -> str: ...

    @property
    def host(self) -> str: ...


AuthenticateClient = Callable[[bytes], Caller]
"""Judges a client certificate (PEM). Raises Refusal (certificate_invalid, certificate_expired)."""


@dataclass
class Application:
    """The ASGI application of one socket.

    routes: Starlette routes. authenticate_client: set on management sockets; judges the certificate that
    nginx forwards, on every path, known or not. body_limit: bytes. time_limit: seconds for the whole request.
    concurrency: requests at once; more are refused at once, which is kinder than all of them being slow.
    """

    routes: Sequence[BaseRoute]
    authenticate_client: AuthenticateClient | None = None
    body_limit: int = BODY_LIMIT
    time_limit: float = TIME_LIMIT
    concurrency: int = CONCURRENCY

    def __post_init__(self) -> None:
        self._router = Router(self.routes, redirect_slashes=False)
        self._active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        answer = _Answer(send)
        self._active += 1
        try:
            async with asyncio.timeout(self.time_limit):
                await self._serve(scope, receive, answer)
        except Exception as error:  # the boundary: nothing may leave a service as a traceback
            refusal = refusal_of(error, scope)
            log_refusal(refusal, scope, _header(scope, b"x-real-ip").decode("latin-1"))
            if answer.started:
                raise ConnectionError("the answer was already under way") from None
            await error_answer(refusal)(scope, receive, send)
        except asyncio.CancelledError:
            # The server's, of what did not end within the grace of a stop. Its own answer is a bare 500.
            if not answer.started:
                await error_answer(stopping())(scope, receive, send)
            raise
        finally:
            self._active -= 1

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._active > self.concurrency:
            raise Unavailable("service_busy", "too many requests at once", "try again in a moment")
        scope["app"] = self  # makes Starlette's router raise for unknown paths and methods
        if self.authenticate_client is not None:
            caller = self.authenticate_client(forwarded_certificate(scope))
            scope.setdefault("state", {})["caller"] = caller
        await self._router(scope, _Limited(scope, receive, self.body_limit), send)


class _Answer:
    """Remembers whether an answer has started: after that, no error answer can be sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def __call__(self, message: Message) -> None:
        self.started = True
        await self._send(message)


class _Limited:
    """Counts the body's bytes; refuses at the limit, whatever Content-Length says."""

    def __init__(self, scope: Scope, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._seen = 0
        declared = _header(scope, b"content-length")
        self._declared = int(declared[:19]) if declared.isdigit() else 0

    def _too_large(self) -> Refusal:
        return Refusal("request_too_large", f"the body is larger than {self._limit} bytes", status=413)

    async def __call__(self) -> Message:
        # Not before the handler asks for the body: so it is the handler that is refused, and records it.
        if self._declared > self._limit:
            raise self._too_large()
        message = await self._receive()
        self._seen += len(message.get("body", b""))
        if self._seen > self._limit:
            raise self._too_large()
        return message


def forwarded_certificate(scope: Scope) -> bytes:
    """The client certificate (PEM) that nginx forwards URL-escaped in X-Client-Certificate.

    Raises Refusal `client_certificate_missing` (401), or InvalidField where the header is there twice or is
    too large: then somebody else than our nginx wrote it.
    """
    values = [value for name, value in scope["headers"] if name == CERTIFICATE_HEADER]
    if len(values) > 1:
        raise InvalidField("X-Client-Certificate", "is there more than once")
    if not values or not values[0]:
        raise Refusal(
            "client_certificate_missing",
            "this address answers only to a client certificate of its own side",
            "call the host's config name with the manager's certificate",
            status=401,
        )
    if len(values[0]) > CERTIFICATE_LIMIT:
        raise InvalidField("X-Client-Certificate", f"is larger than {CERTIFICATE_LIMIT} bytes")
    return unquote_to_bytes(values[0])


def _header(scope: Scope, name: bytes) -> bytes:
    """First value of a header, or empty."""
    return next((value for key, value in scope["headers"] if key == name), b"")
