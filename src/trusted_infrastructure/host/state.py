# SPDX-License-Identifier: GPL-3.0-or-later
"""What the agent has learned: an attestation for each registered Attestation Service. In memory only.

The agent attests with every registered service and holds one token from each. All tokens of a group open the
same key provider services, so one valid token is enough for keys, and the loss of a service changes nothing.
State of a service:

| state       | meaning                                                                | token |
| ----------- | ---------------------------------------------------------------------- | ----- |
| ATTESTED    | its token is valid; a reason then says why renewing it fails            | held  |
| FAILED      | the service refused, or this host could not produce evidence            | none  |
| EXPIRED     | its token ended and was not renewed                                     | none  |
| UNREACHABLE | no answer, and no token                                                 | none  |

A refusal ends the token of that service at once. State of the host: ATTESTED with at least one valid token;
otherwise the first of FAILED, EXPIRED, UNREACHABLE that a service has. After a start no token exists, so a
refusal by every service is FAILED with the service's reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.sealing import SealingKey
from trusted_infrastructure.tokens import PrivateKey, TokenClaims

State = Literal["ATTESTED", "FAILED", "EXPIRED", "UNREACHABLE"]
_WITHOUT_TOKEN: tuple[State, ...] = ("FAILED", "EXPIRED", "UNREACHABLE")
_PASSING_STATUSES = frozenset({408, 425, 429})
_LOCAL_FAULTS = frozenset({"anchor_missing", "event_log_missing", "agent_fault", "state_unwritable"})


@dataclass(frozen=True)
class Session:
    """One attestation's token and the keys that it is bound to.

    service: id of the registered Attestation Service. proof_key: signs DPoP proofs. sealing_key: opens what
    key providers seal to this host. image_state: STAGED where the base image is not in general use yet.
    obtained: when, by this host's clock (Unix seconds).
    """

    service: str
    claims: TokenClaims
    token: str = field(repr=False)
    proof_key: PrivateKey = field(repr=False)
    sealing_key: SealingKey = field(repr=False)
    image_state: str = "ACTIVE"
    obtained: float = 0.0

    def valid(self, now: int) -> bool:
        """Whether the token can still be shown."""
        return now < self.claims.exp


class AttestationStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How it stands with one service, or with the host. Times in Unix seconds; null where there is none.

    since: when the state began; attested_until: end of the token; base_image_state: see `Session`. remedy:
    what the operator can do.
    """

    state: State
    reason: str | None
    message: str
    remedy: str = ""
    base_image: str | None = None
    base_image_state: str | None = None
    since: int | None = None
    attested_until: int | None = None
    service: str | None = None
    address: str | None = None


@dataclass
class _Entry:
    """One service. ended: claims of the token that ended. refused: the last attempt ended with a decision."""

    address: str
    since: int
    session: Session | None = None
    ended: TokenClaims | None = None
    refused: bool = False
    reason: str | None = "not_attested"
    message: str = "no attestation was attempted yet"
    state: State = "UNREACHABLE"
    image_state: str | None = None
    remedy: str = ""

    def settle(self, now: int) -> None:
        """Bring `state` up to date; drop a token that has ended, and with it the keys."""
        if self.session is not None and not self.session.valid(now):
            self.ended, self.session = self.session.claims, None
            if self.reason is None:
                self.reason, self.message = "token_expired", "the token ended and was not renewed"
                self.remedy = "see that the agent runs and reaches an attestation service"
        state = self._state()
        if state != self.state:
            # A token that was dropped before its end is over since now.
            ended = self.ended.exp if state == "EXPIRED" and self.ended is not None else now
            self.state, self.since = state, min(now, ended)

    def _state(self) -> State:
        if self.session is not None:
            return "ATTESTED"
        if self.refused:
            return "FAILED"
        return "UNREACHABLE" if self.ended is None else "EXPIRED"


