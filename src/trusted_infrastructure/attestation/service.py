# SPDX-License-Identifier: GPL-3.0-or-later
"""The Attestation Service: settings, routes, start and stop. docs/attestation_service.md.

It checks that a host is who its manager says it is (assertion), on the TPM that is trusted (endorsement key),
and that it booted one of the blessed states (base images); then it signs a token. It does not check what a
host does after it has booted, nor what IMA measured.

Routes on `public.sock`
  POST /attestation/v1/challenge   ChallengeRequest -> Challenge
  POST /attestation/v1/evidence    Evidence -> AttestationResult
  GET  /attestation/v1/keys        {"keys": key set as JWS}
  GET  /attestation/v1/jwks        JWK set (RFC 7517), not signed
  GET  /attestation/v1/generation  {"security_generation", "grace_period"}: whether to attest again
  GET  /attestation/v1/audit-head, /peer-heads     see peers.routes
Routes on `management.sock` (client certificate of this side's manager)
  GET  /attestation/manage/v1/status
  GET  /attestation/manage/v1/hosts, /hosts/{host}/history, /transitions
  GET  /attestation/manage/v1/identities
  POST /attestation/manage/v1/hosts/{host}/release?principal=...
  GET  /attestation/manage/v1/audit/head, ...      see peers.routes
  GET  /attestation/manage/v1/metrics                                  Prometheus text
  POST /attestation/manage/v1/endorsement-keys/{ek_digest}/accept-clock
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trusted_infrastructure.attestation.challenges import ChallengeEnvelope, UsedChallenges
from trusted_infrastructure.attestation.host_reports import HostReports
from trusted_infrastructure.attestation.identity_reports import IdentityReports
from trusted_infrastructure.attestation.issuing import Issuer, Refused
from trusted_infrastructure.attestation.shared import Shared, share_metrics
from trusted_infrastructure.attestation.state import State
from trusted_infrastructure.attestation.token_keys import KEY_SET_REUSE, ServiceIdentity, TokenKeys
from trusted_infrastructure.attestation.verifier import Configuration, configuration_of
from trusted_infrastructure.audit import Decision
from trusted_infrastructure.config.documents import Name
from trusted_infrastructure.config.snapshot import SnapshotReader
from trusted_infrastructure.identity import LeafVerifier
from trusted_infrastructure.messages import AttestationResult, Challenge
from trusted_infrastructure.peers.oversight import Oversight
from trusted_infrastructure.process_hardening import lock_memory
from trusted_infrastructure.refusal import InvalidField, Refusal
from trusted_infrastructure.settings import TrustAuthoritySettings, group_id, load_settings
from trusted_infrastructure.transport import (
    Application,
    Doors,
    JSONAnswer,
    Program,
    configure_logging,
    serve_workers,
    user_ids,
)

SIDE = "trust_authority"
# A firmware log of 1.4 MB in base64; real ones have 10 to 200 kB.
BODY_LIMIT = 2 << 20
THREADS = 8

Answer = TypeVar("Answer")


class Settings(TrustAuthoritySettings, frozen=True):
    """Settings of the attestation service (/etc/trusted-infrastructure/attestation.json).

    host: inventory name; service_id: "attestation@<host>". side_ca: PEM of the CA whose manager may manage.
    identity_certificate, identity_key: PEM; they sign the key set. snapshot: published configuration.
    run_directory: on tmpfs. requests_per_minute, burst: challenges for one endorsement key, of all workers.
    workers: processes that answer; one for each core that the service may use.
    """

    host: Name
    service_id: Name
    side_ca: Path
    identity_certificate: Path
    identity_key: Path
    snapshot: Path
    state_directory: Path
    run_directory: Path
    public_name: Name
    requests_per_minute: int = 30
    burst: int = 20
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1


class AttestationService:
    """The open service: its parts, and what its routes do. For use by one event loop."""

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float] = time.time,
        shared: Shared | None = None,
    ) -> None:
        """Open state, audit log and keys. shared: with the other workers; None where there are none.

        Raises Refusal when one of them cannot be used.
        """
        # Not with this module: see there.
        from trusted_infrastructure.attestation.metrics import Metrics

        shared = shared or Shared.make(settings.requests_per_minute, settings.burst)
        self._settings = settings
        self._clock = clock
        if settings.service_id != f"attestation@{settings.host}":
            raise InvalidField("service_id", f"must be attestation@{settings.host}", "settings_invalid")
        self._identity = ServiceIdentity(settings.identity_certificate, settings.identity_key)
        self._keys = TokenKeys(settings.service_id, self._identity, shared.token_secret)
        self.oversight = Oversight(settings, "/attestation/v1", self._identity.key_and_chain, clock)
        self._audit = self.oversight.log
        self._state = State(settings.state_directory / "state.db")
        self._used = UsedChallenges(settings.run_directory / "challenges.db")
        self._reader = SnapshotReader(settings.snapshot)
        self._configuration: Configuration | None = None
        self._threads = ThreadPoolExecutor(THREADS, "attestation")
        self._issuer = Issuer(
            settings.service_id,
            ChallengeEnvelope(shared.envelope_key),
            self._used,
            self._state,
            self._audit,
            self._keys,
            shared.limit,
            clock,
            self.oversight.ready,
        )
        self.identity_reports = IdentityReports(
            self._state, settings.service_id, clock, self._in_thread, self._audit.append
        )
        self.host_reports = HostReports(self._state, settings.service_id, clock, self._in_thread)
        self._metrics = Metrics()

    def configuration(self) -> Configuration:
        """The configuration as published now, prepared once for each state of it.

        Raises Unavailable `configuration_unavailable`, `service_disabled`.
        """
        snapshot = self._reader.current()
        if self._configuration is None or self._configuration.snapshot is not snapshot:
            self._configuration = None
            self._configuration = configuration_of(snapshot)
        return self._configuration

    async def challenge(self, request: Request) -> Response:
        """POST challenge."""
        return await self._answer(request, "challenge", self._challenge)

    async def evidence(self, request: Request) -> Response:
        """POST evidence."""
        return await self._answer(request, "evidence", self._evidence)

    async def keys(self, _request: Request) -> Response:
        """GET keys."""
        self.oversight.guard.check()
        return JSONAnswer({"keys": await self._in_thread(lambda: self._keys.key_set(int(self._clock())))})

    async def jwks(self, _request: Request) -> Response:
        """GET jwks: the same keys for verifiers that do not know our key sets; as good as the connection."""
        self.oversight.guard.check()
        keys = await self._in_thread(lambda: self._keys.jwks(int(self._clock())))
        return Response(
            msgspec.json.encode(keys),
            media_type="application/jwk-set+json",
            headers={"cache-control": f"max-age={KEY_SET_REUSE}"},
        )

    async def generation(self, _request: Request) -> Response:
        """GET generation: a host whose token is of a lower one attests again, within the grace period."""
        configuration = self.configuration()
        return JSONAnswer(
            {
                "security_generation": configuration.snapshot.security_generation,
                "grace_period": configuration.cluster.grace_period,
            }
        )

    async def status(self, _request: Request) -> Response:
        """GET status: OK, WARNING (something is not as it should be), or ERROR (nobody can be attested)."""
        return JSONAnswer(self._status())

    async def prometheus(self, _request: Request) -> Response:
        """GET metrics."""
        from trusted_infrastructure.attestation.metrics import CONTENT_TYPE

        return Response(await self._in_thread(self._metrics.text), media_type=CONTENT_TYPE)

    async def accept_clock(self, request: Request) -> Response:
        """POST accept-clock: an administrator says that this TPM was cleared, or replaced, on purpose."""
        ek_digest = request.path_params["ek_digest"]
        decision = Decision(
            time=int(self._clock()),
            service=self._settings.service_id,
            host="",
            address=request.headers.get("x-real-ip", ""),
            code="clock_accepted",
            detail={"ek_digest": ek_digest, "by": request.state.caller.host},
        )

        def accept() -> bool:
            if self._state.clock_record(ek_digest) is None:
                return False
            self._audit.append(decision)
            return self._state.accept(ek_digest)

        return JSONAnswer({"changed": await self._in_thread(accept)})

    def close(self) -> None:
        """Finish the work under way, and close the files."""
        self._threads.shutdown(wait=True)
        self._used.close()
        self._state.close()
        self.oversight.close()

    async def _answer(
        self,
        request: Request,
        operation: str,
        decide: Callable[[bytes, str, Configuration], Awaitable[Any]],
    ) -> Response:
        address = request.headers.get("x-real-ip", "")
        began = time.perf_counter()
        code = "ok"
        try:
            body, configuration = await self._received(request, operation, address)
            return JSONAnswer(await decide(body, address, configuration))
        except Refusal as refusal:
            code = refusal.code
            raise
        finally:
            self._metrics.decided(operation, code, time.perf_counter() - began)

    async def _challenge(self, body: bytes, address: str, configuration: Configuration) -> Challenge:
        # Here, and not in a thread: it takes a fraction of a millisecond, and to hand it over takes longer.
        answer = self._issuer.judge_challenge(body, address, configuration)
        if isinstance(answer, Refused):
            refused = answer
            return await self._in_thread(lambda: self._issuer.refuse(refused))
        return answer

    async def _evidence(self, body: bytes, address: str, configuration: Configuration) -> AttestationResult:
        return await self._in_thread(lambda: self._issuer.evidence(body, address, configuration))

    async def _received(self, request: Request, operation: str, address: str) -> tuple[bytes, Configuration]:
        """Body and configuration. A refusal here (too large, not enabled) is a decision as any other."""
        try:
            return await request.body(), self.configuration()
        except Refusal as refusal:
            decision = refusal
        await self._in_thread(lambda: self._issuer.turned_away(operation, address, decision))
        raise decision

    def _in_thread(self, work: Callable[[], Answer]) -> Awaitable[Answer]:
        return asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _status(self) -> dict[str, Any]:
        details: list[str] = []
        health = "OK"
        generation = 0
        try:
            configuration = self.configuration()
            generation = configuration.snapshot.security_generation
            details += configuration.endorsement_policy.problems
            details += configuration.endorsement_policy.warnings(int(self._clock()))
        except Refusal as refusal:
            health = "ERROR"
            details.append(f"{refusal.code}: {refusal.message}")
        certificates = []
        try:
            leaf = self._identity.chain()[0]
            certificates.append(
                {
                    "name": "identity",
                    "subject": leaf.subject.rfc4514_string(),
                    "expires": f"{leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
                }
            )
            if leaf.not_valid_after_utc.timestamp() < self._clock():
                health = "ERROR"
                details.append("certificate_expired: the service's identity certificate has expired")
        except Refusal as refusal:
            health = "ERROR"
            details.append(f"{refusal.code}: {refusal.message}")
        stopped, watched = self.oversight.problems()
        details += stopped + watched
        if stopped:
            health = "ERROR"
        if details and health == "OK":
            health = "WARNING"
        return {
            "health": health,
            "details": details,
            "service_id": self._settings.service_id,
            "security_generation": generation,
            "certificates": certificates,
        }


def public_application(service: AttestationService) -> Application:
    """What hosts and key providers call."""
    return Application(
        [
            Route("/attestation/v1/challenge", service.challenge, methods=["POST"]),
            Route("/attestation/v1/evidence", service.evidence, methods=["POST"]),
            Route("/attestation/v1/keys", service.keys, methods=["GET"]),
            Route("/attestation/v1/jwks", service.jwks, methods=["GET"]),
            Route("/attestation/v1/generation", service.generation, methods=["GET"]),
            *service.oversight.routes.public("/attestation/v1"),
        ],
        body_limit=BODY_LIMIT,
    )


def management_application(
    service: AttestationService, settings: Settings, clock: Callable[[], float] = time.time
) -> Application:
    """What the manager of this side calls."""
    base = "/attestation/manage/v1"
    accept = base + "/endorsement-keys/{ek_digest}/accept-clock"
    return Application(
        [
            Route(base + "/status", service.status, methods=["GET"]),
            *service.host_reports.routes(base),
            *service.identity_reports.routes(base),
            *service.oversight.routes.management(base),
            Route(base + "/metrics", service.prometheus, methods=["GET"]),
            Route(accept, service.accept_clock, methods=["POST"]),
        ],
        authenticate_client=LeafVerifier(settings.side_ca, SIDE, {"manager"}, clock),
    )


def run(settings_path: Path) -> None:
    """Serve until SIGTERM. Raises Refusal when the settings, the state or the sockets cannot be used."""
    settings = load_settings(settings_path, Settings)
    configure_logging("attestation", settings.log_level)
    public, management = (settings.run_directory / name for name in ("public.sock", "management.sock"))
    doors = Doors(
        (public, management),
        allowed_uids=user_ids(settings.allowed_users),
        socket_group=group_id(settings.socket_group),
    )
    shared = Shared.make(settings.requests_per_minute, settings.burst)
    if settings.workers > 1:
        share_metrics(settings.run_directory / "metrics")
        # What is made or repaired on opening is made by one process, and what cannot be used shows at once.
        AttestationService(settings, shared=shared).close()

    def start(_number: int) -> Program:
        if settings.workers > 1 and settings.lock_memory:
            lock_memory()  # a fork does not inherit it
        service = AttestationService(settings, shared=shared)
        apps = {
            public: public_application(service),
            management: management_application(service, settings),
        }
        return Program(apps, lambda: _open(service), service.oversight.background)

    serve_workers(doors, start, settings.workers)


@contextlib.asynccontextmanager
async def _open(service: AttestationService) -> AsyncIterator[None]:
    try:
        await service.oversight.start()
        yield
    finally:
        await service.oversight.close_client()
        service.close()
