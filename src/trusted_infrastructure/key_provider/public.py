# SPDX-License-Identifier: GPL-3.0-or-later
"""The routes for trusted hosts: keys made, opened and wrapped again, reports of what hosts keep, and the keys
that sign answers. docs/protocol.md 7.1.

A request passes, in order: the transport's limits, `authorization`, the rate limit, the primary keys, and the
audit log. Each decision, for or against, is one record that is on disk before the answer leaves. No key
server is asked before all that is to be decided without one was decided for the host.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from trusted_infrastructure.audit import AuditLog, AuditQueue, Decision, Detail
from trusted_infrastructure.config.documents import KeyProvider
from trusted_infrastructure.key_provider.accepted_tokens import AcceptedTokens
from trusted_infrastructure.key_provider.authorization import (
    Action,
    Authorization,
    KeyRequest,
    Knowledge,
    authenticate,
    authorize,
    authorize_report,
)
from trusted_infrastructure.key_provider.host_state import HostState
from trusted_infrastructure.key_provider.obtaining import KeysAtHand, Obtaining, being_changed
from trusted_infrastructure.key_provider.release import (
    ReleasedKey,
    ResponseKey,
    answer,
    make_key,
    open_key,
    rewrap_key,
)
from trusted_infrastructure.key_provider.usage import Holder, Usage
from trusted_infrastructure.messages import KEY_CHECK_LABEL, KeyAnswer, PrimaryKeyIds
from trusted_infrastructure.rate_limit import Limit
from trusted_infrastructure.refusal import InvalidField, Refusal
from trusted_infrastructure.tokens import TokenClaims
from trusted_infrastructure.transport import JSONAnswer

# A key request holds a wrapped key and a public key, in base64: some 10 kB at most.
BODY_LIMIT = 64 * 1024
RELEASE_THREADS = 8
ACTIONS: dict[str, Action] = {"create": "create", "unwrap": "unwrap", "rewrap": "rewrap"}


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
        usage: Usage,
        response_key: ResponseKey,
        limit: Limit,
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
        self._audit = AuditQueue(audit)
        self._usage = usage
        self._obtaining = Obtaining(state.primary_keys)
        self._response_key = response_key
        self._limit = limit
        self._public_url = public_url
        self._service_id = service_id
        self._clock = clock
        self._ready = ready
        self._threads = ThreadPoolExecutor(RELEASE_THREADS, thread_name_prefix="release")
        self._accepted = AcceptedTokens()

    def routes(self) -> list[BaseRoute]:
        """The routes."""
        return [
            Route("/kms/v1/keys", self.response_keys, methods=["GET"]),
            Route("/kms/v1/providers/{provider:path}/keys", self.key, methods=["POST"]),
            Route("/kms/v1/providers/{provider:path}/usage", self.usage, methods=["POST"]),
        ]

    async def response_keys(self, _request: Request) -> Response:
        """GET /kms/v1/keys: the key set that answers are verified with."""
        self._ready(None)
        return JSONAnswer({"keys": self._state.response_key_set(self._response_key, int(self._clock()))})

    async def key(self, request: Request) -> Response:
        """POST /kms/v1/providers/{provider}/keys?action=create|unwrap|rewrap."""
        action = "&".join(request.query_params.getlist("action"))
        return await self._decided(request, action, self._key)

    async def usage(self, request: Request) -> Response:
        """POST /kms/v1/providers/{provider}/usage: what the host keeps; which primary keys are in use."""
        return await self._decided(request, "usage", self._report)

    async def _decided(
        self, request: Request, action: str, work: Callable[[Request, _Course], Awaitable[Response]]
    ) -> Response:
        """The answer of `work`; a refusal has its record before it leaves."""
        provider = request.path_params["provider"]
        course = _Course(request.headers.get("x-real-ip", ""), provider, action)
        try:
            return await work(request, course)
        except Exception as error:
            # Whatever it is, it is a refusal: one that we did not expect has a record too, without its text.
            code, reason = "internal_error", type(error).__name__
            if isinstance(error, Refusal):
                code, reason = error.code, error.message
            await self._audit.append(self._decision(course, code, {"reason": reason}))
            raise

    async def _key(self, request: Request, course: _Course) -> Response:
        if course.action not in ACTIONS:
            raise InvalidField("action", f"is {course.action[:64]!r}; expected one of {', '.join(ACTIONS)}")
        key_request = await self._read(request, course, ACTIONS[course.action])
        now, knowledge, claims = await self._authenticated(key_request, course)
        authorization = authorize(key_request, claims, knowledge, now)
        self._limit.take(claims.ek_digest)
        keys = await self._obtaining.for_request(course.provider, authorization)
        # Here, and not in a thread: it takes a fraction of a millisecond, and to hand it over takes longer.
        released, key_answer = self._release(key_request, authorization, keys)
        if authorization.keeps and authorization.object_label != KEY_CHECK_LABEL:
            await self._mark(authorization, course.provider)
        await self._audit.append(self._decision(course, "ok", _described(released, authorization)))
        return _json(key_answer)

    async def _report(self, request: Request, course: _Course) -> Response:
        report_request = await self._read(request, course, "usage")
        now, knowledge, claims = await self._authenticated(report_request, course)
        report = authorize_report(report_request, claims, knowledge, now)
        self._limit.take(claims.ek_digest)
        previous = report.provider.previous_keys

        def keep() -> int:
            holder = Holder(claims.scope, claims.sub)
            return self._usage.report(holder, course.provider, report.keys, report.known)

        known = await asyncio.get_running_loop().run_in_executor(self._threads, keep)
        await self._audit.append(self._decision(course, "ok", {"keys": sum(report.keys.values())}))
        return JSONAnswer(
            PrimaryKeyIds(
                primary_key_id=report.provider.master_key_id,
                previous=[key.master_key_id for key in previous],
                compromised=[key.master_key_id for key in previous if key.compromised],
                known=known or UNSET,
            )
        )

    async def _read(self, request: Request, course: _Course, action: Action) -> KeyRequest:
        path = request.scope["raw_path"].decode("ascii", "replace")
        return KeyRequest(
            provider=course.provider,
            method="POST",
            url=self._public_url + path,
            body=await request.body(),
            token=_only(request, "authorization", "DPoP ", "token_invalid"),
            proof=_only(request, "dpop", "", "proof_invalid"),
            action=action,
        )

    async def _authenticated(
        self, key_request: KeyRequest, course: _Course
    ) -> tuple[int, Knowledge, TokenClaims]:
        now = int(self._clock())
        self._ready(self._state.snapshot().security_generation)
        knowledge = await self._knowledge(self._accepted.kid(key_request.token), now)
        claims = authenticate(key_request, knowledge, now, self._accepted.verify)
        course.claims = claims
        return now, knowledge, claims

    async def _knowledge(self, kid: str, now: int) -> Knowledge:
        knowledge = self._state.knowledge(now)
        if kid not in knowledge.keys:
            await self._state.ask_peers_for_unknown_key(now)
            knowledge = self._state.knowledge(now)
        return knowledge

    def _release(
        self, key_request: KeyRequest, authorization: Authorization, keys: KeysAtHand
    ) -> tuple[ReleasedKey, KeyAnswer]:
        """What is released, and the answer, which must not leave before it is on record."""
        if authorization.wrapped is None:
            released = make_key(key_request.provider, authorization, keys.to_wrap)
        elif key_request.action == "rewrap":
            wraps = keys.to_wrap if authorization.wraps else None
            released = rewrap_key(authorization.wrapped, keys.to_open, wraps)
        else:
            released = open_key(authorization.wrapped, keys.to_open)
        return released, answer(
            released, authorization, key_request.body, self._service_id, self._response_key
        )

    async def _mark(self, authorization: Authorization, provider: str) -> None:
        """Note durably that the host keeps one more key. Raises Unavailable `state_unusable`,
        `primary_key_unavailable`."""
        # What was wrapped before the host will not keep; until then its own report says that it does.
        claims, key_id = authorization.claims, authorization.provider.master_key_id
        loop, holder = asyncio.get_running_loop(), Holder(claims.scope, claims.sub)
        await loop.run_in_executor(self._threads, self._usage.kept, holder, provider, key_id)
        # All hosts have heard of a rotation before it is counted what is left under the key before. So this
        # mark is counted, or else no key leaves.
        now = self._state.snapshot().get("key_provider", provider, KeyProvider)
        if now is None or now.master_key_id != key_id:
            raise being_changed(provider)

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
    current = authorization.provider.master_key_id
    described: dict[str, Detail] = {
        "kek_id": released.kek_id,
        "object_label": authorization.object_label,
        "primary_key_id": current if authorization.wraps else authorization.opened_with or current,
    }
    if authorization.wraps and authorization.opened_with is not None:
        described["previous_primary_key_id"] = authorization.opened_with
    return described


def _json(key_answer: KeyAnswer) -> Response:
    return JSONAnswer(key_answer, headers={"cache-control": "no-store"})
