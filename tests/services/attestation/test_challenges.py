# SPDX-License-Identifier: GPL-3.0-or-later
"""The envelope of a challenge: what opens it, what does not, and what nobody can guess."""

from __future__ import annotations

import base64
from pathlib import Path

import msgspec
import pytest

from trusted_infrastructure.attestation.challenges import (
    LIFETIME,
    ChallengeEnvelope,
    ChallengeState,
    UsedChallenges,
    new_state,
)
from trusted_infrastructure.refusal import Refusal

NOW = 1_800_000_000
KEY = bytes(range(32))
ENVELOPE = ChallengeEnvelope(KEY)


def state(request: bytes = b"{}") -> ChallengeState:
    return new_state(request, "token", "attestation@ta1", "sha256", (0, 7), NOW)


def refused(
    challenge: str, service_id: str = "attestation@ta1", purpose: str = "token", now: int = NOW
) -> str:
    with pytest.raises(Refusal) as error:
        ENVELOPE.open(challenge, service_id, purpose, now)
    assert error.value.status == 400
    return error.value.code


def test_any_worker_with_the_key_opens_it() -> None:
    given = state()
    opened = ChallengeEnvelope(KEY).open(ENVELOPE.close(given), "attestation@ta1", "token", NOW)
    assert opened == given


def test_it_is_of_one_service_for_one_purpose() -> None:
    challenge = ENVELOPE.close(state())
    assert refused(challenge, service_id="attestation@ta2") == "challenge_invalid"
    assert refused(challenge, purpose="key") == "challenge_invalid"
    assert refused(challenge, service_id="") == "challenge_invalid"


def test_another_key_does_not_open_it() -> None:
    assert refused(ChallengeEnvelope(bytes(32)).close(state())) == "challenge_invalid"


def test_it_ends() -> None:
    challenge = ENVELOPE.close(state())
    assert ENVELOPE.open(challenge, "attestation@ta1", "token", NOW + LIFETIME - 1)
    for later in (LIFETIME, LIFETIME + 1, 10 * LIFETIME):
        assert refused(challenge, now=NOW + later) == "challenge_expired"


def test_no_byte_of_it_can_be_changed() -> None:
    data = base64.urlsafe_b64decode(ENVELOPE.close(state()) + "==")
    for position in range(len(data)):
        for bit in (1, 0x80):
            changed = bytearray(data)
            changed[position] ^= bit
            assert refused(base64.urlsafe_b64encode(changed).rstrip(b"=").decode()) == "challenge_invalid"


@pytest.mark.parametrize("size", [0, 1, 12, 13, 28, 29, 60])
def test_no_part_of_it_will_do(size: int) -> None:
    data = base64.urlsafe_b64decode(ENVELOPE.close(state()) + "==")[:size]
    assert refused(base64.urlsafe_b64encode(data).rstrip(b"=").decode()) == "challenge_invalid"


def test_parts_of_two_do_not_make_a_third() -> None:
    one, other = (base64.urlsafe_b64decode(ENVELOPE.close(state()) + "==") for _number in range(2))
    for cut in (13, 40, len(one) - 16):
        mixed = base64.urlsafe_b64encode(one[:cut] + other[cut:]).rstrip(b"=").decode()
        assert refused(mixed) == "challenge_invalid"


def test_what_is_sealed_tells_nothing() -> None:
    given = state(b"the request of a host")
    sealed = base64.urlsafe_b64decode(ENVELOPE.close(given) + "==")
    assert given.secret not in sealed and b"the request" not in sealed
    assert ENVELOPE.close(given) != ENVELOPE.close(given)


def test_nothing_in_it_can_be_predicted() -> None:
    """A smoke test: random bits that were stuck, counted or repeated would show; a good generator passes."""
    states = [state() for _number in range(2000)]
    for field in ("identifier", "nonce", "secret"):
        values = [getattr(one, field) for one in states]
        assert len(set(values)) == len(values)
        assert len({value[:4] for value in values}) > len(values) - 3
        bits = len(values[0]) * 8
        # Each bit is one half of the time: 2000 draws, 8 standard deviations.
        for bit in range(bits):
            ones = sum(int.from_bytes(value, "big") >> bit & 1 for value in values)
            assert abs(ones - 1000) < 8 * 22.4
        # Neighbours differ in half of their bits.
        changes = [
            (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_count()
            for one, other in zip(values, values[1:], strict=False)
        ]
        assert abs(sum(changes) / len(changes) / bits - 0.5) < 0.02
    for fields in zip(*(msgspec.structs.astuple(one)[1:4] for one in states), strict=True):
        assert len({value[:16] for value in fields}) == len(states)
    assert not {one.nonce for one in states} & {one.secret for one in states}


def test_two_connections_take_it_once(tmp_path: Path) -> None:
    one, other = (UsedChallenges(tmp_path / "used.db") for _number in range(2))
    given = state()
    one.use(given, NOW)
    for table in (one, other):
        with pytest.raises(Refusal) as error:
            table.use(given, NOW)
        assert error.value.code == "challenge_used"
    other.use(state(), NOW)
    one.close()
    other.close()
