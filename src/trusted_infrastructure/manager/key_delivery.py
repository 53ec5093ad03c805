# SPDX-License-Identifier: GPL-3.0-or-later
"""Passing keys of standard providers to hosts: over mTLS, sealed to a key that an agent makes at each start.

Hosts ask, and this manager answers; as hosts do not call managers, it waits at each host for what it asks
(a long poll), while there is a standard provider at all. docs/protocol.md 7.5.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias
from urllib.parse import quote, urlencode

import msgspec
import structlog

from trusted_infrastructure import sealing
from trusted_infrastructure.key_delivery import (
    MAX_KEYS,
    DeliveryTarget,
    KeyRequest,
    KeyRequestAnswer,
    KeyRequests,
    StandardKey,
    StandardKeys,
)
from trusted_infrastructure.kmip.servers import ServedKey
from trusted_infrastructure.manager import events, known_keys, standard_keys, standard_providers
from trusted_infrastructure.manager.context import Manager
from trusted_infrastructure.manager.inventory import Cluster, Host, all_hosts, host_named, hosts_of, is_member
from trusted_infrastructure.manager.known_keys import Asker, Use
from trusted_infrastructure.manager.nodes import AGENT, NodeError, ask
from trusted_infrastructure.manager.standard_key_servers import MAX_CALLS
from trusted_infrastructure.manager.vapi.errors import VapiError
from trusted_infrastructure.messages import delivery_info
from trusted_infrastructure.refusal import STOPPING, Refusal

WAIT = 25  # seconds of a long poll
# Seconds between looks for hosts that came and went.
LOOK_AGAIN = 5.0
# Seconds before a host that did not answer is asked again: they double.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
# And of one whose agent said that it is being stopped, as its Retry-After says: most are back by then.
RESTART_PAUSE = 5.0
STALE = "delivery_stale"
MESSAGE_LIMIT, CODE_LIMIT = 2048, 64
log = structlog.get_logger("trusted_infrastructure.manager")

Answering: TypeAlias = dict["asyncio.Task[None]", frozenset[str]]
"""What is being answered to a host: the ids of the requests of each task."""


@dataclass(frozen=True)
class Answered:
    """What came of a request: a key, or a refusal."""

    request: KeyRequest
    key: ServedKey | None = None
    refusal: Refusal | None = None

    def message(self) -> KeyRequestAnswer:
        """For the host."""
        if self.refusal is not None:
            return KeyRequestAnswer(
                id=self.request.id,
                code=self.refusal.code[:CODE_LIMIT],
                message=self.refusal.message[:MESSAGE_LIMIT],
                remedy=self.refusal.remedy[:MESSAGE_LIMIT],
            )
        return KeyRequestAnswer(id=self.request.id, key_id=None if self.key is None else self.key.key_id)


@dataclass(frozen=True)
class Passed:
    """A key on its way to a host. use: what it is for, for the events."""

    provider: str
    key: ServedKey
    use: Use


def use_of(request: KeyRequest) -> Use:
    """What a request is for."""
    return Use(request.component, request.name, request.identifier)


async def serve_key_requests(manager: Manager, look_again: float = LOOK_AGAIN) -> None:
    """Answers what hosts ask, for ever. look_again: seconds."""
    serving: dict[str, asyncio.Task[None]] = {}
    try:
        while True:
            wanted = hosts_to_serve(manager)
            for name in [name for name, task in serving.items() if name not in wanted or task.done()]:
                await stopped(name, serving.pop(name))
            for name in wanted - serving.keys():
                serving[name] = asyncio.create_task(serve_host(manager, name))
            await asyncio.sleep(look_again)
    finally:
        for name, task in serving.items():
            await stopped(name, task)


async def stopped(name: str, task: asyncio.Task[None]) -> None:
    """Ends the serving of a host; it is begun anew where it ended by itself."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        try:
            await task
        except Exception as error:
            log.error("serving_keys_failed", host=name, type=type(error).__name__)


def hosts_to_serve(manager: Manager) -> set[str]:
    """Names of the hosts of all clusters, where there is a standard provider."""
    with manager.database.transaction() as connection:
        if not standard_providers.providers(connection):
            return set()
        return {host.name for host in all_hosts(connection)}


