# SPDX-License-Identifier: GPL-3.0-or-later
"""How this host learns that trust was withdrawn, before its token ends and without asking for a key.

Each Attestation Service says its security generation to anybody. A host asks every service whose token it
holds, between LOOK / 2 and LOOK apart. A generation above the token's means that something was withdrawn, of
this host or of another one: the host attests again, spread over half the grace period, in which key
providers still take the old token. What a service says this way can cause an attestation and nothing else.
"""

from __future__ import annotations

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


class Withdrawals:
    """See the module. dice: 0 to 1."""

    def __init__(self, client: ServiceClient, dice: Dice) -> None:
        self._client = client
        self._dice = dice
        self._next: dict[str, float] = {}

    def due(self, service: str, now: float) -> bool:
        """Whether it is time to ask a service (id), and if so, when it is the next time."""
        planned = self._next.setdefault(service, self._later(now))
        # A clock that was set back does not stop the questions.
        if now < planned <= now + LOOK:
            return False
        self._next[service] = self._later(now)
        return True

    async def look(self, service: Service, judged: int) -> float | None:
        """Ask a service; judged: generation of its token. Seconds within which to attest again, None for no
        reason to. A service that does not answer withdraws nothing."""
        try:
            response = await self._client.get(service, PATH)
            answer = msgspec.json.decode(response.content, type=Generation)
        except (Refusal, msgspec.DecodeError, UnicodeDecodeError):
            return None
        if answer.security_generation <= judged:
            return None
        return min(max(answer.grace_period, 0.0), LONGEST_SPREAD) / 2

    def _later(self, now: float) -> float:
        return now + LOOK * (0.5 + self._dice() / 2)
