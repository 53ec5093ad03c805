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
    """A connection that stays open, from the address of host `number`. context: from `trusting`."""

    front: Front
    context: ssl.SSLContext
    number: int
    _reader: asyncio.StreamReader | None = None
    _writer: asyncio.StreamWriter | None = None

    async def ask(self, message: bytes) -> tuple[int, bytes]:
        """Status and body of the answer. Raises OSError, EOFError, ValueError where there is none."""
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(
                ADDRESS,
                self.front.port,
                ssl=self.context,
                server_hostname=self.front.host,
                local_addr=(source(self.number), 0),
                limit=MAX_HEADERS,
            )
        reader = self._reader
        self._writer.write(message)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        begin = head.index(b"content-length:") + len(b"content-length:")
        body = await reader.readexactly(int(head[begin : head.index(b"\r\n", begin)]))
        if b"connection: close" in head:  # nginx, after a thousand requests
            self.close()
        return int(head[9:12]), body

    def close(self) -> None:
        """Close, without a farewell."""
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None


def trusting(ca: Path) -> ssl.SSLContext:
    """Trusts the side's CA alone."""
    return ssl.create_default_context(cafile=str(ca))
