# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests for keys that wait for the workload manager: it asks for them with a long poll, and answers.

Agents never call the manager; so a request waits here until the manager reads it, answers it, or patience
ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from trusted_infrastructure.host.key_encryption_keys import ObjectOfKey
from trusted_infrastructure.key_delivery import MAX_KEYS, KeyRequest, KeyRequestAnswer
from trusted_infrastructure.refusal import Refusal, Unavailable, stopping

PATIENCE = 15.0
# A request is offered again, should the manager have lost it: it knows by the id what it has done for it.
OFFER_AGAIN = 5.0
# What may be gone at the next attempt; all other reasons of the manager are decisions.
_PASSING = frozenset({"key_server_unreachable", "rate_limited", "service_busy", "service_fault"})

Gone = Callable[[], Awaitable[bool]]
"""Whether the manager's connection is closed."""


@dataclass(eq=False)
class _Waiting:
    """One request. answer: the key id. callers: how many wait for it. offered: when (monotonic)."""

    request: KeyRequest
    answer: asyncio.Future[str]
    callers: int = 0
    offered: float | None = None

    def due(self, now: float) -> bool:
        """Whether it is to be offered now."""
        return self.offered is None or now - self.offered >= OFFER_AGAIN


class KeyQueue:
    """See the module. patience: seconds that a request waits. monotonic: seconds."""

    def __init__(self, patience: float = PATIENCE, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._patience = patience
        self._monotonic = monotonic
        self._waiting: dict[str, _Waiting] = {}
        self._news: asyncio.Event | None = None  # of the poll that waits
        self._closed = False

    async def ask(
        self, action: Literal["create", "get"], provider: str, key_id: str | None, use: ObjectOfKey
    ) -> str:
        """Wait until the manager has delivered a key; its id.

        Raises Unavailable `key_not_delivered`, `service_busy`, `service_stopping`, and what the manager says.
        """
        waiting = self._same(provider, key_id) or self._added(action, provider, key_id, use)
        waiting.callers += 1
        try:
            async with asyncio.timeout(self._patience):
                # Shielded: others may wait for the same key.
                return await asyncio.shield(waiting.answer)
        except TimeoutError:
            seen = "does not ask for key requests" if waiting.offered is None else "did not answer"
            raise not_delivered(provider, f"the workload manager {seen} ({self._patience:.0f} s)") from None
        finally:
            waiting.callers -= 1
            if not waiting.callers:
                self._waiting.pop(waiting.request.id, None)

    async def offered(self, wait: float, gone: Gone) -> list[KeyRequest]:
        """Requests that the manager is to answer; where there are none, after at most `wait` seconds none.

        One poll waits at a time: a newer one ends an older one, whose caller may be gone. A connection that
        is closed takes no requests with it. Raises Unavailable `service_stopping`.
        """
        self._ring()
        news = self._news = asyncio.Event()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                while news is self._news and not self._due() and not self._closed:
                    news.clear()
                    await self._something(news)
        if self._closed:
            raise stopping()
        if news is not self._news or not self._due() or await gone():
            return []
        due = self._due()[:MAX_KEYS]
        for waiting in due:
            waiting.offered = self._monotonic()
        return [waiting.request for waiting in due]

    def answer(self, answer: KeyRequestAnswer, held: Callable[[str, str], bool]) -> None:
        """Take the manager's answer. held: whether a key (provider, key id) is here. A request that nobody
        waits for any more is not heard."""
        waiting = self._waiting.get(answer.id)
        if waiting is None or waiting.answer.done():
            return
        request = waiting.request
        if answer.code:
            _end(waiting, _refusal(answer))
        elif answer.key_id is None or not held(request.provider, answer.key_id):
            _end(waiting, not_delivered(request.provider, "the workload manager answered without a key"))
        elif request.key_id not in (None, answer.key_id):
            _end(waiting, not_delivered(request.provider, "the workload manager delivered another key"))
        else:
            waiting.answer.set_result(answer.key_id)

    def delivered(self, provider: str, key_id: str) -> None:
        """A key came, asked for or not: whoever waits for it has it."""
        waiting = self._same(provider, key_id)
        if waiting is not None and not waiting.answer.done():
            waiting.answer.set_result(key_id)

    def close(self) -> None:
        """The service ends: whoever waits, on either side, is told so at once."""
        self._closed = True
        for waiting in self._waiting.values():
            if not waiting.answer.done():
                _end(waiting, stopping())
        self._ring()

    async def _something(self, news: asyncio.Event) -> None:
        """Until something changed, or it is time to offer a request again."""
        again = OFFER_AGAIN if self._waiting else None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(news.wait(), again)

    def _ring(self) -> None:
        if self._news is not None:
            self._news.set()

    def _due(self) -> list[_Waiting]:
        now = self._monotonic()
        return [one for one in self._waiting.values() if not one.answer.done() and one.due(now)]

    def _same(self, provider: str, key_id: str | None) -> _Waiting | None:
        """A request for the same key; two requests for new keys are never the same."""
        for waiting in self._waiting.values():
            request = waiting.request
            if request.action == "get" and (request.provider, request.key_id) == (provider, key_id):
                return waiting
        return None

    def _added(
        self, action: Literal["create", "get"], provider: str, key_id: str | None, use: ObjectOfKey
    ) -> _Waiting:
        if self._closed:
            raise stopping()
        if len(self._waiting) >= MAX_KEYS:
            raise Unavailable(
                "service_busy", f"{MAX_KEYS} key requests wait for the workload manager", "try again"
            )
        request = KeyRequest(
            id=str(uuid.uuid4()),
            action=action,
            provider=provider,
            key_id=key_id,
            component=use.component,
            name=use.name,
            identifier=use.object_id,
        )
        waiting = _Waiting(request, asyncio.get_running_loop().create_future())
        self._waiting[request.id] = waiting
        self._ring()
        return waiting


def not_delivered(provider: str, reason: str) -> Unavailable:
    """Unavailable `key_not_delivered`."""
    return Unavailable(
        "key_not_delivered",
        f"no key of the standard key provider {provider!r} came to this host: {reason}",
        "see that the workload manager runs and reaches this host, and look at its events",
    )


def _end(waiting: _Waiting, refusal: Refusal) -> None:
    waiting.answer.set_exception(refusal)
    waiting.answer.exception()  # read it: whoever waited may have given up


def _refusal(answer: KeyRequestAnswer) -> Refusal:
    if answer.code in _PASSING:
        return Unavailable(answer.code, answer.message, answer.remedy)
    return Refusal(answer.code, answer.message, answer.remedy, status=409)
