# SPDX-License-Identifier: GPL-3.0-or-later
"""ansible-test in its own home: nothing tested is no success, and pip stays configured."""

import configparser
import os
import stat
from pathlib import Path

import ansible_tests
import pytest


@pytest.fixture
def fake_ansible_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in ansible-test's place; the test writes what it does."""
    program = tmp_path / "bin" / "ansible-test"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setattr(ansible_tests, "HOME", tmp_path / "home")
    monkeypatch.setattr(ansible_tests, "make_tree", lambda base: tmp_path)
    return program


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("echo 'Running sanity test \"pep8\"'", 0),
        ("echo 'ERROR: found'; exit 1", 1),
        ("echo 'FATAL: no'; exit 20", 20),
        ("echo 'WARNING: All targets skipped.'", 1),
        ("echo '=== no tests ran in 0.01s ==='", 1),
    ],
)
def test_exit_code(fake_ansible_test: Path, script: str, code: int) -> None:
    fake_ansible_test.write_text(f"#!/bin/sh\n{script}\n")
    assert ansible_tests.run(["sanity"]) == code


def test_runs_in_a_home_of_its_own(
    fake_ansible_test: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_ansible_test.write_text('#!/bin/sh\necho "$HOME" "$@"\nls "$HOME/.ansible/test/cache"\n')
    assert ansible_tests.run(["units", "some_target"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{tmp_path / 'home'} units --local --python default --color no some_target"
    assert [line for line in lines[1:] if line.startswith("get_pip_")]


def test_pip_stays_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old" / ".config" / "pip").mkdir(parents=True)
    (tmp_path / "old" / ".config" / "pip" / "pip.conf").write_text("[global]\ncert = /ca.pem\ntimeout = 1\n")
    monkeypatch.setenv("HOME", str(tmp_path / "old"))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_TIMEOUT", "60")
    ansible_tests.place_pip_configuration(tmp_path / "new")
    written = tmp_path / "new" / ".config" / "pip" / "pip.conf"
    parser = configparser.RawConfigParser()
    parser.read(written)
    assert (parser["global"]["cert"], parser["global"]["timeout"]) == ("/ca.pem", "60")
    # An index address may hold a password.
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
