# SPDX-License-Identifier: GPL-3.0-or-later
"""Two of the agent's applications: `management` for the workload side's manager, `local` for root on this
host. The third is `key_service`.

| path                                | manager | root | what                                              |
| ----------------------------------- | ------- | ---- | ------------------------------------------------- |
| GET /agent/manage/v1/status         | x       | x    | state of this host and with each service          |
| POST /agent/manage/v1/attest        | x       | x    | attest now, then the status                       |
| POST /agent/manage/v1/key-check     | x       | x    | {"provider": name or null}: get a key, forget it  |
| GET /agent/manage/v1/tpm            | x       | x    | the TPM and its PCRs                              |
| GET .../tpm/endorsement-keys        | x       | x    |                                                   |
| GET .../tpm/event-log               | x       | x    |                                                   |
| GET /agent/manage/v1/base-image     | x       | x    | a base image document of what this host booted    |
| see `key_management`                | x       |      | keys of this host                                 |
| GET /agent/local/v1/token           |         | x    | the token that is in use (root could read it)     |

Times are RFC 3339, UTC. Errors are {"error": {"code", "message", "remedy"}}.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trusted_infrastructure.config.documents import Name
from trusted_infrastructure.host import tpm_answers
from trusted_infrastructure.host.agent import Agent
from trusted_infrastructure.host.host_keys import KeyCheck
from trusted_infrastructure.host.key_management import key_routes
from trusted_infrastructure.host.state import AttestationStatus
from trusted_infrastructure.messages import WireMessage, decode
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.times import rfc3339
from trusted_infrastructure.transport import Application, JSONAnswer
from trusted_infrastructure.transport.application import AuthenticateClient

BODY_LIMIT = 2 << 20  # keys come in numbers
LOCAL_BODY_LIMIT = 16 * 1024
TIME_LIMIT = 90.0  # an attestation with a slow TPM and services that do not answer


class KeyCheckRequest(WireMessage, frozen=True):
    """Body of POST key-check; an empty body means the default provider."""

    provider: Name | None = None


def management_application(
    agent: Agent, authenticate: AuthenticateClient, clock: Callable[[], float]
) -> Application:
    """For the manager, behind the reverse proxy. authenticate: judges the client certificate."""
    routes = [*_routes(agent, clock), *key_routes(agent.host_keys)]
    return Application(routes, authenticate_client=authenticate, body_limit=BODY_LIMIT, time_limit=TIME_LIMIT)


def local_application(agent: Agent, clock: Callable[[], float]) -> Application:
    """For root on this host; the socket lets nobody else in."""

    async def token(_request: Request) -> Response:
        session = agent.attestations.latest(int(clock()))
        if session is None:
            raise Refusal("not_attested", "this host has no valid token", "see the agent's status")
        return JSONAnswer({"token": session.token, "expires": rfc3339(session.claims.exp)})

    routes = [*_routes(agent, clock), Route("/agent/local/v1/token", token, methods=["GET"])]
    return Application(routes, body_limit=LOCAL_BODY_LIMIT, time_limit=TIME_LIMIT)


def status_answer(agent: Agent, now: int) -> dict[str, Any]:
    """Answer of GET status."""
    host = _attestation(agent.status(now))
    return {
        "host_id": agent.facts.host,
        **{name: value for name, value in host.items() if name != "address"},
        "service_address": host["address"],
        "attestations": [_attestation(status) for status in agent.attestations.services(now)],
        "refused_services": [
            {
                "kind": one.kind,
                "service": one.id,
                "address": one.address,
                "reason": one.refusal.code,
                "message": one.refusal.message,
            }
            for one in agent.refused_services()
        ],
        "key_check": _key_check(agent.host_keys.last_check) if agent.host_keys.last_check else None,
    }


def _routes(agent: Agent, clock: Callable[[], float]) -> list[Route]:
    async def status(_request: Request) -> Response:
        return JSONAnswer(status_answer(agent, int(clock())))

    async def attest(_request: Request) -> Response:
        await agent.attest()
        return JSONAnswer(status_answer(agent, int(clock())))

    async def key_check(request: Request) -> Response:
        body = await request.body() or b"{}"
        checked = await agent.key_check(decode(body, KeyCheckRequest).provider)
        return JSONAnswer(_key_check(checked))

    async def tpm(_request: Request) -> Response:
        return JSONAnswer(await agent.tpm.run(tpm_answers.properties))

    async def endorsement_keys(_request: Request) -> Response:
        identity = agent.facts.endorsement_key
        return JSONAnswer(await agent.tpm.run(lambda tpm: tpm_answers.endorsement_keys(tpm, identity)))

    async def event_log(_request: Request) -> Response:
        return JSONAnswer(tpm_answers.event_log(agent.event_log()))

    async def base_image(request: Request) -> Response:
        version, name = (request.query_params.get(key) for key in ("image_version", "display_name"))
        log, default_name = agent.event_log(), platform_name()
        return JSONAnswer(
            await agent.tpm.run(lambda tpm: tpm_answers.base_image(tpm, log, version, name, default_name))
        )

    base = "/agent/manage/v1"
    return [
        Route(f"{base}/status", status, methods=["GET"]),
        Route(f"{base}/attest", attest, methods=["POST"]),
        Route(f"{base}/key-check", key_check, methods=["POST"]),
        Route(f"{base}/tpm", tpm, methods=["GET"]),
        Route(f"{base}/tpm/endorsement-keys", endorsement_keys, methods=["GET"]),
        Route(f"{base}/tpm/event-log", event_log, methods=["GET"]),
        Route(f"{base}/base-image", base_image, methods=["GET"]),
    ]


def platform_name() -> str:
    """Name of the operating system and the running kernel: the default display name of a captured image."""
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        name = "Linux"
    return f"{name}, kernel {platform.release()}"


def _attestation(status: AttestationStatus) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(status)
    for name in ("since", "attested_until"):
        plain[name] = None if plain[name] is None else rfc3339(plain[name])
    return plain


def _key_check(check: KeyCheck) -> dict[str, Any]:
    return {
        "result": check.result,
        "message": check.message,
        "provider": check.provider,
        "checked": rfc3339(check.checked),
    }
