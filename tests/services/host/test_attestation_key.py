# SPDX-License-Identifier: GPL-3.0-or-later
"""The attestation key that the agent keeps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from services.host.software_host import FakeTpm

from trusted_infrastructure.host import attestation_key
from trusted_infrastructure.host.attestation_key import FILE_NAME, identity, load, save
from trusted_infrastructure.host.tpm_values import AttestationKey
from trusted_infrastructure.refusal import Unavailable

KEY = AttestationKey("RSA_2048", b"public", b"private", b"authorization")


def test_a_kept_key_comes_back(tmp_path: Path) -> None:
    assert load(tmp_path) is None
    save(tmp_path, KEY)
    assert load(tmp_path) == KEY
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_only_the_agent_reads_it_from_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []

    def replace(source: Path, target: Path) -> None:
        modes.append(source.stat().st_mode & 0o777)
        os.rename(source, target)

    monkeypatch.setattr(attestation_key.os, "replace", replace)
    before = os.umask(0)
    try:
        save(tmp_path, KEY)
    finally:
        os.umask(before)
    assert [*modes, (tmp_path / FILE_NAME).stat().st_mode & 0o777] == [0o600, 0o600]


def test_it_shows_no_secret() -> None:
    assert "private" not in repr(KEY)
    assert "authorization" not in repr(KEY)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b"[]", b"{}", b'{"endorsement_key": "RSA_512"}', b'{"public": 1}'],
    ids=lambda content: content.decode("latin-1") or "empty",
)
def test_a_file_that_is_none_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    tpm = FakeTpm()
    made = identity(tpm, "RSA_2048", tmp_path)
    assert tpm.made == 1
    assert load(tmp_path) == made.attestation_key


def test_it_is_used_again_by_the_same_tpm(tmp_path: Path) -> None:
    tpm = FakeTpm()
    first = identity(tpm, "RSA_2048", tmp_path)
    assert identity(tpm, "RSA_2048", tmp_path) == first
    assert tpm.made == 1


def test_another_tpm_gets_another(tmp_path: Path) -> None:
    first = identity(FakeTpm("one"), "RSA_2048", tmp_path)
    second = identity(FakeTpm("two"), "RSA_2048", tmp_path)
    assert first.attestation_key != second.attestation_key


def test_another_endorsement_key_gets_another(tmp_path: Path) -> None:
    tpm = FakeTpm()
    identity(tpm, "RSA_2048", tmp_path)
    assert identity(tpm, "ECC_NIST_P_384", tmp_path).attestation_key.endorsement_key == "ECC_NIST_P_384"
    assert tpm.made == 2


def test_a_state_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="state_unwritable"):
        save(tmp_path / "missing", KEY)