async def serve_host(manager: Manager, name: str) -> None:
    """Answers what one host asks, until it is cancelled. Requests for keys of one provider do not wait for
    those of another, whose key servers may hang."""
    pause = 0.0
    timeout = WAIT + manager.settings.node_timeout
    answering: Answering = {}
    try:
        while True:
            begun = time.monotonic()
            try:
                path = f"{AGENT}/key-requests?wait={WAIT}"
                asked = await ask(manager.nodes, name, "GET", path, KeyRequests, timeout=timeout)
                new = not_in_hand(asked.requests, answering)
                for provider in {request.provider for request in new.values()}:
                    own = [request for request in new.values() if request.provider == provider]
                    some = msgspec.structs.replace(asked, requests=own)
                    task = asyncio.create_task(answer(manager, name, some))
                    answering[task] = frozenset(request.id for request in own)
                if not new and time.monotonic() - begun < FIRST_PAUSE:  # an agent that does not wait
                    await a_moment(answering)
                if reaped(answering) or not asked.requests:
                    pause = 0.0
            except NodeError as error:
                if error.code == STOPPING:
                    await asyncio.sleep(RESTART_PAUSE)
                    continue
                if not pause:
                    log.warning("key_requests_unanswered", host=name, code=error.code, error=error.text)
                pause = min(max(FIRST_PAUSE, pause * 2), LONGEST_PAUSE)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, no secret
    finally:
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)


def not_in_hand(requests: Sequence[KeyRequest], answering: Answering) -> dict[str, KeyRequest]:
    """The requests, by id, that are not being answered: a host offers each again until it has its answer."""
    known = frozenset().union(*answering.values())
    new = {request.id: request for request in requests if request.id not in known}
    return dict(islice(new.items(), max(0, MAX_KEYS - len(known))))


async def a_moment(answering: Answering) -> None:
    """Waits for an answer to leave, or a second."""
    if answering:
        await asyncio.wait(answering, timeout=FIRST_PAUSE, return_when=asyncio.FIRST_COMPLETED)
    else:
        await asyncio.sleep(FIRST_PAUSE)


def reaped(answering: Answering) -> bool:
    """Forgets what has ended; whether anything has. Raises NodeError where an answer was not taken."""
    ended = [task for task in answering if task.done()]
    for task in ended:
        del answering[task]
    failures = [failure for task in ended if (failure := task.exception()) is not None]
    if failures:
        raise failures[0]
    return bool(ended)


async def answer(manager: Manager, name: str, asked: KeyRequests) -> None:
    """Makes and gets what a host asks for, and passes it. Raises NodeError, with an event."""
    with manager.database.transaction() as connection:
        host = host_named(connection, name)
    if host is None:
        return
    requests = asked.requests[:MAX_KEYS]
    target = DeliveryTarget(instance=asked.instance, suite=asked.suite, public_key=asked.public_key)
    gate = asyncio.Semaphore(MAX_CALLS)

    async def one(request: KeyRequest) -> Answered:
        async with gate:
            await asyncio.sleep(0)  # what is refused at once is refused a few at a time, too
            return await fulfil(manager, host, asked.instance, request)

    answered = await asyncio.gather(*(one(request) for request in requests))
    passed = [Passed(item.request.provider, item.key, use_of(item.request)) for item in answered if item.key]
    messages = [item.message() for item in answered]
    await pass_keys(manager, host, target, passed, messages, f"host:{host.name}")
    if any(item.refusal for item in answered):
        # Still in hand for as long: a host that asks for what it may not have asks that often, and no more.
        await asyncio.sleep(FIRST_PAUSE)


