# SPDX-License-Identifier: GPL-3.0-or-later
"""The two public services as their ASGI applications: bytes in, an answer out. An answer that is neither a
result nor a refusal of ours is a fault."""

from __future__ import annotations

import asyncio
import atexit
import functools
import json
import logging
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import structlog
from services.attestation.world import CHALLENGE, EVIDENCE, World
from services.key_provider.harness import wrapped_key
from services.key_provider.running import PATH, Service, running
from services.tpm import software_keys

from trusted_infrastructure import base_images
from trusted_infrastructure.config.documents import BaseImage
from trusted_infrastructure.messages import encode
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tpm.event_log import initial_value, parse_event_log, replay

_OPEN = ExitStack()
atexit.register(_OPEN.close)
# 503 is an answer of a service that works; 500 is not, and verification_failed is a fault that was caught.
FAULTS = {"internal_error", "verification_failed"}


def _folder() -> Path:
    return Path(_OPEN.enter_context(tempfile.TemporaryDirectory(prefix="ti-fuzz-")))


@functools.cache
def world() -> World:
    made = World(_folder())
    _OPEN.callback(made.service.close)
    made.settings = msgspec.structs.replace(made.settings, burst=10**9, requests_per_minute=10**9)
    made.service.close()
    made.start()
    quickly()
    return made


@functools.cache
def service() -> Service:
    made = _OPEN.enter_context(running(_folder()))
    made.take()
    quickly()
    # The limit is for hosts; here one of them asks all the time.
    routes: Any = made.parts.public.routes
    for route in routes:
        owner = getattr(route.endpoint, "__self__", None)
        if hasattr(owner, "_limit"):
            owner._limit = Unlimited()
    return made


class Unlimited:
    def take(self, key: str) -> None:
        """Nothing is too often."""


def quickly() -> None:
    """No waiting for the disk, no log lines."""
    os.fsync = os.fdatasync = lambda _descriptor: None
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


@functools.cache
def loop() -> asyncio.AbstractEventLoop:
    """Made late: guided.py forks, and processes that share a loop's descriptors wake each other."""
    return asyncio.new_event_loop()


def ask(app: Any, path: str, body: bytes, query: bytes = b"", headers: Any = ()) -> tuple[int, Any]:
    """One POST. Status and decoded body."""
    sent: list[Any] = []
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "headers": [(b"x-real-ip", b"192.0.2.7"), *headers],
        "state": {},
    }
    loop().run_until_complete(app(scope, receive, send))
    content = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], json.loads(content)


def check(answer: tuple[int, Any]) -> None:
    """Raises the refusal that an answer is; AssertionError for a fault."""
    status, content = answer
    if status == 200:
        return
    error = content["error"]
    assert 400 <= status < 500 or status == 503, content
    assert error["code"] not in FAULTS, content
    raise Refusal(error["code"], error["message"], status=status)


# ---- attestation ------------------------------------------------------------------------------------------


def challenge_route(data: bytes) -> None:
    check(ask(world().public.app, CHALLENGE, data))


def evidence_route(data: bytes) -> None:
    """The challenge of the input is exchanged for a fresh one, so that each input gets as far as it can."""
    here = world()
    try:
        plain = json.loads(data)
        if isinstance(plain, dict) and "challenge" in plain:
            plain["challenge"] = here.challenge(_request()).challenge
            data = json.dumps(plain).encode()
    except (ValueError, RecursionError):
        pass
    check(ask(here.public.app, EVIDENCE, data))


def attested_log(data: bytes) -> None:
    """A host whose TPM signs for any log, and has the PCRs that it leads to."""
    host = world().host
    genuine = host.pcrs
    try:
        never_extended = {pcr: initial_value(pcr, "sha256") for pcr in genuine}
        host.pcrs = never_extended | replay(parse_event_log(data), "sha256")
    except Refusal:
        pass
    try:
        _attest(event_log=data)
    finally:
        host.pcrs = genuine


def attested_quote(data: bytes) -> None:
    """An attestation key that signs anything, as a restricted one does not."""
    here = world()
    request = _request()
    evidence = here.host.evidence(request, here.challenge(request))
    key = software_keys.private_key(here.host.ak_kind)
    body = encode(
        msgspec.structs.replace(evidence, quote=data, signature=software_keys.sign(key, here.host.ak, data))
    )
    check(ask(here.public.app, EVIDENCE, body))


def quotes() -> list[bytes]:
    here = world()
    return [here.host.evidence(_request(), here.challenge(_request())).quote]


def attested_claims(data: bytes) -> None:
    _attest(claims=data)


def _attest(**bound: Any) -> None:
    here = world()
    request = _request()
    body = encode(here.host.evidence(request, here.challenge(request), **bound))
    check(ask(here.public.app, EVIDENCE, body))


@functools.cache
def _request() -> bytes:
    return world().request()


def challenge_bodies() -> list[bytes]:
    return [_request()]


def evidence_bodies() -> list[bytes]:
    here = world()
    return [encode(here.host.evidence(_request(), here.challenge(_request())))]


def claims_texts() -> list[bytes]:
    value = world().host.pcrs[4].hex()
    return [b"{}", b'{"pcr_values":{"4":"%s"}}' % value.encode()]


def judge(image: BaseImage) -> None:
    """Appraise the log of the world's host against an image."""
    host = world().host
    base_images.appraise([image], image.bank, host.pcrs, parse_event_log(host.event_log))


def image_texts() -> list[bytes]:
    return [msgspec.json.encode(world().documents["base_image", "image-1"])]


def document_texts() -> list[bytes]:
    plain = [
        {"kind": kind, "id": name, "generation": {"epoch": 1, "counter": 1}, "content": content}
        for (kind, name), content in world().documents.items()
    ]
    plain += [
        {"kind": kind, "id": name, "generation": {"epoch": 1, "counter": 1}, "content": content}
        for (kind, name), content in service().authority.documents.items()
    ]
    return [msgspec.json.encode(one) for one in plain]


def bodies() -> list[bytes]:
    return [*challenge_bodies(), *evidence_bodies(), *key_bodies()]


# ---- keys -------------------------------------------------------------------------------------------------


def key_route(data: bytes) -> None:
    """A body of an attested host, for both actions: token and proof are good."""
    refusals = [
        _outcome(functools.partial(_ask_for_key, data, action))
        for action in (b"action=unwrap", b"action=create")
    ]
    if None not in refusals:
        raise refusals[0]


def key_headers(data: bytes) -> None:
    """Token and proof as texts, each ended by a line feed; the request is good but for them."""
    token, _separator, proof = data.replace(b"\r", b"").partition(b"\n")
    headers = [(b"authorization", b"DPoP " + token), (b"dpop", proof)]
    body = service().host.create_body()
    check(ask(service().parts.public, PATH, body, b"action=create", headers))


def _ask_for_key(body: bytes, action: bytes) -> None:
    host = service().host
    token = _token()
    headers = [
        (b"authorization", f"DPoP {token}".encode()),
        (b"dpop", host.proof(token, body).encode()),
    ]
    check(ask(service().parts.public, PATH, body, action, headers))


def _outcome(call: Callable[[], None]) -> Refusal | None:
    try:
        call()
    except Refusal as refusal:
        return refusal
    return None


@functools.cache
def _token() -> str:
    return service().host.token()


def key_bodies() -> list[bytes]:
    host = service().host
    return [host.create_body(), host.unwrap_body(wrapped_key())]


def key_header_texts() -> list[bytes]:
    token = _token()
    proof = service().host.proof(token, service().host.create_body())
    return [f"{token}\n{proof}".encode()]
