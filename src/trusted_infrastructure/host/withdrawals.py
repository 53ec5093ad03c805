# SPDX-License-Identifier: GPL-3.0-or-later
"""How this host learns that trust was withdrawn, before its token ends and without asking for a key.

Each Attestation Service says its security generation to anybody. A host asks every service whose token it
holds, between LOOK / 2 and LOOK apart. A generation above the token's means that something was withdrawn, of
this host or of another one: the host attests again, spread over half the grace period, in which key
providers still take the old token. A token that is not renewed by then, because its service is away, is
dropped: key providers refuse it anyway. Tokens that came later are not touched, so a service that only claims
to have withdrawn something causes attestations and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from trusted_infrastructure.host.registered_services import Service
from trusted_infrastructure.host.schedule import Dice
from trusted_infrastructure.host.service_client import ServiceClient
from trusted_infrastructure.refusal import Refusal

LOOK = 30.0
LONGEST_SPREAD = 60.0
PATH = "/attestation/v1/generation"


class Generation(msgspec.Struct, frozen=True):
    """A service's answer. grace_period: seconds."""

    security_generation: int
    grace_period: float = 0


@dataclass(frozen=True)
class Heard:
    """A generation of a group: when this host heard of it, and when the grace period is over (Unix time)."""

    generation: int
    heard: float
    over: float


class Withdrawals:
    """See the module. dice: 0 to 1."""

    def __init__(self, client: ServiceClient, dice: Dice) -> None:
        self._client = client
        self._dice = dice
        self._next: dict[str, float] = {}
        self._heard: dict[str, Heard] = {}

    def due(self, service: str, now: float) -> bool:
        """Whether it is time to ask a service (id), and if so, when it is the next time."""
        planned = self._next.setdefault(service, self._later(now))
        # A clock that was set back does not stop the questions.
        if now < planned <= now + LOOK:
            return False
        self._next[service] = self._later(now)
        return True

    async def look(self, service: Service, judged: int, now: float) -> float | None:
        """Ask a service; judged: generation of its token. Seconds within which to attest again, None for no
        reason to. A service that does not answer withdraws nothing."""
        try:
            response = await self._client.get(service, PATH)
            answer = msgspec.json.decode(response.content, type=Generation)
        except (Refusal, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        if answer.security_generation <= judged:
            return None
        known = self._heard.get(service.group)
        if known is None or known.generation < answer.security_generation:
            over = now + max(answer.grace_period, 0.0)
            self._heard[service.group] = Heard(answer.security_generation, now, over)
        return min(max(answer.grace_period, 0.0), LONGEST_SPREAD) / 2

    def over(self, now: float) -> dict[str, Heard]:
        """Groups whose tokens of an older generation have had their grace. Each is given once."""
        found = {group: heard for group, heard in self._heard.items() if heard.over <= now}
        for group in found:
            del self._heard[group]
        return found

    def _later(self, now: float) -> float:
        return now + LOOK * (0.5 + self._dice() / 2)
