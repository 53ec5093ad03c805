# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers that are files: headers that no name breaks, and pieces that are never taken for the whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from email.message import Message

import httpx
import pytest

from trusted_infrastructure.manager.vapi.download import Download
from trusted_infrastructure.manager.vapi.rest import download_response


@pytest.mark.parametrize(
    "name",
    [
        "events.csv",
        'a"; filename="b.exe',
        "a\r\nx-header: 1",
        "Grüße 🔑.p12",
        "../../etc/passwd",
        "a;b=c",
        "%41",
    ],
)
def test_a_name_stays_a_name(name: str) -> None:
    headers = Download(b"", "text/csv", name).headers
    line = headers["content-disposition"]
    assert line.isascii() and line.isprintable()
    parsed = Message()
    parsed["content-disposition"] = line.partition("; filename*=")[0]
    plain = parsed.get_filename()
    assert plain is not None and not set(plain) & set('"/\\;\r\n')
    # RFC 8187: the name as it is.
    assert httpx.URL(f"https://x/?n={line.rpartition('UTF-8' + chr(39) * 2)[2]}").params["n"] == name


def test_content_is_not_shown() -> None:
    assert "secret" not in repr(Download(b"secret", "text/csv", "x"))


def test_a_file_that_breaks_off_is_an_error() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"first"
        raise RuntimeError("the database is gone")

    async def scene() -> None:
        application = download_response(Download(pieces(), "text/csv", "x"), 200)
        transport = httpx.ASGITransport(app=application)
        async with httpx.AsyncClient(transport=transport, base_url="https://x") as client:
            with pytest.raises(RuntimeError):
                await client.get("/")

    asyncio.run(scene())