async def fulfil(manager: Manager, host: Host, instance: str, request: KeyRequest) -> Answered:
    """The key that a host asks for, or why not. What was made for this request before is got."""
    use = use_of(request)
    asker = Asker(host.cluster, f"host:{host.name}", host.name, f"{instance}/{request.id}")
    key_id = request.key_id
    try:
        if request.action == "create":
            key_id = known_keys.made_for(manager, asker, request.provider)
        elif key_id is None:
            raise Refusal("malformed_request", "key_id is required to get a key", status=400)
        if key_id is None:
            key = await standard_keys.create(manager, asker, request.provider, use)
        else:
            key = await standard_keys.get(manager, asker, request.provider, key_id, use)
        return Answered(request, key)
    except Refusal as refusal:
        return Answered(request, refusal=refusal)
    except VapiError as error:  # no such provider
        return Answered(request, refusal=Refusal("provider_unknown", error.text, status=404))


async def pass_keys(
    manager: Manager,
    host: Host,
    target: DeliveryTarget,
    passed: Sequence[Passed],
    answers: list[KeyRequestAnswer],
    user: str,
) -> None:
    """Passes keys and answers to a host, with an event for each key; nothing to one that has left its
    cluster, or is in another one by now. Raises NodeError."""
    with manager.database.transaction() as connection:
        if not is_member(connection, host):
            return
    try:
        keys = [sealed(host, target, item) for item in passed]
        message = StandardKeys(instance=target.instance, keys=keys, answers=answers)
        await manager.nodes.call(host.name, "POST", f"{AGENT}/standard-keys", message)
    except (NodeError, Refusal) as error:
        failure = error if isinstance(error, NodeError) else NodeError(host.name, error.code, error.message)
        for item in passed:
            not_passed(manager, host, item, failure, user)
        raise failure from None
    known_keys.note_host(manager, host.name, [(item.provider, item.key.key_id) for item in passed])
    asker = Asker(host.cluster, user, host.name)
    for item in passed:
        standard_keys.done(manager, asker, item.provider, "send", item.key.key_id, item.use)


async def pass_to_cluster(manager: Manager, cluster: Cluster, item: Passed, user: str) -> list[NodeError]:
    """Passes a key to every host of a cluster; the failures, each with an event."""
    with manager.database.transaction() as connection:
        hosts = hosts_of(connection, cluster)

    async def one(host: Host) -> NodeError | None:
        try:
            target = await ask(manager.nodes, host.name, "GET", f"{AGENT}/key-delivery", DeliveryTarget)
        except NodeError as failure:
            not_passed(manager, host, item, failure, user)
            return failure
        try:
            await pass_keys(manager, host, target, [item], [], user)
        except NodeError as failure:
            return failure
        return None

    answers = await asyncio.gather(*(one(host) for host in hosts))
    return [answer for answer in answers if answer is not None]


async def take_back(manager: Manager, host: str, keys: Sequence[tuple[str, str]]) -> NodeError | None:
    """Lets a host forget keys: provider and key id of each. One that does not answer has them in memory
    until it restarts; the error says so."""
    for provider, key_id in keys:
        path = f"{AGENT}/standard-keys/{quote(provider, safe='')}?{urlencode({'key_id': key_id})}"
        try:
            await manager.nodes.call(host, "DELETE", path)
        except NodeError as error:
            log.warning("keys_not_taken_back", host=host, code=error.code, error=error.text)
            return error
    return None


def sealed(host: Host, target: DeliveryTarget, item: Passed) -> StandardKey:
    """A key for this start of this host's agent alone. Raises Refusal for a public key that is none."""
    provider, key_id = item.provider, item.key.key_id
    info = delivery_info(
        kind="standard", host=host.name, instance=target.instance, provider=provider, key_id=key_id
    )
    data = sealing.seal(target.suite, target.public_key, item.key.material, info)
    return StandardKey(provider=provider, key_id=key_id, sealed_key=data)


def not_passed(manager: Manager, host: Host, item: Passed, failure: NodeError, user: str) -> None:
    """The event of a key that a host did not take."""
    if failure.code == STALE:
        return  # its agent was started anew meanwhile, and asks again for what it needs
    key_id = item.key.key_id
    refusal = Refusal(failure.code, f"key {key_id} was not passed to host {failure}")
    asker, kind = Asker(host.cluster, user, host.name), events.SEND_KEY_HOST_ERROR
    standard_keys.failed(manager, kind, refusal, asker, item.provider, "send", key_id, item.use)
