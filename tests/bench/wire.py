# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP/1.1 over TLS as a load generator needs it: requests are bytes that were made before, and an answer is
read as far as its length says. It costs a fifth of what an HTTP client does, so that the figures are those of
the service.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from pathlib import Path

from bench.front import ADDRESS, Front

MAX_HEADERS = 16384


def request(host: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    """A POST with a body, else a GET."""
    method = "POST" if body else "GET"
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def source(number: int) -> str:
    """An address of its own for each host: nginx limits requests for each address."""
    return f"127.{1 + number // 62500}.{number // 250 % 250}.{1 + number % 250}"


@dataclass
class Wire:
    """A connection that stays open."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def open(cls, front: Front, context: ssl.SSLContext, number: int) -> Wire:
        """From the address of host `number`. context: from `trusting`."""
        reader, writer = await asyncio.open_connection(
            ADDRESS,
            front.port,
            ssl=context,
            server_hostname=front.host,
            local_addr=(source(number), 0),
            limit=MAX_HEADERS,
        )
        return cls(reader, writer)

    async def ask(self, message: bytes) -> tuple[int, bytes]:
        """Status and body of the answer. Raises OSError, EOFError, ValueError where there is none."""
        self.writer.write(message)
        head = await self.reader.readuntil(b"\r\n\r\n")
        status, lowered = int(head[9:12]), head.lower()
        begin = lowered.index(b"content-length:") + len(b"content-length:")
        length = int(lowered[begin : lowered.index(b"\r\n", begin)])
        return status, await self.reader.readexactly(length)

    def close(self) -> None:
        """Close, without a farewell."""
        self.writer.transport.abort()


def trusting(ca: Path) -> ssl.SSLContext:
    """Trusts the side's CA alone."""
    return ssl.create_default_context(cafile=str(ca))
