# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent's routes about keys, for the workload manager (docs/protocol.md 7.5, 7.7). No key leaves by them.

| path below /agent/manage/v1           | what                                                           |
| ------------------------------------- | -------------------------------------------------------------- |
| GET key-delivery                      | what keys for this host are sealed to                          |
| GET key-requests?wait=SECONDS         | keys that this host asks for; waits for the first              |
| GET, POST standard-keys               | which are held; keys, and answers to requests                  |
| DELETE standard-keys/{provider}       | forget the key ?key_id=                                        |
| GET, POST native-providers            | states; a provider with its keys                               |
| DELETE native-providers/{provider}    | forget a provider                                              |
| GET keys                              | the wrapped data keys that are kept; ?limit=&after= of them    |
| DELETE keys/{key_id}                  | forget one                                                     |
| POST keys/rewrap                      | wrap keys again                                                |
"""

from __future__ import annotations

import heapq
import re

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trusted_infrastructure.decoding import decode_json
from trusted_infrastructure.host.host_keys import HostKeys
from trusted_infrastructure.host.key_registry import KeptKey
from trusted_infrastructure.host.rewrapping import Rewrapping
from trusted_infrastructure.key_delivery import (
    MAX_PAGE,
    MAX_WAIT,
    KeyRecords,
    KeyRequests,
    NativeProviderPush,
    NativeProviderStates,
    RewrapKeys,
    StandardKeys,
)
from trusted_infrastructure.refusal import InvalidField
from trusted_infrastructure.transport import JSONAnswer


def key_routes(keys: HostKeys, base: str = "/agent/manage/v1") -> list[Route]:
    """See the module."""
    return [*_delivery_routes(keys, base), *_native_routes(keys, base), *_object_routes(keys, base)]


def _delivery_routes(keys: HostKeys, base: str) -> list[Route]:
    async def target(_request: Request) -> Response:
        return JSONAnswer(keys.delivery.target())

    async def requests(request: Request) -> Response:
        wait = _wait(request)
        await request.body()  # so that what comes next on the connection is its end
        waiting = await keys.queue.offered(wait, request.is_disconnected)
        delivery = keys.delivery
        return JSONAnswer(
            KeyRequests(
                instance=delivery.instance,
                suite=delivery.suite,
                public_key=delivery.public_key(),
                requests=waiting,
            )
        )

    async def names(_request: Request) -> Response:
        return JSONAnswer(keys.standard.names())

    async def receive(request: Request) -> Response:
        keys.standard.receive(decode_json(await request.body(), StandardKeys))
        return JSONAnswer({})

    async def forget(request: Request) -> Response:
        key_id = request.query_params.get("key_id", "")
        if not key_id:
            raise InvalidField("key_id", "is needed")
        forgotten = keys.standard.forget(request.path_params["provider"], key_id)
        return JSONAnswer({"forgotten": forgotten})

    return [
        Route(f"{base}/key-delivery", target, methods=["GET"]),
        Route(f"{base}/key-requests", requests, methods=["GET"]),
        Route(f"{base}/standard-keys", names, methods=["GET"]),
        Route(f"{base}/standard-keys", receive, methods=["POST"]),
        Route(f"{base}/standard-keys/{{provider:path}}", forget, methods=["DELETE"]),
    ]


def _native_routes(keys: HostKeys, base: str) -> list[Route]:
    async def states(_request: Request) -> Response:
        return JSONAnswer(NativeProviderStates(providers=keys.native.states()))

    async def receive(request: Request) -> Response:
        push = decode_json(await request.body(), NativeProviderPush)
        keys.delivery.check(push.instance)

        def open_key(key_id: str, sealed_key: bytes) -> bytes:
            return keys.delivery.open("native", push.provider, key_id, sealed_key)

        return JSONAnswer(await keys.native.receive(push, open_key))

    async def remove(request: Request) -> Response:
        await keys.native.remove(request.path_params["provider"])
        return JSONAnswer({})

    return [
        Route(f"{base}/native-providers", states, methods=["GET"]),
        Route(f"{base}/native-providers", receive, methods=["POST"]),
        Route(f"{base}/native-providers/{{provider:path}}", remove, methods=["DELETE"]),
    ]


def _object_routes(keys: HostKeys, base: str) -> list[Route]:
    async def records(request: Request) -> Response:
        found = [kept.record for kept in page(request, keys.objects.list())]
        return JSONAnswer(KeyRecords(keys=found, unreadable=keys.registry.unreadable))

    async def rewrap(request: Request) -> Response:
        asked = decode_json(await request.body() or b"{}", RewrapKeys)
        report = await Rewrapping(keys.objects, asked).run()
        # Somebody waits for a rotation to end, perhaps, and this host for none of its keys.
        keys.reports.again()
        return JSONAnswer(report)

    async def forget(request: Request) -> Response:
        await keys.objects.forget(request.path_params["key_id"])
        return JSONAnswer({})

    return [
        Route(f"{base}/keys", records, methods=["GET"]),
        Route(f"{base}/keys/rewrap", rewrap, methods=["POST"]),
        Route(f"{base}/keys/{{key_id}}", forget, methods=["DELETE"]),
    ]


def _wait(request: Request) -> int:
    """Seconds of the long poll. Raises InvalidField."""
    text = request.query_params.get("wait", "0")
    if not re.fullmatch(r"[0-9]{1,2}", text) or int(text) > MAX_WAIT:
        raise InvalidField("wait", f"must be 0 to {MAX_WAIT} seconds")
    return int(text)


def page(request: Request, keys: list[KeptKey]) -> list[KeptKey]:
    """Those after ?after=KEY_ID, by their ids, at most ?limit=; without a limit all. Raises InvalidField."""
    text = request.query_params.get("limit")
    if text is None:
        return keys
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= MAX_PAGE:
        raise InvalidField("limit", f"must be 1 to {MAX_PAGE}")
    after = request.query_params.get("after", "")
    later = (kept for kept in keys if kept.record.key_id > after)
    return heapq.nsmallest(int(text), later, key=lambda kept: kept.record.key_id)
