# SPDX-License-Identifier: GPL-3.0-or-later
"""From a request to its answer: the order of effects around the verifier's rules. docs/protocol.md 3.

Challenge: identify -> rate limit -> admit -> make the credential -> answer.
Evidence: open the challenge -> use it up -> verify -> bind host and key, advance the clock's history -> sign
the token -> audit record on disk -> note the result -> answer.

Rules
- A refusal leaves one audit record, and nothing else but the host's result FAILED (and a challenge that is
  used up).
- A result is only noted for a host that a principal vouches for: nobody else can make a host look failed.
- No token leaves without its audit record being on disk.
- Any exception is a refusal: what nobody thought of ends as `verification_failed`, with the exception's type
  in the log and nothing of its text, which might hold what the caller sent.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import structlog

from trusted_infrastructure.attestation import challenges, verifier
from trusted_infrastructure.attestation.challenges import ChallengeEnvelope, UsedChallenges
from trusted_infrastructure.attestation.host_results import HostResult, ImageState
from trusted_infrastructure.attestation.identity_bindings import HostIdentity
from trusted_infrastructure.attestation.state import State
from trusted_infrastructure.attestation.token_keys import TokenKeys
from trusted_infrastructure.attestation.verifier import AdmittedHost, Appraisal, Configuration
from trusted_infrastructure.audit import AuditLog, Decision, Detail
from trusted_infrastructure.messages import (
    PURPOSE_TOKEN,
    AttestationResult,
    Challenge,
    Evidence,
    decode,
)
from trusted_infrastructure.rate_limit import Limit
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tokens import AssertionClaims, Confirmation, SealingTarget, TokenClaims
from trusted_infrastructure.tpm.credential import make_credential

log = structlog.get_logger("trusted_infrastructure.attestation")

Answer = TypeVar("Answer")


@dataclass
class Attempt:
    """How far a request came. assertion: set once a principal vouched for the host."""

    address: str
    operation: str
    assertion: AssertionClaims | None = None


@dataclass(frozen=True)
class Refused:
    """A decision against a host that is not recorded yet."""

    attempt: Attempt
    refusal: Refusal


class Issuer:
    """Answers challenge requests and evidence. Thread-safe; blocks for the disk."""

    def __init__(
        self,
        service_id: str,
        envelope: ChallengeEnvelope,
        used: UsedChallenges,
        state: State,
        audit: AuditLog,
        token_keys: TokenKeys,
        limit: Limit,
        clock: Callable[[], float],
        ready: Callable[[int], None] = lambda _generation: None,
    ) -> None:
        """clock: Unix seconds. ready: may this service decide under its security generation? Raises
        Unavailable."""
        self._ready = ready
        self._service_id = service_id
        self._envelope = envelope
        self._used = used
        self._state = state
        self._audit = audit
        self._token_keys = token_keys
        self._limit = limit
        self._clock = clock

    def judge_challenge(self, body: bytes, address: str, configuration: Configuration) -> Challenge | Refused:
        """Answer a challenge request. body: its exact bytes. Does not wait for the disk: a challenge needs no
        record, and a refusal is to be handed to `refuse`."""
        attempt = Attempt(address, "challenge")
        return self._judged(attempt, lambda: self._challenge(body, attempt, configuration))

    def evidence(self, body: bytes, address: str, configuration: Configuration) -> AttestationResult:
        """Answer evidence with a token. Raises Refusal."""
        attempt = Attempt(address, "evidence")
        answer = self._judged(attempt, lambda: self._evidence(body, attempt, configuration))
        return self.refuse(answer) if isinstance(answer, Refused) else answer

    def refuse(self, refused: Refused) -> NoReturn:
        """Record a refusal. Raises it, or Unavailable `audit_unavailable`."""
        self._refused(refused.attempt, refused.refusal)
        raise refused.refusal

    def turned_away(self, operation: str, address: str, refusal: Refusal) -> None:
        """Record a request that was refused before it was read. Raises Unavailable `audit_unavailable`."""
        self._refused(Attempt(address, operation), refusal)

    def _challenge(self, body: bytes, attempt: Attempt, configuration: Configuration) -> Challenge:
        self._ready(configuration.snapshot.security_generation)
        now = int(self._clock())
        request, attempt.assertion = verifier.identify(body, configuration, now)
        self._limit.take(attempt.assertion.ek_digest)
        host = verifier.admit(request, attempt.assertion, configuration, now)
        wanted = host.allowed
        state = challenges.new_state(body, PURPOSE_TOKEN, self._service_id, wanted.bank, wanted.pcrs, now)
        credential_blob, encrypted_secret = make_credential(host.ek, host.ak.name, state.secret)
        return Challenge(
            challenge=self._envelope.close(state),
            challenge_id=state.identifier,
            nonce=state.nonce,
            credential_blob=credential_blob,
            encrypted_secret=encrypted_secret,
            bank=state.bank,
            pcrs=list(state.pcrs),
            service_id=state.service_id,
            expires=state.expires,
        )

    def _evidence(self, body: bytes, attempt: Attempt, configuration: Configuration) -> AttestationResult:
        self._ready(configuration.snapshot.security_generation)
        now = int(self._clock())
        evidence = decode(body, Evidence)
        state = self._envelope.open(evidence.challenge, self._service_id, PURPOSE_TOKEN, now)
        self._used.use(state, now)
        # 3.4.0: trust that was withdrawn since the challenge is not given.
        request, attempt.assertion = verifier.identify(state.request, configuration, now)
        host = verifier.admit(request, attempt.assertion, configuration, now)
        appraisal = verifier.verify(state, evidence, host, configuration.cluster.hpke_suite)
        # 3.4.7 and 3.4.9, in the transaction that makes this clock the history and binds host and key.
        self._state.advance(_identity(host, now), appraisal.clock, now)
        claims = self._claims(appraisal, evidence, configuration, now)
        token = self._token_keys.sign(claims, now)
        described = {**_described(claims), "image_state": appraisal.image.state}
        self._audit.append(self._decision(attempt, "ok", now, described))
        self._note(_attested(claims, appraisal.image.state, attempt.address, now))
        return AttestationResult(
            token=token,
            expires=claims.exp,
            base_image=claims.base_image,
            security_generation=claims.security_generation,
            image_state=appraisal.image.state,
        )

    def _claims(
        self, appraisal: Appraisal, evidence: Evidence, configuration: Configuration, now: int
    ) -> TokenClaims:
        assertion, cluster = appraisal.host.assertion, configuration.cluster
        return TokenClaims(
            iss=self._service_id,
            aud=cluster.group,
            sub=assertion.sub,
            scope=assertion.scope,
            principal=assertion.iss,
            ek_digest=assertion.ek_digest,
            base_image=appraisal.image.image_version,
            userspace=appraisal.image.userspace,
            security_generation=configuration.snapshot.security_generation,
            reset_count=appraisal.clock.reset_count,
            restart_count=appraisal.clock.restart_count,
            iat=now,
            nbf=now,
            # What the manager vouches for until then, no token may say beyond it.
            exp=min(now + cluster.token_lifetime, assertion.exp),
            jti=secrets.token_urlsafe(16),
            cnf=Confirmation(evidence.proof_key.thumbprint()),
            hpke=SealingTarget(evidence.hpke_suite, hashlib.sha256(evidence.hpke_public_key).hexdigest()),
        )

    def _judged(self, attempt: Attempt, decide: Callable[[], Answer]) -> Answer | Refused:
        """The answer of `decide`; or its refusal, whatever it raised."""
        try:
            return decide()
        except Refusal as refusal:
            decision = refusal
        except Exception as error:  # the boundary: any exception is a refusal
            log.error("verification_failed", type=type(error).__name__, operation=attempt.operation)
            decision = Refusal(
                "verification_failed",
                "the request could not be judged",
                "Look into the journal of the attestation service and report what it says.",
            )
        return Refused(attempt, decision)

    def _refused(self, attempt: Attempt, refusal: Refusal) -> None:
        now = int(self._clock())
        if refusal.code == "audit_unavailable":
            return
        self._audit.append(self._decision(attempt, refusal.code, now, {"reason": refusal.message}))
        # What this service could not do, or would not do so often, says nothing about the host.
        if attempt.assertion is not None and refusal.status not in (429, 503):
            self._note(_failed(attempt.assertion, refusal, attempt.address, now))

    def _note(self, result: HostResult) -> None:
        """Keep a result for the status. The decision stands and is recorded even if this fails."""
        try:
            self._state.record(result)
        except Refusal as refusal:
            log.error("result_not_kept", host=result.host, reason=refusal.message)

    def _decision(self, attempt: Attempt, code: str, now: int, detail: dict[str, Detail]) -> Decision:
        assertion = attempt.assertion
        known: dict[str, Detail] = {"operation": attempt.operation}
        if assertion is not None:
            known |= {
                "principal": assertion.iss,
                "scope": assertion.scope,
                "ek_digest": assertion.ek_digest,
            }
        return Decision(
            time=now,
            service=self._service_id,
            host=assertion.sub if assertion is not None else "",
            address=attempt.address,
            code=code,
            detail=known | detail,
        )


def _described(claims: TokenClaims) -> dict[str, Detail]:
    return {
        "base_image": claims.base_image,
        "userspace": claims.userspace,
        "security_generation": claims.security_generation,
        "reset_count": claims.reset_count,
        "token": claims.jti,
        "until": claims.exp,
    }


def _attested(claims: TokenClaims, image_state: ImageState, address: str, now: int) -> HostResult:
    return HostResult(
        principal=claims.principal,
        host=claims.sub,
        state="ATTESTED",
        since=now,
        last=now,
        until=claims.exp,
        base_image=claims.base_image,
        image_state=image_state,
        ek_digest=claims.ek_digest,
        address=address,
    )


def _identity(host: AdmittedHost, now: int) -> HostIdentity:
    assertion = host.assertion
    return HostIdentity(
        principal=assertion.iss,
        host=assertion.sub,
        ek_digest=assertion.ek_digest,
        key_digest=host.ek.key_digest,
        since=now,
    )


def _failed(assertion: AssertionClaims, refusal: Refusal, address: str, now: int) -> HostResult:
    return HostResult(
        principal=assertion.iss,
        host=assertion.sub,
        state="FAILED",
        since=now,
        last=now,
        reason=refusal.code,
        message=refusal.message,
        ek_digest=assertion.ek_digest,
        address=address,
    )
