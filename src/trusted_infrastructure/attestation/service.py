# SPDX-License-Identifier: GPL-3.0-or-later
"""The Attestation Service: settings, routes, start and stop. SYSTEM A1-A6.

It checks that a host is who its manager says it is (assertion), on the TPM that is trusted (endorsement key),
and that it booted one of the blessed states (base images); then it signs a token. It does not check what a
host does after it has booted, nor what IMA measured.

Routes on `public.sock`
  POST /attestation/v1/challenge   ChallengeRequest -> Challenge
  POST /attestation/v1/evidence    Evidence -> AttestationResult
  GET  /attestation/v1/keys        {"keys": key set as JWS}
Routes on `management.sock` (client certificate of this side's manager)
  GET  /attestation/manage/v1/status
  GET  /attestation/manage/v1/hosts
  GET  /attestation/manage/v1/audit/head
  GET  /attestation/manage/v1/metrics                                  Prometheus text
  POST /attestation/manage/v1/endorsement-keys/{ek_digest}/accept-clock
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trusted_infrastructure.attestation import challenges
from trusted_infrastructure.attestation.challenges import ChallengeEnvelope, UsedChallenges
from trusted_infrastructure.attestation.issuing import Issuer
from trusted_infrastructure.attestation.state import State
from trusted_infrastructure.attestation.token_keys import ServiceIdentity, TokenKeys
from trusted_infrastructure.attestation.verifier import Configuration, configuration_of
from trusted_infrastructure.audit import AuditLog, Decision
from trusted_infrastructure.config.documents import Name
from trusted_infrastructure.config.snapshot import SnapshotReader
from trusted_infrastructure.identity import LeafVerifier
from trusted_infrastructure.rate_limit import RateLimit
from trusted_infrastructure.refusal import InvalidField, Refusal
from trusted_infrastructure.settings import ServiceSettings, group_id, load_settings
from trusted_infrastructure.transport import Application, JSONAnswer, configure_logging, serve

log = structlog.get_logger("trusted_infrastructure.attestation")

SIDE = "trust_authority"
# A firmware log of 1.4 MB in base64; real ones have 10 to 200 kB.
BODY_LIMIT = 2 << 20
THREADS = 8

Answer = TypeVar("Answer")


class Settings(ServiceSettings, frozen=True):
    """Settings of the attestation service (/etc/trusted-infrastructure/attestation.json).

    host: inventory name; service_id: "attestation@<host>". side_ca: PEM of the CA whose manager may manage.
    identity_certificate, identity_key: PEM; they sign the key set. snapshot: published configuration.
    run_directory: on tmpfs. requests_per_minute, burst: challenges for one endorsement key.
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


class AttestationService:
    """The open service: its parts, and what its routes do. For use by one event loop."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        """Open state, audit log and keys. Raises Refusal when one of them cannot be used."""
        self._settings = settings
        self._clock = clock
        now = int(clock())
        if settings.service_id != f"attestation@{settings.host}":
            raise InvalidField("service_id", f"must be attestation@{settings.host}", "settings_invalid")
        self._identity = ServiceIdentity(settings.identity_certificate, settings.identity_key)
        self._keys = TokenKeys(settings.service_id, self._identity, now)
        self._audit = AuditLog(settings.state_directory / "audit.jsonl", settings.service_id, now)
        self._state = State(settings.state_directory / "state.db")
        self._used = UsedChallenges(settings.run_directory / "challenges.db")
        self._reader = SnapshotReader(settings.snapshot)
        self._configuration: Configuration | None = None
        self._threads = ThreadPoolExecutor(THREADS, "attestation")
        self._issuer = Issuer(
            settings.service_id,
            ChallengeEnvelope(os.urandom(challenges.KEY_SIZE)),
            self._used,
            self._state,
            self._audit,
            self._keys,
            RateLimit(settings.requests_per_minute / 60, settings.burst, time.monotonic),
            clock,
        )
        self.metrics = CollectorRegistry()
        self._decisions = Counter(
            "attestation_decisions", "Answers to hosts", ["operation", "code"], registry=self.metrics
        )
        self._seconds = Histogram(
            "attestation_seconds", "Time to answer", ["operation"], registry=self.metrics
        )

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
        return await self._answer(request, "challenge", self._issuer.challenge)

    async def evidence(self, request: Request) -> Response:
        """POST evidence."""
        return await self._answer(request, "evidence", self._issuer.evidence)

    async def keys(self, _request: Request) -> Response:
        """GET keys."""
        return JSONAnswer({"keys": await self._in_thread(lambda: self._keys.key_set(int(self._clock())))})

    async def status(self, _request: Request) -> Response:
        """GET status: OK, WARNING (something is not as it should be), or ERROR (nobody can be attested)."""
        return JSONAnswer(self._status())

    async def hosts(self, _request: Request) -> Response:
        """GET hosts: the last result of each host."""
        return JSONAnswer({"hosts": await self._in_thread(self._state.results)})

    async def audit_head(self, _request: Request) -> Response:
        """GET audit/head: where the chain stands, plain and signed."""
        head = await self._in_thread(self._audit.head)
        signed = self._keys.sign_head(head, int(self._clock()))
        return JSONAnswer({"chain": head.chain, "seq": head.seq, "hash": head.hash, "signed": signed})

    async def prometheus(self, _request: Request) -> Response:
        """GET metrics."""
        return Response(generate_latest(self.metrics), media_type=CONTENT_TYPE_LATEST)

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
        self._audit.close()

    async def _answer(
        self,
        request: Request,
        operation: str,
        decide: Callable[[bytes, str, Configuration], Any],
    ) -> Response:
        body = await request.body()
        configuration = self.configuration()
        address = request.headers.get("x-real-ip", "")
        began = time.perf_counter()
        code = "ok"
        try:
            return JSONAnswer(await self._in_thread(lambda: decide(body, address, configuration)))
        except Refusal as refusal:
            code = refusal.code
            raise
        finally:
            self._decisions.labels(operation, code).inc()
            self._seconds.labels(operation).observe(time.perf_counter() - began)

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
            Route(base + "/hosts", service.hosts, methods=["GET"]),
            Route(base + "/audit/head", service.audit_head, methods=["GET"]),
            Route(base + "/metrics", service.prometheus, methods=["GET"]),
            Route(accept, service.accept_clock, methods=["POST"]),
        ],
        authenticate_client=LeafVerifier(settings.side_ca, SIDE, {"manager"}, clock),
    )


def run(settings_path: Path) -> None:
    """Serve until SIGTERM. Raises Refusal when the settings, the state or the sockets cannot be used."""
    settings = load_settings(settings_path, Settings)
    configure_logging("attestation", settings.log_level)
    service = AttestationService(settings)

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        try:
            yield
        finally:
            service.close()

    serve(
        {
            settings.run_directory / "public.sock": public_application(service),
            settings.run_directory / "management.sock": management_application(service, settings),
        },
        allowed_users=settings.allowed_users,
        socket_group=group_id(settings.socket_group),
        lifespan=lifespan,
    )
