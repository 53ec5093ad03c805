# SPDX-License-Identifier: GPL-3.0-or-later
"""The routes for trusted hosts: make a key, open a key, and the keys that sign answers. PROTOCOL 5.

A request passes, in order: the transport's limits, `authorization`, the rate limit, the primary key, and the
audit log. Each decision, for or against, is one record that is on disk before the answer leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from trusted_infrastructure.audit import AuditLog, Decision, Detail
from trusted_infrastructure.key_provider.authorization import (
    Authorization,
    KeyRequest,
    Knowledge,
    authenticate,
    authorize,
)
from trusted_infrastructure.key_provider.host_state import HostState
from trusted_infrastructure.key_provider.release import ReleasedKey, ResponseKey, answer, make_key, open_key
from trusted_infrastructure.messages import KeyAnswer
from trusted_infrastructure.rate_limit import RateLimit
from trusted_infrastructure.refusal import InvalidField, Refusal
from trusted_infrastructure.tokens import TokenClaims, unverified_kid
from trusted_infrastructure.transport import JSONAnswer

# A key request holds a wrapped key and a public key, in base64: some 10 kB at most.
BODY_LIMIT = 64 * 1024
RELEASE_THREADS = 8
ACTIONS = ("create", "unwrap")


@dataclass
class _Course:
    """How far a request came: what its audit record says."""

    address: str
    provider: str
    action: str
    claims: TokenClaims | None = None


class KeyRoutes:
    """The public application's handlers."""

    def __init__(
        self,
        state: HostState,
        audit: AuditLog,
        response_key: ResponseKey,
        limit: RateLimit,
        public_url: str,
        service_id: str,
        clock: Callable[[], float],
        ready: Callable[[int | None], None] = lambda _generation: None,
    ) -> None:
        """public_url: "https://<configured public name>", what proofs must be for. clock: Unix seconds.

        ready: may this service decide under its security generation, or (None) vouch for its keys? Raises
        Unavailable.
        """
        self._state = state
        self._audit = audit
        self._response_key = response_key
        self._limit = limit
        self._public_url = public_url
        self._service_id = service_id
        self._clock = clock
        self._ready = ready
        self._threads = ThreadPoolExecutor(RELEASE_THREADS, thread_name_prefix="release")

    def routes(self) -> list[BaseRoute]:
        """The routes."""
        return [
            Route("/kms/v1/keys", self.response_keys, methods=["GET"]),
            Route("/kms/v1/providers/{provider:path}/keys", self.key, methods=["POST"]),
        ]

    async def response_keys(self, _request: Request) -> Response:
        """GET /kms/v1/keys: the key set that answers are verified with."""
        self._ready(None)
        return JSONAnswer({"keys": self._state.response_key_set(self._response_key, int(self._clock()))})

    async def key(self, request: Request) -> Response:
        """POST /kms/v1/providers/{provider}/keys?action=create|unwrap."""
        course = _Course(
            address=request.headers.get("x-real-ip", ""),
            provider=request.path_params["provider"],
            action="&".join(request.query_params.getlist("action")),
        )
        loop = asyncio.get_running_loop()
        try:
            key_request = await self._read(request, course)
            authorization = await self._decide(key_request, course)
            return await loop.run_in_executor(
                self._threads, self._release, key_request, authorization, course
            )
        except Exception as error:
            # Whatever it is, it is a refusal: one that we did not expect has a record too, without its text.
            code, reason = "internal_error", type(error).__name__
            if isinstance(error, Refusal):
                code, reason = error.code, error.message
            record = self._decision(course, code, {"reason": reason})
            await loop.run_in_executor(self._threads, self._audit.append, record)
            raise

    async def _read(self, request: Request, course: _Course) -> KeyRequest:
        if course.action not in ACTIONS:
            raise InvalidField("action", f"is {course.action[:64]!r}; expected one of {', '.join(ACTIONS)}")
        path = request.scope["raw_path"].decode("ascii", "replace")
        return KeyRequest(
            provider=course.provider,
            method="POST",
            url=self._public_url + path,
            body=await request.body(),
            token=_only(request, "authorization", "DPoP ", "token_invalid"),
            proof=_only(request, "dpop", "", "proof_invalid"),
            create=course.action == "create",
        )

    async def _decide(self, key_request: KeyRequest, course: _Course) -> Authorization:
        now = int(self._clock())
        self._ready(self._state.snapshot().security_generation)
        knowledge = await self._knowledge(unverified_kid(key_request.token), now)
        claims = authenticate(key_request, knowledge, now)
        course.claims = claims
        authorization = authorize(key_request, claims, knowledge, now)
        self._limit.take(claims.ek_digest)
        return authorization

    async def _knowledge(self, kid: str, now: int) -> Knowledge:
        knowledge = self._state.knowledge(now)
        if kid not in knowledge.keys:
            await self._state.ask_peers_for_unknown_key(now)
            knowledge = self._state.knowledge(now)
        return knowledge

    def _release(self, key_request: KeyRequest, authorization: Authorization, course: _Course) -> Response:
        """In a thread: it may wait for a key server, and waits for the disk."""
        primary_key = self._state.primary_keys.obtain(course.provider, authorization.max_age)
        if primary_key.key_id != authorization.provider.master_key_id:
            raise Refusal(
                "primary_key_unavailable",
                f"the primary key of provider {course.provider!r} is being changed",
                "Ask again.",
                status=503,
            )
        if authorization.wrapped is None:
            released = make_key(course.provider, authorization, primary_key.material)
        else:
            released = open_key(authorization.wrapped, primary_key.material)
        key_answer = answer(released, authorization, key_request.body, self._service_id, self._response_key)
        self._audit.append(self._decision(course, "ok", _described(released, authorization)))
        return _json(key_answer)

    def _decision(self, course: _Course, code: str, detail: dict[str, Detail]) -> Decision:
        claims = course.claims
        known: dict[str, Detail] = {"provider": course.provider, "operation": course.action}
        if claims is not None:
            known |= {"scope": claims.scope, "base_image": claims.base_image, "token": claims.jti}
        return Decision(
            time=int(self._clock()),
            service=self._service_id,
            host=claims.sub if claims is not None else "",
            address=course.address,
            code=code,
            detail=known | detail,
        )


def _only(request: Request, header: str, scheme: str, code: str) -> str:
    values = request.headers.getlist(header)
    if len(values) != 1 or not values[0].startswith(scheme) or len(values[0]) <= len(scheme):
        raise Refusal(code, f"expected one header {header.title()}: {scheme}...", "Attest first.", status=401)
    return values[0][len(scheme) :]


def _described(released: ReleasedKey, authorization: Authorization) -> dict[str, Detail]:
    return {
        "kek_id": released.kek_id,
        "object_label": authorization.object_label,
        "primary_key_id": authorization.provider.master_key_id,
    }


def _json(key_answer: KeyAnswer) -> Response:
    return JSONAnswer(key_answer, headers={"cache-control": "no-store"})
