# SPDX-License-Identifier: GPL-3.0-or-later
"""The environment from a wheelhouse: what is refused, and what a run that was cut off leaves to the next."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils import runtime_environment
from ansible_collections.trusted.infrastructure.plugins.module_utils.runtime_environment import (
    COMPLETE,
    Environment,
    EnvironmentFailure,
)

LOCK = b"wheel==1 --hash=sha256:00\n"
DIGEST = hashlib.sha256(LOCK).hexdigest()
NAME = "requirements.lock"


class Tools:
    """In place of run_command: makes what venv makes. failing: a word of the step that fails."""

    def __init__(self) -> None:
        self.steps: list[list[str]] = []
        self.failing = ""
        self.seen: list[str] = []

    def __call__(self, command: list[str]) -> tuple[int, str, str]:
        self.steps.append(command)
        if self.failing and self.failing in command:
            return 1, "", "it went wrong\n"
        if "venv" in command:
            target = Path(command[-1])
            self.seen = sorted(os.listdir(target)) if target.exists() else []
            (target / "lib/python3.11/site-packages").mkdir(parents=True)
        return 0, "", ""


@pytest.fixture(autouse=True)
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pip-24-py3-none-any.whl").touch()
    monkeypatch.setattr(runtime_environment, "PIP_WHEELS", str(tmp_path / "pip-*.whl"))


def archive(path: Path, **members: bytes) -> str:
    """A wheelhouse; `members` by names with "/" as "__"."""
    with tarfile.open(path, "w") as packed:
        for name, content in {"wheels__wheel.whl": b"wheel", **members}.items():
            entry = tarfile.TarInfo(name.replace("__", "/"))
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))
    return str(path)


@pytest.fixture
def packed(tmp_path: Path) -> str:
    return archive(tmp_path / "wheelhouse.tar", **{NAME: LOCK})


@pytest.fixture
def tools() -> Tools:
    return Tools()


@pytest.fixture
def environment(tmp_path: Path, tools: Tools) -> Environment:
    return Environment(str(tmp_path / "opt"), DIGEST, tools)


def test_install(environment: Environment, tools: Tools, packed: str, tmp_path: Path) -> None:
    assert (environment.current(), environment.installed()) == ("absent", False)
    environment.install(packed, NAME)
    assert environment.installed()
    assert os.readlink(tmp_path / "opt/venv") == DIGEST[:16]
    make, install, compile_ = tools.steps
    assert make[:3] == ["/usr/bin/python3", "-m", "venv"]
    for option in ("--no-index", "--require-hashes", "--no-deps", "--isolated"):
        assert option in install
    assert compile_[-1].endswith("site-packages")
    assert "unchecked-hash" in compile_


def test_an_environment_that_is_there_is_only_taken_into_use(
    environment: Environment, tools: Tools, packed: str
) -> None:
    environment.install(packed, NAME)
    os.unlink(environment.link)
    assert not environment.installed()
    tools.steps.clear()
    environment.install(packed, NAME)
    assert environment.installed()
    assert tools.steps == []


@pytest.mark.parametrize("failing", ["venv", "install", "compileall"])
def test_what_was_cut_off_is_repeated(
    environment: Environment, tools: Tools, packed: str, tmp_path: Path, failing: str
) -> None:
    old = tmp_path / "opt" / ("0" * 16)
    old.mkdir(parents=True)
    (tmp_path / "opt/venv").symlink_to("0" * 16)
    tools.failing = failing
    with pytest.raises(EnvironmentFailure, match="failed: it went wrong$"):
        environment.install(packed, NAME)
    assert not environment.installed()
    assert os.readlink(tmp_path / "opt/venv") == "0" * 16
    assert old.exists()
    tools.failing = ""
    environment.install(packed, NAME)
    assert tools.seen == []
    assert environment.installed()
    assert not old.exists()


def test_the_mark_comes_last(environment: Environment, tools: Tools, packed: str) -> None:
    marks: list[bool] = []
    run = environment.run
    environment.run = lambda command: (
        marks.append(os.path.exists(Path(environment.path) / COMPLETE)) or run(command)
    )
    environment.install(packed, NAME)
    assert marks == [False, False, False]


def test_only_old_environments_are_removed(environment: Environment, packed: str, tmp_path: Path) -> None:
    opt = tmp_path / "opt"
    for name in ("0" * 16, "notes", "0" * 15):
        (opt / name).mkdir(parents=True)
    (opt / "venv.new").symlink_to("cut off")
    environment.install(packed, NAME)
    assert sorted(path.name for path in opt.iterdir()) == sorted(["0" * 15, DIGEST[:16], "notes", "venv"])


@pytest.mark.parametrize("name", ["../outside", "..__..__outside", "/outside", "wheels__..__..__outside"])
def test_a_path_outside_of_the_archive_is_refused(
    environment: Environment, tools: Tools, tmp_path: Path, name: str
) -> None:
    path = archive(tmp_path / "bad.tar", **{NAME: LOCK, name: b"x"})
    with pytest.raises(EnvironmentFailure, match="path outside of it"):
        environment.install(path, NAME)
    assert tools.steps == []
    assert not environment.installed()


def test_links_and_devices_are_left_out(environment: Environment, tmp_path: Path) -> None:
    path = tmp_path / "links.tar"
    with tarfile.open(path, "w") as packed:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            entry = tarfile.TarInfo("wheels")
            entry.type, entry.linkname = kind, "/etc"
            packed.addfile(entry)
        entry = tarfile.TarInfo("wheels/x")
        entry.size = 1
        packed.addfile(entry, io.BytesIO(b"x"))
    folder = tmp_path / "unpacked"
    folder.mkdir()
    runtime_environment._unpack(str(path), str(folder))
    assert [str(item.relative_to(folder)) for item in folder.rglob("*")] == ["wheels", "wheels/x"]


@pytest.mark.parametrize(
    "members, text",
    [
        ({}, "the archive has no requirements.lock"),
        ({NAME: LOCK + b"evil==1\n"}, f"{DIGEST} is wanted"),
        ({NAME: b""}, f"{DIGEST} is wanted"),
    ],
)
def test_another_lock_is_refused(
    environment: Environment, tools: Tools, tmp_path: Path, members: dict[str, bytes], text: str
) -> None:
    with pytest.raises(EnvironmentFailure, match=text):
        environment.install(archive(tmp_path / "other.tar", **members), NAME)
    assert tools.steps == []
    assert not environment.installed()


@pytest.mark.parametrize("content", [b"", b"this is no archive" * 100])
def test_an_archive_that_is_none(
    environment: Environment, tools: Tools, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "broken.tar"
    path.write_bytes(content)
    with pytest.raises(EnvironmentFailure):
        environment.install(str(path), NAME)
    with pytest.raises(EnvironmentFailure, match="nowhere.tar cannot be unpacked"):
        environment.install(str(tmp_path / "nowhere.tar"), NAME)
    assert tools.steps == []


def test_a_machine_without_pip(
    environment: Environment, packed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_environment, "PIP_WHEELS", "/nowhere/pip-*.whl")
    with pytest.raises(EnvironmentFailure, match="install the package python3-venv"):
        environment.install(packed, NAME)


@pytest.mark.parametrize(
    "digest", ["", "abc", "../" * 20 + "etc", DIGEST.upper(), DIGEST + "0", DIGEST[:-1] + "\n"]
)
def test_a_digest_that_is_none(tmp_path: Path, digest: str) -> None:
    with pytest.raises(EnvironmentFailure, match="must be a SHA-256"):
        Environment(str(tmp_path), digest, Tools())
