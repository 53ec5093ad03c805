# SPDX-License-Identifier: GPL-3.0-or-later
"""How a manager talks to its hosts: mTLS to the `config` front door of each (docs/protocol.md 1)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import httpx
import msgspec
import structlog

from trusted_infrastructure.manager.comparison import Applied
from trusted_infrastructure.manager.vapi.errors import LocalizableMessage, ResourceInaccessible, message
from trusted_infrastructure.transport import ANSWER_LIMIT, AnswerRefused

Answer = TypeVar("Answer")
# What the agent answers to its manager is below this path.
AGENT = "/agent/manage/v1"
# Of a host's error: it goes into events, tasks and health, and no service's is longer.
CODE_LIMIT, TEXT_LIMIT = 64, 4096
log = structlog.get_logger("trusted_infrastructure.manager")


class NodeError(Exception):
    """A host did not do what it was asked. code: reason code, `unreachable` when there was no answer.

    status: HTTP status of its answer, 0 without one. text: plain words, without the host's name.
    """

    def __init__(self, host: str, code: str, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.host = host
        self.code = code
        self.text = text
        self.status = status

    def __str__(self) -> str:
        return f"{self.host}: {self.text}"

    @property
    def unreachable(self) -> bool:
        """Whether there was no answer at all."""
        return self.status == 0

    def message(self) -> LocalizableMessage:
        """For an answer of the API."""
        return message(str(self), self.code, self.host)

    def error(self) -> ResourceInaccessible:
        """The API's error where this one host is what matters."""
        return ResourceInaccessible(str(self), self.host, reason=self.code)


class Nodes(Protocol):
    """Calls to hosts by inventory name; every failure is a NodeError."""

    async def call(
        self, host: str, method: str, path: str, content: Any = None, timeout: float | None = None
    ) -> bytes:
        """The body of a host's 2xx answer. path: absolute, such as "/config/v1/documents". content: anything
        msgspec can encode as JSON. timeout: seconds, where it takes longer than others."""

    async def close(self) -> None:
        """Closes connections."""


class HttpNodes:
    """Nodes over HTTPS: https://config.<host><path>, one pooled client for each host.

    client_for: makes the client of a host; tests give one that runs the host's application in this process.
    """

    def __init__(self, client_for: Callable[[str], httpx.AsyncClient]) -> None:
        self._client_for = client_for
        self._clients: dict[str, httpx.AsyncClient] = {}

    async def call(
        self, host: str, method: str, path: str, content: Any = None, timeout: float | None = None
    ) -> bytes:
        if host not in self._clients:
            self._clients[host] = self._client_for(host)
        body = None if content is None else msgspec.json.encode(content)
        headers = {} if body is None else {"content-type": "application/json"}
        try:
            answer = await self._clients[host].request(
                method,
                f"https://config.{host}{path}",
                content=body,
                headers=headers,
                timeout=httpx.USE_CLIENT_DEFAULT if timeout is None else timeout,
            )
        except AnswerRefused as error:
            raise NodeError(host, error.code, str(error), error.status) from None
        except httpx.TimeoutException:
            raise NodeError(host, "unreachable", "did not answer in time") from None
        except httpx.HTTPError as error:
            log.debug("node_unreachable", host=host, path=path, error=str(error))
            raise unreached(host, str(error)[:200] or type(error).__name__) from None
        if answer.is_success:
            return answer.content
        raise refused(host, answer)

    async def close(self) -> None:
        await asyncio.gather(*(client.aclose() for client in self._clients.values()))
        self._clients.clear()


def unreached(host: str, reason: str) -> NodeError:
    """The error for a connection that failed; an expired certificate, on either side, has its own code."""
    if "certificate has expired" in reason or "certificate expired" in reason:
        text = f"the TLS certificate has expired ({reason}); site.yml renews certificates"
        return NodeError(host, "certificate_expired", text)
    return NodeError(host, "unreachable", f"cannot be reached: {reason}")


def refused(host: str, answer: httpx.Response) -> NodeError:
    """The error for an answer that is not 2xx: the services' own form, or a proxy's."""
    try:
        content = msgspec.json.decode(answer.content)["error"]
        text = f"{content['message']} {content.get('remedy', '')}".strip()
        return NodeError(host, str(content["code"])[:CODE_LIMIT], text[:TEXT_LIMIT], answer.status_code)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError, AttributeError):
        return NodeError(
            host,
            "service_down" if answer.status_code in {502, 503, 504} else "unexpected_answer",
            f"its service answered with status {answer.status_code}",
            answer.status_code,
        )


def decode_answer(host: str, body: bytes, wanted: type[Answer], limit: int = ANSWER_LIMIT) -> Answer:
    """A host's JSON answer of at most `limit` bytes as a type. Raises NodeError."""
    if len(body) > limit:
        text = f"gave an answer of more than {limit} bytes"
        raise NodeError(host, AnswerRefused.code, text, 200)
    try:
        return msgspec.json.decode(body, type=wanted)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NodeError(host, "unexpected_answer", f"gave an unexpected answer: {error}", 200) from None


async def ask(
    nodes: Nodes,
    host: str,
    method: str,
    path: str,
    wanted: type[Answer],
    content: Any = None,
    timeout: float | None = None,
    limit: int = ANSWER_LIMIT,
) -> Answer:
    """Calls a host and decodes its answer. limit: of its bytes, less where `wanted` leaves open what is
    in it. Raises NodeError."""
    return decode_answer(host, await nodes.call(host, method, path, content, timeout), wanted, limit)


async def applied(nodes: Nodes, host: str) -> Applied:
    """The documents that a host has applied. Raises NodeError."""
    return await ask(nodes, host, "GET", "/config/v1/documents", Applied)


async def ask_all(
    nodes: Nodes, hosts: list[str], method: str, path: str, wanted: type[Answer]
) -> Mapping[str, Answer | NodeError]:
    """Asks several hosts at once: by host, the answer or what went wrong."""

    async def one(host: str) -> Answer | NodeError:
        try:
            return await ask(nodes, host, method, path, wanted)
        except NodeError as error:
            return error

    return dict(zip(hosts, await asyncio.gather(*(one(host) for host in hosts)), strict=True))
