# SPDX-License-Identifier: GPL-3.0-or-later
"""When the agent attests next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trusted_infrastructure.host.schedule import LAST_RETRY, Attempt, after_failure, after_token, soon

NOW = 1_800_000_000.0

DICE = st.floats(min_value=0, max_value=1, exclude_max=True)


@given(dice=DICE, lifetime=st.integers(min_value=1, max_value=86400))
def test_a_token_is_renewed_between_half_and_two_thirds_of_its_life(dice: float, lifetime: int) -> None:
    due = after_token(NOW, NOW + lifetime, lambda: dice).due - NOW
    assert lifetime / 2 - 1e-3 <= due <= lifetime * 2 / 3 + 1e-3


def test_a_token_that_has_ended_is_renewed_at_once() -> None:
    assert after_token(NOW, NOW - 10, lambda: 0.9).due == NOW


@given(dice=DICE, failures=st.integers(min_value=0, max_value=10**9))
def test_retries_are_bounded(dice: float, failures: int) -> None:
    attempt = after_failure(NOW, Attempt(0, failures), lambda: dice)
    assert 1 - 1e-3 <= attempt.due - NOW <= LAST_RETRY
    assert attempt.failures == failures + 1


@pytest.mark.parametrize(("failures", "delay"), [(0, 2), (1, 4), (2, 8), (3, 16), (4, 32), (5, 60), (50, 60)])
def test_retries_slow_down(failures: int, delay: int) -> None:
    assert after_failure(NOW, Attempt(0, failures), lambda: 0.0).due == NOW + delay


@given(dice=DICE)
def test_a_start_is_spread_over_two_seconds(dice: float) -> None:
    assert NOW <= soon(NOW, lambda: dice).due <= NOW + 2