class Attestations:
    """The attestations of this host, by service id."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._host: tuple[State, int] | None = None

    def register(self, services: Mapping[str, str], now: int) -> None:
        """What is registered: id -> address. Other services are forgotten, and with them their tokens; so is
        the token of a service whose address changed."""
        known = self._entries
        self._entries = {
            service: known[service]
            if service in known and known[service].address == address
            else _Entry(address, now)
            for service, address in services.items()
        }

    def settle(self, now: int) -> None:
        """Drop tokens, and their session keys, that have ended."""
        for entry in self._entries.values():
            entry.settle(now)
        self.host(now)  # notes since when the host is in its state

    def attested(self, session: Session, now: int) -> None:
        """A service gave a token. One that is no longer registered is not heard."""
        entry = self._entries.get(session.service)
        if entry is not None:
            entry.session, entry.ended, entry.refused = session, None, False
            entry.reason, entry.message, entry.remedy = None, "", ""
            entry.image_state = session.image_state
        self.settle(now)

    def failed(self, service: str, refusal: Refusal, now: int) -> None:
        """An attempt ended without a token. A refusal takes the token that is held; a fault does not: nobody
        took it back."""
        entry = self._entries.get(service)
        if entry is not None:
            if is_decision(refusal):
                entry.session = entry.ended = None
            entry.refused = is_decision(refusal) or _is_local(refusal)
            entry.reason, entry.message, entry.remedy = refusal.code, refusal.message, refusal.remedy
        self.settle(now)

    def superseded(self, group: str, generation: int, heard: float, now: int) -> None:
        """Drop tokens of a group that were judged under an older generation, and had come before it was heard
        of: key providers refuse them by now, and their services did not renew them."""
        for entry in self._entries.values():
            session = entry.session
            if session is None or session.claims.aud != group or session.obtained >= heard:
                continue
            if session.claims.security_generation < generation:
                entry.ended, entry.session = session.claims, None
                entry.reason = "token_security_generation"
                entry.message = "trust was withdrawn, and the service did not judge this host again"
                entry.remedy = "see that the host reaches its attestation services"
        self.settle(now)

    def denied(self, refusal: Refusal, now: int) -> None:
        """A key provider said that this host is to have no keys: no token is shown any more."""
        for service in self._entries:
            self.failed(service, refusal, now)

    def forget(self) -> None:
        """Forget all tokens and session keys."""
        self._entries.clear()

    def session(self, group: str, now: int) -> Session | None:
        """The token for the key provider services of `group` that ends last, or None."""
        return _latest(session for session in self._valid(now) if session.claims.aud == group)

    def held(self, service: str, now: int) -> Session | None:
        """The valid token that a service gave, or None."""
        entry = self._entries.get(service)
        session = entry.session if entry is not None else None
        return session if session is not None and session.valid(now) else None

    def latest(self, now: int) -> Session | None:
        """The token that ends last, of any group, or None."""
        return _latest(self._valid(now))

    def _valid(self, now: int) -> list[Session]:
        held = [entry.session for entry in self._entries.values() if entry.session is not None]
        return [session for session in held if session.valid(now)]

    def services(self, now: int) -> list[AttestationStatus]:
        """The state with each service, by id."""
        return [_status(service, entry, now) for service, entry in sorted(self._entries.items())]

    def host(self, now: int) -> AttestationStatus:
        """The state of the host as a whole, since it began: whichever service's token it rests on."""
        status = self._best(now)
        if self._host is None or self._host[0] != status.state:
            began = status.since if status.state == "EXPIRED" and status.since is not None else now
            self._host = status.state, began
        return msgspec.structs.replace(status, since=self._host[1])

    def _best(self, now: int) -> AttestationStatus:
        services = self.services(now)
        attested = [status for status in services if status.state == "ATTESTED"]
        if attested:
            best = max(attested, key=lambda status: status.attested_until or 0)
            return msgspec.structs.replace(best, reason=None, message="", remedy="")
        for state in _WITHOUT_TOKEN:
            for status in services:
                if status.state == state:
                    return status
        return AttestationStatus(
            state="FAILED", reason="not_attested", message="no attestation service is registered"
        )


def is_decision(refusal: Refusal) -> bool:
    """Whether a service decided against this host; false for what may be gone at the next attempt."""
    return refusal.status < 500 and refusal.status not in _PASSING_STATUSES


def _latest(sessions: Iterable[Session]) -> Session | None:
    return max(sessions, key=lambda session: session.claims.exp, default=None)


def _is_local(refusal: Refusal) -> bool:
    """Whether this host, and not a service, is why there is no token."""
    return refusal.code in _LOCAL_FAULTS or refusal.code.startswith("tpm_")


def _status(service: str, entry: _Entry, now: int) -> AttestationStatus:
    entry.settle(now)
    claims = entry.session.claims if entry.session is not None else entry.ended
    return AttestationStatus(
        service=service,
        address=entry.address,
        state=entry.state,
        reason=entry.reason,
        message=entry.message,
        remedy=entry.remedy,
        since=entry.since,
        base_image=claims.base_image if claims else None,
        base_image_state=entry.image_state if claims else None,
        attested_until=claims.exp if claims else None,
    )
