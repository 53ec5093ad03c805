# SPDX-License-Identifier: GPL-3.0-or-later
"""Any bytes, and bytes that are nearly right: each target answers or refuses, in 2 s and 64 MB."""

from __future__ import annotations

import pytest
from fuzz import limits, targets
from fuzz.regressions import REGRESSIONS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

KB = 1024


def nearly(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """A seed with a few places overwritten, cut, grown, repeated or exchanged; or anything."""

    @st.composite
    def changed(draw: st.DrawFn) -> bytes:
        data = draw(st.sampled_from(seeds))
        for _index in range(draw(st.integers(1, 4))):
            offset = draw(st.integers(0, len(data)))
            kind = draw(st.integers(0, 4))
            value = draw(st.binary(max_size=9))
            if kind == 0:
                data = data[:offset] + value + data[offset + len(value) :]
            elif kind == 1:
                data = data[:offset] + value + data[offset:]
            elif kind == 2:
                data = data[:offset] + data[offset + draw(st.integers(1, 64)) :]
            elif kind == 3:
                data = data[:offset] + data[offset : offset + 200] * draw(st.integers(2, 9)) + data[offset:]
            else:
                data = (
                    data[:offset]
                    + bytes([draw(st.sampled_from([0, 0x7F, 0x80, 0xFF]))] * 4)
                    + data[offset + 4 :]
                )
        return data

    return st.one_of(changed(), st.binary(max_size=200))


@pytest.mark.parametrize("name", targets.TARGETS)
def test_good_input_is_read(name: str) -> None:
    codes = {targets.run(name, data) for data in targets.TARGETS[name].seeds()}
    assert codes


@pytest.mark.parametrize("name", targets.TARGETS)
def test_any_bytes_are_read_or_refused(name: str) -> None:
    target = targets.TARGETS[name]
    seeds = list(target.seeds())

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(nearly(seeds))
    def check(data: bytes) -> None:
        limits.allocated(lambda: targets.run(name, data[: target.largest]))

    check()


LARGE = {
    "zeros": b"\0",
    "ones": b"\xff",
    "brackets": b"[",
    "objects": b'{"a":',
    "quotes": b'"',
    "digits": b"9",
    "numbers": b"[1,",
    "sequences": b"\x30\x80",
    "dots": b".",
    "base64": b"AAAA",
}


@pytest.mark.parametrize("filling", LARGE)
@pytest.mark.parametrize("name", targets.TARGETS)
def test_the_largest_input_is_cheap(name: str, filling: str) -> None:
    """The largest body that nginx and the service let in: of one filling, alone and inside what is right."""
    largest = {"event_log": 4 << 20, "evidence_route": 2 << 20, "attested_log": 1400 * KB}.get(name, 64 * KB)
    seed = next(iter(targets.TARGETS[name].seeds()))
    piece = LARGE[filling] * (largest // len(LARGE[filling]))
    for data in (piece, seed[: len(seed) // 2] + piece[: largest - len(seed)] + seed[len(seed) // 2 :]):
        limits.allocated(lambda data=data: targets.run(name, data))


@pytest.mark.parametrize("finding", REGRESSIONS)
def test_what_once_broke_a_target(finding: str) -> None:
    name, data = REGRESSIONS[finding]
    limits.allocated(lambda: targets.run(name, data))
