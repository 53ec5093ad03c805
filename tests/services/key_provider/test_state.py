# SPDX-License-Identifier: GPL-3.0-or-later
"""What the service keeps on disk: never open to others, whole or not there, never quietly replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from trusted_infrastructure.key_provider.sealing_key_file import load_or_make
from trusted_infrastructure.key_provider.security_generations import REMEMBERED, SecurityGenerations
from trusted_infrastructure.rate_limit import RateLimit
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.state_files import read_state, write_state


def test_files_are_0600_whatever_the_umask(tmp_path: Path) -> None:
    import os

    before = os.umask(0)
    try:
        write_state(tmp_path / "state", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o600
    assert read_state(tmp_path / "state") == b"x"
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    write_state(tmp_path / "state", b"x")
    (tmp_path / "state").chmod(0o640)
    with pytest.raises(Refusal) as refused:
        read_state(tmp_path / "state")
    assert refused.value.code == "state_unusable"


def test_a_link_is_refused(tmp_path: Path) -> None:
    write_state(tmp_path / "other", b"x")
    (tmp_path / "state").symlink_to(tmp_path / "other")
    with pytest.raises(Refusal):
        read_state(tmp_path / "state")


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_state(tmp_path / "state", b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(Refusal) as refused:
        write_state(tmp_path / "state", b"new")
    assert "No space left" in refused.value.message
    assert read_state(tmp_path / "state") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_the_configuration_key_stays(tmp_path: Path) -> None:
    first, second = load_or_make(tmp_path / "key"), load_or_make(tmp_path / "key")
    assert first.public_bytes() == second.public_bytes()
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"{}", b"junk", b'{"suite":"X25519","private_key":"AAAA"}'])
def test_a_broken_configuration_key_is_never_replaced(tmp_path: Path, content: bytes) -> None:
    write_state(tmp_path / "key", content)
    with pytest.raises(Refusal) as refused:
        load_or_make(tmp_path / "key")
    assert refused.value.code == "state_unusable"
    assert read_state(tmp_path / "key") == content


def test_generations(tmp_path: Path) -> None:
    generations = SecurityGenerations(tmp_path / "generations")
    generations.observe(5, 1000)
    assert generations.superseded(5) is None
    assert generations.superseded(6) is None
    assert generations.superseded(4) == 0  # no history: no grace
    generations.observe(7, 2000)
    assert generations.superseded(5) == 2000
    assert generations.superseded(6) == 2000
    again = SecurityGenerations(tmp_path / "generations")
    again.observe(7, 3000)
    assert again.superseded(5) == 2000
    assert again.superseded(4) == 0


def test_generations_that_are_forgotten_had_their_grace(tmp_path: Path) -> None:
    generations = SecurityGenerations(tmp_path / "generations")
    for number in range(REMEMBERED * 2):
        generations.observe(number, 1000 + number)
    assert generations.superseded(0) == 1000 + REMEMBERED
    assert len(read_state(tmp_path / "generations") or b"") < 4096


def test_broken_generations_are_refused(tmp_path: Path) -> None:
    write_state(tmp_path / "generations", b"junk")
    with pytest.raises(Refusal) as refused:
        SecurityGenerations(tmp_path / "generations")
    assert refused.value.code == "state_unusable"


def test_rate_limit() -> None:
    now = [0.0]
    limit = RateLimit(per_second=2, burst=3, clock=lambda: now[0])
    for _index in range(3):
        limit.take("ek1")
    with pytest.raises(Refusal) as refused:
        limit.take("ek1")
    assert (refused.value.code, refused.value.status) == ("rate_limited", 429)
    limit.take("ek2")
    now[0] += 0.5
    limit.take("ek1")
    with pytest.raises(Refusal):
        limit.take("ek1")
    now[0] += 1000
    for _index in range(3):
        limit.take("ek1")
    with pytest.raises(Refusal):
        limit.take("ek1")
