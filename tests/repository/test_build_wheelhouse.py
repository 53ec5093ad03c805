# SPDX-License-Identifier: GPL-3.0-or-later
"""The wheelhouse: what is refused, and that equal sources give equal bytes."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import build_wheelhouse
import pytest
from build_wheelhouse import EXTRAS, WheelhouseError

PLATFORM = {"os": "debian", "release": "12", "machine": "x86_64", "python": "3.11"}


def wheel(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), name)
    return path


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A small, complete wheelhouse."""
    folder = tmp_path / "given"
    wheels = folder / "wheels"
    wheels.mkdir(parents=True)
    wheel(wheels / "trusted_infrastructure-0.1.0-py3-none-any.whl", "trusted_infrastructure/cli.py")
    wheel(wheels / "anyio-4.16.0-py3-none-any.whl", "anyio/__init__.py")
    names = sorted(path.name for path in wheels.iterdir())
    for extra in EXTRAS:
        lock = build_wheelhouse.lock_lines(wheels, names, extra)
        (folder / f"{extra}.lock").write_text(lock)
        build_wheelhouse.write_tar(folder / f"{extra}.tar", wheels, names, lock)
    (folder / "platform.json").write_text(json.dumps(PLATFORM))
    return folder


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["build_wheelhouse.py", *arguments])
    return build_wheelhouse.main()


def replace_tar(folder: Path, members: dict[str, bytes]) -> None:
    """Put another authority.tar, made of `members`, into the wheelhouse."""
    with tarfile.open(folder / "authority.tar", "w") as archive:
        for name, content in members.items():
            source = folder / "member"
            source.write_bytes(content)
            archive.add(source, arcname=name)


def members_of(folder: Path) -> dict[str, bytes]:
    with tarfile.open(folder / "authority.tar") as archive:
        files = {entry.name: archive.extractfile(entry) for entry in archive}
        return {name: file.read() for name, file in files.items() if file is not None}


def test_given_wheelhouse_is_accepted_and_described(
    given: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "--given", str(given)) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["folder"] == str(given)
    assert answer["changed"] is False
    assert answer["platform"] == PLATFORM
    assert answer["locks"] == {e: build_wheelhouse.sha256(given / f"{e}.lock") for e in EXTRAS}


@pytest.mark.parametrize("name", ["platform.json", "authority.lock", "host.tar", "manager.lock"])
def test_incomplete_given_wheelhouse_is_refused(
    given: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (given / name).unlink()
    assert run_main(monkeypatch, "--given", str(given)) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"has no {name}" in captured.err


def test_changed_wheel_is_refused(given: Path) -> None:
    members = members_of(given)
    members["wheels/anyio-4.16.0-py3-none-any.whl"] += b"more"
    replace_tar(given, members)
    with pytest.raises(WheelhouseError, match="anyio-4.16.0-py3-none-any.whl does not have a hash"):
        build_wheelhouse.given_wheelhouse(given)


def test_further_wheel_is_refused(given: Path) -> None:
    replace_tar(given, {**members_of(given), "wheels/more-1-py3-none-any.whl": b"more"})
    with pytest.raises(WheelhouseError, match="more-1-py3-none-any.whl does not have a hash"):
        build_wheelhouse.given_wheelhouse(given)


def test_lacking_wheel_is_refused(given: Path) -> None:
    members = members_of(given)
    del members["wheels/anyio-4.16.0-py3-none-any.whl"]
    replace_tar(given, members)
    with pytest.raises(WheelhouseError, match="no wheel for anyio==4.16.0"):
        build_wheelhouse.given_wheelhouse(given)


@pytest.mark.parametrize("name", ["wheels/../../etc/passwd", "/etc/passwd", "setup.py", "wheels/a/b.whl"])
def test_anything_but_wheels_is_refused(given: Path, name: str) -> None:
    replace_tar(given, {**members_of(given), name: b""})
    with pytest.raises(WheelhouseError, match="neither the lock nor a wheel"):
        build_wheelhouse.given_wheelhouse(given)


def test_other_lock_inside_the_tar_is_refused(given: Path) -> None:
    replace_tar(given, {**members_of(given), "requirements.lock": b"anyio==4.16.0\n"})
    with pytest.raises(WheelhouseError, match=r"its requirements\.lock is not authority\.lock"):
        build_wheelhouse.given_wheelhouse(given)


@pytest.mark.parametrize(
    "line", ["anyio==4.16.0", "anyio>=4 --hash=sha256:" + "0" * 64, "--find-links x", ""]
)
def test_lock_without_pin_or_hash_is_refused(given: Path, line: str) -> None:
    lock = given / "authority.lock"
    lock.write_text(lock.read_text() + line + "\n")
    with pytest.raises(WheelhouseError, match="not a pinned requirement with its hash"):
        build_wheelhouse.given_wheelhouse(given)


def test_lock_without_our_wheel_is_refused(given: Path) -> None:
    lines = (given / "authority.lock").read_text().splitlines(keepends=True)
    (given / "authority.lock").write_text("".join(line for line in lines if "trusted-infra" not in line))
    with pytest.raises(WheelhouseError, match="does not name trusted-infrastructure"):
        build_wheelhouse.given_wheelhouse(given)


@pytest.mark.parametrize("content", ["{}", "[]", "no json", '{"os": "debian"}'])
def test_unclear_platform_is_refused(given: Path, content: str) -> None:
    (given / "platform.json").write_text(content)
    with pytest.raises(WheelhouseError, match="must name os, release, machine and python"):
        build_wheelhouse.given_wheelhouse(given)


def test_wheel_without_the_program_is_refused(tmp_path: Path) -> None:
    empty = wheel(
        tmp_path / "trusted_infrastructure-0.1.0-py3-none-any.whl", "trusted_infrastructure/py.typed"
    )
    with pytest.raises(WheelhouseError, match=r"has no trusted_infrastructure/cli\.py"):
        build_wheelhouse.check_own(empty)


def test_python_that_does_not_run_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run_main(monkeypatch, "--python", str(tmp_path / "python3")) == 1
    assert "python3" in capsys.readouterr().err


def source_tree(folder: Path) -> Path:
    """A distribution like ours, small."""
    package = folder / "src" / "trusted_infrastructure"
    package.mkdir(parents=True)
    for name in ("__init__.py", "cli.py"):
        (package / name).write_text("def main() -> int:\n    return 0\n")
    for name in ("pyproject.toml", "LICENSE"):
        (folder / name).write_bytes((build_wheelhouse.ROOT / name).read_bytes())
    return folder


def build(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(build_wheelhouse, "ROOT", root)
    (root / "wheels").mkdir()
    return root / "wheels" / build_wheelhouse.build_own(Path(sys.executable), root / "wheels")


def test_equal_sources_give_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = source_tree(tmp_path / "one"), source_tree(tmp_path / "another" / "deeper")
    # Neither times nor modes nor leavings, nor a repository around that ignores src/, may reach the wheel.
    os.utime(two / "src" / "trusted_infrastructure" / "cli.py", (1, 1))
    (two / "src" / "trusted_infrastructure" / "cli.py").chmod(0o600)
    (two / "src" / "trusted_infrastructure" / "__pycache__").mkdir()
    (two / "src" / "trusted_infrastructure" / "__pycache__" / "cli.pyc").write_bytes(b"x")
    (tmp_path / "another" / ".gitignore").write_text("src/\n")
    subprocess.run(["git", "init", "--quiet", str(tmp_path / "another")], check=True)
    assert build(one, monkeypatch).read_bytes() == build(two, monkeypatch).read_bytes()
