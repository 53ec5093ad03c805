# SPDX-License-Identifier: GPL-3.0-or-later
"""The host agent: keeps this host attested, and gets keys for it.

One loop looks at the configuration each second and starts what is due: a service is attested with on its
own, so that one that hangs keeps no other waiting. Everything runs on one event loop; the TPM has a thread
of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from trusted_infrastructure.host import schedule
from trusted_infrastructure.host.attestation_key import Identity, identity
from trusted_infrastructure.host.attester import Attester
from trusted_infrastructure.host.configuration import (
    Configuration,
    ConfigurationReader,
    RefusedService,
)
from trusted_infrastructure.host.host_keys import HostKeys, KeyCheck
from trusted_infrastructure.host.key_sets import KeySets
from trusted_infrastructure.host.keys import DENIALS, Keys
from trusted_infrastructure.host.registered_services import Service
from trusted_infrastructure.host.service_client import ServiceClient
from trusted_infrastructure.host.state import Attestations, AttestationStatus, Session
from trusted_infrastructure.host.tpm_values import EndorsementKeyType
from trusted_infrastructure.host.tpm_worker import TpmWorker
from trusted_infrastructure.host.withdrawals import Withdrawals
from trusted_infrastructure.refusal import Refusal, Unavailable

TICK = 1.0

log = structlog.get_logger("trusted_infrastructure.host")


@dataclass(frozen=True)
class HostFacts:
    """What the agent is told at its start. event_log: the firmware's log as it was read then; empty where
    there was none. read_event_log: reads it again, where it may come later than the agent."""

    host: str
    endorsement_key: EndorsementKeyType
    state_directory: Path
    event_log: bytes
    hpke_suite: str
    read_event_log: Callable[[], bytes] | None = None


class Agent:
    """See the module. clock: Unix seconds. dice: 0 to 1, for spreading attempts."""

    def __init__(
        self,
        facts: HostFacts,
        configuration: ConfigurationReader,
        tpm: TpmWorker,
        client: ServiceClient,
        clock: Callable[[], float],
        dice: Callable[[], float] = random.random,
    ) -> None:
        self.facts = facts
        self.tpm = tpm
        self.attestations = Attestations()
        self._reader = configuration
        self._client = client
        self._clock = clock
        self._dice = dice
        self._key_sets = KeySets(client, clock)
        self._attester = Attester(client, self._key_sets, tpm, self.event_log, clock, facts.hpke_suite)
        self._withdrawals = Withdrawals(client, dice)
        self.keys = Keys(self, client, self._key_sets, clock)
        self.host_keys = HostKeys(
            facts.host,
            facts.state_directory,
            facts.hpke_suite,
            self.keys,
            tpm,
            configuration.snapshot,
            clock,
            dice,
        )
        self._identity: Identity | None = None
        self._configuration: Configuration | None = None
        self._fault: Refusal | None = None
        self._attempts: dict[str, schedule.Attempt] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}

    # ---- the loop -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep this host attested until cancelled."""
        try:
            while True:
                with contextlib.suppress(Refusal):  # kept, and shown in the status
                    await self.refresh()
                self._start_due()
                self._look_for_withdrawals()
                await asyncio.sleep(TICK)
        finally:
            for task in [*self._running.values(), *self._looking.values()]:
                task.cancel()

    async def refresh(self) -> Configuration:
        """Take over the configuration as it is published now. Raises Refusal, Unavailable."""
        now = self._now()
        self.attestations.settle(now)
        try:
            configuration = self._reader.current()
            await self._client.trust(configuration.anchor)
        except Refusal as refusal:
            self._fault = refusal
            raise
        self._fault = None
        before, self._configuration = self._configuration, configuration
        if before is None or before.fingerprint != configuration.fingerprint:
            self._take_over(configuration, now)
        return configuration

    def _take_over(self, configuration: Configuration, now: int) -> None:
        self._key_sets.trust(configuration.anchor)
        usable = configuration.attestation_services
        refused = [one for one in configuration.refused if one.kind == "attestation_service"]
        addresses = {service.id: service.name for service in usable}
        self.attestations.register(addresses | {one.id: one.address for one in refused}, now)
        for one in refused:
            self.attestations.failed(one.id, one.refusal, now)
        self._attempts = {service.id: schedule.soon(now, self._dice) for service in usable}
        for one in configuration.refused:
            log.warning("service_refused", kind=one.kind, id=one.id, reason=one.refusal.message)
        log.info("configuration", services=[service.name for service in usable])

    def _start_due(self) -> None:
        configuration = self._configuration
        for service in configuration.attestation_services if configuration else ():
            attempt = self._attempts.get(service.id)
            if attempt is not None and attempt.due <= self._clock():
                self._start(service)

    def _look_for_withdrawals(self) -> None:
        """Ask services whose tokens are held, each once in a while, whether trust was withdrawn."""
        configuration, now = self._configuration, self._clock()
        for group, heard in self._withdrawals.over(now).items():
            self.attestations.superseded(group, heard.generation, heard.heard, int(now))
        for service in configuration.attestation_services if configuration else ():
            if service.id in self._looking or not self.attestations.held(service.id, int(now)):
                continue
            if self._withdrawals.due(service.id, now):
                self._looking[service.id] = asyncio.create_task(self._look(service))

    async def _look(self, service: Service) -> None:
        try:
            await self._learn(service)
        finally:
            self._looking.pop(service.id, None)

    async def _learn(self, service: Service) -> None:
        """Attest with a service soon if it withdrew trust since it gave the token."""
        session = self.attestations.held(service.id, self._now())
        if session is None:
            return
        now = self._clock()
        spread = await self._withdrawals.look(service, session.claims.security_generation, now)
        if spread is None:
            return
        # All of the group: whether the others took the withdrawal already shows when they judge.
        for other in self._known().attestation_services:
            attempt, due = self._attempts.get(other.id), now + spread * self._dice()
            if other.group == service.group and attempt is not None and due < attempt.due:
                log.info("trust_withdrawn", address=other.name, attesting_in=round(due - now, 1))
                self._attempts[other.id] = schedule.Attempt(due, attempt.failures)

    def _start(self, service: Service) -> asyncio.Task[None]:
        """The attempt with a service that is under way, or a new one."""
        task = self._running.get(service.id)
        if task is None:
            task = asyncio.create_task(self._attempt(service))
            self._running[service.id] = task
            task.add_done_callback(lambda _done: self._running.pop(service.id, None))
        return task

    # ---- attestation --------------------------------------------------------------------------------------

    async def attest(self) -> None:
        """Attest with every registered service now; what came of it is in the status.

        An attempt that is under way is waited for, not counted: it may have been judged before what the
        caller changed. Raises Refusal for a configuration that cannot be read.
        """
        await self.refresh()
        if self._running:
            await asyncio.wait(self._running.values())
        configuration = self._known()
        tasks = [self._start(service) for service in configuration.attestation_services]
        if tasks:
            # Whoever asked may go away; the attempt is of use to everybody and goes on.
            await asyncio.shield(asyncio.wait(tasks))

    async def _attempt(self, service: Service) -> None:
        configuration, started = self._known(), self._clock()
        attempt = self._attempts.get(service.id, schedule.Attempt(0))
        try:
            session = await self._attest(service, configuration)
        except Exception as error:  # the boundary: a fault here must not end the agent
            refusal = error if isinstance(error, Refusal) else _fault(error)
            # What the TPM holds may have changed (cleared, another key): look again before the next attempt.
            self._identity = None
            self.attestations.failed(service.id, refusal, self._now())
            if refusal.code in DENIALS:
                self.denied(refusal)
            self._plan(service, configuration, schedule.after_failure(self._clock(), attempt, self._dice))
            log.warning("not_attested", address=service.name, code=refusal.code, reason=refusal.message)
            return
        self.attestations.attested(session, self._now())
        self.host_keys.reports.attested()
        self._plan(
            service, configuration, schedule.after_token(self._clock(), session.claims.exp, self._dice)
        )
        log.info(
            "attested",
            address=service.name,
            base_image=session.claims.base_image,
            until=session.claims.exp,
            seconds=round(self._clock() - started, 3),
        )

    def _plan(self, service: Service, configuration: Configuration, attempt: schedule.Attempt) -> None:
        """Plan the next attempt, unless the configuration changed during this one: then it is planned."""
        if self._known().fingerprint == configuration.fingerprint:
            self._attempts[service.id] = attempt

    async def _attest(self, service: Service, configuration: Configuration) -> Session:
        assertion = configuration.assertion()
        if not self.event_log():
            raise Unavailable(
                "event_log_missing",
                "the firmware's event log cannot be read",
                "check the agent's setting event_log, and that the firmware provides a TCG event log",
            )
        return await self._attester.attest(service, await self._who(), assertion)

    def event_log(self) -> bytes:
        """The firmware's log. It is read again, because the agent may be up before it is; what was read once
        counts when it cannot be read any more."""
        facts = self.facts
        return (facts.read_event_log() if facts.read_event_log else b"") or facts.event_log

    async def _who(self) -> Identity:
        if self._identity is None:
            facts = self.facts
            self._identity = await self.tpm.run(
                lambda tpm: identity(tpm, facts.endorsement_key, facts.state_directory)
            )
        return self._identity

    # ---- keys ---------------------------------------------------------------------------------------------

    def key_provider_services(self, provider: str) -> Sequence[Service]:
        """For `Keys`."""
        return self._known().services_for(provider)

    def session(self, group: str) -> Session:
        """The valid token for a group. Raises Refusal `not_attested` with the reason that the status has."""
        now = self._now()
        session = self.attestations.session(group, now)
        if session is None:
            status = self.status(now)
            raise Refusal(
                "not_attested",
                f"this host has no valid token: {status.reason}: {status.message}",
                "see the host's attestation state",
            )
        return session

    async def attest_again(self) -> None:
        """For `Keys`."""
        await self.attest()

    def denied(self, refusal: Refusal) -> None:
        """Drop tokens and session keys, whichever service said so. The Attestation Services are asked again
        soon: it may have been a service that knows less than the others."""
        now = self._now()
        log.warning("denied", code=refusal.code, reason=refusal.message)
        self.attestations.denied(refusal, now)
        for service, attempt in self._attempts.items():
            planned = schedule.after_failure(now, attempt, self._dice)
            # Never later than planned: one service that goes on denying would keep all others waiting.
            if planned.due < attempt.due:
                self._attempts[service] = planned

    async def key_check(self, provider: str | None) -> KeyCheck:
        """Get a key of the provider (or of the default one), and get it again; compare, forget both."""
        try:
            await self.refresh()
        except Refusal as refusal:
            log.info("configuration_not_read", code=refusal.code)  # a provider may work without it
        return await self.host_keys.check(provider)

    # ---- status -------------------------------------------------------------------------------------------

    def status(self, now: int) -> AttestationStatus:
        """The state of this host. Without any service, why none is known."""
        status = self.attestations.host(now)
        if status.service is None and self._fault is not None:
            fault = self._fault
            return msgspec.structs.replace(
                status, reason=fault.code, message=fault.message, remedy=fault.remedy
            )
        return status

    def refused_services(self) -> Sequence[RefusedService]:
        """Registered services of both kinds that the anchor does not vouch for."""
        return self._configuration.refused if self._configuration else ()

    async def close(self) -> None:
        """Forget tokens and keys, close connections and the TPM."""
        self.attestations.forget()
        self.host_keys.close()
        self.tpm.close()
        await self._client.close()

    def _known(self) -> Configuration:
        if self._configuration is None:
            raise self._fault or Unavailable(
                "configuration_unavailable", "the configuration was not read yet"
            )
        return self._configuration

    def _now(self) -> int:
        return int(self._clock())


def _fault(error: Exception) -> Refusal:
    """A fault of ours, by its type: its text may hold what a status must not show."""
    log.error("fault", type=type(error).__name__, exc_info=False)
    return Unavailable(
        "agent_fault", f"the agent failed with {type(error).__name__}", "see the agent's journal"
    )
