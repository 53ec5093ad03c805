# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent's application for keys on this host: for root, and for users whom the settings permit.

| path below /agent/keys/v1 | body, answer                                                              |
| ------------------------- | ------------------------------------------------------------------------- |
| GET keys                  | the keys that the caller had made (root: all), wrapped; ?limit=&after=    |
| POST generate             | {"object_id", "component", "name", "provider"} -> record, wrapped key, key |
| POST get                  | {"key_id"} or {"wrapped_key"} -> the same                                 |
| POST rewrap               | `RewrapKeys` -> `RewrapReport`; named keys must be the caller's           |
| DELETE keys/{key_id}      | forget a key                                                              |

The kernel says who calls (SO_PEERCRED). Keys of other users are to a caller as if they were not there.

What is done with a key is a line in the log, `key_operation`, with `operation`, `uid`, `key_id`, `object_id`,
`provider` and `outcome` ("OK", a reason code, or "interrupted"): keys of native providers leave no other
trace.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trusted_infrastructure import data_keys
from trusted_infrastructure.data_keys import MAX_WRAPPED_BYTES, DataKeyHeader
from trusted_infrastructure.decoding import decode_json
from trusted_infrastructure.host.host_keys import HostKeys
from trusted_infrastructure.host.key_encryption_keys import ObjectOfKey
from trusted_infrastructure.host.key_management import page
from trusted_infrastructure.host.key_registry import KeptKey
from trusted_infrastructure.host.object_keys import ObjectKey
from trusted_infrastructure.host.rewrapping import Rewrapping
from trusted_infrastructure.key_delivery import KeyRecord, Label, LeftKey, OptionalLabel, RewrapKeys
from trusted_infrastructure.refusal import InvalidField, Refusal
from trusted_infrastructure.transport import Application, JSONAnswer

BODY_LIMIT = 2 << 20
TIME_LIMIT = 90.0
BASE = "/agent/keys/v1"
# Characters of an id in the log that is no key's.
LOGGED = 64
log = structlog.get_logger("trusted_infrastructure.host")


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
    return Application(KeyRoutes(keys).routes(), body_limit=BODY_LIMIT, time_limit=TIME_LIMIT)


class KeyRoutes:
    """What callers may ask."""

    def __init__(self, keys: HostKeys) -> None:
        self._keys = keys

    def routes(self) -> list[Route]:
        """The routes below /agent/keys/v1."""
        return [
            Route(f"{BASE}/keys", self._list, methods=["GET"]),
            Route(f"{BASE}/generate", self._generate, methods=["POST"]),
            Route(f"{BASE}/get", self._get, methods=["POST"]),
            Route(f"{BASE}/rewrap", self._rewrap, methods=["POST"]),
            Route(f"{BASE}/keys/{{key_id}}", self._forget, methods=["DELETE"]),
        ]

    async def _list(self, request: Request) -> Response:
        kept = page(request, self._keys.objects.list(_caller(request)))
        return JSONAnswer({"keys": [_kept(key) for key in kept]})

    async def _generate(self, request: Request) -> Response:
        asked = decode_json(await request.body(), GenerateRequest)
        use = ObjectOfKey(asked.object_id, asked.component, asked.name)
        about = {"object_id": asked.object_id, "provider": asked.provider or ""}
        with _traced("generate", _caller(request), about):
            made = await self._keys.objects.generate(use, asked.provider, _caller(request))
            about |= _about(made.record)
        with made:
            return JSONAnswer(_answer(made))

    async def _get(self, request: Request) -> Response:
        asked = decode_json(await request.body(), GetRequest)
        if (asked.key_id is None) == (asked.wrapped_key is None):
            raise InvalidField("key_id", "exactly one of key_id and wrapped_key is needed")
        about = self._named(asked.key_id)
        with _traced("get", _caller(request), about):
            if asked.key_id is not None:
                found = await self._keys.objects.get(asked.key_id, _caller(request))
            else:
                wrapped = asked.wrapped_key or b""
                about |= _about(data_keys.parse(wrapped).header)
                found = await self._keys.objects.get_wrapped(wrapped, _caller(request))
        with found:
            return JSONAnswer(_answer(found))

    async def _rewrap(self, request: Request) -> Response:
        asked = decode_json(await request.body() or b"{}", RewrapKeys)
        uid = _caller(request)
        self._check_owned(asked, uid)
        try:
            report = await Rewrapping(self._keys.objects, asked, uid).run()
        except Refusal as refusal:
            _trace("rewrap", uid, {"provider": asked.target or ""}, refusal.code)
            raise
        if not asked.dry_run:
            for record in report.rewrapped:
                _trace("rewrap", uid, _about(record), "OK")
            for left in report.left:
                _trace("rewrap", uid, _about(left), left.code)
        return JSONAnswer(report)

    async def _forget(self, request: Request) -> Response:
        key_id = request.path_params["key_id"]
        with _traced("forget", _caller(request), self._named(key_id)):
            forgotten = await self._keys.objects.forget(key_id, _caller(request))
        return JSONAnswer({"record": forgotten})

    def _check_owned(self, asked: RewrapKeys, uid: int) -> None:
        """Named keys are the caller's: one that is left out of a report counts as done. Raises Refusal."""
        for key_id in asked.key_ids:
            try:
                self._keys.objects.kept(key_id, uid)
            except Refusal as refusal:
                _trace("rewrap", uid, self._named(key_id), refusal.code)
                raise

    def _named(self, key_id: str | None) -> dict[str, str]:
        """What is known of a key, whoever's it is."""
        found = self._keys.objects.registry.get(key_id or "")
        return {"key_id": (key_id or "")[:LOGGED]} if found is None else _about(found.record)


def _caller(request: Request) -> int:
    """User id of the caller. Without one this raises: nobody is root by default."""
    uid = request.state.peer_uid
    if not isinstance(uid, int):
        raise TypeError("peer_uid")
    return uid


def _kept(key: KeptKey) -> dict[str, Any]:
    return {**msgspec.to_builtins(key.record), "owner": key.owner, "wrapped_key": key.wrapped_key}


def _answer(key: ObjectKey) -> dict[str, Any]:
    return {"record": key.record, "wrapped_key": key.wrapped_key, "key": bytes(key.key)}


@contextmanager
def _traced(operation: str, uid: int, about: dict[str, str]) -> Iterator[None]:
    """Around what is done with one key; `about` may be filled meanwhile."""
    outcome = "interrupted"
    try:
        yield
        outcome = "OK"
    except Refusal as refusal:
        outcome = refusal.code
        raise
    finally:
        _trace(operation, uid, about, outcome)


def _trace(operation: str, uid: int, about: dict[str, str], outcome: str) -> None:
    names = {"key_id": "", "object_id": "", "provider": ""} | about
    log.info("key_operation", operation=operation, uid=uid, outcome=outcome, **names)


def _about(key: KeyRecord | LeftKey | DataKeyHeader) -> dict[str, str]:
    return {"key_id": key.key_id, "object_id": key.object_id, "provider": key.provider}
