# SPDX-License-Identifier: GPL-3.0-or-later
"""Token keys follow from one secret: the same in every worker, others in every other way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trusted_infrastructure import tokens
from trusted_infrastructure.attestation.token_keys import (
    ROTATION,
    SECRET_SIZE,
    ServiceIdentity,
    TokenKeys,
    period_key,
)

SECRET = bytes(range(SECRET_SIZE))
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def private(secret: bytes = SECRET, service_id: str = "attestation@ta1", period: int = 20000) -> int:
    return period_key(secret, service_id, period).key.private_numbers().private_value


def test_the_same_secret_gives_the_same_key() -> None:
    assert private() == private()
    one = period_key(SECRET, "attestation@ta1", 20000)
    assert one.kid == tokens.thumbprint(one.key.public_key())


@pytest.mark.parametrize(
    "other",
    [{"secret": bytes(SECRET_SIZE)}, {"service_id": "attestation@ta2"}, {"period": 20001}, {"period": -1}],
)
def test_anything_else_gives_another_key(other: dict[str, Any]) -> None:
    assert private(**other) != private()


def test_keys_are_spread_over_the_group() -> None:
    found = [private(period=period) for period in range(256)]
    assert len(set(found)) == 256 and all(0 < scalar < ORDER for scalar in found)
    # The upper byte of a uniform scalar takes 256 values; of 256 draws, about 162 differ.
    assert 120 < len({scalar >> 248 for scalar in found}) < 200


def test_workers_agree_at_every_moment() -> None:
    identity = ServiceIdentity(Path("/nonexistent"), Path("/nonexistent"))
    workers = [TokenKeys("attestation@ta1", identity, SECRET) for _number in range(2)]
    for now in (0, 1, ROTATION - 1, ROTATION, 20 * ROTATION, 19 * ROTATION):
        published = [worker.jwks(now) for worker in workers]
        assert published[0] == published[1]
        assert len({key["kid"] for key in published[0]["keys"]}) == 3
