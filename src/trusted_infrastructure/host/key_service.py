# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent's application for keys on this host: for root, and for users whom the settings permit.

| path below /agent/keys/v1 | body, answer                                                              |
| ------------------------- | ------------------------------------------------------------------------- |
| GET keys                  | the keys that the caller had made (root: all), wrapped                    |
| POST generate             | {"object_id", "component", "name", "provider"} -> record, wrapped key, key |
| POST get                  | {"key_id"} or {"wrapped_key"} -> the same                                 |
| POST rewrap               | `RewrapKeys` -> `RewrapReport`                                            |
| DELETE keys/{key_id}      | forget a key                                                              |

The kernel says who calls (SO_PEERCRED). Keys of other users are to a caller as if they were not there.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trusted_infrastructure.data_keys import MAX_WRAPPED_BYTES
from trusted_infrastructure.decoding import decode_json
from trusted_infrastructure.host.host_keys import HostKeys
from trusted_infrastructure.host.key_encryption_keys import ObjectOfKey
from trusted_infrastructure.host.object_keys import ObjectKey
from trusted_infrastructure.host.rewrapping import Rewrapping
from trusted_infrastructure.key_delivery import Label, OptionalLabel, RewrapKeys
from trusted_infrastructure.refusal import InvalidField
from trusted_infrastructure.transport import Application, JSONAnswer

BODY_LIMIT = 2 << 20
TIME_LIMIT = 90.0
BASE = "/agent/keys/v1"


class GenerateRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Body of POST generate. provider: None means the default one."""

    object_id: Label
    component: OptionalLabel = ""
    name: OptionalLabel = ""
    provider: Label | None = None


class GetRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Body of POST get: exactly one of the two."""

    key_id: Label | None = None
    wrapped_key: Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_WRAPPED_BYTES)] | None = None


def key_application(keys: HostKeys) -> Application:
    """The application of keys.sock, whose server says who calls in `request.state.peer_uid`."""

    async def listed(request: Request) -> Response:
        found = keys.objects.list(_caller(request))
        return JSONAnswer(
            {
                "keys": [
                    {
                        **msgspec.to_builtins(kept.record),
                        "owner": kept.owner,
                        "wrapped_key": kept.wrapped_key,
                    }
                    for kept in found
                ]
            }
        )

    async def generate(request: Request) -> Response:
        asked = decode_json(await request.body(), GenerateRequest)
        use = ObjectOfKey(asked.object_id, asked.component, asked.name)
        with await keys.objects.generate(use, asked.provider, _caller(request)) as made:
            return JSONAnswer(_answer(made))

    async def get(request: Request) -> Response:
        asked = decode_json(await request.body(), GetRequest)
        if (asked.key_id is None) == (asked.wrapped_key is None):
            raise InvalidField("key_id", "exactly one of key_id and wrapped_key is needed")
        if asked.key_id is not None:
            found = await keys.objects.get(asked.key_id, _caller(request))
        else:
            found = await keys.objects.get_wrapped(asked.wrapped_key or b"", _caller(request))
        with found:
            return JSONAnswer(_answer(found))

    async def rewrap(request: Request) -> Response:
        asked = decode_json(await request.body() or b"{}", RewrapKeys)
        return JSONAnswer(await Rewrapping(keys.objects, asked, _caller(request)).run())

    async def forget(request: Request) -> Response:
        forgotten = await keys.objects.forget(request.path_params["key_id"], _caller(request))
        return JSONAnswer({"record": forgotten})

    return Application(
        [
            Route(f"{BASE}/keys", listed, methods=["GET"]),
            Route(f"{BASE}/generate", generate, methods=["POST"]),
            Route(f"{BASE}/get", get, methods=["POST"]),
            Route(f"{BASE}/rewrap", rewrap, methods=["POST"]),
            Route(f"{BASE}/keys/{{key_id}}", forget, methods=["DELETE"]),
        ],
        body_limit=BODY_LIMIT,
        time_limit=TIME_LIMIT,
    )


def _caller(request: Request) -> int:
    """User id of the caller. Without one this raises: nobody is root by default."""
    uid = request.state.peer_uid
    if not isinstance(uid, int):
        raise TypeError("peer_uid")
    return uid


def _answer(key: ObjectKey) -> dict[str, Any]:
    return {"record": key.record, "wrapped_key": key.wrapped_key, "key": bytes(key.key)}
