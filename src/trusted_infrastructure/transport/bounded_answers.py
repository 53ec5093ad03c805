# SPDX-License-Identifier: GPL-3.0-or-later
"""What a client reads of an answer: no more than a limit, for no longer than a limit, from whoever answers.

It lies below the client, so that nothing that is built on the client can go around it. Answers are not asked
for compressed, and one that is compressed is refused: what it becomes is only known when it is in memory.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import TypeVar

import httpx

Result = TypeVar("Result")

ANSWER_LIMIT = 16 << 20
# Of an error, and of what is decoded into no type: empty objects take 24 times their length in memory then.
UNTYPED_LIMIT = 1 << 20
# Seconds from the request to the answer's last byte, beyond those that the peer may take to begin.
TRANSFER_TIME = 30.0


class AnswerRefused(httpx.TransportError):
    """An answer that is not read, or not to its end. code: reason code. status: HTTP status of the answer."""

    code = "answer_refused"

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class BoundedAnswers(httpx.AsyncBaseTransport):
    """Another transport, with its answers bounded.

    Raises AnswerRefused for what is too large or compressed, httpx.ReadTimeout for what takes too long.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        allowed = (request.extensions.get("timeout", {}).get("read") or 0.0) + TRANSFER_TIME
        clock = _Clock(allowed, asyncio.get_running_loop().time() + allowed)
        response = await clock.within(self._inner.handle_async_request(request))
        try:
            _check_head(response)
        except AnswerRefused:
            await response.aclose()
            raise
        return httpx.Response(
            response.status_code,
            # A cookie would be kept, and sent: no service of ours has one.
            headers=[pair for pair in response.headers.raw if pair[0].lower() != b"set-cookie"],
            stream=_Bounded(response, clock),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        await self._inner.aclose()


@dataclass(frozen=True)
class _Clock:
    """allowed: seconds for the whole answer. end: when they are over, of the event loop's clock."""

    allowed: float
    end: float

    async def within(self, step: Awaitable[Result]) -> Result:
        """The result of a step of reading. Raises httpx.ReadTimeout; httpx.ReadError where the peer ends TLS
        with an alert after the handshake, as TLS 1.3 refuses a client certificate: httpx passes it on."""
        try:
            async with asyncio.timeout_at(self.end):
                return await step
        except TimeoutError:
            raise httpx.ReadTimeout(f"the answer was not whole within {self.allowed:.0f} s") from None
        except ssl.SSLError as error:
            raise httpx.ReadError(str(error)) from error


class _Bounded(httpx.AsyncByteStream):
    """The body of an answer."""

    def __init__(self, response: httpx.Response, clock: _Clock) -> None:
        self._response = response
        self._clock = clock

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces, seen = self._response.aiter_raw(), 0
        while (piece := await self._clock.within(anext(pieces, None))) is not None:
            seen += len(piece)
            if seen > _limit(self._response):
                raise _too_large(self._response)
            yield piece

    async def aclose(self) -> None:
        await self._response.aclose()


def _check_head(response: httpx.Response) -> None:
    encoding = response.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        text = f"gave a compressed answer ({encoding[:32]!r}), which was not asked for"
        raise AnswerRefused(text, response.status_code)
    declared = response.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:19]) > _limit(response):
        raise _too_large(response)


def _limit(response: httpx.Response) -> int:
    return ANSWER_LIMIT if response.is_success else UNTYPED_LIMIT


def _too_large(response: httpx.Response) -> AnswerRefused:
    return AnswerRefused(f"gave an answer of more than {_limit(response)} bytes", response.status_code)
