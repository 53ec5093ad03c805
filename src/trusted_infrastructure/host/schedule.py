# SPDX-License-Identifier: GPL-3.0-or-later
"""When to attest next. Pure: the time and the dice are arguments.

- A token is renewed when between half and two thirds of its life is over, so that an outage of a service may
  last a third of it; hosts that started together spread out.
- After an attempt without a token: 2 s, doubled up to 60 s, less up to a half. An attempt that a service
  refused is repeated as well: an administrator may have mended what was wrong there.
- After a start, and after a change of what was configured here, within 2 s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

SOON = 2.0
FIRST_RETRY = 2.0
LAST_RETRY = 60.0

Dice = Callable[[], float]


@dataclass(frozen=True)
class Attempt:
    """The next attempt with one service. due: Unix seconds. failures: attempts since the last token."""

    due: float
    failures: int = 0


def soon(now: float, dice: Dice) -> Attempt:
    """For a service that was registered, or a host that started or was configured. dice: 0 to 1."""
    return Attempt(now + SOON * dice())


def after_token(now: float, expires: float, dice: Dice) -> Attempt:
    """After a token that ends at `expires`."""
    return Attempt(now + max(expires - now, 0.0) * (0.5 + dice() / 6))


def after_failure(now: float, before: Attempt, dice: Dice) -> Attempt:
    """After an attempt without a token."""
    # The exponent is bounded first: after days without a service it would overflow a float.
    delay = min(LAST_RETRY, FIRST_RETRY * 2.0 ** min(before.failures, 16))
    return Attempt(now + delay * (1 - dice() / 2), before.failures + 1)
