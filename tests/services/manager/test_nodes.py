# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host that means harm can answer its manager."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from trusted_infrastructure.manager import nodes
from trusted_infrastructure.manager.comparison import Applied
from trusted_infrastructure.manager.nodes import HttpNodes, NodeError


def failure(answer: httpx.Response) -> NodeError:
    client = httpx.AsyncClient(transport=httpx.MockTransport(lambda _request: answer))
    with pytest.raises(NodeError) as caught:
        asyncio.run(HttpNodes(lambda _host: client).call("host1", "GET", "/"))
    return caught.value


def test_an_error_is_no_longer_than_those_of_services() -> None:
    error = {"code": "c" * 100_000, "message": "m" * 1_000_000, "remedy": "r" * 1_000_000}
    found = failure(httpx.Response(409, json={"error": error}))
    assert (len(found.code), len(found.text)) == (nodes.CODE_LIMIT, nodes.TEXT_LIMIT)


@pytest.mark.parametrize(
    "body", [b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"x":"\xff"}', b"<html>"]
)
def test_what_is_no_json_or_too_deep_is_no_answer(body: bytes) -> None:
    assert failure(httpx.Response(500, content=body)).code == "unexpected_answer"
    with pytest.raises(NodeError) as caught:
        nodes.decode_answer("host1", body, Applied)
    assert caught.value.code == "unexpected_answer"
