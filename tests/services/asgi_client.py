# SPDX-License-Identifier: GPL-3.0-or-later
"""A blocking client of an ASGI application, without a socket."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx


class AsgiClient:
    """Calls `app` with `headers` on every request."""

    def __init__(self, app: Any, headers: dict[str, str] | None = None) -> None:
        self.app = app
        self.headers = headers or {}

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def call() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(
                transport=transport, base_url="https://test", headers=self.headers
            ) as client:
                return await client.request(method, path, **options)

        return asyncio.run(call())

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)
